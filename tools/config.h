/* config.h -- the other places that an option's value may come from: a file and the environment.
 *
 *   model = models/qwen3      # before any section: for every command that has the option
 *   [train]                   # the rest of the line after " #" is a comment
 *   lr = 0.01
 *   note = "starts with a blank, or has a # or a \" in it"
 *   data = first.study        # options that may be repeated stand once for each value
 *   data = second.study
 *
 * In the environment an option of a command is called CARTRIDGE_TRAIN_LR, one that all commands have
 * CARTRIDGE_SEED; a list is separated by colons, as in PATH, and an empty variable counts as none. */
#ifndef TOOLS_CONFIG_H
#define TOOLS_CONFIG_H

#include "tools/command.h"

/* ST_ARG names file, line, and for an unknown name the nearest known one; all sections are checked, not only
 * the one of this command. *text owns the values (free it after their last use). */
Status config_read_file(OptionSet *s, const Command *c, const char *path, char **text);

/* ST_ARG names the variable; one that begins like those of the command and is none of them is an error, too.
 * *text as above. */
Status config_read_environment(OptionSet *s, const Command *c, char **text);

/* The variable of an option, as "CARTRIDGE_TRAIN_LR". */
void config_variable(char *out, size_t cap, const Command *c, const OptionSlot *slot);

/* Every option with its value and where it came from, in the form that config_read_file reads. */
void config_print(FILE *out, const OptionSet *s, const Command *c, const char *path);

#endif
