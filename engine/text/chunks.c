/* chunks.c -- stretches of the corpus on its own borders.
 *
 * The corpus is cut once into pieces that are never divided again: paragraphs or lines or, for windows of tokens, lines
 * cut down to a quarter of the shortest window; each knows its number of tokens. A chunk begins at a piece and takes as
 * many neighbours as fit. Beginnings go round the corpus in steps of the golden ratio: of all fixed steps it leaves the
 * smallest gaps after any number of them, and made coprime to the number of pieces it meets each once in a round. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/documents.h"
#include "engine/text/utf8.h"
#include "kernels/base/random.h"

typedef struct Piece { size_t from, to; int32_t document, tokens; } Piece; /* bytes of its document */

struct Chunks {
    const Corpus *corpus; /* borrowed */
    const Tokenizer *t;
    ChunkRule rule;
    Piece *piece;
    int32_t pieces, cap;
    int64_t tokens;
    uint64_t step; /* from one beginning to the next, in pieces */
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

static size_t skip_blank(Bytes t, size_t i) {
    while (i < t.n && strchr(" \t\r\n", t.p[i])) i++;
    return i;
}

/* Behind the first character, for `from` within the text. */
static size_t one_character(Bytes t, size_t from) {
    return from + (size_t)utf8_length((const uint8_t *)t.p + from, t.n - from);
}

/* The best place below `limit` to cut a piece that is too long: behind a sentence, else a line or word. */
static size_t softer_border(Bytes t, size_t from, size_t limit) {
    for (size_t i = limit - 1; i > from + (limit - from) / 2; i--)
        if (strchr(".!?", t.p[i - 1]) && (t.p[i] == ' ' || t.p[i] == '\n')) return i + 1;
    for (size_t i = limit - 1; i > from; i--)
        if (t.p[i] == ' ' || t.p[i] == '\n') return i + 1;
    while (limit > from && ((uint8_t)t.p[limit] & 0xC0) == 0x80) limit--; /* never inside a character */
    return limit > from ? limit : one_character(t, from);
}

/* The end of the first piece of a stretch and its tokens: the whole of it, or what `most` tokens reach. Looks at so many
 * bytes only as most tokens have at the very most in any language, so a book without line ends is not read again and
 * again. */
static Status first_piece(const Chunks *c, Bytes t, size_t from, size_t to, int32_t most, size_t *end, int32_t *tokens) {
    size_t window = 16 * (size_t)most;
    *end = to - from > window ? softer_border(t, from, from + window) : to;
    for (;;) {
        TRY(count_tokens(c, (Bytes){t.p + from, *end - from}, tokens));
        if (*tokens <= most || *end <= one_character(t, from)) return ST_OK;
        size_t guess = from + (*end - from) * (size_t)most / (size_t)*tokens;
        *end = softer_border(t, from, guess > from ? guess : from + 1);
    }
}

/* One stretch between borders, as one piece or, when it is too long, as several. */
static Status add_stretch(Chunks *c, int32_t document, size_t from, size_t to) {
    Bytes t = c->corpus->document[document].text;
    int32_t most = c->rule.border == CHUNK_TOKENS ? (c->rule.low + 3) / 4 : c->rule.high;
    while ((from = skip_blank(t, from)) < to) {
        size_t end;
        int32_t tokens;
        TRY(first_piece(c, t, from, to, most, &end, &tokens));
        if (tokens > 0) TRY(push_piece(c, (Piece){from, end, document, tokens}));
        from = end;
    }
    return ST_OK;
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

static uint64_t common_divisor(uint64_t a, uint64_t b) {
    return b ? common_divisor(b, a % b) : a;
}

static uint64_t golden_step(uint64_t pieces) {
    uint64_t step = (uint64_t)(0.6180339887498949 * (double)pieces);
    while (common_divisor(step, pieces) != 1) step++;
    return step;
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
    c->step = golden_step((uint64_t)c->pieces);
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

/* Streams of random numbers, far from those that others may draw with the same seed. */
static const uint64_t STARTS = ~(uint64_t)0, LENGTHS = ~(uint64_t)1;

/* Whether a chunk of so many tokens takes `more`. A window of tokens is at least rule.low long where it can be. */
static bool fits(const Chunks *c, int32_t tokens, int32_t more, int32_t want) {
    if (more <= want - tokens) return true;
    return c->rule.border == CHUNK_TOKENS && tokens < c->rule.low && more <= c->rule.high - tokens;
}

/* Grows from the piece to the right and, at the end of the document, to the left. */
Bytes chunks_draw(const Chunks *c, uint64_t seed, uint64_t n) {
    uint64_t count = (uint64_t)c->pieces, start = random_below(seed, STARTS, n / count, count);
    int32_t first = (int32_t)((start + n % count * c->step) % count), last = first;
    int32_t want = c->rule.low + (int32_t)random_below(seed, LENGTHS, n, (uint64_t)(c->rule.high - c->rule.low) + 1);
    int32_t tokens = c->piece[first].tokens, document = c->piece[first].document;
    const Piece *p = c->piece;
    while (last + 1 < c->pieces && p[last + 1].document == document && fits(c, tokens, p[last + 1].tokens, want))
        tokens += p[++last].tokens;
    while (first > 0 && p[first - 1].document == document && fits(c, tokens, p[first - 1].tokens, want))
        tokens += p[--first].tokens;
    Bytes t = c->corpus->document[document].text;
    size_t from = p[first].from, to = p[last].to;
    while (to > from && strchr(" \t\r\n", t.p[to - 1])) to--;
    return (Bytes){t.p + from, to - from};
}
