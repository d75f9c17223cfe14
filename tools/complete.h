/* complete.h -- completion for shells, written from the tables of options: commands, options, and their
 * values where these are words, files or folders. */
#ifndef TOOLS_COMPLETE_H
#define TOOLS_COMPLETE_H

#include "tools/command.h"

Status complete_bash(FILE *out);
Status complete_zsh(FILE *out);
Status complete_fish(FILE *out);

#endif
