/* commands.c -- the table of commands, in the order in which the help lists them, and the options that all
 * have. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/command.h"

/* clang-format off */
const Command *const commands[] = {
    &cmd_demo, &cmd_doctor, &cmd_plan,            /* to begin with */
    &cmd_synth, &cmd_train, &cmd_eval, &cmd_chat, /* to make and to use */
    &cmd_inspect, &cmd_compose, &cmd_convert, &cmd_report,
    &cmd_help, &cmd_completion,
    NULL,
};
/* clang-format on */

#define AT(field) offsetof(Common, field)

static const Option common_rows[] = {
    {"threads", 0, OPTION_WHOLE, "N", "0", 0, 1024, "common", "CPU threads; 0: as many as there are cores",
     AT(threads), false},
    {"device", 0, OPTION_TEXT, "auto|cpu|cuda[:N]", "auto", 0, 0, "common",
     "what computes; auto: the first GPU where there is one", AT(device), false},
    {"seed", 0, OPTION_WHOLE, "N", "0", 0, 9e15, "common",
     "of everything that is drawn; same seed, same result", AT(seed), false},
    {"json", 0, OPTION_FLAG, NULL, NULL, 0, 0, "common", "results as JSON on stdout", AT(json), false},
    {"progress", 0, OPTION_CHOICE, "auto|always|never", "auto", 0, 0, "common", "the line on stderr",
     AT(progress), false},
    {"quiet", 'q', OPTION_FLAG, NULL, NULL, 0, 0, "common", "no progress; only results and errors", AT(quiet),
     false},
};

/* These say how the others are read, so they stand on the command line only. */
static const Option line_rows[] = {
    {"config", 0, OPTION_TEXT, "FILE", NULL, 0, 0, "common",
     "read options from here, too; also $CARTRIDGE_CONFIG", AT(config), false},
    {"print-config", 0, OPTION_FLAG, NULL, NULL, 0, 0, "common",
     "print every option with its value and where it came from, as a file for --config, and stop",
     AT(print_config), false},
    {"help", 'h', OPTION_FLAG, NULL, NULL, 0, 0, "common", "this text", AT(help), false},
};

const Command *command_find(const char *name) {
    for (int i = 0; commands[i]; i++)
        if (!strcmp(commands[i]->name, name)) return commands[i];
    return NULL;
}

const char *command_nearest(const char *name) {
    enum { WORDS = 64 };
    const char *words[WORDS];
    int n = 0;
    for (; commands[n] && n < WORDS; n++) words[n] = commands[n]->name;
    return nearest_word(name, words, n);
}

static Status add_tables(CommandOptions *o, const Command *c) {
    for (int i = 0; i < TABLES_MAX; i++)
        TRY(options_add(&o->set, c->table[i], (char *)o->own + c->at[i], OPTION_OWN));
    TRY(options_add(&o->set, (OptionTable){common_rows, OPTION_COUNT(common_rows)}, &o->common,
                    OPTION_COMMON));
    return options_add(&o->set, (OptionTable){line_rows, OPTION_COUNT(line_rows)}, &o->common, OPTION_LINE);
}

Status command_options_open(CommandOptions *out, const Command *c) {
    *out = (CommandOptions){.own = calloc(1, c->bytes + 1)};
    NEED(out->own, ST_NOMEM, "no memory for the options of %s", c->name);
    Status st = add_tables(out, c);
    if (st) command_options_close(out);
    return st;
}

void command_options_close(CommandOptions *o) {
    free(o->own);
    o->own = NULL;
}

/* ---- help ---- */

static void print_program(FILE *out) {
    fprintf(out, "cartridge - train small KV caches for long documents, and answer from them\n\n"
                 "usage: cartridge <command> [options]\n\n");
    for (int i = 0; commands[i]; i++) fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(
        out,
        "\n'cartridge help <command>' lists a command's options; 'cartridge --version' says what was built.\n"
        "Options may also stand in a file (--config FILE, see --print-config) or in the environment, as\n"
        "CARTRIDGE_TRAIN_LR=0.01; the command line goes before the environment, and that before the file.\n");
}

Status command_help(FILE *out, const Command *c) {
    CommandOptions o;
    if (!c) return print_program(out), ST_OK;
    TRY(command_options_open(&o, c));
    fprintf(out, "usage: cartridge %s\n\n%s\n", c->usage, c->summary);
    options_print(out, &o.set);
    command_options_close(&o);
    return ST_OK;
}
