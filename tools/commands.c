/* commands.c -- the table of commands, in the order in which the help lists them. */
#include "tools/command.h"

const Command *const commands[] = {&cmd_demo, &cmd_synth, &cmd_train, &cmd_eval, &cmd_chat, &cmd_inspect, NULL};
