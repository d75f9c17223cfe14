/* cpu_logits.h -- a row of logits: its best, its sum of exponentials, its K best; for what learns from rows
 * (logits_cpu.c) and what draws from them (sample_cpu.c).
 *
 * A row (49152 logits: 192 KiB) stays in the second-level cache, so that the passes over it cost one reading
 * of memory. Nothing sorts a vocabulary: the best are kept in a heap whose root is the worst of them, and of
 * a row nearly all is passed over a vector at a time. */
#ifndef KERNELS_CPU_LOGITS_H
#define KERNELS_CPU_LOGITS_H

#include "kernels/cpu.h"
#include "kernels/cpu_vector.h"

enum { LOGITS_BLOCK = 512 }; /* elements summed in f32 before they go on in double */

static inline float row_largest(const float *x, int64_t n) {
    Vec most = vec_all(-INFINITY);
    int64_t i = 0;
    for (; i + VEC <= n; i += VEC) most = vec_max(most, vec_load(x + i));
    float m = vec_largest(most);
    for (; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* Where the largest stands, the first of several; 0 when it is NaN. */
static inline int32_t row_best(const float *x, int64_t n, float most) {
    int64_t i = 0;
    while (i + VEC <= n && !vec_any(vec_load(x + i) == vec_all(most))) i += VEC;
    while (i < n && x[i] != most) i++;
    return i < n ? (int32_t)i : 0;
}

/* sum of e^(factor (x - base)); the exponentials themselves go to `out` unless it is NULL. */
VECTOR_FN double sum_exp(float *out, const float *x, int64_t n, float base, float factor) {
    double sum = 0;
    int64_t i = 0;
    while (i + VEC <= n) {
        Vec part = vec_all(0);
        int64_t end = i + LOGITS_BLOCK < n ? i + LOGITS_BLOCK : n;
        for (; i + VEC <= end; i += VEC) {
            Vec e = vec_exp((vec_load(x + i) - vec_all(base)) * vec_all(factor));
            part += e;
            if (out) vec_store(out + i, e);
        }
        sum += vec_sum_double(part);
    }
    for (; i < n; i++) {
        float e = vec_exp(vec_all((x[i] - base) * factor))[0];
        sum += e;
        if (out) out[i] = e;
    }
    return sum;
}

/* The logarithm of the sum of e^x; `most` is the largest. */
static inline double row_lse(const float *x, int64_t n, float most) {
    return most + log(sum_exp(NULL, x, n, most, 1));
}

/* ---- the best of a row ---- */

static inline bool better(Ranked a, Ranked b) {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

/* Puts `in` at place i of a heap of n and lets it sink: every parent is worse than its children. */
static inline void sink(Ranked *heap, int64_t n, int64_t i, Ranked in) {
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(heap[child], heap[child + 1])) child++;
        if (!better(in, heap[child])) break;
        heap[i] = heap[child];
    }
    heap[i] = in;
}

static inline void make_heap(Ranked *heap, int64_t n) {
    for (int64_t i = n / 2; i-- > 0;) sink(heap, n, i, heap[i]);
}

/* From a heap to a list, best first, ties by lower id. */
static inline void sort_heap(Ranked *heap, int64_t n) {
    for (int64_t left = n - 1; left > 0; left--) {
        Ranked worst = heap[0];
        sink(heap, left, 0, heap[left]);
        heap[left] = worst;
    }
}

/* The K best of n. */
static inline void best_of_row(Ranked *best, int64_t K, const float *x, int64_t n) {
    for (int64_t i = 0; i < K; i++) best[i] = (Ranked){x[i], (int32_t)i};
    make_heap(best, K);
    for (int64_t i = K; i < n;) {
        if (i + VEC <= n && !vec_any(vec_load(x + i) > vec_all(best[0].value))) {
            i += VEC;
            continue;
        }
        /* Ids rise, so a tie with the worst one kept never replaces it. */
        int64_t end = i + VEC < n ? i + VEC : n;
        for (; i < end; i++)
            if (x[i] > best[0].value) sink(best, K, 0, (Ranked){x[i], (int32_t)i});
    }
    sort_heap(best, K);
}

/* Where this thread ranks tokens: limits.vocab of them. */
static inline Status ranking_space(Stream *stream, const char *op, int64_t V, CpuStream **out) {
    CpuStream *s = cpu_stream(stream);
    NEED(V <= s->limits.vocab, ST_ARG, "%s: a row of %lld logits, the stream was opened for %d", op,
         (long long)V, s->limits.vocab);
    *out = s;
    return ST_OK;
}

static inline Ranked *my_ranking(const CpuStream *s) {
    return s->ranked + (int64_t)cpu_thread() * s->limits.vocab;
}

#endif
