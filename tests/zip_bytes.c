/* zip_bytes.c -- see zip_bytes.h. */
#include "tests/zip_bytes.h"

void put(Buffer *b, const void *data, size_t n) {
    assert_true(b->n + n <= sizeof b->v);
    memcpy(b->v + b->n, data, n);
    b->n += n;
}

void put_number(Buffer *b, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) put(b, &(uint8_t){(uint8_t)(v >> 8 * i)}, 1);
}

uint32_t crc_of(const uint8_t *p, size_t n) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

void put_local(Buffer *b, const Record *r) {
    PUT(b, "PK\3\4\0\0\0\0\0\0\0\0\0\0");
    put_number(b, crc_of(r->data, r->size), 4);
    put_number(b, r->size, 4);
    put_number(b, r->size, 4);
    put_number(b, strlen(r->name), 2);
    put_number(b, 3, 2); /* padding, as torch aligns its data */
    put(b, r->name, strlen(r->name));
    PUT(b, "pad");
    put(b, r->data, r->size);
}

void put_entry(Buffer *b, const Record *r, size_t local, bool zip64) {
    PUT(b, "PK\1\2\0\0\0\0\0\0\0\0\0\0\0\0");
    put_number(b, crc_of(r->data, r->size), 4);
    put_number(b, zip64 ? UINT32_MAX : r->size, 4);
    put_number(b, zip64 ? UINT32_MAX : r->size, 4);
    put_number(b, strlen(r->name), 2);
    put_number(b, zip64 ? 6 + 28 : 0, 2);
    PUT(b, "\0\0\0\0\0\0\0\0\0\0");
    put_number(b, zip64 ? UINT32_MAX : local, 4);
    put(b, r->name, strlen(r->name));
    if (!zip64) return;
    PUT(b, "\x55\x54\2\0ab\1\0\x18\0");
    put_number(b, r->size, 8);
    put_number(b, r->size, 8);
    put_number(b, local, 8);
}

static void put_zip64_end(Buffer *b, uint64_t records, uint64_t at, uint64_t bytes) {
    uint64_t end = b->n;
    PUT(b, "PK\6\6\x2c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    put_number(b, records, 8);
    put_number(b, records, 8);
    put_number(b, bytes, 8);
    put_number(b, at, 8);
    PUT(b, "PK\6\7\0\0\0\0");
    put_number(b, end, 8);
    put_number(b, 1, 4);
}

void put_zip(Buffer *b, const Record *r, size_t records, bool zip64) {
    size_t local[8];
    assert_true(records <= 8);
    for (size_t i = 0; i < records; i++) {
        local[i] = b->n;
        put_local(b, &r[i]);
    }
    size_t at = b->n;
    for (size_t i = 0; i < records; i++) put_entry(b, &r[i], local[i], zip64);
    size_t bytes = b->n - at;
    if (zip64) put_zip64_end(b, records, at, bytes);
    PUT(b, "PK\5\6\0\0\0\0");
    put_number(b, zip64 ? 0xffff : records, 2);
    put_number(b, zip64 ? 0xffff : records, 2);
    put_number(b, zip64 ? UINT32_MAX : bytes, 4);
    put_number(b, zip64 ? UINT32_MAX : at, 4);
    put_number(b, 0, 2);
}
