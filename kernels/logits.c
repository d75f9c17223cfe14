/* logits.c -- what is done with rows of logits: the distillation loss, the best candidates, a drawn token. */
#include <math.h>
#include <stdlib.h>

#include "kernels/base/random.h"
#include "kernels/reference.h"
#include "kernels/stream_ref.h"

static double row_lse(Tensor logits, int64_t first, int64_t V) {
    double largest = -INFINITY, sum = 0;
    for (int64_t v = 0; v < V; v++) largest = fmax(largest, get(logits, first + v));
    for (int64_t v = 0; v < V; v++) sum += exp(get(logits, first + v) - largest);
    return largest + log(sum);
}

static int32_t row_best(Tensor logits, int64_t first, int64_t V) {
    int64_t best = 0;
    for (int64_t v = 1; v < V; v++)
        if (get(logits, first + v) > get(logits, first + best)) best = v;
    return (int32_t)best;
}

/* ---- distill ---- */

typedef struct RowLoss {
    double loss, kl, mass;
} RowLoss;

static bool is_candidate(const DistillArgs *a, int64_t w, int64_t v) {
    for (int32_t j = geti(a->first, w); j < geti(a->first, w + 1); j++)
        if (geti(a->id, j) == v) return true;
    return false;
}

/* 1 - Q, the share of all other tokens. Where Q is nearly one their sum is exact, the difference is not. */
static double share_of_others(const DistillArgs *a, int64_t w, double lse) {
    int64_t V = a->logits.dim[1];
    double sum = 0;
    for (int64_t v = 0; v < V; v++)
        if (!is_candidate(a, w, v)) sum += exp(get(a->logits, w * V + v) - lse);
    return sum;
}

static RowLoss row_loss(const DistillArgs *a, int64_t w, double lse) {
    int64_t V = a->logits.dim[1];
    RowLoss r = {0};
    for (int32_t j = geti(a->first, w); j < geti(a->first, w + 1); j++) {
        double logp = get(a->logprob, j), p = exp(logp), logq = get(a->logits, w * V + geti(a->id, j)) - lse;
        r.loss -= p * logq;
        r.kl += p * (logp - logq);
        r.mass += p;
    }
    /* The tail as one bucket. Rounded log-probabilities may sum to a little more than one: then there is no
     * tail, as where all tokens are candidates. */
    double tail = geti(a->first, w + 1) - geti(a->first, w) < V ? 1 - r.mass : 0;
    if (tail > 0) r.kl += tail * log(tail / fmax(share_of_others(a, w, lse), 1e-300));
    r.kl = fmax(r.kl, 0);
    return r;
}

static void row_gradient(const DistillArgs *a, int64_t w, double lse, double mass) {
    int64_t V = a->logits.dim[1], first = w * V;
    for (int64_t v = 0; v < V; v++)
        put(a->logits, first + v, a->scale * mass * exp(get(a->logits, first + v) - lse));
    for (int32_t j = geti(a->first, w); j < geti(a->first, w + 1); j++) {
        int64_t at = first + geti(a->id, j);
        put(a->logits, at, get(a->logits, at) - a->scale * exp(get(a->logprob, j)));
    }
}

Status distill_ref(Stream *s, const DistillArgs *a) {
    (void)s;
    TRY(distill_check(a));
    int64_t W = a->logits.dim[0], V = a->logits.dim[1];
#pragma omp parallel for
    for (int64_t w = 0; w < W; w++) {
        bool any = geti(a->first, w + 1) > geti(a->first, w);
        double lse = row_lse(a->logits, w * V, V);
        RowLoss r = any ? row_loss(a, w, lse) : (RowLoss){0};
        if (a->loss.data) put(a->loss, w, r.loss);
        if (a->kl.data) put(a->kl, w, r.kl);
        if (a->best.data) put(a->best, w, row_best(a->logits, w * V, V));
        if (a->gradient) row_gradient(a, w, lse, r.mass);
    }
    return ST_OK;
}

/* ---- ranking ---- */

static int by_weight(const void *pa, const void *pb) {
    const Ranked *a = pa, *b = pb;
    if (a->weight != b->weight) return a->weight > b->weight ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* All tokens of a row, best first, ties by lower id. */
static void rank_row(Ranked *out, Tensor logits, int64_t first, int64_t V) {
    for (int64_t v = 0; v < V; v++) out[v] = (Ranked){get(logits, first + v), (int32_t)v};
    qsort(out, (size_t)V, sizeof *out, by_weight);
}

static Status ranking_space(Stream *s, int64_t V, Ranked **out) {
    RefStream *r = (RefStream *)(void *)s;
    NEED(r && V <= r->vocab, ST_ARG, "a row of %lld logits, the stream was opened for %d", (long long)V,
         r ? r->vocab : 0);
    *out = r->ranked;
    return ST_OK;
}

Status topk_ref(Stream *s, const TopkArgs *a) {
    TRY(topk_check(a));
    int64_t W = a->logits.dim[0], V = a->logits.dim[1], K = a->id.dim[1];
    Ranked *ranked = NULL;
    TRY(ranking_space(s, V, &ranked));
    for (int64_t w = 0; w < W; w++) {
        double lse = row_lse(a->logits, w * V, V);
        rank_row(ranked, a->logits, w * V, V);
        for (int64_t k = 0; k < K; k++) {
            put(a->id, w * K + k, ranked[k].id);
            put(a->logprob, w * K + k, ranked[k].weight - lse);
        }
    }
    return ST_OK;
}

/* ---- sample ---- */

/* How many of the ranked tokens stay; their weights have become logits over temperature. */
static int64_t filter(const Ranked *r, int64_t V, int32_t top_k, double top_p, double min_p) {
    int64_t n = top_k > 0 && top_k < V ? top_k : V;
    double total = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) total += exp(r[i].weight - r[0].weight);
    int64_t kept = 0;
    while (kept < n && (kept == 0 || sum < top_p * total)) sum += exp(r[kept++].weight - r[0].weight);
    while (kept > 1 && exp(r[kept - 1].weight - r[0].weight) < min_p) kept--;
    return kept;
}

/* argmax of logit + Gumbel noise is a draw from the softmax; the noise of a token depends on (seed, counter,
 * token). */
static double gumbel(uint64_t seed, uint64_t counter, int32_t token) {
    Random4 r = random_block(seed, counter, (uint64_t)token);
    return -log(-log((double)random_unit(r.v[0])));
}

static int32_t draw(const Ranked *r, int64_t n, uint64_t seed, uint64_t counter) {
    int64_t best = 0;
    double most = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        double score = r[i].weight + gumbel(seed, counter, r[i].id);
        if (score > most || (score == most && r[i].id < r[best].id)) most = score, best = i;
    }
    return r[best].id;
}

static int32_t sample_row(const SampleArgs *a, int64_t w, Ranked *ranked) {
    int64_t V = a->logits.dim[1];
    double temperature = get(a->temperature, w);
    if (temperature <= 0) return row_best(a->logits, w * V, V);
    rank_row(ranked, a->logits, w * V, V);
    for (int64_t v = 0; v < V; v++) ranked[v].weight /= temperature;
    int64_t kept = filter(ranked, V, geti(a->top_k, w), get(a->top_p, w), get(a->min_p, w));
    uint64_t low = (uint32_t)geti(a->seed, 2 * w), high = (uint32_t)geti(a->seed, 2 * w + 1);
    return draw(ranked, kept, high << 32 | low, (uint32_t)geti(a->counter, w));
}

Status sample_ref(Stream *s, const SampleArgs *a) {
    TRY(sample_check(a));
    int64_t W = a->logits.dim[0], V = a->logits.dim[1];
    Ranked *ranked = NULL;
    TRY(ranking_space(s, V, &ranked));
    for (int64_t w = 0; w < W; w++) {
        int32_t id = sample_row(a, w, ranked);
        put(a->id, w, id);
        if (a->logprob.data) put(a->logprob, w, get(a->logits, w * V + id) - row_lse(a->logits, w * V, V));
    }
    return ST_OK;
}
