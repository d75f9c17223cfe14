/* pack.c -- see pack.h. The last token of a conversation predicts nothing and is not fed; the token at `at`
 * is predicted by the row before it. */
#include "engine/learn/pack.h"

#include <stdlib.h>
#include <string.h>

int32_t pack_pages(const PackLimits *limits) {
    return limits->rows / KV_PAGE + limits->seqs; /* each sequence begins a page of its own */
}

BatchLimits pack_batch(const PackLimits *limits, int32_t pages_of_pool) {
    return (BatchLimits){.rows = limits->rows,
                         .seqs = limits->seqs,
                         .segments = 2 * limits->seqs,
                         .entries =
                             pack_pages(limits) + limits->seqs * limits->prefix_pages + pages_of_pool};
}

static Status open_lists(Pack *p, const PackLimits *limits) {
    size_t rows = (size_t)limits->rows, candidates = rows * (size_t)limits->candidates;
    p->row = malloc(sizeof *p->row * rows);
    p->first = malloc(sizeof *p->first * (rows + 1));
    p->id = malloc(sizeof *p->id * candidates);
    p->logprob = malloc(sizeof *p->logprob * candidates);
    NEED(p->row && p->first && p->id && p->logprob, ST_NOMEM, "no memory for the targets of %d rows",
         limits->rows);
    return ST_OK;
}

static Status take_pages(Pack *p, const PackLimits *limits) {
    int32_t pages = pack_pages(limits);
    p->page = malloc(sizeof *p->page * (size_t)pages);
    NEED(p->page, ST_NOMEM, "no memory for a list of %d pages", pages);
    Status st = pool_take(p->pool, pages, p->page);
    if (st) return status_prefix(st, "a micro-batch of %d rows", limits->rows);
    p->pages = pages;
    return ST_OK;
}

Status pack_open(Pack *out, const Model *m, PagePool *pool, const PackLimits *limits) {
    *out = (Pack){.pool = pool};
    Status st = ST_OK;
    BatchLimits batch = pack_batch(limits, pool_pages(pool));
    TRY_TO(failed, open_lists(out, limits));
    TRY_TO(failed, take_pages(out, limits));
    TRY_TO(failed, batch_open(&out->batch, m, pool, &batch, true));
    pack_clear(out);
    return ST_OK;
failed:
    pack_close(out);
    return st;
}

void pack_close(Pack *p) {
    batch_close(p->batch);
    if (p->pages) pool_drop(p->pool, p->page, p->pages);
    free(p->page);
    free(p->row);
    free(p->first);
    free(p->id);
    free(p->logprob);
    *p = (Pack){0};
}

void pack_clear(Pack *p) {
    batch_clear(p->batch);
    p->used = p->targets = 0;
    p->first[0] = 0;
}

static void add_targets(Pack *p, const Conversation *c, int32_t row) {
    int32_t from = p->first[p->targets], candidates = c->first[c->targets];
    memcpy(p->id + from, c->id, sizeof *c->id * (size_t)candidates);
    memcpy(p->logprob + from, c->logprob, sizeof *c->logprob * (size_t)candidates);
    for (int32_t j = 0; j < c->targets; j++) {
        p->row[p->targets] = row + c->at[j] - 1;
        p->targets++;
        p->first[p->targets] = from + c->first[j + 1];
    }
}

Status pack_add(Pack *p, const Prefix *prefix, const Conversation *c, int32_t shift, bool *fits) {
    int32_t rows = c->n - 1, pages = pages_for(rows), row = p->batch->T, prefixes = prefix ? 1 : 0;
    *fits = p->used + pages <= p->pages;
    if (!*fits) return ST_OK;
    Sequence q = {.page = p->page + p->used,
                  .pages = pages,
                  .pages_max = pages,
                  .pos = prefix_start(&prefix, prefixes) + shift};
    TRY(batch_add(p->batch, &prefix, prefixes, &q, c->token, rows, fits));
    if (!*fits) return ST_OK;
    p->used += pages;
    add_targets(p, c, row);
    return ST_OK;
}

Targets pack_targets(const Pack *p) {
    return (Targets){.n = p->targets, .row = p->row, .first = p->first, .id = p->id, .logprob = p->logprob};
}
