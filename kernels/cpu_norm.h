/* cpu_norm.h -- the norm of one row and its way back, for streams (norm_cpu.c) and for heads (heads_cpu.c). A
 * row stays in the first-level cache, so that its second reading is free; sums run in the lanes of a vector, in
 * double every NORM_BLOCK elements. */
#ifndef KERNELS_CPU_NORM_H
#define KERNELS_CPU_NORM_H

#include "kernels/cpu_vector.h"

enum { NORM_BLOCK = 512 }; /* elements summed in f32 before they go on in double */

static inline double dot3(const float *a, const float *b, const float *c, int64_t n) {
    double sum = 0;
    int64_t i = 0;
    while (i + VEC <= n) {
        Vec part = vec_all(0);
        int64_t end = i + NORM_BLOCK < n ? i + NORM_BLOCK : n;
        for (; i + VEC <= end; i += VEC)
            part = vec_fma(vec_load(a + i) * vec_load(b + i), vec_load(c + i), part);
        sum += vec_sum_double(part);
    }
    for (; i < n; i++) sum += (double)(a[i] * b[i] * c[i]);
    return sum;
}

static inline float rstd_of(const float *x, int64_t C, float eps) {
    return (float)(1 / sqrt(vec_squares(x, C) / (double)C + eps));
}

/* y may be x. Returns rstd. */
static inline float norm_row(float *y, const float *x, const float *w, int64_t C, float eps) {
    float rstd = rstd_of(x, C, eps);
    int64_t i = 0;
    for (; i + VEC <= C; i += VEC) vec_store(y + i, vec_load(w + i) * vec_load(x + i) * vec_all(rstd));
    for (; i < C; i++) y[i] = w[i] * x[i] * rstd;
    return rstd;
}

/* With xhat = x rstd and g = w dy:  dx = rstd (g - xhat mean(g xhat)). dx may be dy. */
static inline void norm_back_row(float *dx, const float *dy, const float *x, const float *w, float rstd,
                                 int64_t C, bool add) {
    float pull = (float)(dot3(w, dy, x, C) / (double)C * rstd * rstd);
    int64_t i = 0;
    for (; i + VEC <= C; i += VEC) {
        Vec d = vec_all(rstd) * (vec_load(w + i) * vec_load(dy + i) - vec_load(x + i) * vec_all(pull));
        vec_store(dx + i, add ? vec_load(dx + i) + d : d);
    }
    for (; i < C; i++) {
        float d = rstd * (w[i] * dy[i] - x[i] * pull);
        dx[i] = add ? dx[i] + d : d;
    }
}

#endif
