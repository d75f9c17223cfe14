/* cmd_completion.c -- prints what makes a shell complete commands, options and values. */
#include <string.h>

#include "tools/complete.h"

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)options, (void)common, (void)watch, (void)code;
    const char *shell = rest->n ? rest->v[0] : "";
    if (!strcmp(shell, "bash")) return complete_bash(stdout);
    if (!strcmp(shell, "zsh")) return complete_zsh(stdout);
    if (!strcmp(shell, "fish")) return complete_fish(stdout);
    FAIL(ST_ARG, "\"%s\" is none of bash, zsh, fish", shell);
}

const Command cmd_completion = {.name = "completion",
                                .usage = "completion bash|zsh|fish",
                                .summary = "what makes a shell complete commands, options and values",
                                .operands = "bash|zsh|fish",
                                .operands_max = 1,
                                .no_device = true,
                                .about = "Prints a script for the shell that is named. An installed package "
                                         "has them in their places already. For "
                                         "this session only: source <(cartridge completion bash).",
                                .examples =
                                    "source <(cartridge completion bash)\n"
                                    "cartridge completion zsh > ~/.zfunc/_cartridge\n"
                                    "cartridge completion fish > ~/.config/fish/completions/cartridge.fish\n",
                                .run = run};
