/* test_run.c -- the scheduler: whatever runs beside a request, its tokens are those of a loop that runs it
 * alone; and nobody loses a page. Small random models, so that the margin between tokens varies; compared
 * only where the margin is larger than rounding. pool_check() after every step. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/run/scheduler.h"
#include "engine/transformer/capture.h"
#include "kernels/base/random.h"
#include "tests/tiny_model.h"

enum { POOL = 48, NEW = 12, TOPK = 5 };

typedef struct World {
    Model *m;
    PagePool *pool;
    Scheduler *s;
} World;

/* What came for one request. */
typedef struct Heard {
    int32_t id[64], n, endings;
    float logprob[64], top[64][TOPK];
    int32_t top_id[64][TOPK];
    Finish finish;
} Heard;

static const SchedulerLimits usual = {.rows = 24, .seqs = 6, .queue = 8, .topk = TOPK, .prefixes = 2};

static void open_world_with(World *w, TinyFamily family, const Ops *ops, SchedulerLimits limits,
                            int32_t pages) {
    ModelConfig c = tiny_config(family);
    assert_ok(tiny_model_open(&w->m, &c, ops, 5));
    assert_ok(pool_open(&w->pool, &c, ops, ops->act, pages));
    assert_ok(scheduler_open(&w->s, w->m, w->pool, &limits));
}

static void open_world(World *w, TinyFamily family) {
    open_world_with(w, family, &ops_ref, usual, POOL);
}

static void close_world(World *w) {
    scheduler_close(w->s);
    assert_int_equal(pool_free(w->pool), pool_pages(w->pool));
    pool_close(w->pool);
    tiny_model_close(w->m);
}

static void hear(void *user, const Delivery *d) {
    Heard *h = user;
    assert_int_equal(h->endings, 0); /* nothing after the end */
    if (d->id >= 0) {
        assert_true(h->n < 64);
        h->id[h->n] = d->id;
        h->logprob[h->n] = d->logprob;
        for (int k = 0; d->top_id && k < TOPK; k++)
            h->top_id[h->n][k] = d->top_id[k], h->top[h->n][k] = d->top_logprob[k];
        h->n++;
    }
    h->finish = d->finish;
    h->endings += d->finish != RUNNING;
}

static Request request_of(const int32_t *token, int32_t n, Heard *h) {
    return (Request){.token = token,
                     .n = n,
                     .pos = -1,
                     .new_max = NEW,
                     .sampling = {.top_p = 1},
                     .deliver = hear,
                     .user = h};
}

static void prompt(int32_t *token, int32_t n, int32_t vocab, uint64_t seed) {
    for (int32_t i = 0; i < n; i++) token[i] = (int32_t)random_below(seed, 9, (uint64_t)i, (uint64_t)vocab);
}

static void run_out(World *w) {
    int32_t active = 1;
    for (int steps = 0; active; steps++) {
        assert_true(steps < 500);
        assert_ok(scheduler_step(w->s, &active));
        pool_check(w->pool);
    }
}

static void capture_of(World *w, Prefix **out, const Prefix *const *parent, int32_t parents, int32_t rows,
                       uint64_t seed) {
    int32_t *token = malloc((size_t)rows * sizeof *token);
    CaptureTools tools;
    prompt(token, rows, w->m->cfg.vocab, seed);
    scheduler_capture_tools(w->s, &tools);
    assert_ok(capture(out, &tools, parent, parents, token, rows));
    free(token);
}

/* ---- the loop that runs one request alone ---- */

typedef struct Alone {
    int32_t id[64];
    float logprob[64], margin[64];
    int32_t n;
} Alone;

static float row_logprob(const float *x, int32_t V, int32_t id) {
    double sum = 0, most = -INFINITY;
    for (int32_t v = 0; v < V; v++) most = fmax(most, x[v]);
    for (int32_t v = 0; v < V; v++) sum += exp(x[v] - most);
    return (float)(x[id] - most - log(sum));
}

/* The best token of a row and how far it leads. */
static int32_t best_of(const float *x, int32_t V, float *margin) {
    int32_t best = 0;
    float second = -INFINITY;
    for (int32_t v = 1; v < V; v++) {
        if (x[v] > x[best])
            second = x[best], best = v;
        else if (x[v] > second)
            second = x[v];
    }
    *margin = x[best] - second;
    return best;
}

static void alone(World *w, const Request *r, Alone *out) {
    CaptureTools t;
    Sequence q;
    scheduler_capture_tools(w->s, &t);
    assert_ok(
        sequence_open(&q, r->n + r->new_max, r->pos >= 0 ? r->pos : prefix_start(r->prefix, r->prefixes)));
    assert_ok(sequence_reserve(&q, w->pool, r->n + r->new_max));
    for (int32_t i = 0; i < r->n; i++) { /* one token at a time: no batching, no pieces */
        const int32_t row = 0;
        bool fits;
        batch_clear(t.batch);
        assert_ok(batch_add(t.batch, r->prefix, r->prefixes, &q, &r->token[i], 1, &fits));
        assert_ok(batch_upload(t.batch, t.stream));
        assert_ok(forward(t.model, t.batch, t.acts, t.stream));
        for (int32_t k = out->n; i == r->n - 1 && out->n < r->new_max; k = out->n) {
            Tensor logits;
            assert_ok(forward_logits(t.model, t.acts, &row, 1, &logits, t.stream));
            out->id[k] = best_of(logits.data, w->m->cfg.vocab, &out->margin[k]);
            out->logprob[k] = row_logprob(logits.data, w->m->cfg.vocab, out->id[k]);
            if (++out->n == r->new_max) break;
            batch_clear(t.batch);
            assert_ok(batch_add(t.batch, r->prefix, r->prefixes, &q, &out->id[k], 1, &fits));
            assert_ok(batch_upload(t.batch, t.stream));
            assert_ok(forward(t.model, t.batch, t.acts, t.stream));
        }
    }
    sequence_close(&q, w->pool);
}

/* Equal while the margin allows; returns how many tokens were compared. */
static int32_t assert_same_tokens(const Heard *h, const Alone *a) {
    for (int32_t i = 0; i < a->n; i++) {
        if (a->margin[i] < 1e-3f) return i;
        assert_int_equal(h->id[i], a->id[i]);
        assert_float_equal(h->logprob[i], a->logprob[i], 1e-3f);
    }
    assert_int_equal(h->n, a->n);
    return a->n;
}

/* ---- tests ---- */

/* Prompts of many lengths, some far longer than a pass has rows, behind zero, one or two prefixes, all
 * together. */
static void test_a_crowd_equals_each_alone(void **state) {
    (void)state;
    for (int family = 0; family < TINY_FAMILIES; family++) {
        World w;
        Prefix *p[2];
        open_world(&w, (TinyFamily)family);
        capture_of(&w, &p[0], NULL, 0, 70, 1);
        capture_of(&w, &p[1], (const Prefix *const *)p, 1, 13, 2);
        enum { N = 14 };
        int32_t token[N][64];
        Heard heard[N] = {0};
        Request r[N];
        int32_t compared = 0;
        for (int i = 0; i < N; i++) {
            int32_t n = (int32_t)(1 + random_below(3, 1, (uint64_t)i, 60));
            prompt(token[i], n, w.m->cfg.vocab, 100 + (uint64_t)i);
            r[i] = request_of(token[i], n, &heard[i]);
            r[i].prefix = (const Prefix *const *)p;
            r[i].prefixes = i % 3;
            if (i % 4 == 3) r[i].pos = prefix_start(r[i].prefix, r[i].prefixes) + 10 * i;
            r[i].topk = i % 2 ? TOPK : 0;
        }
        for (int i = 0; i < N; i++) {
            if (i == 8) run_out(&w); /* the rest arrives later */
            assert_ok(scheduler_submit(w.s, &r[i], NULL));
        }
        run_out(&w);
        for (int i = 0; i < N; i++) {
            Alone a = {0};
            alone(&w, &r[i], &a);
            compared += assert_same_tokens(&heard[i], &a);
            assert_int_equal(heard[i].finish, FINISH_LENGTH);
        }
        assert_true(compared > N * NEW / 2);
        prefix_drop(p[0]);
        prefix_drop(p[1]);
        close_world(&w);
    }
}

/* Candidates come from the logits that chose the token: a greedy token is the first of them, with its
 * probability. */
static void test_candidates_belong_to_the_token(void **state) {
    (void)state;
    World w;
    open_world(&w, TINY_LLAMA);
    int32_t token[5];
    Heard with = {0}, without = {0};
    prompt(token, 5, w.m->cfg.vocab, 4);
    Request a = request_of(token, 5, &without), b = request_of(token, 5, &with);
    b.topk = TOPK;
    assert_ok(scheduler_submit(w.s, &a, NULL));
    assert_ok(scheduler_submit(w.s, &b, NULL));
    run_out(&w);
    assert_int_equal(with.n, NEW);
    for (int i = 0; i < NEW; i++) {
        assert_int_equal(with.id[i], with.top_id[i][0]);
        assert_int_equal(with.id[i], without.id[i]);
        assert_float_equal(with.logprob[i], with.top[i][0], 1e-5f);
        for (int k = 1; k < TOPK; k++) assert_true(with.top[i][k] <= with.top[i][k - 1]);
    }
    close_world(&w);
}

static void sampled(World *w, const int32_t *token, uint64_t seed, int32_t others, Heard *out) {
    Heard noise[8] = {0};
    int32_t other[8][20];
    Request r = request_of(token, 6, out);
    r.sampling = (Sampling){.temperature = 8, .top_p = 0.95f, .top_k = 50, .min_p = 0.001f, .seed = seed};
    assert_ok(scheduler_submit(w->s, &r, NULL));
    for (int32_t i = 0; i < others; i++) {
        prompt(other[i], 20, w->m->cfg.vocab, 50 + (uint64_t)i);
        Request o = request_of(other[i], 20, &noise[i]);
        o.sampling = (Sampling){.temperature = 0.5f, .top_p = 1, .seed = (uint64_t)i};
        o.topk = i % 2 ? TOPK : 0; /* these move in front of r */
        assert_ok(scheduler_submit(w->s, &o, NULL));
    }
    run_out(w);
}

static void test_a_draw_depends_on_its_seed_only(void **state) {
    (void)state;
    World w;
    open_world(&w, TINY_LLAMA);
    int32_t token[6];
    Heard lone = {0}, crowd = {0}, other = {0};
    prompt(token, 6, w.m->cfg.vocab, 8);
    sampled(&w, token, 0x100000007u, 0, &lone);
    sampled(&w, token, 0x100000007u, 7, &crowd);
    sampled(&w, token, 0x200000007u, 0, &other); /* differs in the high half of the seed */
    assert_int_equal(lone.n, NEW);
    assert_memory_equal(lone.id, crowd.id, sizeof(int32_t) * NEW);
    assert_memory_not_equal(lone.id, other.id, sizeof(int32_t) * NEW);
    close_world(&w);
}

static void test_stop_ids_end_a_request(void **state) {
    (void)state;
    World w;
    open_world(&w, TINY_QWEN2);
    int32_t token[4];
    Heard free_run = {0}, stopped = {0};
    prompt(token, 4, w.m->cfg.vocab, 3);
    Request r = request_of(token, 4, &free_run);
    assert_ok(scheduler_submit(w.s, &r, NULL));
    run_out(&w);
    int32_t at = 0, stop[2] = {w.m->cfg.vocab - 1, free_run.id[4]};
    while (free_run.id[at] != stop[0] && free_run.id[at] != stop[1]) at++;
    r.user = &stopped;
    r.stop = stop;
    r.stops = 2;
    assert_ok(scheduler_submit(w.s, &r, NULL));
    stop[1] = -1; /* copied at submit */
    run_out(&w);
    assert_int_equal(stopped.finish, FINISH_STOP);
    assert_int_equal(stopped.n, at + 1);
    assert_int_equal(stopped.id[at], free_run.id[4]);
    close_world(&w);
}

/* Queued; in the middle of its prompt; while decoding; after its end. Others do not notice. */
static void test_cancel_in_every_phase(void **state) {
    (void)state;
    World w;
    SchedulerLimits limits = usual;
    limits.seqs = 1;
    open_world_with(&w, TINY_LLAMA, &ops_ref, limits, POOL);
    int32_t token[60], active;
    for (int steps = 0; steps < 6; steps++) { /* 60 tokens in passes of 24: prompt in steps 1 to 3 */
        Heard a = {0}, b = {0};
        uint64_t ta, tb;
        prompt(token, 60, w.m->cfg.vocab, 6);
        Request ra = request_of(token, 60, &a), rb = request_of(token, 3, &b);
        assert_ok(scheduler_submit(w.s, &ra, &ta));
        assert_ok(scheduler_submit(w.s, &rb, &tb));
        for (int i = 0; i < steps; i++) assert_ok(scheduler_step(w.s, &active));
        assert_int_equal(a.n, steps < 3 ? 0 : steps - 2);
        scheduler_cancel(w.s, ta);
        scheduler_cancel(w.s, ta);
        scheduler_cancel(w.s, 1u << 30);
        int32_t heard = a.n;
        run_out(&w);
        assert_int_equal(a.finish, FINISH_CANCELLED);
        assert_int_equal(a.n, heard);
        assert_int_equal(b.finish, FINISH_LENGTH);
        scheduler_cancel(w.s, tb);
        run_out(&w);
        assert_int_equal(b.endings, 1);
    }
    assert_int_equal(scheduler_counts(w.s).cancelled, 6);
    close_world(&w);
}

static void test_a_full_queue_says_so(void **state) {
    (void)state;
    World w;
    open_world(&w, TINY_LLAMA);
    int32_t token[2] = {1, 2};
    Heard h[16] = {0};
    uint64_t ticket[16];
    for (int i = 0; i < usual.queue; i++) {
        Request r = request_of(token, 2, &h[i]);
        assert_ok(scheduler_submit(w.s, &r, &ticket[i]));
    }
    Request r = request_of(token, 2, &h[usual.queue]);
    assert_fails(ST_FULL, scheduler_submit(w.s, &r, NULL));
    scheduler_cancel(w.s, ticket[7]);
    run_out(&w);
    assert_int_equal(h[7].finish, FINISH_CANCELLED);
    for (int i = 0; i < usual.queue - 1; i++) assert_int_equal(h[i].n, NEW);
    assert_ok(scheduler_submit(w.s, &r, NULL));
    run_out(&w);
    assert_int_equal(h[usual.queue].n, NEW);
    close_world(&w);
}

static void test_requests_that_can_never_run(void **state) {
    (void)state;
    World w;
    open_world_with(&w, TINY_LLAMA, &ops_ref, usual, 3);
    int32_t *token = calloc(4000, sizeof *token), bad[2] = {0, w.m->cfg.vocab};
    Request r = request_of(token, 3 * KV_PAGE, NULL);
    assert_fails(ST_ARG, scheduler_submit(w.s, &r, NULL)); /* 3 full pages and 11 more keys */
    assert_says("pool has 3");
    r.new_max = 1; /* the last token is never stored */
    r.deliver = NULL;
    assert_ok(scheduler_submit(w.s, &r, NULL));
    run_out(&w);
    r.n = w.m->cfg.context_max;
    assert_fails(ST_ARG, scheduler_submit(w.s, &r, NULL));
    assert_says("context");
    r = request_of(bad, 2, NULL);
    assert_fails(ST_ARG, scheduler_submit(w.s, &r, NULL));
    assert_says("prompt token 1");
    r = request_of(token, 0, NULL);
    assert_fails(ST_ARG, scheduler_submit(w.s, &r, NULL));
    r = request_of(token, 1, NULL);
    r.topk = TOPK + 1;
    assert_fails(ST_ARG, scheduler_submit(w.s, &r, NULL));
    r.topk = 0;
    r.sampling.temperature = NAN;
    assert_fails(ST_ARG, scheduler_submit(w.s, &r, NULL));
    Prefix *p;
    capture_of(&w, &p, NULL, 0, 10, 1);
    r = request_of(token, 1, NULL);
    r.prefix = (const Prefix *const *)&p;
    r.prefixes = 1;
    r.pos = 9;
    assert_fails(ST_ARG, scheduler_submit(w.s, &r, NULL));
    r.pos = -1;
    r.n = 2 * KV_PAGE;
    assert_fails(ST_ARG, scheduler_submit(w.s, &r, NULL)); /* the prefix holds one of the three pages */
    prefix_drop(p);
    free(token);
    close_world(&w);
}

/* Two pages a request and five in the pool: they wait for each other, and no running one ever fails. */
static void test_a_small_pool_makes_requests_wait(void **state) {
    (void)state;
    World w;
    open_world_with(&w, TINY_LLAMA, &ops_ref, usual, 5);
    int32_t token[60], active = 1, most = 0;
    Heard h[6] = {0};
    prompt(token, 60, w.m->cfg.vocab, 2);
    for (int i = 0; i < 6; i++) {
        Request r = request_of(token, 60, &h[i]);
        assert_ok(scheduler_submit(w.s, &r, NULL));
    }
    while (active) {
        assert_ok(scheduler_step(w.s, &active));
        pool_check(w.pool);
        int32_t taken = pool_pages(w.pool) - pool_free(w.pool);
        if (taken > most) most = taken;
    }
    assert_int_equal(most, 4);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(h[i].n, NEW);
        assert_memory_equal(h[i].id, h[0].id, sizeof(int32_t) * NEW);
    }
    close_world(&w);
}

/* When others hold the pages and nothing runs, waiting would last for ever: the step says so and keeps the
 * request. */
static void test_pages_held_by_others(void **state) {
    (void)state;
    World w;
    open_world_with(&w, TINY_LLAMA, &ops_ref, usual, 3);
    Prefix *p;
    int32_t token[60], active;
    Heard h = {0};
    capture_of(&w, &p, NULL, 0, 100, 1);
    prompt(token, 60, w.m->cfg.vocab, 2);
    Request r = request_of(token, 60, &h);
    assert_ok(scheduler_submit(w.s, &r, NULL));
    assert_fails(ST_FULL, scheduler_step(w.s, &active));
    assert_int_equal(active, 1);
    prefix_drop(p);
    run_out(&w);
    assert_int_equal(h.n, NEW);
    close_world(&w);
}

/* A request holds its prefixes: the owner may drop them at once. */
static void test_prefixes_live_as_long_as_requests(void **state) {
    (void)state;
    World w;
    open_world(&w, TINY_LLAMA);
    Prefix *p;
    int32_t token[3] = {1, 2, 3};
    Heard h = {0}, again = {0};
    for (int i = 0; i < 2; i++) {
        capture_of(&w, &p, NULL, 0, 100, 1);
        Request r = request_of(token, 3, i ? &again : &h);
        r.prefix = (const Prefix *const *)&p;
        r.prefixes = 1;
        assert_ok(scheduler_submit(w.s, &r, NULL));
        if (i == 0) prefix_drop(p);
        run_out(&w);
    }
    prefix_drop(p);
    assert_memory_equal(h.id, again.id, sizeof(int32_t) * NEW);
    close_world(&w);
}

/* ---- deliveries that act ---- */

typedef struct Chain {
    World *w;
    Heard h;
    uint64_t victim;
    Heard victim_heard;
    int left;
} Chain;

static void submit_link(Chain *c);

static void hear_and_act(void *user, const Delivery *d) {
    Chain *c = user;
    if (c->victim) scheduler_cancel(c->w->s, c->victim);
    c->victim = 0;
    hear(&c->h, d);
    if (d->finish == RUNNING || c->left == 0) return;
    c->left--;
    c->h = (Heard){0};
    submit_link(c);
}

static void submit_link(Chain *c) {
    int32_t token[2] = {3, 4};
    Request r = request_of(token, 2, &c->h);
    r.new_max = 2;
    r.deliver = hear_and_act;
    r.user = c;
    assert_ok(scheduler_submit(c->w->s, &r, NULL));
}

static void test_deliveries_may_submit_and_cancel(void **state) {
    (void)state;
    World w;
    open_world(&w, TINY_LLAMA);
    Chain c = {.w = &w, .left = 5};
    int32_t token[2] = {3, 4};
    submit_link(&c);
    Request r =
        request_of(token, 2, &c.victim_heard); /* decided in the same pass, after the one that cancels it */
    assert_ok(scheduler_submit(w.s, &r, &c.victim));
    run_out(&w);
    assert_int_equal(c.left, 0);
    assert_int_equal(c.h.finish, FINISH_LENGTH);
    assert_int_equal(c.victim_heard.finish, FINISH_CANCELLED);
    assert_int_equal(c.victim_heard.n, 0);
    assert_int_equal(scheduler_counts(w.s).requests, 7);
    close_world(&w);
}

/* ---- a pass that fails ---- */

static int samples_left;

static Status failing_sample(Stream *s, const SampleArgs *a) {
    NEED(samples_left-- > 0, ST_DEVICE, "sample: made to fail");
    return ops_ref.sample(s, a);
}

static void test_a_failed_pass_ends_what_ran(void **state) {
    (void)state;
    World w;
    SchedulerLimits limits = usual;
    limits.seqs = 2;
    Ops broken = ops_ref;
    broken.sample = failing_sample;
    samples_left = 3;
    open_world_with(&w, TINY_LLAMA, &broken, limits, POOL);
    int32_t token[2] = {1, 2}, active;
    Heard h[3] = {0};
    for (int i = 0; i < 3; i++) {
        Request r = request_of(token, 2, &h[i]);
        assert_ok(scheduler_submit(w.s, &r, NULL));
    }
    for (int i = 0; i < 3; i++) assert_ok(scheduler_step(w.s, &active));
    assert_fails(ST_DEVICE, scheduler_step(w.s, &active));
    assert_int_equal(active, 1);
    assert_int_equal(h[0].finish, FINISH_FAILED);
    assert_int_equal(h[1].finish, FINISH_FAILED);
    samples_left = 100;
    run_out(&w);
    assert_int_equal(h[2].n, NEW);
    close_world(&w);
}

static void test_closing_drops_what_runs(void **state) {
    (void)state;
    World w;
    SchedulerLimits limits = usual;
    limits.seqs = 1;
    open_world_with(&w, TINY_LLAMA, &ops_ref, limits, POOL);
    int32_t token[2] = {1, 2}, active;
    Heard h[2] = {0};
    for (int i = 0; i < 2; i++) {
        Request r = request_of(token, 2, &h[i]);
        assert_ok(scheduler_submit(w.s, &r, NULL));
    }
    assert_ok(scheduler_step(w.s, &active));
    close_world(&w); /* asserts that every page is free */
    assert_int_equal(h[0].n, 1);
    assert_int_equal(h[0].endings + h[1].endings, 0);
}

static void test_limits_are_checked(void **state) {
    (void)state;
    World w;
    open_world(&w, TINY_LLAMA);
    Scheduler *s;
    SchedulerLimits l = usual;
    l.rows = l.seqs - 1;
    assert_fails(ST_ARG, scheduler_open(&s, w.m, w.pool, &l));
    l = usual;
    l.topk = w.m->cfg.vocab + 1;
    assert_fails(ST_ARG, scheduler_open(&s, w.m, w.pool, &l));
    close_world(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_crowd_equals_each_alone),
        cmocka_unit_test(test_candidates_belong_to_the_token),
        cmocka_unit_test(test_a_draw_depends_on_its_seed_only),
        cmocka_unit_test(test_stop_ids_end_a_request),
        cmocka_unit_test(test_cancel_in_every_phase),
        cmocka_unit_test(test_a_full_queue_says_so),
        cmocka_unit_test(test_requests_that_can_never_run),
        cmocka_unit_test(test_a_small_pool_makes_requests_wait),
        cmocka_unit_test(test_pages_held_by_others),
        cmocka_unit_test(test_prefixes_live_as_long_as_requests),
        cmocka_unit_test(test_deliveries_may_submit_and_cancel),
        cmocka_unit_test(test_a_failed_pass_ends_what_ran),
        cmocka_unit_test(test_closing_drops_what_runs),
        cmocka_unit_test(test_limits_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
