/* command.h -- what a command of the program is. */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include "engine/learn/watch.h"
#include "tools/exit.h"
#include "tools/options.h"

/* Options that every command has. */
typedef struct Common {
    bool json, quiet, help, print_config;
    int32_t progress; /* ProgressMode */
    int64_t threads, seed;
    const char *device;
    const char *config;
} Common;

enum { TABLES_MAX = 3 };
typedef struct Command {
    const char *name, *usage, *summary;
    const char
        *operands; /* what may stand beside options, as the usage writes it: "FILE...", "train|serve" */
    int32_t operands_max;          /* how many of them; more is an error */
    bool no_device;       /* it computes nothing: no GPU is woken for it */
    const char *about;             /* a paragraph for the man page; NULL: the summary says it all */
    const char *examples;          /* command lines for the man page, one a line; NULL: none */
    OptionTable table[TABLES_MAX]; /* unused ones empty */
    size_t at[TABLES_MAX];         /* where in the command's struct each table's values go */
    size_t bytes;                  /* of the struct */
    /* *code may be set to what a success leaves with (EXIT_BAR, EXIT_INPUT). */
    Status (*run)(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code);
} Command;

extern const Command *const commands[]; /* ends in NULL */

/* NULL: there is none of that name. */
const Command *command_find(const char *name);
/* The known name that is nearest; NULL: none is near. */
const char *command_nearest(const char *name);

/* All options of a command, at their defaults to begin with. The set points into the rest: it must not be
 * moved. */
typedef struct CommandOptions {
    OptionSet set;
    Common common;
    void *own; /* owned: what the command's run() gets */
} CommandOptions;
Status command_options_open(CommandOptions *out, const Command *c);
void command_options_close(CommandOptions *o); /* fine on a zeroed one */

/* The text of `help`: of one command, or (NULL) of the program. */
Status command_help(FILE *out, const Command *c);

extern const Command cmd_doctor, cmd_plan;
extern const Command cmd_compose, cmd_convert;
extern const Command cmd_synth, cmd_train, cmd_eval, cmd_chat, cmd_inspect, cmd_demo, cmd_report, cmd_help,
    cmd_completion;

#endif
