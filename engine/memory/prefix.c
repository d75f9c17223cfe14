/* prefix.c -- lists of held pages with positions, and their rows as files have them. */
#include "engine/memory/prefix.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A prefix with room for a page list; nothing is held yet. */
static Status prefix_alloc(Prefix **out, PagePool *pool, int32_t rows, int32_t pos_first, int32_t pos_end) {
    *out = NULL;
    NEED(rows >= 1, ST_ARG, "a prefix of %d rows: wanted at least one", rows);
    Prefix *p = calloc(1, sizeof *p);
    int32_t pages = pages_for(rows);
    int32_t *page = calloc((size_t)pages, sizeof *page);
    if (!p || !page) {
        free(p);
        free(page);
        FAIL(ST_NOMEM, "no memory for the page list of a prefix of %d rows", rows);
    }
    *p = (Prefix){.pool = pool,
                  .page = page,
                  .pages = pages,
                  .rows = rows,
                  .pos_first = pos_first,
                  .pos_end = pos_end,
                  .holders = 1};
    *out = p;
    return ST_OK;
}

static void prefix_free(Prefix *p) {
    free(p->page);
    free(p);
}

Status prefix_new(Prefix **out, PagePool *pool, int32_t rows, int32_t pos_first) {
    Prefix *p;
    *out = NULL;
    TRY(prefix_alloc(&p, pool, rows, pos_first, pos_first + rows));
    Status st = pool_take(pool, p->pages, p->page);
    if (st) {
        prefix_free(p);
        return st;
    }
    *out = p;
    return ST_OK;
}

Status prefix_of_pages(Prefix **out, PagePool *pool, const int32_t *page, int32_t rows, int32_t pos_first) {
    Prefix *p;
    *out = NULL;
    TRY(prefix_alloc(&p, pool, rows, pos_first, pos_first + rows));
    memcpy(p->page, page, sizeof *page * (size_t)p->pages);
    pool_hold(pool, p->page, p->pages);
    *out = p;
    return ST_OK;
}

/* Of a part: its parent and its rows, so that caches keep parts of one prefix apart. */
static Digest part_identity(const Prefix *p, int32_t first, int32_t count) {
    struct {
        Digest parent;
        int32_t first, count;
    } of = {p->identity, first, count};
    return sha256_of(&of, sizeof of);
}

Status prefix_part(Prefix **out, const Prefix *p, int32_t first, int32_t count) {
    *out = NULL;
    NEED(first >= 0 && count >= 1 && first + count <= prefix_visible(p), ST_ARG,
         "rows %d to %d of a prefix of %d rows", first, first + count, prefix_visible(p));
    int32_t row = p->from + first, page = row / KV_PAGE, from = row % KV_PAGE;
    Prefix *part;
    TRY(prefix_alloc(&part, p->pool, from + count, p->pos_first + first, p->pos_first + first + count));
    part->from = from;
    part->identity = part_identity(p, first, count);
    memcpy(part->page, p->page + page, sizeof *part->page * (size_t)part->pages);
    pool_hold(p->pool, part->page, part->pages);
    *out = part;
    return ST_OK;
}

Prefix *prefix_hold(Prefix *p) {
    p->holders++;
    return p;
}

void prefix_drop(Prefix *p) {
    if (!p || --p->holders > 0) return;
    pool_drop(p->pool, p->page, p->pages);
    prefix_free(p);
}

int32_t prefix_visible(const Prefix *p) {
    return p->rows - p->from;
}

int32_t prefix_start(const Prefix *const *p, int32_t n) {
    int32_t sum = 0, end = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += prefix_visible(p[i]);
        if (p[i]->pos_end > end) end = p[i]->pos_end;
    }
    return sum > end ? sum : end;
}

/* ---- rows as files have them ---- */

/* Moves the visible rows of one head between a host tensor [G,P,D] and the pool, page by page through `block`
 * ([KV_PAGE,D] of the pool's type). */
typedef struct Move {
    const Prefix *p;
    Stream *s;
    Tensor pool, host, block;
    bool to_pool;
} Move;

static Status move_page(const Move *m, int64_t g, int32_t page, int32_t first, int32_t count, int32_t row) {
    const Ops *ops = pool_ops(m->p->pool);
    int64_t D = m->host.dim[2], at = (g * m->host.dim[1] + row) * D;
    Tensor head = tensor_rows(tensor_at(tensor_at(m->pool, m->p->page[page]), g), first, count);
    Tensor block = tensor_rows(m->block, 0, count);
    if (m->to_pool) {
        tensor_convert(block, 0, m->host, at, count * D);
        TRY(ops->copy(m->s, head.data, block.data, tensor_bytes(head)));
        return ops->sync(m->s); /* the block is about to be used again */
    }
    TRY(ops->copy(m->s, block.data, head.data, tensor_bytes(head)));
    TRY(ops->sync(m->s));
    tensor_convert(m->host, at, block, 0, count * D);
    return ST_OK;
}

static Status move_rows(const Move *m) {
    const Prefix *p = m->p;
    for (int64_t g = 0; g < m->host.dim[0]; g++)
        for (int32_t page = 0; page < p->pages; page++) {
            int32_t start = page * KV_PAGE, first = p->from > start ? p->from - start : 0;
            int32_t end = p->rows - start < KV_PAGE ? p->rows - start : KV_PAGE;
            TRY(move_page(m, g, page, first, end - first, start + first - p->from));
        }
    return ST_OK;
}

static Status move(const Prefix *p, Stream *s, int32_t layer, Tensor key, Tensor value, bool to_pool) {
    Tensor keys = pool_keys(p->pool, layer), values = pool_values(p->pool, layer);
    int64_t G = keys.dim[1], D = keys.dim[3];
    NEED(tensor_is(key, key.dtype, G, prefix_visible(p), D) &&
             tensor_is(value, value.dtype, G, prefix_visible(p), D),
         ST_ARG, "rows of a prefix: wanted keys and values of [%lld,%d,%lld]", (long long)G,
         prefix_visible(p), (long long)D);
    void *space = malloc((size_t)(KV_PAGE * D) * dtype_bytes(keys.dtype));
    NEED(space, ST_NOMEM, "no memory to move a page");
    Tensor block = tensor_of(space, keys.dtype, KV_PAGE, D);
    Status st = move_rows(&(Move){p, s, keys, key, block, to_pool});
    if (!st) st = move_rows(&(Move){p, s, values, value, block, to_pool});
    free(space);
    return st;
}

Status prefix_read(const Prefix *p, Stream *s, int32_t layer, Tensor key, Tensor value) {
    return move(p, s, layer, key, value, false);
}

Status prefix_write(Prefix *p, Stream *s, int32_t layer, Tensor key, Tensor value) {
    return move(p, s, layer, key, value, true);
}
