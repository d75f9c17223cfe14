/* pointwise_cpu.c -- swiglu: silu(gate) * up, silu(x) = x sigmoid(x), and its backward. */
#include "kernels/cpu.h"
#include "kernels/cpu_vector.h"

enum { PART = 1 << 11 }; /* elements a thread takes at a time */

static int64_t part_end(int64_t first, int64_t n) {
    return first + PART < n ? first + PART : n;
}

VECTOR_FN F8 sigmoid(F8 x) {
    return f8_all(1.0f) / (f8_all(1.0f) + f8_exp(-x));
}

/* Whole vectors are done in place; what is left at the end goes through padded copies, so that every element
 * is computed by the same instructions wherever it stands. */
VECTOR_FN F8 load_some(const float *p, int64_t n) {
    F8 x = f8_all(0);
    memcpy(&x, p, sizeof *p * (size_t)(n < 8 ? n : 8));
    return x;
}

VECTOR_FN void store_some(float *p, F8 x, int64_t n) {
    memcpy(p, &x, sizeof *p * (size_t)(n < 8 ? n : 8));
}

static void swiglu_part(float *y, const float *gate, const float *up, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        F8 g = f8_load(gate + i);
        f8_store(y + i, g * sigmoid(g) * f8_load(up + i));
    }
    if (i == n) return;
    F8 g = load_some(gate + i, n - i);
    store_some(y + i, g * sigmoid(g) * load_some(up + i, n - i), n - i);
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
VECTOR_FN void silu_back(F8 *dgate, F8 *dup, F8 dy, F8 gate, F8 up) {
    F8 sg = sigmoid(gate), one = f8_all(1.0f);
    *dgate = dy * up * sg * (one + gate * (one - sg));
    *dup = dy * gate * sg;
}

static void swiglu_back_part(float *dgate, float *dup, const float *dy, const float *gate, const float *up,
                             int64_t n) {
    int64_t i = 0;
    F8 dg, du;
    for (; i + 8 <= n; i += 8) {
        silu_back(&dg, &du, f8_load(dy + i), f8_load(gate + i), f8_load(up + i));
        f8_store(dgate + i, dg);
        f8_store(dup + i, du);
    }
    if (i == n) return;
    silu_back(&dg, &du, load_some(dy + i, n - i), load_some(gate + i, n - i), load_some(up + i, n - i));
    store_some(dgate + i, dg, n - i);
    store_some(dup + i, du, n - i);
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
