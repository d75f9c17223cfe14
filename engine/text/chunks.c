/* chunks.c -- stretches of the corpus on its own borders.
 *
 * The corpus is cut once into pieces that are never divided again (paragraphs, lines, or for windows of tokens: words
 * up to line ends); each knows its number of tokens. A chunk begins at a piece and takes as many neighbours as fit.
 * Beginnings are dealt like cards: a shuffled round visits every piece before any comes twice. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/documents.h"
#include "kernels/base/random.h"

typedef struct Piece { size_t from, to; int32_t document, tokens; } Piece; /* bytes of its document */

struct Chunks {
    const Corpus *corpus; /* borrowed */
    const Tokenizer *t;
    ChunkRule rule;
    Piece *piece;
    int32_t pieces, cap;
    int64_t tokens;
};

static Status count_tokens(const Chunks *c, Bytes text, int32_t *out) {
    TokenVec v = {0};
    Status st = tokenizer_encode(c->t, text, ENCODE_PLAIN, &v);
    *out = v.n;
    tokens_close(&v);
    return st;
}

static Status push_piece(Chunks *c, Piece p) {
    if (c->pieces == c->cap) {
        int32_t cap = c->cap ? 2 * c->cap : 64;
        Piece *more = realloc(c->piece, sizeof *more * (size_t)cap);
        NEED(more, ST_NOMEM, "no memory for %d pieces of the corpus", cap);
        c->piece = more, c->cap = cap;
    }
    c->tokens += p.tokens;
    c->piece[c->pieces++] = p;
    return ST_OK;
}

static bool blank_line(Bytes t, size_t i) { /* at the newline that ends a paragraph */
    size_t j = i + 1;
    while (j < t.n && (t.p[j] == ' ' || t.p[j] == '\t' || t.p[j] == '\r')) j++;
    return j < t.n && t.p[j] == '\n';
}

/* Whether a piece may end behind byte i. */
static bool border(const Chunks *c, Bytes t, size_t i) {
    if (c->rule.border == CHUNK_PARAGRAPHS) return t.p[i] == '\n' && (blank_line(t, i) || i + 1 == t.n);
    return t.p[i] == '\n';
}

/* The best place at or before `limit` to cut a piece that is too long: behind a sentence, else a line or word. */
static size_t softer_border(Bytes t, size_t from, size_t limit) {
    for (size_t i = limit; i > from + (limit - from) / 2; i--)
        if (strchr(".!?", t.p[i - 1]) && (t.p[i] == ' ' || t.p[i] == '\n')) return i + 1;
    for (size_t i = limit; i > from; i--)
        if (t.p[i] == ' ' || t.p[i] == '\n') return i + 1;
    while (limit > from + 1 && ((uint8_t)t.p[limit] & 0xC0) == 0x80) limit--; /* never inside a character */
    return limit;
}

/* One stretch between borders, as one piece or, when longer than rule.high, as several. */
static Status add_stretch(Chunks *c, int32_t document, size_t from, size_t to) {
    Bytes t = c->corpus->document[document].text;
    while (from < to) {
        int32_t tokens;
        size_t end = to;
        TRY(count_tokens(c, (Bytes){t.p + from, end - from}, &tokens));
        while (tokens > c->rule.high && end - from > 1) {
            size_t guess = from + (end - from) * (size_t)c->rule.high / (size_t)tokens;
            size_t shorter = softer_border(t, from, guess > from ? guess : from + 1);
            if (shorter <= from || shorter >= end) shorter = from + (end - from + 1) / 2;
            while (shorter > from + 1 && ((uint8_t)t.p[shorter] & 0xC0) == 0x80) shorter--;
            end = shorter;
            TRY(count_tokens(c, (Bytes){t.p + from, end - from}, &tokens));
        }
        if (tokens > 0) TRY(push_piece(c, (Piece){from, end, document, tokens}));
        from = end;
    }
    return ST_OK;
}

static size_t skip_blank(Bytes t, size_t i) {
    while (i < t.n && strchr(" \t\r\n", t.p[i])) i++;
    return i;
}

static Status cut_document(Chunks *c, int32_t document) {
    Bytes t = c->corpus->document[document].text;
    size_t from = skip_blank(t, 0);
    for (size_t i = from; i < t.n; i++) {
        if (i + 1 < t.n && !border(c, t, i)) continue;
        if (i < from) continue; /* within the blank lines behind a border */
        TRY(add_stretch(c, document, from, i + 1));
        from = skip_blank(t, i + 1);
    }
    return ST_OK;
}

Status chunks_open(Chunks **out, const Corpus *corpus, const Tokenizer *t, ChunkRule rule) {
    *out = NULL;
    NEED(rule.low >= 1 && rule.high >= rule.low, ST_ARG, "chunks of %d to %d tokens make no sense", rule.low, rule.high);
    Status st = ST_OK;
    Chunks *c = calloc(1, sizeof *c);
    NEED(c, ST_NOMEM, "no memory to cut the corpus");
    *c = (Chunks){.corpus = corpus, .t = t, .rule = rule};
    for (int32_t d = 0; d < corpus->documents; d++) TRY_TO(failed, cut_document(c, d));
    NEED_TO(failed, c->pieces > 0 && c->tokens >= rule.low, ST_ARG,
            "the corpus has %lld tokens, a chunk at least %d; lower the size of chunks", (long long)c->tokens, rule.low);
    *out = c;
    return ST_OK;
failed:
    chunks_close(c);
    return st;
}

void chunks_close(Chunks *c) {
    if (!c) return;
    free(c->piece);
    free(c);
}

int64_t chunks_tokens(const Chunks *c) {
    return c->tokens;
}

/* A permutation of n things without a table: the place of card i in a round, by swapping as Fisher and Yates do would
 * need memory per round; a Feistel walk over the next power of four gives one in a few steps. */
static uint64_t shuffled(uint64_t i, uint64_t n, uint64_t seed, uint64_t round) {
    int half = 1;
    while ((uint64_t)1 << 2 * half < n) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t k = 0; k < 4; k++) {
            uint64_t next = left ^ (random_u64(seed, round * 4 + k, right) & mask);
            left = right, right = next;
        }
        i = left << half | right;
    } while (i >= n); /* cycle walking: ends, because the walk is a permutation that began below n */
    return i;
}

/* Grows from the piece to the right and, at the end of the document, to the left. */
Bytes chunks_draw(const Chunks *c, uint64_t seed, uint64_t n) {
    uint64_t count = (uint64_t)c->pieces;
    int32_t first = (int32_t)shuffled(n % count, count, seed, n / count), last = first;
    int32_t want = c->rule.low + (int32_t)random_below(seed, ~(uint64_t)0, n, (uint64_t)(c->rule.high - c->rule.low + 1));
    int32_t tokens = c->piece[first].tokens, document = c->piece[first].document;
    while (last + 1 < c->pieces && c->piece[last + 1].document == document && tokens + c->piece[last + 1].tokens <= want)
        tokens += c->piece[++last].tokens;
    while (first > 0 && c->piece[first - 1].document == document && tokens + c->piece[first - 1].tokens <= want)
        tokens += c->piece[--first].tokens;
    Bytes t = c->corpus->document[document].text;
    size_t from = c->piece[first].from, to = c->piece[last].to;
    while (to > from && strchr(" \t\r\n", t.p[to - 1])) to--;
    return (Bytes){t.p + from, to - from};
}
