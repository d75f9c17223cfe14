/* logits_cpu.c -- what is done with rows of logits: the distillation loss, the best candidates. */
#include "kernels/cpu_logits.h"

/* ---- distill ---- */

typedef struct RowLoss { double loss, kl, mass, sum; } RowLoss;

/* The kept candidates' logits are in `kept`; `others` is the sum of e^(x - most) over all other tokens, so
 * that 1 - Q is a quotient of sums: of a sure student, a difference would be nothing but rounding. */
static RowLoss row_loss(const Ranked *kept, const float *logprob, int32_t n, double most, double others) {
    RowLoss r = {.sum = others};
    for (int32_t j = 0; j < n; j++) r.sum += exp(kept[j].value - most);
    double lse = most + log(r.sum);
    for (int32_t j = 0; j < n; j++) {
        double p = exp(logprob[j]), logq = kept[j].value - lse;
        r.loss -= p * logq;
        r.kl += p * (logprob[j] - logq);
        r.mass += p;
    }
    /* No tail where rounded log-probabilities sum to a little over one, or where no token is left for it. */
    double tail = others > 0 ? 1 - r.mass : 0, student_tail = fmax(others / r.sum, 1e-300);
    if (tail > 0) r.kl += tail * log(tail / student_tail);
    if (r.kl < 0) r.kl = 0; /* not by fmax, which would make a zero of a NaN */
    return r;
}

static void multiply(float *x, int64_t n, float factor) {
    int64_t i = 0;
    for (; i + VEC <= n; i += VEC) vec_store(x + i, vec_load(x + i) * vec_all(factor));
    for (; i < n; i++) x[i] *= factor;
}

/* A gradient replaces the logits: by their exponentials in the pass that sums them, which are then only
 * scaled. While that pass runs, the candidates are not there, and the largest of the others is its base. */
static RowLoss distill_row(const DistillArgs *a, int64_t w, Ranked *kept) {
    int64_t V = a->logits.dim[1];
    float *logits = (float *)a->logits.data + w * V;
    int32_t first = ((const int32_t *)a->first.data)[w], n = ((const int32_t *)a->first.data)[w + 1] - first;
    const int32_t *id = (const int32_t *)a->id.data + first;
    const float *logprob = (const float *)a->logprob.data + first;
    float most = row_largest(logits, V);
    if (a->best.data) ((int32_t *)a->best.data)[w] = row_best(logits, V, most);
    if (n == 0) {
        if (a->gradient) memset(logits, 0, sizeof *logits * (size_t)V);
        return (RowLoss){0};
    }
    for (int32_t j = 0; j < n; j++) {
        kept[j] = (Ranked){logits[id[j]], id[j]};
        logits[id[j]] = -INFINITY;
    }
    float base = n < V ? row_largest(logits, V) : most;
    double share = exp((double)base - most);
    double others = sum_exp(a->gradient ? logits : NULL, logits, V, base, 1) * share;
    RowLoss r = row_loss(kept, logprob, n, most, n < V ? others : 0);
    if (a->gradient) multiply(logits, V, (float)(a->scale * r.mass / r.sum * share));
    for (int32_t j = 0; j < n; j++) {
        double q = exp(kept[j].value - most) / r.sum;
        logits[id[j]] = a->gradient ? (float)(a->scale * (r.mass * q - exp(logprob[j]))) : kept[j].value;
    }
    return r;
}

Status CPU(distill)(Stream *stream, const DistillArgs *a) {
    TRY(distill_check(a));
    CPU_F32("distill", a->logits);
    CPU_F32("distill", a->loss);
    CPU_F32("distill", a->kl);
    int64_t W = a->logits.dim[0], V = a->logits.dim[1];
    float *loss = a->loss.data, *kl = a->kl.data;
    CpuStream *s;
    TRY(ranking_space(stream, "distill", V, &s));
#pragma omp parallel for num_threads(cpu_threads(s->threads)) if (W * V >= PARALLEL_MIN)
    for (int64_t w = 0; w < W; w++) {
        RowLoss r = distill_row(a, w, my_ranking(s));
        if (loss) loss[w] = (float)r.loss;
        if (kl) kl[w] = (float)r.kl;
    }
    return ST_OK;
}

/* ---- topk ---- */

Status CPU(topk)(Stream *stream, const TopkArgs *a) {
    TRY(topk_check(a));
    CPU_F32("topk", a->logits);
    CPU_F32("topk", a->logprob);
    int64_t W = a->logits.dim[0], V = a->logits.dim[1], K = a->id.dim[1];
    int32_t *id = a->id.data;
    float *logprob = a->logprob.data;
    CpuStream *s;
    TRY(ranking_space(stream, "topk", V, &s));
#pragma omp parallel for num_threads(cpu_threads(s->threads)) if (W * V >= PARALLEL_MIN)
    for (int64_t w = 0; w < W; w++) {
        const float *row = (const float *)a->logits.data + w * V;
        Ranked *best = my_ranking(s);
        best_of_row(best, K, row, V);
        double lse = row_lse(row, V, best[0].value);
        for (int64_t k = 0; k < K; k++) {
            id[w * K + k] = best[k].id;
            logprob[w * K + k] = (float)(best[k].value - lse);
        }
    }
    return ST_OK;
}
