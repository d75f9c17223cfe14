/* vocab.c -- see vocab.h. */
#include "engine/text/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/utf8.h"

/* ---- the alphabet ---- */

/* The byte that a character of the alphabet stands for, -1: none. Bytes that are visible in Latin-1 stand for
 * themselves; the others, in order, have the characters from U+0100 on: 0 to 32, 127 to 160, and 173. */
static int32_t byte_of(uint32_t c) {
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255)) return (int32_t)c;
    if (c >= 256 && c < 256 + 33) return (int32_t)c - 256;
    if (c >= 289 && c < 289 + 34) return (int32_t)c - 289 + 127;
    return c == 323 ? 173 : -1;
}

bool vocab_unspell(const char *spelling, char *to, size_t *n) {
    size_t size = strlen(spelling), used = 0;
    for (size_t i = 0; i < size;) {
        const uint8_t *p = (const uint8_t *)spelling + i;
        int32_t length = utf8_length(p, size - i);
        int32_t byte = length ? byte_of(utf8_decode(p, length)) : -1;
        if (byte < 0) {
            memcpy(to, spelling, size);
            *n = size;
            return false;
        }
        to[used++] = (char)byte;
        i += (size_t)length;
    }
    *n = used;
    return true;
}

/* ---- by bytes ---- */

static uint32_t hash_of(Bytes b) {
    uint64_t h = 0xCBF29CE484222325u; /* FNV-1a */
    for (size_t i = 0; i < b.n; i++) h = (h ^ (uint8_t)b.p[i]) * 0x100000001B3u;
    return (uint32_t)(h ^ h >> 32);
}

/* Where bytes are, or the empty slot where they would be. */
static int32_t *slot_of(const Vocab *v, Bytes b) {
    for (uint32_t i = hash_of(b) & v->mask;; i = (i + 1) & v->mask) {
        int32_t id = v->slot[i];
        if (id < 0 || (v->token[id].n == b.n && !memcmp(v->token[id].p, b.p, b.n))) return &v->slot[i];
    }
}

int32_t vocab_find(const Vocab *v, Bytes bytes) {
    return bytes.n ? *slot_of(v, bytes) : -1;
}

/* ---- reading ---- */

bool vocab_id(const cJSON *number, int32_t *id) {
    if (!cJSON_IsNumber(number)) return false;
    double v = number->valuedouble;
    if (!(v >= 0 && v < TOKEN_IDS_MAX) || v != (double)(int32_t)v) return false;
    *id = (int32_t)v;
    return true;
}

/* How much there is: the largest id and the bytes of all spellings. */
static Status measure(Vocab *v, size_t *bytes, int32_t *entries, const cJSON *map, const cJSON *added,
                      const char *where) {
    const cJSON *e;
    int32_t id;
    *bytes = 0;
    *entries = 0;
    cJSON_ArrayForEach(e, map) {
        NEED(vocab_id(e, &id), ST_FORMAT,
             "%s: the id of vocabulary entry \"%.40s\" is not a whole number from 0 to %d", where, e->string,
             TOKEN_IDS_MAX - 1);
        if (id >= v->size) v->size = id + 1;
        *bytes += strlen(e->string);
        ++*entries;
    }
    cJSON_ArrayForEach(e, added) {
        const char *content = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(e, "content"));
        NEED(content && vocab_id(cJSON_GetObjectItemCaseSensitive(e, "id"), &id), ST_FORMAT,
             "%s: an added token has no \"content\", or no \"id\" from 0 to %d", where, TOKEN_IDS_MAX - 1);
        if (id >= v->size) v->size = id + 1;
        *bytes += strlen(content);
    }
    return ST_OK;
}

static Status make_room(Vocab *v, size_t bytes, int32_t entries, const char *where) {
    uint32_t slots = 16;
    while (slots < 2 * (uint32_t)entries) slots *= 2;
    v->mask = slots - 1;
    v->text = malloc(bytes + 1);
    v->token = calloc((size_t)v->size + 1, sizeof *v->token);
    v->slot = malloc(slots * sizeof *v->slot);
    NEED(v->text && v->token && v->slot, ST_NOMEM, "%s: no memory for %d tokens", where, entries);
    memset(v->slot, 0xFF, slots * sizeof *v->slot);
    return ST_OK;
}

static Status put(Vocab *v, int32_t id, const char *spelling, const char *where) {
    NEED(!v->token[id].p, ST_FORMAT, "%s: two vocabulary entries have the id %d, the second is \"%.40s\"", where, id,
         spelling);
    char *to = v->text + v->used;
    size_t n;
    bool spelled = vocab_unspell(spelling, to, &n);
    v->token[id] = (Bytes){to, n};
    v->used += n;
    if (!spelled || n == 0) return ST_OK;
    int32_t *slot = slot_of(v, v->token[id]);
    NEED(*slot < 0, ST_FORMAT, "%s: the vocabulary entry \"%.40s\" is there twice", where, spelling);
    *slot = id;
    return ST_OK;
}

Status vocab_read(Vocab *v, const cJSON *map, const cJSON *added, const char *where) {
    size_t bytes;
    int32_t entries;
    const cJSON *e;
    *v = (Vocab){0};
    NEED(cJSON_IsObject(map), ST_FORMAT, "%s: \"vocab\" is missing or not an object", where);
    TRY(measure(v, &bytes, &entries, map, added, where));
    TRY(make_room(v, bytes, entries, where));
    cJSON_ArrayForEach(e, map) TRY(put(v, e->valueint, e->string, where));
    return ST_OK;
}

Status vocab_put_added(Vocab *v, int32_t id, const char *spelling, const char *where) {
    size_t size = strlen(spelling), n;
    char *to = v->text + v->used;
    bool spelled = vocab_unspell(spelling, to, &n);
    Bytes *token = &v->token[id];
    NEED(!token->p || (token->n == n && !memcmp(token->p, to, n)), ST_FORMAT,
         "%s: the added token \"%.40s\" has the id %d, which the vocabulary gives to something else", where, spelling, id);
    int32_t other = spelled ? vocab_find(v, (Bytes){to, n}) : id;
    NEED(other < 0 || other == id, ST_FORMAT, "%s: the added token \"%.40s\" has the id %d, the vocabulary says %d", where,
         spelling, id, other);
    if (token->p) return ST_OK;
    memcpy(to, spelling, size);
    *token = (Bytes){to, size};
    v->used += size;
    return ST_OK;
}

void vocab_close(Vocab *v) {
    free(v->text);
    free(v->token);
    free(v->slot);
    *v = (Vocab){0};
}
