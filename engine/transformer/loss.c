/* loss.c -- the distillation loss over the supervised rows, a chunk at a time: a chunk's logits are the largest thing
 * a step holds, and they live only between its matrix product and its gradient.
 *
 *   rows of hidden -> norm -> logits -> loss, and in place its gradient -> back through head and norm -> d_x */
#include "engine/transformer/acts.h"

/* A chunk: supervised rows from .. from+n of the targets. */
typedef struct Chunk { int32_t from, n, candidates; } Chunk;

static Status upload_targets(const Model *m, Acts *a, const Targets *t, Chunk c, Stream *s) {
    int32_t at = t->first[c.from];
    NEED(c.candidates <= a->max.logits * a->max.candidates, ST_ARG,
         "%d candidates in a chunk of %d rows, planned for %d each", c.candidates, c.n, a->max.candidates);
    for (int32_t i = 0; i <= c.n; i++) a->host_first[i] = t->first[c.from + i] - at;
    TRY(m->ops->copy(s, a->first.data, a->host_first, sizeof(int32_t) * ((size_t)c.n + 1)));
    TRY(m->ops->copy(s, a->id.data, t->id + at, sizeof(int32_t) * (size_t)c.candidates));
    return m->ops->copy(s, a->logprob.data, t->logprob + at, sizeof(float) * (size_t)c.candidates);
}

/* The gradient of the chunk's logits, back to the rows of the residual stream. */
static Status back_through_head(const Model *m, Acts *a, Tensor logits, Chunk c, Stream *s) {
    Tensor d = first_rows(a->d_picked, c.n), x = first_rows(a->picked, c.n);
    TRY(m->ops->linear_back(s, &(LinearBackArgs){.dx = d, .dy = logits, .w = m->head}));
    TRY(m->ops->norm_back(s, &(NormBackArgs){.dx = d, .dy = d, .x = x, .w = m->norm_out,
                                             .rstd = first_rows(a->picked_rstd, c.n)}));
    return m->ops->scatter(s, &(ScatterArgs){.y = first_rows(a->d_x, a->T), .x = d, .id = first_rows(a->rows, c.n)});
}

static int32_t best_candidate(const Targets *t, int32_t i) {
    int32_t best = t->first[i];
    for (int32_t j = best + 1; j < t->first[i + 1]; j++)
        if (t->logprob[j] > t->logprob[best] || (t->logprob[j] == t->logprob[best] && t->id[j] < t->id[best])) best = j;
    return t->id[best];
}

/* Sums on the host, in row order and in double: the same bits on every device and for every chunk size. */
static Status add_reports(const Model *m, Acts *a, const Targets *t, Chunk c, LossSums *sums, Stream *s) {
    bool wide = a->loss.dtype == DT_F64;
    size_t bytes = dtype_bytes(a->loss.dtype) * (size_t)c.n;
    TRY(m->ops->copy(s, wide ? (void *)a->host_loss64 : (void *)a->host_loss, a->loss.data, bytes));
    TRY(m->ops->copy(s, wide ? (void *)a->host_kl64 : (void *)a->host_kl, a->kl.data, bytes));
    TRY(m->ops->copy(s, a->host_best, a->best.data, sizeof(int32_t) * (size_t)c.n));
    TRY(m->ops->sync(s));
    for (int32_t i = 0; i < c.n; i++) {
        if (t->first[c.from + i] == t->first[c.from + i + 1]) continue;
        sums->loss += wide ? a->host_loss64[i] : (double)a->host_loss[i];
        sums->kl += wide ? a->host_kl64[i] : (double)a->host_kl[i];
        sums->agree += a->host_best[i] == best_candidate(t, c.from + i);
        sums->rows++;
    }
    return ST_OK;
}

static Status distill_chunk(const Model *m, Acts *a, const Targets *t, Chunk c, float scale, bool gradient,
                            LossSums *sums, Stream *s) {
    Tensor logits, none = {0};
    TRY(forward_logits(m, a, t->row + c.from, c.n, &logits, s));
    TRY(upload_targets(m, a, t, c, s));
    int64_t candidates = c.candidates;
    Tensor id = first_rows(a->id, candidates), logprob = first_rows(a->logprob, candidates);
    TRY(m->ops->distill(s, &(DistillArgs){.loss = sums ? first_rows(a->loss, c.n) : none,
                                          .kl = sums ? first_rows(a->kl, c.n) : none,
                                          .best = sums ? first_rows(a->best, c.n) : none, .logits = logits,
                                          .first = first_rows(a->first, c.n + 1), .id = id, .logprob = logprob,
                                          .scale = scale, .gradient = gradient}));
    if (gradient) TRY(back_through_head(m, a, logits, c, s));
    return sums ? add_reports(m, a, t, c, sums, s) : ST_OK;
}

Status distill(const Model *m, Acts *a, const Targets *t, float scale, bool gradient, LossSums *sums, Stream *s) {
    NEED(a->max.training, ST_ARG, "a loss needs activations that were opened for training");
    if (gradient) TRY(m->ops->zero(s, first_rows(a->d_x, a->T)));
    for (int32_t from = 0; from < t->n; from += a->max.logits) {
        int32_t n = t->n - from < a->max.logits ? t->n - from : a->max.logits;
        Chunk c = {from, n, t->first[from + n] - t->first[from]};
        TRY(distill_chunk(m, a, t, c, scale, gradient, sums, s));
    }
    return ST_OK;
}
