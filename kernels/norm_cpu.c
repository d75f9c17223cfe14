/* norm_cpu.c -- root-mean-square norm and the way back. A row stays in the first-level cache, so that its
 * second reading is free; sums run in eight lanes, in double every 64 elements of a lane. */
#include "kernels/cpu.h"
#include "kernels/cpu_vector.h"

enum { BLOCK = 512 }; /* elements summed in f32 before they go on in double */

static double dot3(const float *a, const float *b, const float *c, int64_t n) {
    double sum = 0;
    int64_t i = 0;
    while (i + 8 <= n) {
        F8 part = f8_all(0);
        int64_t end = i + BLOCK < n ? i + BLOCK : n;
        for (; i + 8 <= end; i += 8) part = f8_fma(f8_load(a + i) * f8_load(b + i), f8_load(c + i), part);
        sum += f8_sum_double(part);
    }
    for (; i < n; i++) sum += (double)(a[i] * b[i] * c[i]);
    return sum;
}

static float norm_row(float *y, const float *x, const float *w, int64_t C, float eps) {
    float rstd = (float)(1 / sqrt(f8_squares(x, C) / (double)C + eps));
    int64_t i = 0;
    for (; i + 8 <= C; i += 8) f8_store(y + i, f8_load(w + i) * f8_load(x + i) * f8_all(rstd));
    for (; i < C; i++) y[i] = w[i] * x[i] * rstd;
    return rstd;
}

Status CPU(norm)(Stream *s, const NormArgs *a) {
    TRY(norm_check(a));
    CPU_F32("norm", a->y);
    CPU_F32("norm", a->x);
    CPU_F32("norm", a->rstd);
    const float *w, *x = a->x.data;
    TRY(cpu_weights(s, "norm", a->w, &w));
    int64_t rows = tensor_rows_count(a->x), C = a->x.dim[a->x.ndim - 1];
    float *y = a->y.data, *keep = a->rstd.data;
#pragma omp parallel for if (rows * C >= PARALLEL_MIN)
    for (int64_t t = 0; t < rows; t++) {
        float rstd = norm_row(y + t * C, x + t * C, w, C, a->eps);
        if (keep) keep[t] = rstd;
    }
    return ST_OK;
}

/* With xhat = x rstd and g = w dy:  dx = rstd (g - xhat mean(g xhat)). */
static void norm_back_row(float *dx, const float *dy, const float *x, const float *w, float rstd, int64_t C,
                          bool add) {
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

Status CPU(norm_back)(Stream *s, const NormBackArgs *a) {
    TRY(norm_back_check(a));
    CPU_F32("norm_back", a->dx);
    CPU_F32("norm_back", a->dy);
    CPU_F32("norm_back", a->x);
    CPU_F32("norm_back", a->rstd);
    const float *w, *x = a->x.data, *dy = a->dy.data, *rstd = a->rstd.data;
    TRY(cpu_weights(s, "norm_back", a->w, &w));
    int64_t rows = tensor_rows_count(a->x), C = a->x.dim[a->x.ndim - 1];
    float *dx = a->dx.data;
#pragma omp parallel for if (rows * C >= PARALLEL_MIN)
    for (int64_t t = 0; t < rows; t++)
        norm_back_row(dx + t * C, dy + t * C, x + t * C, w, rstd[t], C, a->accumulate);
    return ST_OK;
}
