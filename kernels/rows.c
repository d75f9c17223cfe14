/* rows.c -- moving rows: gather, scatter, add, and in and out of pages. */
#include "kernels/reference.h"

Status gather_ref(Stream *s, const GatherArgs *a) {
    (void)s;
    TRY(gather_check(a));
    int64_t T = a->y.dim[0], C = a->y.dim[1];
    for (int64_t t = 0; t < T; t++)
        for (int64_t c = 0; c < C; c++) put(a->y, t * C + c, get(a->table, geti(a->id, t) * C + c));
    return ST_OK;
}

Status scatter_ref(Stream *s, const ScatterArgs *a) {
    (void)s;
    TRY(scatter_check(a));
    int64_t T = a->x.dim[0], C = a->x.dim[1];
    for (int64_t t = 0; t < T; t++)
        for (int64_t c = 0; c < C; c++) put(a->y, geti(a->id, t) * C + c, get(a->x, t * C + c));
    return ST_OK;
}

Status add_ref(Stream *s, const AddArgs *a) {
    (void)s;
    TRY(add_check(a));
    int64_t n = tensor_count(a->y);
    for (int64_t i = 0; i < n; i++) put(a->y, i, get(a->y, i) + get(a->x, i));
    return ST_OK;
}

/* The element in a pool [pages,G,KV_PAGE,D] where head g of the row in `slot` begins. */
static int64_t pool_index(Tensor pool, int64_t slot, int64_t g) {
    int64_t page = slot / KV_PAGE, offset = slot % KV_PAGE;
    return ((page * pool.dim[1] + g) * KV_PAGE + offset) * pool.dim[3];
}

static void copy_head(Tensor to, int64_t it, Tensor from, int64_t jf, int64_t D) {
    for (int64_t d = 0; d < D; d++) put(to, it + d, get(from, jf + d));
}

Status page_store_ref(Stream *s, const PageStoreArgs *a) {
    (void)s;
    TRY(page_store_check(a));
    int64_t T = a->k.dim[0], G = a->k.dim[1], D = a->k.dim[2];
    for (int64_t t = 0; t < T; t++) {
        int64_t slot = geti(a->slot, t);
        for (int64_t g = 0; slot >= 0 && g < G; g++) {
            copy_head(a->k_pool, pool_index(a->k_pool, slot, g), a->k, (t * G + g) * D, D);
            copy_head(a->v_pool, pool_index(a->v_pool, slot, g), a->v, (t * G + g) * D, D);
        }
    }
    return ST_OK;
}

static void zero_head(Tensor to, int64_t i, int64_t D) {
    for (int64_t d = 0; d < D; d++) put(to, i + d, 0);
}

Status page_load_ref(Stream *s, const PageLoadArgs *a) {
    (void)s;
    TRY(page_load_check(a));
    int64_t T = a->k.dim[0], G = a->k.dim[1], D = a->k.dim[2];
    for (int64_t i = 0; i < T * G; i++) {
        int64_t slot = geti(a->slot, i / G), g = i % G;
        if (slot < 0) {
            zero_head(a->k, i * D, D);
            zero_head(a->v, i * D, D);
        } else {
            copy_head(a->k, i * D, a->k_pool, pool_index(a->k_pool, slot, g), D);
            copy_head(a->v, i * D, a->v_pool, pool_index(a->v_pool, slot, g), D);
        }
    }
    return ST_OK;
}
