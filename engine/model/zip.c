/* zip.c -- see zip.h. Every offset is compared with what is left before anything is added to it, so no sum
 * can wrap. */
#include "engine/model/zip.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    LOCAL_BYTES = 30,
    ENTRY_BYTES = 46,
    END_BYTES = 22,
    LOCATOR_BYTES = 20,
    END64_BYTES = 56,
    RECORDS_MAX = 16384, /* a cartridge has four for each layer, and a handful */
};
enum { LOCAL_SIGN = 0x04034b50, ENTRY_SIGN = 0x02014b50, END_SIGN = 0x06054b50 };
enum { LOCATOR_SIGN = 0x07064b50, END64_SIGN = 0x06064b50 };
static const uint32_t IN_ZIP64 = 0xffffffff; /* this number stands in the zip64 place instead */

static uint64_t little_endian(const uint8_t *p, int bytes) {
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}
static uint32_t le16(const uint8_t *p) {
    return (uint32_t)little_endian(p, 2);
}
static uint32_t le32(const uint8_t *p) {
    return (uint32_t)little_endian(p, 4);
}
static uint64_t le64(const uint8_t *p) {
    return little_endian(p, 8);
}

typedef struct Zip {
    const uint8_t *data;
    uint64_t size;
    const char *where;
    uint64_t directory, directory_bytes, records;
} Zip;

/* ---- where the directory is ---- */

static Status read_end64(Zip *z) {
    NEED(z->size >= END_BYTES + LOCATOR_BYTES, ST_FORMAT, "%s: its zip64 end is missing", z->where);
    const uint8_t *locator = z->data + z->size - END_BYTES - LOCATOR_BYTES;
    NEED(le32(locator) == LOCATOR_SIGN, ST_FORMAT, "%s: its zip64 end is missing", z->where);
    uint64_t at = le64(locator + 8);
    NEED(z->size >= END64_BYTES && at <= z->size - END64_BYTES, ST_FORMAT,
         "%s: its zip64 end should be at byte %llu of %llu", z->where, (unsigned long long)at,
         (unsigned long long)z->size);
    const uint8_t *end = z->data + at;
    NEED(le32(end) == END64_SIGN, ST_FORMAT, "%s: no zip64 end at byte %llu", z->where,
         (unsigned long long)at);
    z->records = le64(end + 32);
    z->directory_bytes = le64(end + 40);
    z->directory = le64(end + 48);
    return ST_OK;
}

static Status read_end(Zip *z) {
    NEED(z->size >= END_BYTES, ST_FORMAT, "%s: %llu bytes are too few for a zip file", z->where,
         (unsigned long long)z->size);
    const uint8_t *end = z->data + z->size - END_BYTES;
    NEED(le32(end) == END_SIGN && le16(end + 20) == 0, ST_FORMAT,
         "%s: does not end as a zip file does; is it truncated?", z->where);
    NEED(le16(end + 4) == 0 && le16(end + 6) == 0, ST_UNSUPPORTED, "%s: is one part of a split zip file",
         z->where);
    z->records = le16(end + 10);
    z->directory_bytes = le32(end + 12);
    z->directory = le32(end + 16);
    bool in_zip64 = z->records == 0xffff || z->directory_bytes == IN_ZIP64 || z->directory == IN_ZIP64;
    if (in_zip64) TRY(read_end64(z));
    NEED(z->directory <= z->size && z->directory_bytes <= z->size - z->directory, ST_FORMAT,
         "%s: its directory should be %llu bytes from byte %llu, the file has %llu", z->where,
         (unsigned long long)z->directory_bytes, (unsigned long long)z->directory,
         (unsigned long long)z->size);
    NEED(z->records <= RECORDS_MAX && z->records <= z->directory_bytes / ENTRY_BYTES, ST_FORMAT,
         "%s: %llu records in a directory of %llu bytes (at most %d are read)", z->where,
         (unsigned long long)z->records, (unsigned long long)z->directory_bytes, RECORDS_MAX);
    return ST_OK;
}

/* ---- one entry of it ---- */

typedef struct Entry {
    const uint8_t *at; /* [bytes] of the directory, of which this entry is the first part */
    uint64_t bytes;
    uint32_t method, flags, crc, name_bytes, extra_bytes, comment_bytes;
    uint64_t packed, size, local;
} Entry;

/* Those of the three numbers that did not fit stand in the extra field 1, in this order. */
static Status read_zip64_numbers(const Zip *z, Entry *e) {
    uint64_t *number[] = {&e->size, &e->packed, &e->local};
    const uint8_t *extra = e->at + ENTRY_BYTES + e->name_bytes;
    uint32_t left = e->extra_bytes, field = 0;
    while (left >= 4 && le16(extra) != 1) {
        field = 4 + le16(extra + 2);
        if (field > left) break;
        extra += field, left -= field;
    }
    bool found = left >= 4 && le16(extra) == 1 && le16(extra + 2) <= left - 4;
    uint32_t room = found ? le16(extra + 2) : 0;
    if (found) extra += 4;
    for (int i = 0; i < 3; i++) {
        if (*number[i] != IN_ZIP64) continue;
        NEED(room >= 8, ST_FORMAT, "%s: record \"%.*s\" lacks its 64-bit numbers", z->where,
             (int)e->name_bytes, (const char *)e->at + ENTRY_BYTES);
        *number[i] = le64(extra);
        extra += 8, room -= 8;
    }
    return ST_OK;
}

static Status check_name(const Zip *z, const char *name, uint32_t bytes) {
    NEED(bytes >= 1 && bytes <= 1024, ST_FORMAT, "%s: a record's name has %u bytes", z->where, bytes);
    for (uint32_t i = 0; i < bytes; i++) /* it is about to stand in messages */
        NEED((uint8_t)name[i] >= 0x20 && name[i] != 0x7f, ST_FORMAT, "%s: a record's name has a byte 0x%02x",
             z->where, (uint8_t)name[i]);
    return ST_OK;
}

static Status read_entry(const Zip *z, Entry *e) {
    NEED(e->bytes >= ENTRY_BYTES && le32(e->at) == ENTRY_SIGN, ST_FORMAT,
         "%s: its directory of %llu records ends early", z->where, (unsigned long long)z->records);
    e->flags = le16(e->at + 8), e->method = le16(e->at + 10), e->crc = le32(e->at + 16);
    e->packed = le32(e->at + 20), e->size = le32(e->at + 24), e->local = le32(e->at + 42);
    e->name_bytes = le16(e->at + 28), e->extra_bytes = le16(e->at + 30);
    e->comment_bytes = le16(e->at + 32);
    NEED(e->bytes - ENTRY_BYTES >= e->name_bytes + e->extra_bytes + e->comment_bytes, ST_FORMAT,
         "%s: its directory of %llu records ends early", z->where, (unsigned long long)z->records);
    const char *name = (const char *)e->at + ENTRY_BYTES;
    TRY(check_name(z, name, e->name_bytes));
    TRY(read_zip64_numbers(z, e));
    NEED(e->method == 0 && e->packed == e->size, ST_UNSUPPORTED,
         "%s: record \"%.*s\" is compressed (method %u); torch.save stores records as they are", z->where,
         (int)e->name_bytes, name, e->method);
    NEED(!(e->flags & 1), ST_UNSUPPORTED, "%s: record \"%.*s\" is encrypted", z->where, (int)e->name_bytes,
         name);
    return ST_OK;
}

/* The record's own header repeats the name; what lies between it and the data is padding. */
static Status find_data(const Zip *z, const Entry *e, ZipRecord *r) {
    r->name = (const char *)e->at + ENTRY_BYTES;
    r->name_bytes = (int32_t)e->name_bytes;
    NEED(z->size >= LOCAL_BYTES && e->local <= z->size - LOCAL_BYTES, ST_FORMAT,
         "%s: record \"%.*s\" should begin at byte %llu of %llu", z->where, r->name_bytes, r->name,
         (unsigned long long)e->local, (unsigned long long)z->size);
    const uint8_t *local = z->data + e->local;
    uint64_t left = z->size - e->local - LOCAL_BYTES, name = le16(local + 26), extra = le16(local + 28);
    NEED(le32(local) == LOCAL_SIGN && name == e->name_bytes && name + extra <= left &&
             !memcmp(local + LOCAL_BYTES, r->name, name),
         ST_FORMAT, "%s: record \"%.*s\" is not where the directory says", z->where, r->name_bytes, r->name);
    NEED(e->size <= left - name - extra, ST_FORMAT,
         "%s: record \"%.*s\" should have %llu bytes, the file has %llu behind its beginning", z->where,
         r->name_bytes, r->name, (unsigned long long)e->size, (unsigned long long)(left - name - extra));
    r->data = local + LOCAL_BYTES + name + extra;
    r->size = e->size;
    return ST_OK;
}

/* ---- all of them ---- */

static void crc_table(uint32_t table[256]) {
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++) table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
    }
}

static uint32_t crc_of(const uint32_t table[256], const uint8_t *p, uint64_t n) {
    uint32_t crc = 0xffffffffu;
    for (uint64_t i = 0; i < n; i++) crc = crc >> 8 ^ table[(crc ^ p[i]) & 0xff];
    return ~crc;
}

static Status read_records(const Zip *z, ZipFile *out) {
    uint32_t table[256];
    uint64_t all = 0;
    Entry e = {.at = z->data + z->directory, .bytes = z->directory_bytes};
    crc_table(table);
    for (uint64_t i = 0; i < z->records; i++) {
        ZipRecord *r = &out->record[out->count];
        TRY(read_entry(z, &e));
        TRY(find_data(z, &e, r));
        /* Records on top of each other would make work out of nothing. */
        NEED(r->size <= z->size - all, ST_FORMAT, "%s: its records together are larger than the file",
             z->where);
        all += r->size;
        NEED(crc_of(table, r->data, r->size) == e.crc, ST_FORMAT,
             "%s: record \"%.*s\" is damaged: its CRC-32 does not hold", z->where, r->name_bytes, r->name);
        uint64_t used = ENTRY_BYTES + (uint64_t)e.name_bytes + e.extra_bytes + e.comment_bytes;
        e.at += used, e.bytes -= used;
        out->count++;
    }
    return ST_OK;
}

static int compare(const char *a, int32_t an, const char *b, int32_t bn) {
    int d = memcmp(a, b, (size_t)(an < bn ? an : bn));
    return d ? d : an - bn;
}

static int by_name(const void *a, const void *b) {
    const ZipRecord *x = a, *y = b;
    return compare(x->name, x->name_bytes, y->name, y->name_bytes);
}

static Status check_names(const Zip *z, const ZipFile *f) {
    for (int32_t i = 1; i < f->count; i++)
        NEED(by_name(&f->record[i - 1], &f->record[i]), ST_FORMAT, "%s: has the record \"%.*s\" twice",
             z->where, f->record[i].name_bytes, f->record[i].name);
    return ST_OK;
}

Status zip_open(ZipFile *out, const uint8_t *data, size_t size, const char *where) {
    *out = (ZipFile){0};
    Status st = ST_OK;
    Zip z = {.data = data, .size = size, .where = where};
    TRY(read_end(&z));
    out->record = calloc((size_t)z.records + 1, sizeof *out->record);
    NEED(out->record, ST_NOMEM, "%s: no memory for its list of records", where);
    TRY_TO(failed, read_records(&z, out));
    qsort(out->record, (size_t)out->count, sizeof *out->record, by_name);
    TRY_TO(failed, check_names(&z, out));
    return ST_OK;
failed:
    zip_close(out);
    return st;
}

void zip_close(ZipFile *z) {
    free(z->record);
    *z = (ZipFile){0};
}

const ZipRecord *zip_find(const ZipFile *z, const char *name) {
    ZipRecord key = {.name = name, .name_bytes = (int32_t)strlen(name)};
    return bsearch(&key, z->record, (size_t)z->count, sizeof key, by_name);
}
