/* sampler.c -- from rows of logits to tokens.
 *
 * Settings and results each lie in one block with a twin on the device, so that a pass costs one copy up and
 * one down, however many rows and settings there are. The blocks are laid out for the largest number of rows;
 * a pass with fewer uses the front of each list. */
#include "engine/run/sampler.h"

#include <math.h>
#include <stdlib.h>

typedef struct Settings {
    Tensor temperature, top_p, min_p, top_k, counter, seed;
} Settings;
typedef struct Results {
    Tensor id, logprob, top_id, top_logprob;
} Results;

struct Sampler {
    const Ops *ops;
    int32_t rows, topk;  /* at most */
    int32_t ranked, k;   /* of the last run: rows with candidates, and how many each */
    Settings set, d_set; /* host, device */
    Results got, d_got;
    void *host, *device; /* owned blocks: settings, then results */
    size_t set_bytes, bytes;
};

Status sampling_check(const Sampling *s) {
    NEED(isfinite(s->temperature) && s->temperature >= 0, ST_ARG,
         "temperature is %g: 0 (the best token) or more", (double)s->temperature);
    NEED(s->top_k >= 0, ST_ARG, "top_k is %d: 0 (all tokens) or more", s->top_k);
    NEED(s->top_p > 0 && s->top_p <= 1, ST_ARG, "top_p is %g: above 0 and at most 1 (off)", (double)s->top_p);
    NEED(s->min_p >= 0 && s->min_p <= 1, ST_ARG, "min_p is %g: 0 (off) to 1", (double)s->min_p);
    return ST_OK;
}

static Status plan_settings(Settings *t, Arena *a, int64_t rows) {
    TRY(tensor_take(&t->temperature, a, DT_F32, rows));
    TRY(tensor_take(&t->top_p, a, DT_F32, rows));
    TRY(tensor_take(&t->min_p, a, DT_F32, rows));
    TRY(tensor_take(&t->top_k, a, DT_I32, rows));
    TRY(tensor_take(&t->counter, a, DT_I32, rows));
    return tensor_take(&t->seed, a, DT_I32, rows, 2);
}

static Status plan_results(Results *t, Arena *a, int64_t rows, int64_t topk) {
    TRY(tensor_take(&t->id, a, DT_I32, rows));
    TRY(tensor_take(&t->logprob, a, DT_F32, rows));
    TRY(tensor_take(&t->top_id, a, DT_I32, rows * topk));
    return tensor_take(&t->top_logprob, a, DT_F32, rows * topk);
}

static Status plan(Sampler *p, Arena *a, Settings *set, Results *got) {
    TRY(plan_settings(set, a, p->rows));
    p->set_bytes = a->used;
    TRY(plan_results(got, a, p->rows, p->topk > 0 ? p->topk : 1));
    p->bytes = a->used;
    return ST_OK;
}

size_t sampler_bytes(int32_t rows, int32_t topk) {
    Sampler p = {.rows = rows, .topk = topk};
    Arena a;
    arena_init(&a, NULL, 0);
    return plan(&p, &a, &p.set, &p.got) ? 0 : p.bytes;
}

static Status place(Sampler *p) {
    Arena a;
    arena_init(&a, NULL, 0);
    TRY(plan(p, &a, &p->set, &p->got));
    p->host = aligned_alloc(ARENA_ALIGN, (p->bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN);
    NEED(p->host, ST_NOMEM, "out of memory: %zu bytes for sampling", p->bytes);
    TRY(p->ops->mem_open(&p->device, p->bytes));
    arena_init(&a, p->host, p->bytes);
    TRY(plan(p, &a, &p->set, &p->got));
    arena_init(&a, p->device, p->bytes);
    return plan(p, &a, &p->d_set, &p->d_got);
}

Status sampler_open(Sampler **out, const Ops *ops, int32_t rows, int32_t topk) {
    *out = NULL;
    Sampler *p = calloc(1, sizeof *p);
    NEED(p, ST_NOMEM, "out of memory for a sampler");
    p->ops = ops;
    p->rows = rows;
    p->topk = topk;
    Status st = place(p);
    if (st)
        sampler_close(p);
    else
        *out = p;
    return st;
}

void sampler_close(Sampler *p) {
    if (!p) return;
    if (p->device) p->ops->mem_close(p->device);
    free(p->host);
    free(p);
}

static void fill(Sampler *p, const Draw *draw, int32_t n) {
    p->ranked = p->k = 0;
    for (int32_t w = 0; w < n; w++) {
        const Sampling *s = &draw[w].sampling;
        ((float *)p->set.temperature.data)[w] = s->temperature;
        ((float *)p->set.top_p.data)[w] = s->top_p;
        ((float *)p->set.min_p.data)[w] = s->min_p;
        ((int32_t *)p->set.top_k.data)[w] = s->top_k;
        ((int32_t *)p->set.counter.data)[w] = draw[w].n;
        ((uint32_t *)p->set.seed.data)[2 * w] = (uint32_t)s->seed;
        ((uint32_t *)p->set.seed.data)[2 * w + 1] = (uint32_t)(s->seed >> 32);
        if (draw[w].topk > 0) p->ranked = w + 1;
        if (draw[w].topk > p->k) p->k = draw[w].topk;
    }
}

static Status sample(Sampler *p, Stream *s, Tensor logits, int32_t n) {
    Settings *d = &p->d_set;
    SampleArgs a = {.id = tensor_rows(p->d_got.id, 0, n),
                    .logprob = tensor_rows(p->d_got.logprob, 0, n),
                    .logits = logits,
                    .temperature = tensor_rows(d->temperature, 0, n),
                    .top_p = tensor_rows(d->top_p, 0, n),
                    .min_p = tensor_rows(d->min_p, 0, n),
                    .top_k = tensor_rows(d->top_k, 0, n),
                    .counter = tensor_rows(d->counter, 0, n),
                    .seed = tensor_rows(d->seed, 0, n)};
    return p->ops->sample(s, &a);
}

static Status rank(Sampler *p, Stream *s, Tensor logits) {
    if (!p->ranked) return ST_OK;
    TopkArgs a = {.id = tensor_of(p->d_got.top_id.data, DT_I32, p->ranked, p->k),
                  .logprob = tensor_of(p->d_got.top_logprob.data, DT_F32, p->ranked, p->k),
                  .logits = tensor_rows(logits, 0, p->ranked)};
    return p->ops->topk(s, &a);
}

Status sampler_run(Sampler *p, Stream *s, Tensor logits, const Draw *draw, int32_t n) {
    fill(p, draw, n);
    TRY(p->ops->copy(s, p->device, p->host, p->set_bytes));
    TRY(sample(p, s, logits, n));
    TRY(rank(p, s, logits));
    TRY(p->ops->copy(s, p->got.id.data, p->d_got.id.data,
                     p->bytes - (size_t)((char *)p->got.id.data - (char *)p->host)));
    return p->ops->sync(s);
}

int32_t sampler_id(const Sampler *p, int32_t w) {
    return ((const int32_t *)p->got.id.data)[w];
}

float sampler_logprob(const Sampler *p, int32_t w) {
    return ((const float *)p->got.logprob.data)[w];
}

const int32_t *sampler_top_id(const Sampler *p, int32_t w) {
    return w < p->ranked ? (const int32_t *)p->got.top_id.data + (int64_t)w * p->k : NULL;
}

const float *sampler_top_logprob(const Sampler *p, int32_t w) {
    return w < p->ranked ? (const float *)p->got.top_logprob.data + (int64_t)w * p->k : NULL;
}
