/* files.c -- the assembler puts the files in as they are; 1.6 MB of C would take the compiler seconds. */
#include "tools/demo/files.h"

#include <stddef.h>

#define EMBED(symbol, file)                                                                                  \
    __asm__(".section .rodata\n"                                                                             \
            ".balign 64\n" #symbol "_data:\n"                                                                \
            ".incbin \"" DEMO_MODEL_DIR "/" file "\"\n" #symbol "_end:\n"                                    \
            ".byte 0\n"                                                                                      \
            ".previous\n");                                                                                  \
    extern const unsigned char symbol##_data[], symbol##_end[];

EMBED(demo_config, "config.json")
EMBED(demo_generation, "generation_config.json")
EMBED(demo_tokenizer, "tokenizer.json")
EMBED(demo_template, "tokenizer_config.json")
EMBED(demo_weights, "model.safetensors")

const EmbeddedFile demo_model_files[] = {
    {"config.json", demo_config_data, demo_config_end},
    {"generation_config.json", demo_generation_data, demo_generation_end},
    {"tokenizer.json", demo_tokenizer_data, demo_tokenizer_end},
    {"tokenizer_config.json", demo_template_data, demo_template_end},
    {"model.safetensors", demo_weights_data, demo_weights_end},
    {NULL, NULL, NULL},
};
