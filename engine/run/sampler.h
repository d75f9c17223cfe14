/* sampler.h -- from rows of logits to tokens, each row with settings of its own, and the best candidates.
 *
 * One upload, one sample, at most one topk and one download per pass, in blocks planned at open. */
#ifndef ENGINE_RUN_SAMPLER_H
#define ENGINE_RUN_SAMPLER_H

#include "kernels/ops.h"

typedef struct Sampling {
    float temperature;  /* 0: the best token */
    int32_t top_k;      /* 0: all */
    float top_p, min_p; /* 1 and 0 switch them off */
    uint64_t seed; /* the draw of token n depends on (seed, n) only, never on what else is in the batch */
} Sampling;

Status sampling_check(const Sampling *s); /* ST_ARG names the field, its value and the range */

/* What one row of logits asks for. */
typedef struct Draw {
    Sampling sampling;
    int32_t n;    /* which token of its sequence this is: 0 for the first new one */
    int32_t topk; /* candidates wanted, 0: none */
} Draw;

typedef struct Sampler Sampler;
Status sampler_open(Sampler **out, const Ops *ops, int32_t rows, int32_t topk);
size_t sampler_bytes(int32_t rows, int32_t topk); /* what sampler_open would take of the device */
void sampler_close(Sampler *p);

/* draw[w] belongs to logits[w]. Rows that want candidates come first: only they are ranked. Returns when the
 * results are there; they stay until the next run. */
Status sampler_run(Sampler *p, Stream *s, Tensor logits, const Draw *draw, int32_t n);
int32_t sampler_id(const Sampler *p, int32_t w);
float sampler_logprob(const Sampler *p, int32_t w);         /* raw: temperature 1, before any filter */
const int32_t *sampler_top_id(const Sampler *p, int32_t w); /* best first; NULL when row w wanted none */
const float *sampler_top_logprob(const Sampler *p, int32_t w);

#endif
