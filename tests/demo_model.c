/* demo_model.c -- see demo_model.h. */
#include "tests/demo_model.h"

#include "tests/test.h"

void demo_open(Demo *d, const Ops *ops, int32_t pages, const SchedulerLimits *limits) {
    assert_ok(model_open(&d->m, DEMO_MODEL, ops));
    assert_ok(pool_open(&d->pool, &d->m->cfg, ops, DT_F32, pages));
    assert_ok(tokenizer_open(&d->t, DEMO_MODEL));
    assert_ok(chat_open(&d->chat, DEMO_MODEL, d->t));
    assert_ok(scheduler_open(&d->s, d->m, d->pool, limits));
}

void demo_close(Demo *d) {
    scheduler_close(d->s);
    pool_close(d->pool);
    chat_close(d->chat);
    tokenizer_close(d->t);
    model_close(d->m);
}

Prefix *demo_capture(Demo *d, const char *text) {
    CaptureTools tools;
    TokenVec v = {0};
    Prefix *p;
    scheduler_capture_tools(d->s, &tools);
    assert_ok(chat_prefix(d->chat, bytes_of(text), 0, &v));
    assert_ok(capture(&p, &tools, NULL, 0, v.v, v.n));
    tokens_close(&v);
    return p;
}

const float *demo_next(Demo *d, const Prefix *p, Sequence *q, int32_t token) {
    const int32_t row = 0;
    CaptureTools t;
    bool fits;
    Tensor logits;
    scheduler_capture_tools(d->s, &t);
    batch_clear(t.batch);
    assert_ok(batch_add(t.batch, &p, 1, q, &token, 1, &fits));
    assert_ok(batch_upload(t.batch, t.stream));
    assert_ok(forward(d->m, t.batch, t.acts, t.stream));
    assert_ok(forward_logits(d->m, t.acts, &row, 1, &logits, t.stream));
    return logits.data;
}

double demo_logprob(const Demo *d, const float *logits, int32_t id) {
    double sum = 0;
    for (int32_t v = 0; v < d->m->cfg.vocab; v++) sum += exp((double)logits[v] - (double)logits[id]);
    return -log(sum);
}

bool stop_later(void *left) {
    return --*(int *)left < 0;
}
