/* pointwise_cpu.c -- swiglu: silu(gate) * up, silu(x) = x sigmoid(x), and its backward. */
#include "kernels/cpu.h"
#include "kernels/cpu_vector.h"

enum { PART = 1 << 11 }; /* elements a thread takes at a time */

static int64_t part_end(int64_t first, int64_t n) {
    return first + PART < n ? first + PART : n;
}

VECTOR_FN Vec sigmoid(Vec x) {
    return vec_all(1.0f) / (vec_all(1.0f) + vec_exp(-x));
}

static void swiglu_part(float *y, const float *gate, const float *up, int64_t n) {
    for (int64_t i = 0; i < n; i += VEC) {
        Vec g = vec_load_part(gate + i, n - i);
        vec_store_part(y + i, g * sigmoid(g) * vec_load_part(up + i, n - i), n - i);
    }
}

Status CPU(swiglu)(Stream *s, const SwigluArgs *a) {
    (void)s;
    TRY(swiglu_check(a));
    CPU_F32("swiglu", a->y);
    CPU_F32("swiglu", a->gate);
    CPU_F32("swiglu", a->up);
    int64_t n = tensor_count(a->y);
    float *y = a->y.data;
    const float *gate = a->gate.data, *up = a->up.data;
#pragma omp parallel for if (n >= PARALLEL_MIN)
    for (int64_t i = 0; i < n; i += PART) swiglu_part(y + i, gate + i, up + i, part_end(i, n) - i);
    return ST_OK;
}

/* silu'(x) = sigmoid(x) (1 + x (1 - sigmoid(x))) */
VECTOR_FN void silu_back(Vec *dgate, Vec *dup, Vec dy, Vec gate, Vec up) {
    Vec sg = sigmoid(gate), one = vec_all(1.0f);
    *dgate = dy * up * sg * (one + gate * (one - sg));
    *dup = dy * gate * sg;
}

static void swiglu_back_part(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                             int64_t n) {
    for (int64_t i = 0; i < n; i += VEC) {
        int64_t left = n - i;
        Vec dg, du;
        silu_back(&dg, &du, vec_load_part(dy + i, left), vec_load_part(gate + i, left),
                  vec_load_part(up + i, left));
        vec_store_part(dgate + i, dg, left);
        vec_store_part(dup + i, du, left);
    }
}

Status CPU(swiglu_back)(Stream *s, const SwigluBackArgs *a) {
    (void)s;
    TRY(swiglu_back_check(a));
    CPU_F32("swiglu_back", a->dgate);
    CPU_F32("swiglu_back", a->dup);
    CPU_F32("swiglu_back", a->dy);
    CPU_F32("swiglu_back", a->gate);
    CPU_F32("swiglu_back", a->up);
    int64_t n = tensor_count(a->dy);
    float *dgate = a->dgate.data, *dup = a->dup.data;
    const float *dy = a->dy.data, *gate = a->gate.data, *up = a->up.data;
#pragma omp parallel for if (n >= PARALLEL_MIN)
    for (int64_t i = 0; i < n; i += PART)
        swiglu_back_part(dgate + i, dup + i, dy + i, gate + i, up + i, part_end(i, n) - i);
    return ST_OK;
}
