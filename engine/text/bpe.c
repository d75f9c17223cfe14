/* bpe.c -- byte-level BPE.
 *
 * Two hash tables made once: token bytes -> id, and a pair of ids -> the id it merges to and its rank. A piece begins
 * as single bytes; again and again the neighbouring pair of lowest rank (leftmost on ties) merges, until none can. A
 * heap of candidate pairs makes that n log n, since a hostile piece may be a megabyte without a blank. */
#include "engine/text/bpe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/utf8.h"
#include "kernels/base/json.h"

enum { IDS_MAX = 1 << 21 };

typedef struct Merge { int32_t left, right, result, rank; } Merge; /* left -1: an empty place of the table */
typedef struct Symbol { int32_t id, previous, next; } Symbol;      /* id -1: merged away */
typedef struct Candidate { int32_t rank, at, left, right; } Candidate;

struct Bpe {
    Bytes *token; /* [size], owned bytes in `text`; NULL p: no such id */
    int32_t size;
    char *text;
    int32_t *by_bytes; /* ids by hash of their bytes, -1: empty; power of two places */
    uint32_t bytes_mask;
    Merge *merge;
    uint32_t merge_mask;
    int32_t of_byte[256]; /* id of each single byte */
    bool ignore_merges;   /* Llama 3: a piece that is a token as it stands is not merged together */
    /* work space of one piece, grown and kept */
    Symbol *symbol;
    Candidate *heap;
    size_t cap;
    int32_t heaped;
};

/* ---- bytes and their printable stand-ins ---- */

/* GPT-2's table: printable Latin-1 stands for itself, the other 68 bytes are U+0100 and up in byte order. */
static bool stands_for_itself(uint32_t c) {
    return (c >= '!' && c <= '~') || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF);
}

static int32_t byte_of(uint32_t c) {
    if (c < 256) return stands_for_itself(c) ? (int32_t)c : -1;
    uint32_t n = 256;
    for (uint32_t b = 0; b < 256; b++)
        if (!stands_for_itself(b) && n++ == c) return (int32_t)b;
    return -1;
}

/* The bytes that a spelling stands for; their number, or -1. Never longer than the spelling. */
static int32_t spelled_bytes(const char *spelling, char *out) {
    const uint8_t *p = (const uint8_t *)spelling;
    int32_t n = 0;
    for (size_t left = strlen(spelling); left > 0;) {
        int32_t length = utf8_length(p, left);
        int32_t byte = length ? byte_of(utf8_decode(p, length)) : -1;
        if (byte < 0) return -1;
        out[n++] = (char)byte;
        p += length, left -= (size_t)length;
    }
    return n;
}

/* ---- tables ---- */

static uint32_t hash_bytes(const char *p, size_t n) {
    uint32_t h = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)p[i]) * 16777619u;
    return h ^ h >> 15;
}

static uint32_t hash_pair(int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15ull;
    return (uint32_t)(h >> 32);
}

static uint32_t table_size(int32_t n) {
    uint32_t size = 64;
    while (size < (uint32_t)n * 2) size *= 2;
    return size;
}

static int32_t find_token(const Bpe *b, const char *p, size_t n) {
    for (uint32_t i = hash_bytes(p, n) & b->bytes_mask;; i = (i + 1) & b->bytes_mask) {
        int32_t id = b->by_bytes[i];
        if (id < 0) return -1;
        if (b->token[id].n == n && !memcmp(b->token[id].p, p, n)) return id;
    }
}

static void put_token(Bpe *b, int32_t id) {
    uint32_t i = hash_bytes(b->token[id].p, b->token[id].n) & b->bytes_mask;
    while (b->by_bytes[i] >= 0) i = (i + 1) & b->bytes_mask;
    b->by_bytes[i] = id;
}

static const Merge *find_merge(const Bpe *b, int32_t left, int32_t right) {
    for (uint32_t i = hash_pair(left, right) & b->merge_mask;; i = (i + 1) & b->merge_mask) {
        const Merge *m = &b->merge[i];
        if (m->left < 0) return NULL;
        if (m->left == left && m->right == right) return m;
    }
}

static void put_merge(Bpe *b, Merge m) {
    uint32_t i = hash_pair(m.left, m.right) & b->merge_mask;
    while (b->merge[i].left >= 0) {
        if (b->merge[i].left == m.left && b->merge[i].right == m.right) return; /* the first one has the rank */
        i = (i + 1) & b->merge_mask;
    }
    b->merge[i] = m;
}

/* ---- reading ---- */

static Status read_vocab_sizes(Bpe *b, const cJSON *vocab, size_t *bytes, const char *where) {
    const cJSON *e;
    *bytes = 1;
    cJSON_ArrayForEach(e, vocab) {
        NEED(cJSON_IsNumber(e) && e->valuedouble >= 0 && e->valuedouble < IDS_MAX && e->valuedouble == e->valueint, ST_FORMAT,
             "%s: token \"%.40s\" has no id within 0 to %d", where, e->string, IDS_MAX);
        if (e->valueint >= b->size) b->size = e->valueint + 1;
        *bytes += strlen(e->string) + 1;
    }
    return ST_OK;
}

static Status read_vocab(Bpe *b, const cJSON *model, const char *where) {
    const cJSON *vocab = cJSON_GetObjectItemCaseSensitive(model, "vocab"), *e;
    NEED(cJSON_IsObject(vocab), ST_FORMAT, "%s: the model has no vocab", where);
    size_t bytes;
    TRY(read_vocab_sizes(b, vocab, &bytes, where));
    uint32_t places = table_size(b->size);
    b->bytes_mask = places - 1;
    b->token = calloc((size_t)b->size + 1, sizeof *b->token);
    b->text = malloc(bytes);
    b->by_bytes = malloc(sizeof *b->by_bytes * places);
    NEED(b->token && b->text && b->by_bytes, ST_NOMEM, "%s: no memory for %d tokens", where, b->size);
    memset(b->by_bytes, 0xFF, sizeof *b->by_bytes * places);
    char *to = b->text;
    cJSON_ArrayForEach(e, vocab) {
        /* Added tokens may stand in the vocab in their own spelling; merges never make those. */
        int32_t n = spelled_bytes(e->string, to);
        bool spelled = n >= 0;
        if (!spelled) memcpy(to, e->string, (size_t)(n = (int32_t)strlen(e->string)));
        NEED(!b->token[e->valueint].p, ST_FORMAT, "%s: two tokens have the id %d", where, e->valueint);
        b->token[e->valueint] = (Bytes){to, (size_t)n};
        if (spelled && find_token(b, to, (size_t)n) < 0) put_token(b, e->valueint);
        to += n;
    }
    return ST_OK;
}

/* A merge is "left right" or ["left", "right"]. A space inside a spelling is always its stand-in. */
static Status merge_sides(const cJSON *e, const char **left, size_t *left_n, const char **right, const char *where) {
    const char *text = cJSON_GetStringValue(e);
    const char *space = text ? strchr(text, ' ') : NULL;
    if (space) {
        *left = text, *left_n = (size_t)(space - text), *right = space + 1;
        return ST_OK;
    }
    *left = cJSON_GetStringValue(cJSON_GetArrayItem(e, 0));
    *right = cJSON_GetStringValue(cJSON_GetArrayItem(e, 1));
    NEED(cJSON_IsArray(e) && cJSON_GetArraySize(e) == 2 && *left && *right, ST_FORMAT,
         "%s: a merge is neither \"left right\" nor a pair", where);
    *left_n = strlen(*left);
    return ST_OK;
}

/* buffer: room for both sides. */
static Status read_merge(Bpe *b, const cJSON *e, int32_t rank, char *buffer, const char *where) {
    const char *left, *right;
    size_t left_n = 0;
    TRY(merge_sides(e, &left, &left_n, &right, where));
    char *copy = buffer + left_n + strlen(right) + 1; /* the left side, ended by a NUL */
    memcpy(copy, left, left_n);
    copy[left_n] = '\0';
    int32_t n = spelled_bytes(copy, buffer), m = n < 0 ? -1 : spelled_bytes(right, buffer + n);
    NEED(m >= 0, ST_FORMAT, "%s: merge %d has characters that stand for no byte", where, rank);
    Merge merge = {find_token(b, buffer, (size_t)n), find_token(b, buffer + n, (size_t)m),
                   find_token(b, buffer, (size_t)(n + m)), rank};
    NEED(merge.left >= 0 && merge.right >= 0 && merge.result >= 0, ST_FORMAT,
         "%s: merge %d names a token that is not in the vocab", where, rank);
    put_merge(b, merge);
    return ST_OK;
}

static size_t longest_merge(const cJSON *merges) {
    size_t most = 0;
    const cJSON *e;
    cJSON_ArrayForEach(e, merges) {
        const char *text = cJSON_GetStringValue(e), *l = cJSON_GetStringValue(cJSON_GetArrayItem(e, 0)),
                   *r = cJSON_GetStringValue(cJSON_GetArrayItem(e, 1));
        size_t n = text ? strlen(text) : (l ? strlen(l) : 0) + (r ? strlen(r) : 0);
        if (n > most) most = n;
    }
    return most;
}

static Status read_merges(Bpe *b, const cJSON *model, const char *where) {
    const cJSON *merges = cJSON_GetObjectItemCaseSensitive(model, "merges"), *e;
    NEED(cJSON_IsArray(merges), ST_FORMAT, "%s: the model has no merges", where);
    uint32_t places = table_size(cJSON_GetArraySize(merges));
    b->merge_mask = places - 1;
    b->merge = malloc(sizeof *b->merge * places);
    char *buffer = malloc(2 * longest_merge(merges) + 4);
    Status st = ST_OK;
    NEED_TO(done, b->merge && buffer, ST_NOMEM, "%s: no memory for its merges", where);
    memset(b->merge, 0xFF, sizeof *b->merge * places);
    int32_t rank = 0;
    cJSON_ArrayForEach(e, merges) TRY_TO(done, read_merge(b, e, rank++, buffer, where));
done:
    free(buffer);
    return st;
}

static Status read_settings(Bpe *b, const cJSON *model, const char *where) {
    const char *type = "BPE";
    if (cJSON_HasObjectItem(model, "type")) TRY(json_string(model, "type", &type, where));
    NEED(!strcmp(type, "BPE"), ST_UNSUPPORTED, "%s: tokenizer model \"%.40s\"; known is BPE", where, type);
    bool fallback = false;
    TRY(json_bool_or(model, "byte_fallback", &fallback, where));
    NEED(!fallback, ST_UNSUPPORTED, "%s: byte_fallback is set; only byte-level BPE is known", where);
    double dropout = 0;
    TRY(json_number_or(model, "dropout", &dropout, where));
    NEED(dropout == 0, ST_UNSUPPORTED, "%s: BPE dropout %g is not known", where, dropout);
    return json_bool_or(model, "ignore_merges", &b->ignore_merges, where);
}

static Status read_bytes(Bpe *b, const char *where) {
    for (int32_t i = 0; i < 256; i++) {
        char c = (char)i;
        b->of_byte[i] = find_token(b, &c, 1);
        NEED(b->of_byte[i] >= 0, ST_UNSUPPORTED, "%s: the vocab lacks the byte 0x%02X; only byte-level BPE is known", where, i);
    }
    return ST_OK;
}

Status bpe_open(Bpe **out, const cJSON *model, const char *where) {
    *out = NULL;
    Status st = ST_OK;
    NEED(cJSON_IsObject(model), ST_FORMAT, "%s: has no \"model\"", where);
    Bpe *b = calloc(1, sizeof *b);
    NEED(b, ST_NOMEM, "%s: no memory to read it", where);
    TRY_TO(failed, read_settings(b, model, where));
    TRY_TO(failed, read_vocab(b, model, where));
    TRY_TO(failed, read_merges(b, model, where));
    TRY_TO(failed, read_bytes(b, where));
    *out = b;
    return ST_OK;
failed:
    bpe_close(b);
    return st;
}

void bpe_close(Bpe *b) {
    if (!b) return;
    free(b->token);
    free(b->text);
    free(b->by_bytes);
    free(b->merge);
    free(b->symbol);
    free(b->heap);
    free(b);
}

Bytes bpe_bytes(const Bpe *b, int32_t id) {
    return id >= 0 && id < b->size ? b->token[id] : (Bytes){NULL, 0};
}

int32_t bpe_size(const Bpe *b) {
    return b->size;
}

/* ---- merging ---- */

static bool before(const Candidate *a, const Candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(Bpe *b, Candidate c) {
    int32_t i = b->heaped++;
    for (; i > 0 && before(&c, &b->heap[(i - 1) / 2]); i = (i - 1) / 2) b->heap[i] = b->heap[(i - 1) / 2];
    b->heap[i] = c;
}

static Candidate heap_pop(Bpe *b) {
    Candidate top = b->heap[0], last = b->heap[--b->heaped];
    int32_t i = 0;
    for (int32_t child; (child = 2 * i + 1) < b->heaped; i = child) {
        if (child + 1 < b->heaped && before(&b->heap[child + 1], &b->heap[child])) child++;
        if (!before(&b->heap[child], &last)) break;
        b->heap[i] = b->heap[child];
    }
    if (b->heaped) b->heap[i] = last;
    return top;
}

static void consider(Bpe *b, int32_t at) {
    int32_t next = at >= 0 ? b->symbol[at].next : -1;
    if (next < 0) return;
    const Merge *m = find_merge(b, b->symbol[at].id, b->symbol[next].id);
    if (m) heap_push(b, (Candidate){m->rank, at, m->left, m->right});
}

/* Each merge removes a symbol and offers at most two new pairs, so three times the bytes bound the heap. */
static Status reserve(Bpe *b, size_t n) {
    if (n <= b->cap) return ST_OK;
    NEED(n < (size_t)1 << 28, ST_ARG, "a piece of %zu bytes without a border is too long to tokenize", n);
    Symbol *symbol = realloc(b->symbol, sizeof *symbol * n);
    if (symbol) b->symbol = symbol;
    Candidate *heap = realloc(b->heap, sizeof *heap * 3 * n);
    if (heap) b->heap = heap;
    NEED(symbol && heap, ST_NOMEM, "no memory to tokenize a piece of %zu bytes", n);
    b->cap = n;
    return ST_OK;
}

static void merge_all(Bpe *b) {
    while (b->heaped) {
        Candidate c = heap_pop(b);
        Symbol *s = &b->symbol[c.at];
        /* Stale: one of the two has merged with another neighbour since. */
        if (s->id != c.left || s->next < 0 || b->symbol[s->next].id != c.right) continue;
        int32_t gone = s->next;
        s->id = find_merge(b, c.left, c.right)->result;
        s->next = b->symbol[gone].next;
        b->symbol[gone].id = -1;
        if (s->next >= 0) b->symbol[s->next].previous = c.at;
        consider(b, s->previous);
        consider(b, c.at);
    }
}

Status bpe_encode(Bpe *b, Bytes piece, TokenVec *out) {
    int32_t whole = b->ignore_merges ? find_token(b, piece.p, piece.n) : -1;
    if (whole >= 0) return tokens_push(out, whole);
    TRY(reserve(b, piece.n));
    int32_t n = (int32_t)piece.n;
    for (int32_t i = 0; i < n; i++)
        b->symbol[i] = (Symbol){b->of_byte[(uint8_t)piece.p[i]], i - 1, i + 1 < n ? i + 1 : -1};
    b->heaped = 0;
    for (int32_t i = 0; i < n; i++) consider(b, i);
    merge_all(b);
    for (int32_t i = 0; i >= 0 && n > 0; i = b->symbol[i].next) TRY(tokens_push(out, b->symbol[i].id));
    return ST_OK;
}
