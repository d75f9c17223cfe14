/* bpe.c -- byte-pair encoding: of all neighbours that have a merge, the one of the lowest rank is joined first, the
 * leftmost among equals, until none has.
 *
 * Candidates wait in a heap, so a piece of n bytes takes n log n steps: a document without blanks is one piece. A
 * candidate is not taken back when one of its halves is joined elsewhere; it is recognised as stale when it comes up,
 * because the pair at its place no longer has its rank. */
#include "engine/text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/json.h"

typedef struct Merge { int32_t left, right, rank, id; } Merge; /* left -1: an empty slot */

struct Bpe {
    const Vocab *vocab; /* borrowed */
    Merge *slot;        /* owned: open addressing by (left, right) */
    uint32_t mask;
    int32_t byte_id[256]; /* -1: no token */
    bool whole_first;     /* ignore_merges: a piece that is a token is that token */
};

/* ---- the table of merges ---- */

static Merge *slot_of(const Bpe *b, int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    for (uint32_t i = (uint32_t)(h >> 32) & b->mask;; i = (i + 1) & b->mask) {
        Merge *m = &b->slot[i];
        if (m->left < 0 || (m->left == left && m->right == right)) return m;
    }
}

/* The two halves of "left right" or ["left", "right"], cut out of `text` in place. */
static bool halves(const cJSON *e, char *text, const char **left, const char **right) {
    const char *whole = cJSON_GetStringValue(e);
    if (whole) {
        strcpy(text, whole);
        char *blank = strchr(text, ' ');
        if (!blank || strchr(blank + 1, ' ')) return false;
        *blank = '\0';
        *left = text;
        *right = blank + 1;
        return true;
    }
    if (!cJSON_IsArray(e) || cJSON_GetArraySize(e) != 2) return false;
    *left = cJSON_GetStringValue(e->child);
    *right = cJSON_GetStringValue(e->child->next);
    return *left && *right;
}

enum { MERGE_MAX = 1 << 16 }; /* bytes of one merge, as spelled */

static size_t spelled_size(const cJSON *e) {
    if (cJSON_IsString(e)) return strlen(e->valuestring);
    size_t n = 0;
    const cJSON *half;
    cJSON_ArrayForEach(half, e) n += cJSON_IsString(half) ? strlen(half->valuestring) : 0;
    return n;
}

/* `text` and `bytes` have room for MERGE_MAX. */
static Status read_merge(Bpe *b, const cJSON *e, int32_t rank, char *text, char *bytes, const char *where) {
    const char *left, *right;
    NEED(spelled_size(e) < MERGE_MAX && halves(e, text, &left, &right), ST_FORMAT, "%s: merge %d is not two tokens",
         where, rank);
    size_t l, r;
    bool spelled = vocab_unspell(left, bytes, &l);
    spelled = vocab_unspell(right, bytes + l, &r) && spelled;
    int32_t a = spelled ? vocab_find(b->vocab, (Bytes){bytes, l}) : -1;
    int32_t c = spelled ? vocab_find(b->vocab, (Bytes){bytes + l, r}) : -1;
    int32_t id = spelled ? vocab_find(b->vocab, (Bytes){bytes, l + r}) : -1;
    NEED(a >= 0 && c >= 0 && id >= 0, ST_FORMAT,
         "%s: merge %d joins \"%.40s\" and \"%.40s\"; one of them or their sum is not in the vocabulary", where, rank, left,
         right);
    *slot_of(b, a, c) = (Merge){a, c, rank, id};
    return ST_OK;
}

static Status read_merges(Bpe *b, const cJSON *list, const char *where) {
    NEED(cJSON_IsArray(list), ST_FORMAT, "%s: \"merges\" is missing or not a list", where);
    uint32_t n = (uint32_t)cJSON_GetArraySize(list), slots = 16;
    while (slots < 2 * n) slots *= 2;
    b->mask = slots - 1;
    b->slot = malloc(slots * sizeof *b->slot);
    char *text = malloc(2 * MERGE_MAX);
    Status st = ST_OK;
    NEED_TO(done, b->slot && text, ST_NOMEM, "%s: no memory for %u merges", where, n);
    memset(b->slot, 0xFF, slots * sizeof *b->slot);
    int32_t rank = 0;
    const cJSON *e;
    cJSON_ArrayForEach(e, list) TRY_TO(done, read_merge(b, e, rank++, text, text + MERGE_MAX, where));
done:
    free(text);
    return st;
}

/* ---- what else the model says ---- */

static Status refuse_text(const cJSON *model, const char *key, const char *where) {
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(model, key);
    const char *text = cJSON_GetStringValue(m);
    NEED(!m || cJSON_IsNull(m) || (text && !*text), ST_UNSUPPORTED,
         "%s: the BPE model has a %s, which is not known here", where, key);
    return ST_OK;
}

static Status refuse_true(const cJSON *model, const char *key, const char *where) {
    bool on = false;
    TRY(json_bool_or(model, key, &on, where));
    NEED(!on, ST_UNSUPPORTED, "%s: the BPE model has %s, which is not known here", where, key);
    return ST_OK;
}

static Status check_kind(const cJSON *model, const char *where) {
    double dropout = 0;
    TRY(json_number_or(model, "dropout", &dropout, where));
    NEED(dropout == 0, ST_UNSUPPORTED, "%s: the BPE model has a dropout of %g; only 0 gives the same tokens twice", where,
         dropout);
    TRY(refuse_text(model, "continuing_subword_prefix", where));
    TRY(refuse_text(model, "end_of_word_suffix", where));
    TRY(refuse_true(model, "byte_fallback", where));
    return refuse_true(model, "fuse_unk", where);
}

static void find_bytes(Bpe *b, const char *unknown) {
    int32_t missing = -1;
    size_t n;
    char bytes[64];
    if (unknown && strlen(unknown) < sizeof bytes && vocab_unspell(unknown, bytes, &n))
        missing = vocab_find(b->vocab, (Bytes){bytes, n});
    for (int32_t i = 0; i < 256; i++) {
        char byte = (char)i;
        int32_t id = vocab_find(b->vocab, (Bytes){&byte, 1});
        b->byte_id[i] = id >= 0 ? id : missing;
    }
}

static Status read_model(Bpe *b, const cJSON *model, const char *where) {
    TRY(check_kind(model, where));
    TRY(json_bool_or(model, "ignore_merges", &b->whole_first, where));
    TRY(read_merges(b, cJSON_GetObjectItemCaseSensitive(model, "merges"), where));
    find_bytes(b, cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(model, "unk_token")));
    return ST_OK;
}

Status bpe_open(Bpe **out, const cJSON *model, const Vocab *v, const char *where) {
    *out = NULL;
    Bpe *b = calloc(1, sizeof *b);
    NEED(b, ST_NOMEM, "%s: no memory for its merges", where);
    b->vocab = v;
    Status st = read_model(b, model, where);
    if (st) {
        bpe_close(b);
        return st;
    }
    *out = b;
    return ST_OK;
}

void bpe_close(Bpe *b) {
    if (!b) return;
    free(b->slot);
    free(b);
}

/* ---- joining ---- */

typedef struct Symbol { int32_t id, before, after; } Symbol; /* id -1: joined to its left neighbour; after -1: the last */
typedef struct Candidate { int32_t rank, at; } Candidate;

void bpe_work_close(BpeWork *w) {
    free(w->symbol);
    free(w->heap);
    *w = (BpeWork){0};
}

/* Each join takes one symbol away and adds two candidates, so n symbols see fewer than 3 n candidates. */
static Status make_room(BpeWork *w, size_t n) {
    if (n <= w->room) return ST_OK;
    bpe_work_close(w);
    size_t room = n < 64 ? 64 : n + n / 2;
    w->symbol = malloc(room * sizeof *w->symbol);
    w->heap = malloc(3 * room * sizeof *w->heap);
    NEED(w->symbol && w->heap, ST_NOMEM, "no memory to tokenize a piece of %zu bytes", n);
    w->room = room;
    return ST_OK;
}

static bool sooner(Candidate a, Candidate b) {
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(BpeWork *w, Candidate c) {
    size_t i = w->heap_n++;
    for (; i > 0 && sooner(c, w->heap[(i - 1) / 2]); i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = c;
}

static Candidate heap_pop(BpeWork *w) {
    Candidate top = w->heap[0], c = w->heap[--w->heap_n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < w->heap_n; i = child) {
        if (child + 1 < w->heap_n && sooner(w->heap[child + 1], w->heap[child])) child++;
        if (!sooner(w->heap[child], c)) break;
        w->heap[i] = w->heap[child];
    }
    w->heap[i] = c;
    return top;
}

/* The merge of the symbol at `at` with its right neighbour; NULL: none. */
static const Merge *merge_at(const Bpe *b, const BpeWork *w, int32_t at) {
    const Symbol *s = &w->symbol[at];
    if (s->id < 0 || s->after < 0) return NULL;
    const Merge *m = slot_of(b, s->id, w->symbol[s->after].id);
    return m->left < 0 ? NULL : m;
}

static void propose(const Bpe *b, BpeWork *w, int32_t at) {
    const Merge *m = at < 0 ? NULL : merge_at(b, w, at);
    if (m) heap_push(w, (Candidate){m->rank, at});
}

static int32_t start_symbols(const Bpe *b, BpeWork *w, Bytes piece) {
    int32_t n = 0;
    for (size_t i = 0; i < piece.n; i++) {
        int32_t id = b->byte_id[(uint8_t)piece.p[i]];
        if (id < 0) continue;
        w->symbol[n] = (Symbol){id, n - 1, n + 1};
        n++;
    }
    if (n) w->symbol[n - 1].after = -1;
    return n;
}

static void join(BpeWork *w, int32_t at, int32_t id) {
    Symbol *s = &w->symbol[at], *gone = &w->symbol[s->after];
    s->id = id;
    s->after = gone->after;
    gone->id = -1;
    if (s->after >= 0) w->symbol[s->after].before = at;
}

Status bpe_encode(const Bpe *b, BpeWork *w, Bytes piece, TokenVec *out) {
    int32_t whole = b->whole_first ? vocab_find(b->vocab, piece) : -1;
    if (whole >= 0) return tokens_push(out, whole);
    NEED(piece.n <= INT32_MAX / 4, ST_ARG, "a piece of %zu bytes without a border is too long to tokenize", piece.n);
    TRY(make_room(w, piece.n));
    int32_t n = start_symbols(b, w, piece);
    w->heap_n = 0;
    for (int32_t i = 0; i + 1 < n; i++) propose(b, w, i);
    while (w->heap_n > 0) {
        Candidate c = heap_pop(w);
        const Merge *m = merge_at(b, w, c.at);
        if (!m || m->rank != c.rank) continue;
        join(w, c.at, m->id);
        propose(b, w, w->symbol[c.at].before);
        propose(b, w, c.at);
    }
    for (int32_t i = n ? 0 : -1; i >= 0; i = w->symbol[i].after) TRY(tokens_push(out, w->symbol[i].id));
    return ST_OK;
}
