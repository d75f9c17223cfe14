/* config.c -- a config.json of a stranger: the sizes that are accepted can be computed with. */
#include "engine/model/config.h"

#include <math.h>

#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ModelConfig c;
    float freq[128];
    fuzz_file("config.json", data, size);
    if (model_config_read(&c, fuzz_folder())) return 0;
    fuzz_check(c.layers > 0 && c.width > 0 && c.ffn > 0 && c.vocab > 0 && c.context_max > 0);
    fuzz_check(c.heads % c.kv_heads == 0 && c.head_dim >= 32 && c.head_dim <= 256);
    fuzz_check(model_row_bytes(&c, DT_BF16) > 0 && model_bytes(&c) > 0);
    model_rope_freq(&c, freq);
    for (int32_t i = 0; i < c.head_dim / 2; i++) fuzz_check(isfinite(freq[i]) && freq[i] >= 0);
    return 0;
}
