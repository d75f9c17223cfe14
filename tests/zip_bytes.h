/* zip_bytes.h -- zip files put together byte by byte: as torch writes them, and as nobody would. */
#ifndef TESTS_ZIP_BYTES_H
#define TESTS_ZIP_BYTES_H

#include <stdbool.h>

#include "tests/test.h"

/* What has been put so far; n = 0 begins anew. */
typedef struct Buffer {
    uint8_t v[1 << 14];
    size_t n;
} Buffer;

void put(Buffer *b, const void *data, size_t n);
void put_number(Buffer *b, uint64_t v, int bytes); /* little-endian */
#define PUT(b, literal) put((b), (literal), sizeof(literal) - 1)

uint32_t crc_of(const uint8_t *p, size_t n); /* CRC-32, bit by bit */

typedef struct Record {
    const char *name;
    const void *data;
    size_t size;
} Record;

/* A record's header, name and data. */
void put_local(Buffer *b, const Record *r);
/* Its entry in the directory; `local` is where its header lies. zip64: every number that has a place there
 * stands there, behind another extra field. */
void put_entry(Buffer *b, const Record *r, size_t local, bool zip64);
/* A whole file, of which the buffer is the beginning. */
void put_zip(Buffer *b, const Record *r, size_t records, bool zip64);

#endif
