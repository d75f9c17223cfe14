/* batch.c -- host lists that grow by whole pieces of sequences, then one upload. */
#include "engine/transformer/batch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- sequences ---- */

Status sequence_open(Sequence *q, int32_t rows_max, int32_t pos_first) {
    *q = (Sequence){.pages_max = pages_for(rows_max), .pos = pos_first};
    q->page = malloc(sizeof *q->page * (size_t)(q->pages_max > 0 ? q->pages_max : 1));
    NEED(q->page, ST_NOMEM, "no memory for the page list of %d rows", rows_max);
    return ST_OK;
}

Status sequence_reserve(Sequence *q, PagePool *pool, int32_t rows) {
    int32_t more = pages_for(rows) - q->pages;
    if (more <= 0) return ST_OK;
    NEED(q->pages + more <= q->pages_max, ST_ARG, "a sequence of %d rows, opened for %d", rows, q->pages_max * KV_PAGE);
    TRY(pool_take(pool, more, q->page + q->pages));
    q->pages += more;
    return ST_OK;
}

void sequence_close(Sequence *q, PagePool *pool) {
    if (q->page) pool_drop(pool, q->page, q->pages);
    free(q->page);
    *q = (Sequence){0};
}

/* ---- the batch ---- */

static void place_host(Batch *b, Arena *a, bool training) {
    size_t rows = (size_t)b->max.rows, seqs = (size_t)b->max.seqs, pages = (size_t)pool_pages(b->pool);
    b->token = arena_take(a, sizeof(int32_t) * rows);
    b->pos = arena_take(a, sizeof(int32_t) * rows);
    b->slot = arena_take(a, sizeof(int32_t) * rows);
    b->grad_slot = training ? arena_take(a, sizeof(int32_t) * rows) : NULL;
    b->row = arena_take(a, sizeof(int32_t) * (seqs + 1));
    b->seg = arena_take(a, sizeof(int32_t) * (seqs + 1));
    b->segment = arena_take(a, sizeof(Segment) * (size_t)b->max.segments);
    b->page = arena_take(a, sizeof(int32_t) * (size_t)b->max.entries);
    b->own_grad = training ? arena_take(a, sizeof(int32_t) * pages) : NULL;
    b->learned_grad = training ? arena_take(a, sizeof(int32_t) * pages) : NULL;
}

static Status open_host(Batch *b, bool training) {
    Arena count, mem;
    arena_init(&count, NULL, 0);
    place_host(b, &count, training);
    b->host = malloc(count.used + ARENA_ALIGN);
    NEED(b->host, ST_NOMEM, "no memory for a batch of %d rows", b->max.rows);
    arena_init(&mem, b->host, count.used + ARENA_ALIGN);
    place_host(b, &mem, training);
    if (training) memset(b->learned_grad, 0xFF, sizeof(int32_t) * (size_t)pool_pages(b->pool));
    return ST_OK;
}

enum { DEVICE_LISTS = 4 };

size_t batch_bytes(const BatchLimits *max) {
    size_t bytes = sizeof(int32_t) * (size_t)max->rows;
    return DEVICE_LISTS * ((bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN);
}

static Status open_device(Batch *b) {
    size_t bytes = batch_bytes(&b->max), stride = bytes / DEVICE_LISTS;
    TRY(b->ops->mem_open(&b->device, bytes));
    b->d_token = tensor_of(b->device, DT_I32, b->max.rows);
    b->d_pos = tensor_of((char *)b->device + stride, DT_I32, b->max.rows);
    b->d_slot = tensor_of((char *)b->device + 2 * stride, DT_I32, b->max.rows);
    b->d_grad_slot = tensor_of((char *)b->device + 3 * stride, DT_I32, b->max.rows);
    return ST_OK;
}

AttnLimits batch_plan_limits(const Model *m, int32_t pool_pages, DType kv, const BatchLimits *max, bool training) {
    return (AttnLimits){.rows = max->rows, .seqs = max->seqs, .segments = max->segments, .entries = max->entries,
                        .pages = pool_pages, .heads = m->cfg.heads, .kv_heads = m->cfg.kv_heads,
                        .head_dim = m->cfg.head_dim, .act = kv, .backward = training};
}

Status batch_open(Batch **out, const Model *m, PagePool *pool, const BatchLimits *max, bool training) {
    *out = NULL;
    Status st = ST_OK;
    Batch *b = calloc(1, sizeof *b);
    NEED(b, ST_NOMEM, "no memory for a batch");
    *b = (Batch){.max = *max, .pool = pool, .ops = m->ops};
    AttnLimits limits = batch_plan_limits(m, pool_pages(pool), pool_all(pool).dtype, max, training);
    TRY_TO(failed, open_host(b, training));
    TRY_TO(failed, open_device(b));
    TRY_TO(failed, m->ops->plan_open(&b->plan, &limits));
    batch_clear(b);
    *out = b;
    return ST_OK;
failed:
    batch_close(b);
    return st;
}

void batch_close(Batch *b) {
    if (!b) return;
    if (b->plan) b->ops->plan_close(b->plan);
    b->ops->mem_close(b->device);
    free(b->host);
    free(b);
}

void batch_clear(Batch *b) {
    b->T = b->S = b->segments = b->entries = b->own_grads = 0;
    b->row[0] = b->seg[0] = 0;
    if (b->own_grad) memset(b->own_grad, 0xFF, sizeof(int32_t) * (size_t)pool_pages(b->pool));
}

/* ---- adding ---- */

static void add_segment(Batch *b, const int32_t *page, int32_t pages, int32_t from, int32_t length) {
    b->segment[b->segments++] = (Segment){b->entries, from, length};
    memcpy(b->page + b->entries, page, sizeof *page * (size_t)pages);
    b->entries += pages;
}

static bool has_room(const Batch *b, const Prefix *const *prefix, int32_t prefixes, int32_t own_pages, int32_t n) {
    int64_t entries = b->entries + own_pages;
    for (int32_t i = 0; i < prefixes; i++) entries += prefix[i]->pages;
    return b->T + n <= b->max.rows && b->S + 1 <= b->max.seqs && b->segments + prefixes + 1 <= b->max.segments &&
           entries <= b->max.entries;
}

static void add_rows(Batch *b, Sequence *q, const int32_t *token, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        int32_t key = q->length + i;
        b->token[b->T + i] = token[i];
        b->pos[b->T + i] = q->pos + i;
        int32_t page = q->page[key / KV_PAGE];
        b->slot[b->T + i] = page * KV_PAGE + key % KV_PAGE;
        if (b->own_grad) b->grad_slot[b->T + i] = b->own_grad[page] * KV_PAGE + key % KV_PAGE;
    }
    b->T += n;
    q->length += n;
    q->pos += n;
}

Status batch_add(Batch *b, const Prefix *const *prefix, int32_t prefixes, Sequence *q, const int32_t *token,
                 int32_t n, bool *fits) {
    int32_t own_pages = pages_for(q->length + n);
    NEED(n >= 1 && own_pages <= q->pages, ST_ARG, "%d tokens behind %d, with pages for %d", n, q->length,
         q->pages * KV_PAGE);
    *fits = has_room(b, prefix, prefixes, own_pages, n);
    if (!*fits) return ST_OK;
    for (int32_t i = 0; i < prefixes; i++)
        add_segment(b, prefix[i]->page, prefix[i]->pages, prefix[i]->from, prefix_visible(prefix[i]));
    add_segment(b, q->page, own_pages, 0, q->length + n);
    for (int32_t i = 0; b->own_grad && i < own_pages; i++)
        if (b->own_grad[q->page[i]] < 0) b->own_grad[q->page[i]] = b->own_grads++; /* not yet, by an earlier piece */
    add_rows(b, q, token, n);
    b->S++;
    b->row[b->S] = b->T;
    b->seg[b->S] = b->segments;
    return ST_OK;
}

void batch_learn(Batch *b, const Prefix *p, int32_t first_grad) {
    assert(b->learned_grad);
    for (int32_t i = 0; i < p->pages; i++) b->learned_grad[p->page[i]] = first_grad + i;
}

void batch_unlearn(Batch *b, const Prefix *p) {
    for (int32_t i = 0; i < p->pages; i++) b->learned_grad[p->page[i]] = -1;
}

static Status upload_list(Batch *b, Stream *s, Tensor *device, const int32_t *host) {
    device->dim[0] = b->T;
    return b->ops->copy(s, device->data, host, sizeof *host * (size_t)b->T);
}

Status batch_upload(Batch *b, Stream *s) {
    NEED(b->T >= 1, ST_ARG, "an empty batch");
    TRY(upload_list(b, s, &b->d_token, b->token));
    TRY(upload_list(b, s, &b->d_pos, b->pos));
    TRY(upload_list(b, s, &b->d_slot, b->slot));
    if (b->own_grad) TRY(upload_list(b, s, &b->d_grad_slot, b->grad_slot));
    AttnLayout layout = {.T = b->T, .S = b->S, .row = b->row, .seg = b->seg, .segment = b->segment, .page = b->page,
                         .entries = b->entries, .pages = pool_pages(b->pool), .own_grad = b->own_grad,
                         .learned_grad = b->learned_grad};
    return b->ops->attn_plan(s, b->plan, &layout);
}
