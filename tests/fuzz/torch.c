/* torch.c -- a .pt file of a stranger. What begins as a zip is taken as the file; anything else is the pickle
 * in one: wrapped into a zip with eight storages and right checksums, which changed bytes of a zip would
 * never have. */
#include <stdlib.h>
#include <string.h>

#include "engine/memory/cartridge_torch.h"
#include "engine/model/zip.h"
#include "tests/fuzz/fuzz.h"

static const size_t storage_bytes[] = {896, 128, 896, 128, 256, 512, 0, 640};
enum { STORAGES = sizeof storage_bytes / sizeof *storage_bytes, RECORDS = STORAGES + 1, WRAPPING = 16384 };

typedef struct Record {
    char name[16];
    const uint8_t *data;
    size_t size, at;
} Record;

static uint32_t crc32_of(const uint8_t *p, size_t n) {
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static void put(uint8_t **to, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) *(*to)++ = (uint8_t)(v >> 8 * i);
}

static void put_bytes(uint8_t **to, const void *from, size_t n) {
    if (n) memcpy(*to, from, n);
    *to += n;
}

/* What a record's own head and its entry in the directory have in common, from the checksum on. */
static void put_sizes(uint8_t **to, const Record *r) {
    put(to, crc32_of(r->data, r->size), 4);
    put(to, r->size, 4);
    put(to, r->size, 4);
    put(to, strlen(r->name), 2);
}

static void put_record(uint8_t **to, Record *r, const uint8_t *start) {
    r->at = (size_t)(*to - start);
    put_bytes(to, "PK\3\4\0\0\0\0\0\0\0\0\0\0", 14);
    put_sizes(to, r);
    put(to, 0, 2);
    put_bytes(to, r->name, strlen(r->name));
    put_bytes(to, r->data, r->size);
}

static void put_entry(uint8_t **to, const Record *r) {
    put_bytes(to, "PK\1\2\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    put_sizes(to, r);
    put(to, 0, 8);
    put(to, 0, 4);
    put(to, r->at, 4);
    put_bytes(to, r->name, strlen(r->name));
}

static size_t wrap(uint8_t *out, const uint8_t *pickle, size_t size) {
    static const uint8_t elements[1024];
    Record r[RECORDS] = {{"a/data.pkl", pickle, size, 0}};
    uint8_t *to = out;
    for (int i = 0; i < STORAGES; i++) {
        r[i + 1] = (Record){"", elements, storage_bytes[i], 0};
        memcpy(r[i + 1].name, "a/data/0", 9);
        r[i + 1].name[7] = (char)('0' + i);
    }
    for (int i = 0; i < RECORDS; i++) put_record(&to, &r[i], out);
    size_t directory = (size_t)(to - out);
    for (int i = 0; i < RECORDS; i++) put_entry(&to, &r[i]);
    size_t bytes = (size_t)(to - out) - directory;
    put_bytes(&to, "PK\5\6\0\0\0\0", 8);
    put(&to, RECORDS, 2);
    put(&to, RECORDS, 2);
    put(&to, bytes, 4);
    put(&to, directory, 4);
    put(&to, 0, 2);
    return (size_t)(to - out);
}

/* Every record lies inside the file. */
static void check_zip(const uint8_t *data, size_t size) {
    ZipFile z;
    uint64_t bytes = 0;
    if (zip_open(&z, data, size, "a.zip")) return;
    for (int32_t i = 0; i < z.count; i++) {
        const ZipRecord *r = &z.record[i];
        fuzz_check(r->size <= size && r->data >= data && r->data + r->size <= data + size);
        bytes += r->size;
    }
    fuzz_check(bytes <= size);
    zip_close(&z);
}

static void check_torch(const uint8_t *data, size_t size) {
    CartridgeInfo of = {.version = CARTRIDGE_VERSION, .layers = 2, .kv_heads = 2, .head_dim = 32};
    TorchFile *f;
    CartridgeData c;
    Rounding rounding;
    if (torch_parse(&f, data, size, "a.pt")) return;
    if (cartridge_torch_read(&c, f, &of, &rounding) == ST_OK) {
        fuzz_check(c.info.rows >= 1 && tensor_bytes(c.rows) <= 2 * size);
        cartridge_data_close(&c);
    }
    torch_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    if (*data == 'P') {
        check_zip(data, size);
        check_torch(data, size);
        return 0;
    }
    uint8_t *file = malloc(size + WRAPPING);
    fuzz_check(file);
    size_t n = wrap(file, data, size);
    uint8_t *fitting = realloc(file, n); /* so that the sanitizer sees a read behind it */
    check_torch(fitting ? fitting : file, n);
    free(fitting ? fitting : file);
    return 0;
}
