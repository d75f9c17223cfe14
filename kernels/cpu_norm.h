/* cpu_norm.h -- the norm of one row and its way back, for streams (norm_cpu.c) and for heads (heads_cpu.c). A
 * row stays in the first-level cache, so that its second reading is free; sums run in eight lanes, in double
 * every 64 elements of a lane. */
#ifndef KERNELS_CPU_NORM_H
#define KERNELS_CPU_NORM_H

#include "kernels/cpu_vector.h"

enum { NORM_BLOCK = 512 }; /* elements summed in f32 before they go on in double */

static inline double dot3(const float *a, const float *b, const float *c, int64_t n) {
    double sum = 0;
    int64_t i = 0;
    while (i + 8 <= n) {
        F8 part = f8_all(0);
        int64_t end = i + NORM_BLOCK < n ? i + NORM_BLOCK : n;
        for (; i + 8 <= end; i += 8) part = f8_fma(f8_load(a + i) * f8_load(b + i), f8_load(c + i), part);
        sum += f8_sum_double(part);
    }
    for (; i < n; i++) sum += (double)(a[i] * b[i] * c[i]);
    return sum;
}

static inline float rstd_of(const float *x, int64_t C, float eps) {
    return (float)(1 / sqrt(f8_squares(x, C) / (double)C + eps));
}

/* y may be x. Returns rstd. */
static inline float norm_row(float *y, const float *x, const float *w, int64_t C, float eps) {
    float rstd = rstd_of(x, C, eps);
    int64_t i = 0;
    for (; i + 8 <= C; i += 8) f8_store(y + i, f8_load(w + i) * f8_load(x + i) * f8_all(rstd));
    for (; i < C; i++) y[i] = w[i] * x[i] * rstd;
    return rstd;
}

/* With xhat = x rstd and g = w dy:  dx = rstd (g - xhat mean(g xhat)). dx may be dy. */
static inline void norm_back_row(float *dx, const float *dy, const float *x, const float *w, float rstd,
                                 int64_t C, bool add) {
    float pull = (float)(dot3(w, dy, x, C) / (double)C * rstd * rstd);
    int64_t i = 0;
    for (; i + 8 <= C; i += 8) {
        F8 d = f8_all(rstd) * (f8_load(w + i) * f8_load(dy + i) - f8_load(x + i) * f8_all(pull));
        f8_store(dx + i, add ? f8_load(dx + i) + d : d);
    }
    for (; i < C; i++) {
        float d = rstd * (w[i] * dy[i] - x[i] * pull);
        dx[i] = add ? dx[i] + d : d;
    }
}

#endif
