/* heads.c -- from the projections to attention and back: norm over each head, rotation by position, and keys
 * and values in and out of pages. A rotation is orthogonal, so its backward is the rotation by the opposite
 * angle. */
#include <math.h>

#include "kernels/reference.h"

/* The element of a pool [pages,G,KV_PAGE,D] where head g of the row in `slot` begins. */
static int64_t pool_index(Tensor pool, int64_t slot, int64_t g) {
    int64_t page = slot / KV_PAGE, offset = slot % KV_PAGE;
    return ((page * pool.dim[1] + g) * KV_PAGE + offset) * pool.dim[3];
}

/* 1 / root mean square of the head that begins at element `first` of x; without weights there is no norm. */
static double rstd_of(Tensor x, int64_t first, int64_t D, Tensor w, float eps) {
    return w.data ? 1 / sqrt(dot(x, first, x, first, D) / (double)D + eps) : 1;
}

static double weight(Tensor w, int64_t i) {
    return w.data ? get(w, i) : 1;
}

typedef struct Pair {
    double low, high;
} Pair; /* elements i and i + D/2 of a head */

static Pair rotate(Pair p, const float *freq, int64_t i, int32_t pos, int sign) {
    float angle = (float)pos * freq[i]; /* in f32 on purpose: see ops.h */
    double c = cos((double)angle), s = sign * sin((double)angle);
    return (Pair){p.low * c - p.high * s, p.high * c + p.low * s};
}

/* One head of q or k. */
static void head(const HeadsArgs *a, Tensor y, int64_t to, Tensor x, int64_t from, Tensor w, int32_t pos) {
    int64_t D = a->q.dim[2], half = D / 2;
    double rstd = rstd_of(x, from, D, w, a->eps);
    for (int64_t i = 0; i < half; i++) {
        Pair p = {weight(w, i) * get(x, from + i) * rstd,
                  weight(w, i + half) * get(x, from + i + half) * rstd};
        p = rotate(p, a->freq.data, i, pos, 1);
        put(y, to + i, p.low);
        put(y, to + i + half, p.high);
    }
}

Status heads_ref(Stream *s, const HeadsArgs *a) {
    (void)s;
    TRY(heads_check(a));
    int64_t T = a->q.dim[0], H = a->q.dim[1], G = a->v.dim[1], D = a->q.dim[2];
    for (int64_t i = 0; i < T * H; i++) head(a, a->q, i * D, a->q_raw, i * D, a->w_q, geti(a->pos, i / H));
    for (int64_t i = 0; i < T * G; i++) {
        if (geti(a->slot, i / G) < 0) continue;
        int64_t to = pool_index(a->k_pool, geti(a->slot, i / G), i % G);
        head(a, a->k_pool, to, a->k_raw, i * D, a->w_k, geti(a->pos, i / G));
        for (int64_t d = 0; d < D; d++) put(a->v_pool, to + d, get(a->v, i * D + d));
    }
    return ST_OK;
}

/* ---- back ---- */

/* With g the gradient behind the rotation times w, and xhat = x rstd:  dx = rstd (g - xhat mean(g xhat)). */
static void head_back(const HeadsBackArgs *a, Tensor dx, int64_t to, Tensor dy, int64_t from, Tensor x,
                      Tensor w, int32_t pos) {
    int64_t D = a->dq.dim[2], half = D / 2;
    double rstd = rstd_of(x, to, D, w, a->eps), mean = 0;
    for (int64_t i = 0; w.data && i < half; i++) {
        Pair g = rotate((Pair){get(dy, from + i), get(dy, from + i + half)}, a->freq.data, i, pos, -1);
        mean +=
            (get(w, i) * g.low * get(x, to + i) + get(w, i + half) * g.high * get(x, to + i + half)) * rstd;
    }
    mean /= (double)D;
    for (int64_t i = 0; i < half; i++) {
        Pair g = rotate((Pair){get(dy, from + i), get(dy, from + i + half)}, a->freq.data, i, pos, -1);
        double low = w.data ? get(x, to + i) * rstd * mean : 0,
               high = w.data ? get(x, to + i + half) * rstd * mean : 0;
        put(dx, to + i, rstd * (weight(w, i) * g.low - low));
        put(dx, to + i + half, rstd * (weight(w, i + half) * g.high - high));
    }
}

Status heads_back_ref(Stream *s, const HeadsBackArgs *a) {
    (void)s;
    TRY(heads_back_check(a));
    int64_t T = a->dq.dim[0], H = a->dq.dim[1], G = a->dv.dim[1], D = a->dq.dim[2];
    for (int64_t i = 0; i < T * H; i++)
        head_back(a, a->dq_raw, i * D, a->dq, i * D, a->q_raw, a->w_q, geti(a->pos, i / H));
    for (int64_t i = 0; i < T * G; i++) {
        int64_t slot = geti(a->slot, i / G), from = slot < 0 ? 0 : pool_index(a->dk_pool, slot, i % G);
        if (slot >= 0)
            head_back(a, a->dk_raw, i * D, a->dk_pool, from, a->k_raw, a->w_k, geti(a->pos, i / G));
        for (int64_t d = 0; d < D; d++) {
            if (slot < 0) put(a->dk_raw, i * D + d, 0);
            put(a->dv, i * D + d, slot < 0 ? 0 : get(a->dv_pool, from + d));
        }
    }
    return ST_OK;
}
