/* pages.h -- the pool of key/value pages, and how many hold each of them.
 *
 * All pages exist from the start, in one allocation [2L,pages,G,KV_PAGE,D]: slice 2l is the keys of layer l, 2l+1 its
 * values. A page is free or held by n >= 1 holders; the pages of a cartridge or of a shared chunk are simply pages
 * with many. Sharing never copies: a shared page is read-only because nobody appends to another's last page. */
#ifndef ENGINE_MEMORY_PAGES_H
#define ENGINE_MEMORY_PAGES_H

#include "engine/model/model.h"

typedef struct PagePool PagePool;

Status pool_open(PagePool **out, const ModelConfig *c, const Ops *ops, DType type, int32_t pages);
size_t pool_bytes(const ModelConfig *c, DType type, int32_t pages); /* what pool_open would take */
void pool_close(PagePool *p); /* asserts that nobody holds a page */

/* n free pages, each with one holder. ST_FULL (wanted, free) takes none. Lowest numbers first: reproducible. */
Status pool_take(PagePool *p, int32_t n, int32_t *page);
void pool_hold(PagePool *p, const int32_t *page, int32_t n); /* one more holder */
void pool_drop(PagePool *p, const int32_t *page, int32_t n); /* one less; at 0 the page is free */
int32_t pool_free(const PagePool *p);
int32_t pool_pages(const PagePool *p);
Tensor pool_all(const PagePool *p);                   /* [2L,pages,G,KV_PAGE,D] */
Tensor pool_keys(const PagePool *p, int32_t layer);   /* [pages,G,KV_PAGE,D] */
Tensor pool_values(const PagePool *p, int32_t layer);
const Ops *pool_ops(const PagePool *p);
void pool_check(const PagePool *p); /* asserts every rule above; tests call it after each step */

static inline int32_t pages_for(int64_t rows) {
    return (int32_t)((rows + KV_PAGE - 1) / KV_PAGE);
}

#endif
