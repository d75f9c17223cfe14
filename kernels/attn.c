/* attn.c -- attention over segments of pages. For each row and head, over all keys j it sees:
 *   lse = log sum_j exp(scale q.k_j),   o = sum_j exp(scale q.k_j - lse) v_j
 * A fast kernel does both in one pass; here lse comes first, and then every share is known when v is read. */
#include <math.h>

#include "kernels/attn_plan.h"

enum { HEAD_MAX = 256 };

typedef struct Row {
    int32_t s, i;
    int64_t q;
    int64_t g;
} Row; /* row i of sequence s, its query's place, its key head */

static int32_t sequence_of(const AttnLayout *l, int32_t t) {
    int32_t s = 0;
    while (l->row[s + 1] <= t) s++;
    return s;
}

static Row row_of(const AttnLayout *l, const AttnArgs *a, int32_t t, int64_t h) {
    int64_t H = a->q.dim[1], D = a->q.dim[2], G = a->k.dim[1];
    int32_t s = sequence_of(l, t);
    return (Row){.s = s, .i = t - l->row[s], .q = (t * H + h) * D, .g = h / (H / G)};
}

/* Streaming log-sum-exp: the running maximum keeps every exponent at or below zero. */
static double log_sum_exp(const AttnLayout *l, const AttnArgs *a, Row r) {
    double largest = -INFINITY, sum = 0;
    for (int32_t i = l->seg[r.s]; i < l->seg[r.s + 1]; i++) {
        int32_t keys = visible_keys(l, r.s, i, r.i);
        for (int32_t j = 0; j < keys; j++) {
            double score =
                a->scale * dot(a->q, r.q, a->k, key_index(l, l->segment[i], j, a->k, r.g), a->q.dim[2]);
            if (score > largest) {
                sum *= exp(largest - score);
                largest = score;
            }
            sum += exp(score - largest);
        }
    }
    return largest + log(sum);
}

static void weighted_values(const AttnLayout *l, const AttnArgs *a, Row r, double lse, double *o) {
    int64_t D = a->q.dim[2];
    for (int64_t d = 0; d < D; d++) o[d] = 0;
    for (int32_t i = l->seg[r.s]; i < l->seg[r.s + 1]; i++) {
        int32_t keys = visible_keys(l, r.s, i, r.i);
        for (int32_t j = 0; j < keys; j++) {
            int64_t key = key_index(l, l->segment[i], j, a->k, r.g);
            double share = exp(a->scale * dot(a->q, r.q, a->k, key, D) - lse);
            for (int64_t d = 0; d < D; d++) o[d] += share * get(a->v, key + d);
        }
    }
}

Status attn_ref(Stream *s, const AttnArgs *a) {
    (void)s;
    const RefPlan *p = ref_plan(a->plan);
    const AttnLayout *l = &p->layout;
    TRY(attn_check(a, &p->limits, l->T));
    int64_t H = a->q.dim[1], D = a->q.dim[2];
    NEED(D <= HEAD_MAX, ST_UNSUPPORTED, "attn: head size %lld, at most %d", (long long)D, HEAD_MAX);
#pragma omp parallel for
    for (int64_t th = 0; th < l->T * H; th++) {
        double o[HEAD_MAX];
        Row r = row_of(l, a, (int32_t)(th / H), th % H);
        double lse = log_sum_exp(l, a, r);
        weighted_values(l, a, r, lse, o);
        for (int64_t d = 0; d < D; d++) put(a->o, r.q + d, o[d]);
        if (a->lse.data) put(a->lse, th, lse);
    }
    return ST_OK;
}
