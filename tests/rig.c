/* rig.c -- see rig.h. */
#include "tests/rig.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/base/random.h"

enum { RIG_SEGMENTS = 24, RIG_ENTRIES = 64, MODEL_SEED = 11 };

/* Everything around r->model. */
static void open_around(Rig *r, DType act, bool training) {
    const Ops *ops = r->model->ops;
    ModelConfig c = r->model->cfg;
    BatchLimits batch = {
        .rows = RIG_ROWS, .seqs = RIG_SEQS, .segments = RIG_SEGMENTS, .entries = RIG_ENTRIES};
    ActsLimits acts = {.rows = RIG_ROWS,
                       .logits = RIG_LOGITS,
                       .candidates = c.vocab,
                       .seqs = RIG_SEQS,
                       .training = training,
                       .act = act};
    assert_ok(pool_open(&r->pool, &c, ops, act, RIG_PAGES));
    int32_t width = c.width > c.ffn ? c.width : c.ffn, heads = c.heads * c.head_dim;
    assert_ok(
        ops->stream_open(&r->stream, &(StreamLimits){RIG_ROWS, width > heads ? width : heads, c.vocab}));
    assert_ok(batch_open(&r->batch, r->model, r->pool, &batch, training));
    assert_ok(acts_open(&r->acts, r->model, &acts));
    r->tools = (CaptureTools){r->model, r->pool, r->batch, r->acts, r->stream};
}

void rig_open_config(Rig *r, const Ops *ops, DType act, const ModelConfig *c, bool training) {
    *r = (Rig){0};
    assert_ok(tiny_model_open(&r->model, c, ops, MODEL_SEED));
    open_around(r, act, training);
}

void rig_open(Rig *r, const Ops *ops, DType act, TinyFamily family, bool training) {
    ModelConfig c = tiny_config(family);
    rig_open_config(r, ops, act, &c, training);
}

void rig_open_folder(Rig *r, const Ops *ops, DType act, const char *folder, bool training) {
    *r = (Rig){0};
    assert_ok(model_open(&r->model, folder, ops));
    open_around(r, act, training);
}

void rig_close(Rig *r) {
    rig_forget(r);
    acts_close(r->acts);
    batch_close(r->batch);
    r->model->ops->stream_close(r->stream);
    pool_check(r->pool);
    assert_int_equal(pool_free(r->pool), pool_pages(r->pool));
    pool_close(r->pool);
    model_close(r->model);
}

void rig_tokens(const Rig *r, int32_t *token, int32_t n, uint64_t seed) {
    for (int32_t i = 0; i < n; i++)
        token[i] = (int32_t)random_below(seed, 0, (uint64_t)i, (uint64_t)r->model->cfg.vocab);
}

Prefix *rig_capture(Rig *r, const Prefix *const *parent, int32_t parents, const int32_t *token, int32_t n) {
    Prefix *p;
    assert_ok(capture(&p, &r->tools, parent, parents, token, n));
    return p;
}

double rig_get(Tensor t, int64_t i) {
    double v;
    tensor_convert(tensor_of(&v, DT_F64, 1), 0, t, i, 1);
    return v;
}

void rig_set(Tensor t, int64_t i, double v) {
    tensor_convert(t, i, tensor_of(&v, DT_F64, 1), 0, 1);
}

Prefix *rig_random_prefix(Rig *r, int32_t rows, uint64_t seed) {
    Prefix *p;
    assert_ok(prefix_new(&p, r->pool, rows, 0));
    const ModelConfig *c = &r->model->cfg;
    int64_t n = (int64_t)c->kv_heads * rows * c->head_dim;
    double *v = malloc(sizeof *v * (size_t)(2 * n));
    assert_non_null(v);
    for (int32_t l = 0; l < c->layers; l++) {
        for (int64_t i = 0; i < 2 * n; i++)
            v[i] = bf16_to_f32(f32_to_bf16(random_normal(seed, (uint64_t)l, (uint64_t)i)));
        assert_ok(prefix_write(p, r->stream, l, tensor_of(v, DT_F64, c->kv_heads, rows, c->head_dim),
                               tensor_of(v + n, DT_F64, c->kv_heads, rows, c->head_dim)));
    }
    free(v);
    return p;
}

void rig_forget(Rig *r) {
    while (r->seqs) sequence_close(&r->seq[--r->seqs], r->pool);
}

static void add_talk(Rig *r, const Talk *t) {
    Sequence *q = &r->seq[r->seqs++];
    bool fits;
    assert_ok(sequence_open(q, t->n, prefix_start(t->prefix, t->prefixes) + t->shift));
    assert_ok(sequence_reserve(q, r->pool, t->n));
    assert_ok(batch_add(r->batch, t->prefix, t->prefixes, q, t->token, t->n, &fits));
    assert_true(fits);
}

void rig_run(Rig *r, const Talk *talk, int32_t talks) {
    rig_forget(r);
    batch_clear(r->batch);
    for (int32_t i = 0; i < talks; i++) add_talk(r, &talk[i]);
    assert_ok(batch_upload(r->batch, r->stream));
    assert_ok(forward(r->model, r->batch, r->acts, r->stream));
}

double *rig_read(Rig *r, Tensor t) {
    int64_t n = tensor_count(t);
    Tensor host = t;
    double *out = malloc(sizeof *out * (size_t)n + 1);
    host.data = malloc(tensor_bytes(t) + 1);
    assert_true(out && host.data);
    assert_ok(r->model->ops->copy(r->stream, host.data, t.data, tensor_bytes(t)));
    assert_ok(r->model->ops->sync(r->stream));
    tensor_convert(tensor_of(out, DT_F64, n), 0, host, 0, n);
    free(host.data);
    return out;
}

double *rig_logits(Rig *r, int32_t first, int32_t count) {
    int32_t V = r->model->cfg.vocab;
    double *out = malloc(sizeof *out * (size_t)count * (size_t)V);
    assert_non_null(out);
    for (int32_t done = 0; done < count; done += RIG_LOGITS) {
        int32_t row[RIG_LOGITS], n = count - done < RIG_LOGITS ? count - done : RIG_LOGITS;
        for (int32_t i = 0; i < n; i++) row[i] = first + done + i;
        Tensor logits;
        assert_ok(forward_logits(r->model, r->acts, row, n, &logits, r->stream));
        double *part = rig_read(r, logits);
        memcpy(out + (int64_t)done * V, part, sizeof *out * (size_t)n * (size_t)V);
        free(part);
    }
    return out;
}

double *rig_ask(Rig *r, const Talk *talk, int32_t talks) {
    rig_run(r, talk, talks);
    return rig_logits(r, 0, r->batch->T);
}

void assert_close(const double *a, const double *b, int64_t n, double epsilon, const char *what) {
    double largest = 0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(b[i]));
    assert_true(n > 0 && isfinite(largest));
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(a[i] - b[i]) <= epsilon * largest))
            fail_msg("%s: element %lld of %lld is %.17g, wanted %.17g within %g", what, (long long)i,
                     (long long)n, a[i], b[i], epsilon * largest);
}
