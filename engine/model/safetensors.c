/* safetensors.c -- reading what strangers wrote, writing what only we wrote.
 *
 * A seal is the SHA-256 of the whole file with the seal's own 64 hex digits taken as zeros. It sits in the metadata,
 * so the file stays an ordinary safetensors file. Names and ranges of all tensors are checked when the file is opened:
 * what safe_find hands out lies inside the mapping, aligned to its type. */
#include "engine/model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json.h"

enum { HEADER_MAX = 100 << 20, DATA_ALIGN = 4096, SEAL_DIGITS = 64 };
static const char SEAL_KEY[] = "sha256";

typedef struct Entry { const char *name; Tensor t; uint64_t begin, end; } Entry;

struct SafeFile {
    char *path;
    FileMap map;
    cJSON *header; /* owns names and metadata */
    uint64_t data; /* offset of the data section */
    Entry *entry;  /* [count], in file order of their data */
    int32_t count;
};

/* ---- opening ---- */

static uint64_t little_endian64(const uint8_t *p) {
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

static Status parse_header(SafeFile *f) {
    NEED(f->map.size >= 8, ST_FORMAT, "%s: %zu bytes are too few for a safetensors file", f->path, f->map.size);
    uint64_t n = little_endian64(f->map.data);
    NEED(n <= HEADER_MAX && n <= f->map.size - 8, ST_FORMAT, "%s: header of %llu bytes in a file of %zu; is it truncated?",
         f->path, (unsigned long long)n, f->map.size);
    f->data = 8 + n;
    TRY(json_parse(&f->header, (const char *)f->map.data + 8, (size_t)n, f->path));
    NEED(cJSON_IsObject(f->header), ST_FORMAT, "%s: the header is not a JSON object", f->path);
    return ST_OK;
}

static Status parse_dtype(const SafeFile *f, const cJSON *o, DType *out) {
    static const struct { const char *name; DType type; } known[] = {
        {"F32", DT_F32}, {"F64", DT_F64}, {"BF16", DT_BF16}, {"F16", DT_F16}, {"I32", DT_I32}};
    const char *name;
    TRY(json_string(o, "dtype", &name, f->path));
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(name, known[i].name)) continue;
        *out = known[i].type;
        return ST_OK;
    }
    FAIL(ST_UNSUPPORTED, "%s: tensor \"%s\" has type %.16s; read are F32, F64, BF16, F16, I32", f->path, o->string, name);
}

/* A whole number that a double holds exactly. */
static bool is_count(const cJSON *n) {
    return cJSON_IsNumber(n) && n->valuedouble >= 0 && n->valuedouble <= 9e15 &&
           n->valuedouble == (double)(int64_t)n->valuedouble;
}

static Status parse_shape(const SafeFile *f, const cJSON *o, Tensor *t, uint64_t *bytes) {
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(o, "shape"), *d;
    NEED(cJSON_IsArray(shape) && cJSON_GetArraySize(shape) <= TENSOR_DIMS, ST_FORMAT,
         "%s: tensor \"%s\" has no shape of at most %d dimensions", f->path, o->string, TENSOR_DIMS);
    uint64_t count = 1;
    cJSON_ArrayForEach(d, shape) {
        NEED(is_count(d), ST_FORMAT, "%s: tensor \"%s\" has a dimension that is no whole number", f->path, o->string);
        uint64_t v = (uint64_t)d->valuedouble;
        NEED(v == 0 || count <= UINT64_MAX / 16 / v, ST_FORMAT, "%s: tensor \"%s\" is larger than any memory", f->path,
             o->string);
        count *= v;
        t->dim[t->ndim++] = (int64_t)v;
    }
    *bytes = count * dtype_bytes(t->dtype);
    return ST_OK;
}

static Status parse_range(const SafeFile *f, const cJSON *o, Entry *e, uint64_t bytes) {
    const cJSON *range = cJSON_GetObjectItemCaseSensitive(o, "data_offsets");
    const cJSON *b = cJSON_GetArrayItem(range, 0), *n = cJSON_GetArrayItem(range, 1);
    NEED(cJSON_IsArray(range) && cJSON_GetArraySize(range) == 2 && is_count(b) && is_count(n) &&
             n->valuedouble >= b->valuedouble,
         ST_FORMAT, "%s: tensor \"%s\" has no valid data_offsets", f->path, o->string);
    e->begin = (uint64_t)b->valuedouble, e->end = (uint64_t)n->valuedouble;
    uint64_t size = f->map.size - f->data;
    NEED(e->end <= size, ST_FORMAT, "%s: tensor \"%s\" ends at byte %llu of %llu; the file is truncated", f->path, o->string,
         (unsigned long long)e->end, (unsigned long long)size);
    NEED(e->end - e->begin == bytes, ST_FORMAT, "%s: tensor \"%s\" has %llu bytes, its shape wants %llu", f->path, o->string,
         (unsigned long long)(e->end - e->begin), (unsigned long long)bytes);
    NEED((f->data + e->begin) % dtype_bytes(e->t.dtype) == 0, ST_FORMAT, "%s: tensor \"%s\" is not aligned to its type",
         f->path, o->string);
    return ST_OK;
}

static Status parse_entry(const SafeFile *f, const cJSON *o, Entry *e) {
    NEED(cJSON_IsObject(o), ST_FORMAT, "%s: entry \"%s\" is not an object", f->path, o->string);
    uint64_t bytes = 0;
    *e = (Entry){.name = o->string};
    TRY(parse_dtype(f, o, &e->t.dtype));
    TRY(parse_shape(f, o, &e->t, &bytes));
    TRY(parse_range(f, o, e, bytes));
    e->t.data = (void *)(uintptr_t)(f->map.data + f->data + e->begin);
    return ST_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const Entry *)a)->name, ((const Entry *)b)->name);
}

/* A name that stands twice means one thing to this reader and another to the next. */
static Status check_names(const SafeFile *f) {
    for (int32_t i = 1; i < f->count; i++)
        NEED(by_name(&f->entry[i - 1], &f->entry[i]), ST_FORMAT, "%s: has the tensor \"%s\" twice", f->path,
             f->entry[i].name);
    return ST_OK;
}

static int by_place(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* Overlapping tensors would let one name change another; holes would let a file hide data from its own names. */
static Status check_ranges(const SafeFile *f) {
    uint64_t at = 0;
    for (int32_t i = 0; i < f->count; i++) {
        const Entry *e = &f->entry[i];
        NEED(e->begin == at, ST_FORMAT, "%s: tensor \"%s\" begins at byte %llu, the one before ends at %llu", f->path, e->name,
             (unsigned long long)e->begin, (unsigned long long)at);
        at = e->end;
    }
    NEED(at == f->map.size - f->data, ST_FORMAT, "%s: %llu bytes of data, tensors fill %llu", f->path,
         (unsigned long long)(f->map.size - f->data), (unsigned long long)at);
    return ST_OK;
}

static Status check_metadata(const SafeFile *f) {
    const cJSON *meta = cJSON_GetObjectItemCaseSensitive(f->header, "__metadata__"), *m;
    if (!meta) return ST_OK;
    NEED(cJSON_IsObject(meta), ST_FORMAT, "%s: __metadata__ is not an object", f->path);
    cJSON_ArrayForEach(m, meta)
        NEED(cJSON_IsString(m), ST_FORMAT, "%s: metadata \"%s\" is not a string", f->path, m->string);
    return ST_OK;
}

static Status parse_entries(SafeFile *f) {
    TRY(check_metadata(f));
    f->entry = calloc((size_t)cJSON_GetArraySize(f->header) + 1, sizeof *f->entry);
    NEED(f->entry, ST_NOMEM, "%s: no memory for its list of tensors", f->path);
    const cJSON *o;
    cJSON_ArrayForEach(o, f->header) {
        if (!strcmp(o->string, "__metadata__")) continue;
        TRY(parse_entry(f, o, &f->entry[f->count]));
        f->count++;
    }
    qsort(f->entry, (size_t)f->count, sizeof *f->entry, by_name);
    TRY(check_names(f));
    qsort(f->entry, (size_t)f->count, sizeof *f->entry, by_place);
    return check_ranges(f);
}

Status safe_open(SafeFile **out, const char *path) {
    *out = NULL;
    Status st = ST_OK;
    SafeFile *f = calloc(1, sizeof *f);
    NEED(f, ST_NOMEM, "%s: no memory to open it", path);
    f->path = strdup(path);
    NEED_TO(failed, f->path, ST_NOMEM, "%s: no memory to open it", path);
    TRY_TO(failed, file_map(&f->map, path));
    TRY_TO(failed, parse_header(f));
    TRY_TO(failed, parse_entries(f));
    *out = f;
    return ST_OK;
failed:
    safe_close(f);
    return st;
}

void safe_close(SafeFile *f) {
    if (!f) return;
    cJSON_Delete(f->header);
    file_unmap(&f->map);
    free(f->entry);
    free(f->path);
    free(f);
}

static const Entry *find(const SafeFile *f, const char *name) {
    for (int32_t i = 0; i < f->count; i++)
        if (!strcmp(f->entry[i].name, name)) return &f->entry[i];
    return NULL;
}

Status safe_find(const SafeFile *f, const char *name, Tensor *out) {
    const Entry *e = find(f, name);
    NEED(e, ST_FORMAT, "%s: has no tensor \"%s\"", f->path, name);
    *out = e->t;
    return ST_OK;
}

bool safe_has(const SafeFile *f, const char *name) {
    return find(f, name) != NULL;
}

const char *safe_path(const SafeFile *f) {
    return f->path;
}

int32_t safe_count(const SafeFile *f) {
    return f->count;
}

const char *safe_name(const SafeFile *f, int32_t i) {
    return f->entry[i].name;
}

const char *safe_meta(const SafeFile *f, const char *key) {
    const cJSON *meta = cJSON_GetObjectItemCaseSensitive(f->header, "__metadata__");
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(meta, key));
}

Digest safe_digest(const SafeFile *f) {
    return sha256_of(f->map.data, f->map.size);
}

/* ---- the seal ---- */

static Status digest_without_seal(const uint8_t *data, size_t size, size_t seal_at, char hex[65]) {
    static const char zeros[SEAL_DIGITS + 1] = "0000000000000000000000000000000000000000000000000000000000000000";
    Sha256 *h;
    TRY(sha256_open(&h));
    sha256_add(h, data, seal_at);
    sha256_add(h, zeros, SEAL_DIGITS);
    sha256_add(h, data + seal_at + SEAL_DIGITS, size - seal_at - SEAL_DIGITS);
    digest_hex(sha256_finish(&h), hex);
    return ST_OK;
}

/* The first place in the header where the seal's digits stand; whatever else they might equal, it is covered. */
static const char *find_digits(const char *header, size_t n, const char *digits) {
    for (size_t i = 0; i + SEAL_DIGITS <= n; i++)
        if (!memcmp(header + i, digits, SEAL_DIGITS)) return header + i;
    return NULL;
}

Status safe_verify(const SafeFile *f) {
    const char *seal = safe_meta(f, SEAL_KEY);
    NEED(seal && strlen(seal) == SEAL_DIGITS, ST_FORMAT, "%s: carries no seal; it was not written by this program", f->path);
    const char *header = (const char *)f->map.data;
    const char *at = find_digits(header, (size_t)f->data, seal);
    NEED(at, ST_FORMAT, "%s: its seal is not where it was written", f->path);
    char hex[65];
    TRY(digest_without_seal(f->map.data, f->map.size, (size_t)(at - header), hex));
    NEED(!strcmp(hex, seal), ST_FORMAT, "%s: damaged: its bytes hash to %.12s, its seal says %.12s", f->path, hex, seal);
    return ST_OK;
}

/* ---- writing ---- */

static const char *type_name(DType t) {
    static const char *const name[] = {
        [DT_F32] = "F32", [DT_F64] = "F64", [DT_BF16] = "BF16", [DT_F16] = "F16", [DT_I32] = "I32"};
    return name[t];
}

static bool add_tensor(cJSON *o, const SafeEntry *e, uint64_t *offset) {
    cJSON *t = cJSON_AddObjectToObject(o, e->name);
    if (!t) return false;
    cJSON_AddStringToObject(t, "dtype", type_name(e->t.dtype));
    cJSON *shape = cJSON_AddArrayToObject(t, "shape"), *range = cJSON_AddArrayToObject(t, "data_offsets");
    for (int32_t i = 0; i < e->t.ndim; i++) cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)e->t.dim[i]));
    cJSON_AddItemToArray(range, cJSON_CreateNumber((double)*offset));
    *offset += tensor_bytes(e->t);
    cJSON_AddItemToArray(range, cJSON_CreateNumber((double)*offset));
    return shape && range;
}

/* The header text, padded with blanks so that the data begins on a multiple of DATA_ALIGN. */
static Status header_text(const SafeEntry *e, int32_t n, const SafeMeta *m, int32_t nm, bool sealed, char **out,
                          size_t *size) {
    static const char zeros[SEAL_DIGITS + 1] = "0000000000000000000000000000000000000000000000000000000000000000";
    uint64_t offset = 0;
    cJSON *o = cJSON_CreateObject(), *meta = o ? cJSON_AddObjectToObject(o, "__metadata__") : NULL;
    bool ok = meta != NULL;
    if (ok && sealed) ok = cJSON_AddStringToObject(meta, SEAL_KEY, zeros) != NULL;
    for (int32_t i = 0; ok && i < nm; i++) ok = cJSON_AddStringToObject(meta, m[i].key, m[i].value) != NULL;
    for (int32_t i = 0; ok && i < n; i++) ok = add_tensor(o, &e[i], &offset);
    char *text = ok ? cJSON_PrintUnformatted(o) : NULL;
    cJSON_Delete(o);
    size_t used = text ? strlen(text) : 0;
    *size = (used + 8 + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN - 8;
    char *padded = text ? realloc(text, *size + 1) : NULL;
    if (!padded) free(text);
    NEED(padded, ST_NOMEM, "no memory for the header of a file of %d tensors", n);
    memset(padded + used, ' ', *size - used);
    padded[*size] = '\0';
    *out = padded;
    return ST_OK;
}

static void length_bytes(uint8_t out[8], uint64_t n) {
    for (int i = 0; i < 8; i++) out[i] = (uint8_t)(n >> 8 * i);
}

/* The seal key is written first, so its zeros are the first 64 zeros of the header. */
static Status put_seal(char *header, size_t size, const SafeEntry *e, int32_t n) {
    static const char zeros[SEAL_DIGITS + 1] = "0000000000000000000000000000000000000000000000000000000000000000";
    char *at = strstr(header, zeros), hex[65];
    uint8_t length[8];
    Sha256 *h;
    TRY(sha256_open(&h));
    length_bytes(length, size);
    sha256_add(h, length, sizeof length);
    sha256_add(h, header, size);
    for (int32_t i = 0; i < n; i++) sha256_add(h, e[i].t.data, tensor_bytes(e[i].t));
    digest_hex(sha256_finish(&h), hex);
    memcpy(at, hex, SEAL_DIGITS);
    return ST_OK;
}

static Status write_all(Writer *w, const char *header, size_t size, const SafeEntry *e, int32_t n) {
    uint8_t length[8];
    length_bytes(length, size);
    TRY(writer_put(w, length, sizeof length));
    TRY(writer_put(w, header, size));
    for (int32_t i = 0; i < n; i++) TRY(writer_put(w, e[i].t.data, tensor_bytes(e[i].t)));
    return ST_OK;
}

Status safe_write(const char *path, const SafeEntry *e, int32_t n, const SafeMeta *m, int32_t nm, bool sealed) {
    Status st = ST_OK;
    Writer *w = NULL;
    char *header = NULL;
    size_t size;
    TRY(header_text(e, n, m, nm, sealed, &header, &size));
    if (sealed) TRY_TO(done, put_seal(header, size, e, n));
    TRY_TO(done, writer_open(&w, path));
    TRY_TO(done, write_all(w, header, size, e, n));
    TRY_TO(done, writer_finish(&w));
done:
    writer_abandon(&w);
    free(header);
    return st;
}
