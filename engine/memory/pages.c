/* pages.c -- see pages.h. Looking for free pages is a walk from the lowest: pools have thousands of pages, a
 * step takes a handful, and the same requests get the same pages in every run. */
#include "engine/memory/pages.h"

#include <assert.h>
#include <stdlib.h>

struct PagePool {
    const Ops *ops;
    Tensor all; /* [2L,pages,G,KV_PAGE,D] */
    int32_t pages, free;
    int32_t *holders; /* owned, [pages] */
};

static Tensor all_pages(void *data, const ModelConfig *c, DType type, int32_t pages) {
    return tensor_of(data, type, 2 * c->layers, pages, c->kv_heads, KV_PAGE, c->head_dim);
}

size_t pool_bytes(const ModelConfig *c, DType type, int32_t pages) {
    int any = 0;
    return tensor_bytes(all_pages(&any, c, type, pages)); /* absent tensors have no bytes */
}

Status pool_open(PagePool **out, const ModelConfig *c, const Ops *ops, DType type, int32_t pages) {
    *out = NULL;
    Status st = ST_OK;
    PagePool *p = calloc(1, sizeof *p);
    NEED_TO(done, p && pages >= 1, p ? ST_ARG : ST_NOMEM, "a pool of %d pages: wanted at least one", pages);
    p->ops = ops;
    p->pages = p->free = pages;
    p->holders = calloc((size_t)pages, sizeof *p->holders);
    NEED_TO(done, p->holders, ST_NOMEM, "no memory for the list of %d pages", pages);
    p->all = all_pages(p, c, type, pages);
    void *mem = NULL;
    TRY_TO(done, ops->mem_open(&mem, tensor_bytes(p->all)));
    p->all.data = mem;
    *out = p;
    return ST_OK;
done:
    if (p) free(p->holders);
    free(p);
    return st;
}

void pool_close(PagePool *p) {
    if (!p) return;
    assert(p->free == p->pages);
    p->ops->mem_close(p->all.data);
    free(p->holders);
    free(p);
}

Status pool_take(PagePool *p, int32_t n, int32_t *page) {
    NEED(n <= p->free, ST_FULL, "%d pages of %d keys wanted, %d of %d are free", n, KV_PAGE, p->free,
         p->pages);
    for (int32_t i = 0, taken = 0; taken < n; i++) {
        if (p->holders[i]) continue;
        p->holders[i] = 1;
        page[taken++] = i;
    }
    p->free -= n;
    return ST_OK;
}

void pool_hold(PagePool *p, const int32_t *page, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        assert(p->holders[page[i]] > 0);
        p->holders[page[i]]++;
    }
}

void pool_drop(PagePool *p, const int32_t *page, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        assert(p->holders[page[i]] > 0);
        if (--p->holders[page[i]] == 0) p->free++;
    }
}

int32_t pool_free(const PagePool *p) {
    return p->free;
}

int32_t pool_pages(const PagePool *p) {
    return p->pages;
}

Tensor pool_all(const PagePool *p) {
    return p->all;
}

Tensor pool_keys(const PagePool *p, int32_t layer) {
    return tensor_at(p->all, 2 * layer);
}

Tensor pool_values(const PagePool *p, int32_t layer) {
    return tensor_at(p->all, 2 * layer + 1);
}

const Ops *pool_ops(const PagePool *p) {
    return p->ops;
}

void pool_check(const PagePool *p) {
    int32_t unheld = 0;
    for (int32_t i = 0; i < p->pages; i++) {
        assert(p->holders[i] >= 0);
        unheld += p->holders[i] == 0;
    }
    assert(unheld == p->free);
    (void)unheld;
}
