/* cmd_help.c -- the options of a command, or its manual page. */
#include <stdio.h>
#include <string.h>

#include "tools/command.h"
#include "tools/man.h"

typedef struct Args {
    bool man, names;
} Args;
#define AT(field) offsetof(Args, field)

static const Option rows[] = {
    {"man", 0, OPTION_FLAG, NULL, NULL, 0, 0, "what",
     "as a manual page (roff): cartridge help --man train | man -l -", AT(man), false},
    {"names", 0, OPTION_FLAG, NULL, NULL, 0, 0, "what",
     "only the names of all commands, one a line, for scripts", AT(names), false},
};

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)common, (void)watch, (void)code;
    const Args *a = options;
    const Command *c = rest->n ? command_find(rest->v[0]) : NULL;
    if (rest->n && !c) {
        const char *near = command_nearest(rest->v[0]);
        FAIL(ST_ARG, "no command \"%s\"%s%s%s", rest->v[0], near ? "; did you mean " : "", near ? near : "",
             near ? "?" : "");
    }
    if (a->names) {
        for (int i = 0; commands[i]; i++) puts(commands[i]->name);
        return ST_OK;
    }
    return a->man ? man_page(stdout, c) : command_help(stdout, c);
}

const Command cmd_help = {.name = "help",
                          .usage = "help [COMMAND] [--man]",
                          .summary = "the options of a command, or its manual page",
                          .operands = "COMMAND",
                          .operands_max = 1,
                          .no_device = true,
                          .table = {{rows, OPTION_COUNT(rows)}},
                          .at = {0},
                          .bytes = sizeof(Args),
                          .run = run};
