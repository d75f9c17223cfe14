/* cartridge.c -- a cartridge file of a stranger who can write seals: where the input has the place of one,
 * the right digest is put there, so that what is behind the seal is met. A file that is read has all that it
 * claims, and written again it says the same. */
#include "engine/memory/cartridge.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static void check_description(const CartridgeInfo *info) {
    char *json, *again;
    CartridgeInfo back;
    fuzz_check(cartridge_info_print(info, &json) == ST_OK);
    fuzz_check(cartridge_info_parse(&back, json, "again") == ST_OK);
    fuzz_check(cartridge_info_print(&back, &again) == ST_OK);
    fuzz_check(!strcmp(json, again));
    cartridge_info_close(&back);
    free(json);
    free(again);
}

static void check_rows(const CartridgeData *c) {
    CartridgeData back;
    const char *path = fuzz_file("again.cartridge", "", 0);
    fuzz_check(cartridge_data_write(c, path) == ST_OK);
    fuzz_check(cartridge_data_read(&back, path) == ST_OK);
    fuzz_check(tensor_bytes(back.rows) == tensor_bytes(c->rows));
    fuzz_check(!memcmp(back.rows.data, c->rows.data, tensor_bytes(c->rows)));
    cartridge_data_close(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size + 1);
    CartridgeInfo info;
    CartridgeData c;
    fuzz_check(copy);
    if (size) memcpy(copy, data, size);
    fuzz_reseal(copy, size);
    const char *path = fuzz_file("a.cartridge", copy, size);
    if (cartridge_info_read(&info, path) == ST_OK) {
        check_description(&info);
        cartridge_info_close(&info);
    }
    if (cartridge_data_read(&c, path) == ST_OK) {
        check_rows(&c);
        cartridge_data_close(&c);
    }
    free(copy);
    return 0;
}
