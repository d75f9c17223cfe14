/* safetensors.c -- a safetensors file of a stranger: what is opened can be read to its last byte. */
#include <string.h>

#include "engine/model/safetensors.h"
#include "tests/fuzz/fuzz.h"

static uint64_t sum_of(Tensor t) {
    uint64_t sum = 0;
    for (size_t i = 0; i < tensor_bytes(t); i++) sum += ((const uint8_t *)t.data)[i];
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    SafeFile *f;
    uint64_t bytes = 0, sum = 0;
    if (safe_open(&f, fuzz_file("a.safetensors", data, size))) {
        fuzz_check(!f);
        return 0;
    }
    for (int32_t i = 0; i < safe_count(f); i++) {
        Tensor t;
        fuzz_check(safe_has(f, safe_name(f, i)));
        fuzz_check(safe_find(f, safe_name(f, i), &t) == ST_OK);
        bytes += tensor_bytes(t);
        sum += sum_of(t);
    }
    fuzz_check(bytes <= size && sum <= 255 * (uint64_t)size); /* no tensor lies over another */
    const char *format = safe_meta(f, "format");
    if (format) sum += strlen(format);
    (void)safe_verify(f);
    safe_close(f);
    return 0;
}
