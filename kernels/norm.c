/* norm.c -- root-mean-square norm over the last dimension, and the way back to its input. */
#include <math.h>

#include "kernels/reference.h"

Status norm_ref(Stream *s, const NormArgs *a) {
    (void)s;
    TRY(norm_check(a));
    int64_t rows = tensor_rows_count(a->x), C = a->x.dim[a->x.ndim - 1];
    for (int64_t t = 0; t < rows; t++) {
        double rstd = 1 / sqrt(dot(a->x, t * C, a->x, t * C, C) / (double)C + a->eps);
        for (int64_t c = 0; c < C; c++) put(a->y, t * C + c, get(a->w, c) * get(a->x, t * C + c) * rstd);
        if (a->rstd.data) put(a->rstd, t, rstd);
    }
    return ST_OK;
}

/* With xhat = x rstd and g = w dy:  dx = rstd (g - xhat mean(g xhat)). */
Status norm_back_ref(Stream *s, const NormBackArgs *a) {
    (void)s;
    TRY(norm_back_check(a));
    int64_t rows = tensor_rows_count(a->x), C = a->x.dim[a->x.ndim - 1];
    for (int64_t t = 0; t < rows; t++) {
        double rstd = get(a->rstd, t), mean = 0;
        for (int64_t c = 0; c < C; c++) mean += get(a->w, c) * get(a->dy, t * C + c) * get(a->x, t * C + c) * rstd;
        mean /= (double)C;
        for (int64_t c = 0; c < C; c++) {
            int64_t i = t * C + c;
            double dx = rstd * (get(a->w, c) * get(a->dy, i) - get(a->x, i) * rstd * mean);
            put(a->dx, i, a->accumulate ? get(a->dx, i) + dx : dx);
        }
    }
    return ST_OK;
}
