/* repeats.c -- an index from word pairs to the questions that have them.
 *
 * Pairs are kept as 64-bit hashes in an open-addressed table; each names the head of a list of questions. A
 * look-up counts, over the pairs of the new question, how often each earlier one comes up: work grows with
 * the number of true meetings, not with the number of questions. */
#include "engine/learn/repeats.h"

#include <stdlib.h>
#include <string.h>

#include "engine/learn/words.h"

typedef struct Cell {
    uint64_t pair;
    int32_t head;
} Cell; /* head: 1 + index of a Link; 0: an unused cell */
typedef struct Link {
    int32_t question, next;
} Link;

struct Repeats {
    Cell *cell;
    size_t cells, used; /* cells: a power of two, at most half used */
    Link *link;
    int32_t links, link_cap;
    int32_t *hits, questions, hits_cap; /* hits[q]: pairs shared with the question that is looked up */
};

/* The different word pairs of one question. */
typedef struct Pairs {
    uint64_t *v, last;
    int32_t n, words;
} Pairs;

Status repeats_open(Repeats **out) {
    *out = NULL;
    Repeats *r = calloc(1, sizeof *r);
    NEED(r, ST_NOMEM, "out of memory for an index of questions");
    r->cells = 1024;
    r->cell = calloc(r->cells, sizeof *r->cell);
    if (!r->cell)
        repeats_close(r);
    else
        *out = r;
    NEED(*out, ST_NOMEM, "out of memory for an index of questions");
    return ST_OK;
}

void repeats_close(Repeats *r) {
    if (!r) return;
    free(r->cell);
    free(r->link);
    free(r->hits);
    free(r);
}

static void add_pair(Pairs *p, uint64_t pair) {
    for (int32_t i = 0; i < p->n; i++)
        if (p->v[i] == pair) return;
    p->v[p->n++] = pair;
}

static void visit_word(void *user, Bytes word) {
    Pairs *p = user;
    uint64_t h = word_hash(word);
    if (p->words++ > 0) add_pair(p, p->last * 31 + h);
    p->last = h;
}

static Status pairs_of(Pairs *p, const char *words) {
    *p = (Pairs){0};
    p->v = malloc(((size_t)words_count(words) + 1) * sizeof *p->v);
    NEED(p->v, ST_NOMEM, "out of memory for the words of a question");
    words_each(words, visit_word, p);
    if (p->words == 1) add_pair(p, p->last);
    return ST_OK;
}

static Cell *cell_of(Cell *cell, size_t cells, uint64_t pair) {
    size_t i = (size_t)(pair * 0x9E3779B97F4A7C15u >> 20) & (cells - 1);
    while (cell[i].head && cell[i].pair != pair) i = (i + 1) & (cells - 1);
    return &cell[i];
}

static Status grow_cells(Repeats *r) {
    if (2 * (r->used + 1) <= r->cells) return ST_OK;
    Cell *larger = calloc(2 * r->cells, sizeof *larger);
    NEED(larger, ST_NOMEM, "out of memory: an index of %zu word pairs", r->used);
    for (size_t i = 0; i < r->cells; i++)
        if (r->cell[i].head) *cell_of(larger, 2 * r->cells, r->cell[i].pair) = r->cell[i];
    free(r->cell);
    r->cell = larger;
    r->cells *= 2;
    return ST_OK;
}

static Status grow_links(Repeats *r) {
    if (r->links < r->link_cap) return ST_OK;
    int32_t larger = r->link_cap ? 2 * r->link_cap : 256;
    Link *p = realloc(r->link, (size_t)larger * sizeof *p);
    NEED(p, ST_NOMEM, "out of memory: an index of %d word pairs", larger);
    r->link = p;
    r->link_cap = larger;
    return ST_OK;
}

static Status grow_hits(Repeats *r) {
    if (r->questions < r->hits_cap) return ST_OK;
    int32_t larger = r->hits_cap ? 2 * r->hits_cap : 256;
    int32_t *p = realloc(r->hits, (size_t)larger * sizeof *p);
    NEED(p, ST_NOMEM, "out of memory: an index of %d questions", larger);
    r->hits = p;
    r->hits_cap = larger;
    return ST_OK;
}

static Status link_pair(Repeats *r, uint64_t pair) {
    TRY(grow_cells(r));
    TRY(grow_links(r));
    Cell *c = cell_of(r->cell, r->cells, pair);
    if (!c->head) r->used++;
    r->link[r->links++] = (Link){r->questions, c->head};
    *c = (Cell){pair, r->links};
    return ST_OK;
}

Status repeats_add(Repeats *r, const char *words) {
    Pairs p;
    TRY(pairs_of(&p, words));
    Status st = grow_hits(r);
    for (int32_t i = 0; !st && i < p.n; i++) st = link_pair(r, p.v[i]);
    free(p.v);
    TRY(st);
    r->hits[r->questions++] = 0;
    return ST_OK;
}

/* Adds to the count of every question with this pair and returns the largest count it meets. */
static int32_t count_hits(Repeats *r, uint64_t pair, int32_t by) {
    int32_t most = 0;
    for (int32_t at = cell_of(r->cell, r->cells, pair)->head; at; at = r->link[at - 1].next) {
        int32_t n = r->hits[r->link[at - 1].question] += by;
        if (n > most) most = n;
    }
    return most;
}

Status repeats_share(Repeats *r, const char *words, double *share) {
    Pairs p;
    TRY(pairs_of(&p, words));
    int32_t most = 0;
    for (int32_t i = 0; i < p.n; i++) {
        int32_t n = count_hits(r, p.v[i], 1);
        if (n > most) most = n;
    }
    for (int32_t i = 0; i < p.n; i++) count_hits(r, p.v[i], -1);
    *share = p.n ? (double)most / p.n : 0;
    free(p.v);
    return ST_OK;
}
