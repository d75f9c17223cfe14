/* command.h -- what a command of the program is. */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include "engine/learn/watch.h"
#include "tools/exit.h"
#include "tools/options.h"

/* Options that every command has. */
typedef struct Common {
    bool json, quiet, help;
    int32_t progress; /* ProgressMode */
    int64_t threads, seed;
} Common;

enum { TABLES_MAX = 3 };
typedef struct Command {
    const char *name, *usage, *summary;
    const char *operands; /* what may stand beside options, as the usage writes it: "FILE...", "train|serve" */
    int32_t operands_max; /* how many of them; more is an error */
    OptionTable table[TABLES_MAX]; /* unused ones empty */
    size_t at[TABLES_MAX];         /* where in the command's struct each table's values go */
    size_t bytes;                  /* of the struct */
    /* *code may be set to what a success leaves with (EXIT_BAR, EXIT_INPUT). */
    Status (*run)(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code);
} Command;

extern const Command *const commands[]; /* ends in NULL */

extern const Command cmd_synth, cmd_train, cmd_eval, cmd_chat, cmd_inspect, cmd_demo;

#endif
