/* linear.c -- y = residual + x w^T + b, and back to x. Weights never learn, so there is no third product. */
#include "kernels/reference.h"

Status linear_ref(Stream *s, const LinearArgs *a) {
    (void)s;
    TRY(linear_check(a));
    int64_t T = a->x.dim[0], I = a->x.dim[1], O = a->w.dim[0];
#pragma omp parallel for
    for (int64_t o = 0; o < O; o++)
        for (int64_t t = 0; t < T; t++) {
            double y = dot(a->x, t * I, a->w, o * I, I) + (a->b.data ? get(a->b, o) : 0);
            put(a->y, t * O + o, a->residual.data ? get(a->residual, t * O + o) + y : y);
        }
    return ST_OK;
}

Status linear_back_ref(Stream *s, const LinearBackArgs *a) {
    (void)s;
    TRY(linear_back_check(a));
    int64_t T = a->dy.dim[0], O = a->dy.dim[1], I = a->w.dim[1];
#pragma omp parallel for
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < I; i++) {
            double dx = a->accumulate ? get(a->dx, t * I + i) : 0;
            for (int64_t o = 0; o < O; o++) dx += get(a->dy, t * O + o) * get(a->w, o * I + i);
            put(a->dx, t * I + i, dx);
        }
    return ST_OK;
}
