/* main.c -- the program: finds the command, reads its options, runs it. The commands stand in commands.c. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"
#include "build_info.h"
#include "tools/command.h"
#include "tools/progress.h"

static const Option common_rows[] = {
    {"threads", 0, OPTION_WHOLE, "N", "0", 0, 1024, "common", "CPU threads; 0: as many as there are cores",
     offsetof(Common, threads), false},
    {"seed", 0, OPTION_WHOLE, "N", "0", 0, 9e15, "common",
     "of everything that is drawn; same seed, same result", offsetof(Common, seed), false},
    {"json", 0, OPTION_FLAG, NULL, NULL, 0, 0, "common", "results as JSON on stdout", offsetof(Common, json),
     false},
    {"progress", 0, OPTION_CHOICE, "auto|always|never", "auto", 0, 0, "common", "the line on stderr",
     offsetof(Common, progress), false},
    {"quiet", 'q', OPTION_FLAG, NULL, NULL, 0, 0, "common", "no progress; only results and errors",
     offsetof(Common, quiet), false},
    {"help", 'h', OPTION_FLAG, NULL, NULL, 0, 0, "common", "this text", offsetof(Common, help), false},
};
static const OptionTable common_table = {common_rows, OPTION_COUNT(common_rows)};

static void print_program_help(void) {
    printf("cartridge - train small KV caches for long documents, and answer from them\n\n"
           "usage: cartridge <command> [options]\n\n");
    for (int i = 0; commands[i]; i++) printf("  %-9s %s\n", commands[i]->name, commands[i]->summary);
    printf("\n'cartridge <command> --help' lists a command's options; 'cartridge --version' says what was "
           "built.\n");
}

static void print_version(void) {
    printf("cartridge %s, commit %s, %s, %s\nlibraries: %s\ndevices: cpu, %d threads\n", BUILD_VERSION,
           BUILD_COMMIT, BUILD_TYPE, BUILD_COMPILER, BUILD_LIBRARIES, omp_get_max_threads());
}

static int tables_of(const Command *c, void *options, Common *common, OptionTable *table, void **base) {
    int n = 0;
    for (int i = 0; i < TABLES_MAX; i++) {
        if (!c->table[i].n) continue;
        table[n] = c->table[i];
        base[n++] = (char *)options + c->at[i];
    }
    table[n] = common_table;
    base[n++] = common;
    return n;
}

static int report(const Command *c, Status st) {
    progress_end();
    fprintf(stderr, "cartridge %s: %s\n", c->name, status_message());
    if (st == ST_STOPPED)
        fprintf(stderr, "stopped; what was finished is kept: run the same command again with --resume\n");
    return exit_code(st);
}

static int run_command(const Command *c, int argc, char **argv) {
    Common common = {0};
    TextList rest;
    OptionTable table[TABLES_MAX + 1];
    void *base[TABLES_MAX + 1], *options = calloc(1, c->bytes);
    if (!options) return EXIT_SPACE;
    int n = tables_of(c, options, &common, table, base), code = EXIT_DONE;
    Status st = options_parse(table, base, n, argc, argv, &rest);
    if (!st && common.help) {
        printf("usage: cartridge %s\n\n%s\n", c->usage, c->summary);
        options_print(table, n);
    } else if (!st && rest.n > c->operands_max) {
        st = status_fail(ST_ARG, __FILE__, __LINE__, "\"%s\" is one argument too many; usage: cartridge %s",
                         rest.v[c->operands_max], c->usage);
    } else if (!st) {
        if (common.threads) omp_set_num_threads((int)common.threads);
        const Watch *watch = progress_start(common.quiet ? PROGRESS_NEVER : (ProgressMode)common.progress);
        st = c->run(options, &common, &rest, watch, &code);
        progress_end();
    }
    free(options);
    return st ? report(c, st) : code;
}

static int unknown_command(const char *name) {
    enum { WORDS = 64 };
    const char *words[WORDS];
    int n = 0;
    for (; commands[n] && n < WORDS; n++) words[n] = commands[n]->name;
    const char *near = nearest_word(name, words, n);
    fprintf(stderr, "cartridge: no command \"%s\"%s%s%s\n", name, near ? "; did you mean " : "",
            near ? near : "", near ? "?" : "");
    return EXIT_USAGE;
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "help";
    if (!strcmp(name, "--version")) return print_version(), EXIT_DONE;
    if (!strcmp(name, "help") || !strcmp(name, "--help") || !strcmp(name, "-h"))
        return print_program_help(), EXIT_DONE;
    for (int i = 0; commands[i]; i++)
        if (!strcmp(commands[i]->name, name)) return run_command(commands[i], argc - 2, argv + 2);
    return unknown_command(name);
}
