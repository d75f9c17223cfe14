/* rows_cpu.c -- moving rows: gather, scatter, add, and in and out of pages. All of it is memory speed. */
#include "kernels/cpu.h"
#include "kernels/cpu_vector.h"

Status CPU(gather)(Stream *s, const GatherArgs *a) {
    (void)s;
    TRY(gather_check(a));
    CPU_F32("gather", a->y);
    int64_t T = a->y.dim[0], C = a->y.dim[1];
    const int32_t *id = a->id.data;
    float *y = a->y.data;
#pragma omp parallel for if (T * C >= PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) cpu_widen(y + t * C, a->table, id[t] * C, C);
    return ST_OK;
}

Status CPU(scatter)(Stream *s, const ScatterArgs *a) {
    (void)s;
    TRY(scatter_check(a));
    CPU_F32("scatter", a->y);
    CPU_F32("scatter", a->x);
    int64_t T = a->x.dim[0], C = a->x.dim[1];
    const int32_t *id = a->id.data;
    const float *x = a->x.data;
    float *y = a->y.data;
#pragma omp parallel for if (T * C >= PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) memcpy(y + id[t] * C, x + t * C, sizeof *y * (size_t)C);
    return ST_OK;
}

enum { PART = 1 << 12 }; /* elements a thread takes at a time */

Status CPU(add)(Stream *s, const AddArgs *a) {
    (void)s;
    TRY(add_check(a));
    CPU_F32("add", a->y);
    CPU_F32("add", a->x);
    int64_t n = tensor_count(a->y);
    float *y = a->y.data;
    const float *x = a->x.data;
#pragma omp parallel for if (n >= PARALLEL_MIN)
    for (int64_t first = 0; first < n; first += PART) {
        int64_t end = first + PART < n ? first + PART : n, i = first;
        for (; i + 8 <= end; i += 8) f8_store(y + i, f8_load(y + i) + f8_load(x + i));
        for (; i < end; i++) y[i] += x[i];
    }
    return ST_OK;
}

/* ---- pages ---- */

/* The element of a pool [pages,G,KV_PAGE,D] where head g of the row in `slot` begins. */
static int64_t pool_index(Tensor pool, int64_t slot, int64_t g) {
    int64_t page = slot / KV_PAGE, offset = slot % KV_PAGE;
    return ((page * pool.dim[1] + g) * KV_PAGE + offset) * pool.dim[3];
}

static void narrow(Tensor to, int64_t first, const float *from, int64_t n) {
    if (to.dtype == DT_F32) {
        memcpy((float *)to.data + first, from, sizeof *from * (size_t)n);
    } else if (to.dtype == DT_BF16) {
        for (int64_t i = 0; i < n; i++) ((uint16_t *)to.data)[first + i] = f32_to_bf16(from[i]);
    } else {
        for (int64_t i = 0; i < n; i++) ((double *)to.data)[first + i] = from[i];
    }
}

Status CPU(page_store)(Stream *s, const PageStoreArgs *a) {
    (void)s;
    TRY(page_store_check(a));
    CPU_F32("page_store", a->k);
    CPU_F32("page_store", a->v);
    int64_t T = a->k.dim[0], G = a->k.dim[1], D = a->k.dim[2];
    const int32_t *slot = a->slot.data;
    const float *k = a->k.data, *v = a->v.data;
#pragma omp parallel for if (T * G * D >= PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++)
        for (int64_t g = 0; slot[t] >= 0 && g < G; g++) {
            int64_t to = pool_index(a->k_pool, slot[t], g), from = (t * G + g) * D;
            narrow(a->k_pool, to, k + from, D);
            narrow(a->v_pool, to, v + from, D);
        }
    return ST_OK;
}

static void load_row(const PageLoadArgs *a, int64_t t, int64_t slot) {
    int64_t G = a->k.dim[1], D = a->k.dim[2];
    float *k = (float *)a->k.data + t * G * D, *v = (float *)a->v.data + t * G * D;
    if (slot < 0) {
        memset(k, 0, sizeof *k * (size_t)(G * D));
        memset(v, 0, sizeof *v * (size_t)(G * D));
        return;
    }
    for (int64_t g = 0; g < G; g++) {
        int64_t from = pool_index(a->k_pool, slot, g);
        cpu_widen(k + g * D, a->k_pool, from, D);
        cpu_widen(v + g * D, a->v_pool, from, D);
    }
}

Status CPU(page_load)(Stream *s, const PageLoadArgs *a) {
    (void)s;
    TRY(page_load_check(a));
    CPU_F32("page_load", a->k);
    CPU_F32("page_load", a->v);
    int64_t T = a->k.dim[0];
    const int32_t *slot = a->slot.data;
#pragma omp parallel for if (T * a->k.dim[1] * a->k.dim[2] >= PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) load_row(a, t, slot[t]);
    return ST_OK;
}
