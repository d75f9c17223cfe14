/* norm_cpu.c -- root-mean-square norm and the way back, row by row (cpu_norm.h). */
#include "kernels/cpu.h"
#include "kernels/cpu_norm.h"

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
