/* rows_cpu.c -- moving rows: gather and scatter. All of it is memory speed. */
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
