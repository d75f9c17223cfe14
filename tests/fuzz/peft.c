/* peft.c -- a PEFT folder of a stranger: adapter_config.json up to the first zero byte, then
 * adapter_model.safetensors. Read as ours, whose seal is made right where there is the place of one, and as a
 * stranger's for a model of two layers. What is read has the shape that it claims. */
#include "engine/memory/cartridge_peft.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static void read_folder(const CartridgeInfo *of) {
    CartridgeData c;
    Rounding rounding;
    if (cartridge_peft_read(&c, fuzz_folder(), of, &rounding)) return;
    const CartridgeInfo *i = &c.info;
    fuzz_check(i->rows >= 1 && i->frozen <= i->rows && i->pos_end > i->pos_first);
    fuzz_check(tensor_is(c.rows, DT_BF16, 2 * (int64_t)i->layers, i->kv_heads, i->rows, i->head_dim));
    cartridge_data_close(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzInput in = {data, size};
    CartridgeInfo of = {.version = CARTRIDGE_VERSION, .layers = 2, .kv_heads = 1, .head_dim = 32};
    char *config = fuzz_part(&in);
    uint8_t *weights = malloc(in.n + 1);
    fuzz_check(weights);
    if (in.n) memcpy(weights, in.p, in.n);
    fuzz_reseal(weights, in.n);
    fuzz_file("adapter_config.json", config, strlen(config));
    fuzz_file("adapter_model.safetensors", weights, in.n);
    read_folder(NULL);
    read_folder(&of);
    free(weights);
    free(config);
    return 0;
}
