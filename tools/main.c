/* main.c -- the program: finds the command, reads its options from everywhere, runs it. The commands stand in
 * commands.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "build_info.h"
#include "tools/config.h"
#include "tools/device.h"
#include "tools/progress.h"
#include "tools/threads.h"

static void print_version(void) {
    printf("cartridge %s, commit %s of %s\n", BUILD_VERSION, BUILD_COMMIT, BUILD_DATE[0] ? BUILD_DATE : "?");
    printf("build: %s, %s, %s\nlibraries: %s\n", BUILD_TYPE, BUILD_COMPILER, BUILD_SYSTEM, BUILD_LIBRARIES);
    printf("devices: cpu (%d threads), %s\n", threads_now(), BUILD_GPU);
}

static int report(const Command *c, Status st) {
    progress_end();
    fprintf(stderr, "cartridge %s: %s\n", c->name, status_message());
    if (st == ST_STOPPED)
        fprintf(stderr, "stopped; what was finished is kept: run the same command again with --resume\n");
    return exit_code(st);
}

/* One call of a command: its options, and the texts that they point into. */
typedef struct Call {
    const Command *c;
    CommandOptions o;
    TextList rest;
    const char *config; /* path, NULL: none */
    char *file, *environment;
} Call;

/* The command line first: it names the file. Which value counts does not depend on the order. */
static Status read_options(Call *k, int argc, char **argv) {
    OptionSet *set = &k->o.set;
    TRY(command_options_open(&k->o, k->c));
    TRY(options_read_line(set, argc, argv, &k->rest));
    if (k->o.common.help) return ST_OK;
    const char *variable = getenv("CARTRIDGE_CONFIG");
    k->config = k->o.common.config ? k->o.common.config : variable && *variable ? variable : NULL;
    if (k->config) TRY(config_read_file(set, k->c, k->config, &k->file));
    TRY(config_read_environment(set, k->c, &k->environment));
    NEED(k->rest.n <= k->c->operands_max, ST_ARG, "\"%s\" is one argument too many; usage: cartridge %s",
         k->rest.v[k->c->operands_max], k->c->usage);
    return k->o.common.print_config ? ST_OK : options_complete(set);
}

static Status run_call(const Call *k, int *code) {
    const Common *common = &k->o.common;
    if (common->help) return command_help(stdout, k->c);
    if (common->print_config) return config_print(stdout, &k->o.set, k->c, k->config), ST_OK;
    if (common->threads) threads_set((int)common->threads);
    if (!k->c->no_device) TRY(device_choose(common->device));
    const Watch *watch = progress_start(common->quiet ? PROGRESS_NEVER : (ProgressMode)common->progress);
    return k->c->run(k->o.own, common, &k->rest, watch, code);
}

static int run_command(const Command *c, int argc, char **argv) {
    Call k = {.c = c};
    int code = EXIT_DONE;
    Status st = read_options(&k, argc, argv);
    if (!st) st = run_call(&k, &code);
    progress_end();
    command_options_close(&k.o);
    free(k.file);
    free(k.environment);
    return st ? report(c, st) : code;
}

static int unknown_command(const char *name) {
    const char *near = command_nearest(name);
    fprintf(stderr, "cartridge: no command \"%s\"%s%s%s\n", name, near ? "; did you mean " : "",
            near ? near : "", near ? "?" : "");
    return EXIT_USAGE;
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "--help";
    if (!strcmp(name, "--version")) return print_version(), EXIT_DONE;
    if (!strcmp(name, "--help") || !strcmp(name, "-h")) return exit_code(command_help(stdout, NULL));
    const Command *c = command_find(name);
    return c ? run_command(c, argc - 2, argv + 2) : unknown_command(name);
}
