/* train_rig.c -- see train_rig.h. */
#include "tests/train_rig.h"

#include "kernels/host.h"
#include "tests/scratch.h"

static void random_tokens(const Model *m, int32_t *out, int32_t n, uint64_t stream) {
    for (int32_t i = 0; i < n; i++)
        out[i] = (int32_t)random_below(3, stream, (uint64_t)i, (uint64_t)m->cfg.vocab);
}

Prefix *world_capture(World *w, int32_t n, uint64_t stream) {
    int32_t token[TEACHER_ROWS];
    Prefix *p;
    random_tokens(w->m, token, n, stream);
    assert_ok(capture(&p, &w->tools, NULL, 0, token, n));
    return p;
}

static void open_world(World *w, const Ops *ops, TinyFamily family) {
    ModelConfig c = tiny_config(family);
    *w = (World){0};
    assert_ok(tiny_model_open(&w->m, &c, ops, 11));
    assert_ok(pool_open(&w->pool, &c, ops, DT_F32, PAGES));
    Tensor all = pool_all(w->pool);
    memset(all.data, 0xff, tensor_bytes(all)); /* NaN, wherever nobody has written */
    assert_ok(ops->stream_open(&w->s, &(StreamLimits){128, 256, c.vocab}));
    assert_ok(batch_open(&w->batch, w->m, w->pool, &(BatchLimits){128, 4, 8, 40}, false));
    assert_ok(acts_open(&w->acts, w->m, &(ActsLimits){.rows = 128, .logits = TOKENS, .act = DT_F32}));
    w->tools = (CaptureTools){w->m, w->pool, w->batch, w->acts, w->s};
    w->teacher = world_capture(w, TEACHER_ROWS, 100);
}

static void close_world(World *w) {
    prefix_drop(w->teacher);
    acts_close(w->acts);
    batch_close(w->batch);
    w->m->ops->stream_close(w->s);
    assert_int_equal(pool_free(w->pool), pool_pages(w->pool));
    pool_close(w->pool);
    tiny_model_close(w->m);
}

int world_set_up(void **state) {
    static World w;
    scratch_open();
    open_world(&w, &ops_cpu, TINY_QWEN2);
    *state = &w;
    return 0;
}

int world_tear_down(void **state) {
    close_world(*state);
    scratch_close();
    return 0;
}

/* The teacher's best `topk` behind each of some rows, on the host. */
static void ask_teacher(World *w, const int32_t *token, int32_t n, const int32_t *row, int32_t rows,
                        int32_t topk, int32_t *id, float *logprob) {
    const Prefix *teacher = w->teacher;
    Sequence q;
    bool fits;
    Tensor logits;
    assert_ok(sequence_open(&q, n, prefix_start(&teacher, 1)));
    assert_ok(sequence_reserve(&q, w->pool, n));
    batch_clear(w->batch);
    assert_ok(batch_add(w->batch, &teacher, 1, &q, token, n, &fits));
    assert_ok(batch_upload(w->batch, w->s));
    assert_ok(forward(w->m, w->batch, w->acts, w->s));
    assert_ok(forward_logits(w->m, w->acts, row, rows, &logits, w->s));
    assert_ok(w->m->ops->topk(w->s, &(TopkArgs){tensor_of(id, DT_I32, rows, topk),
                                                tensor_of(logprob, DT_F32, rows, topk), logits}));
    for (int32_t i = 0; i < rows * topk; i++)
        if (logprob[i] > 0) logprob[i] = 0;
    sequence_close(&q, w->pool);
}

void world_add(World *w, Dataset *d, int64_t number, int32_t n, int32_t topk) {
    int32_t token[TOKENS], at[TOKENS], row[TOKENS], first[TOKENS + 1] = {0}, targets = 0;
    int32_t *id = malloc(sizeof *id * TOKENS * (size_t)topk);
    float *logprob = malloc(sizeof *logprob * TOKENS * (size_t)topk);
    random_tokens(w->m, token, n, 200 + (uint64_t)number);
    for (int32_t i = n / 2; i < n; i++) {
        if (i % 5 == 0 && i != n - 1) continue;
        at[targets] = i;
        row[targets] = i - 1;
        targets++;
        first[targets] = targets * topk;
    }
    ask_teacher(w, token, n, row, targets, topk, id, logprob);
    assert_ok(dataset_add(d, &(Conversation){.number = number,
                                             .n = n,
                                             .targets = targets,
                                             .token = token,
                                             .at = at,
                                             .first = first,
                                             .id = id,
                                             .logprob = logprob}));
    free(id);
    free(logprob);
}

DatasetInfo world_info(const World *w) {
    return (DatasetInfo){.model = w->m->fingerprint,
                         .tokenizer = "tokens",
                         .template_family = "chatml",
                         .corpus = "none",
                         .settings = "{}"};
}

Dataset *world_data(World *w, const char *name, int64_t conversations, int32_t topk) {
    Dataset *d;
    DatasetInfo info = world_info(w);
    scratch_remove(name);
    assert_ok(dataset_create(&d, scratch_path(name), &info, false));
    assert_ok(dataset_begin(d));
    for (int64_t i = 0; i < conversations; i++)
        world_add(w, d, i, 8 + (int32_t)(i * 7 % (TOKENS - 7)), topk ? topk : w->m->cfg.vocab);
    assert_ok(dataset_commit(d, conversations));
    return d;
}

Cartridge *world_cartridge(World *w) {
    Prefix *p = world_capture(w, ROWS, 101);
    CartridgeInfo info = {.layers = w->m->cfg.layers,
                          .kv_heads = w->m->cfg.kv_heads,
                          .head_dim = w->m->cfg.head_dim,
                          .rows = ROWS,
                          .frozen = FROZEN,
                          .pos_end = ROWS,
                          .model = w->m->fingerprint,
                          .tokenizer = "tokens",
                          .template_family = "chatml",
                          .rope_theta = w->m->cfg.rope_theta,
                          .learning_rate = (double)NAN,
                          .loss_first = (double)NAN,
                          .loss_last = (double)NAN,
                          .kl_heldout = (double)NAN};
    Cartridge *c;
    assert_ok(cartridge_new(&c, &info, p));
    prefix_drop(p);
    return c;
}

TrainerOptions train_options(void) {
    TrainerOptions o = trainer_defaults();
    o.rows_max = 256;
    o.step_tokens = 60;
    o.lr = 0.05;
    o.warmup = 2;
    o.seed = 5;
    return o;
}

TrainerOptions harmful_options(void) {
    TrainerOptions o = train_options();
    o.lr = 30, o.steps = 50, o.eval_every = 2, o.patience = 3, o.schedule = SCHEDULE_CONSTANT;
    return o;
}

/* ---- a trainer ---- */

void training_open(Training *r, World *w, Dataset *d, const TrainerOptions *o) {
    r->c = world_cartridge(w);
    assert_ok(ranks_solo(&r->ranks));
    assert_ok(trainer_open(&r->t, w->m, w->pool, r->c, &d, 1, r->ranks, o));
}

void training_close(Training *r) {
    trainer_close(r->t);
    ranks_close(r->ranks);
    cartridge_close(r->c);
}

const float *training_moment(const Training *t) {
    return t->t->work.m.data;
}

void training_alike(const Training *a, const Training *b) {
    const float *x = training_moment(a), *y = training_moment(b);
    int64_t n = tensor_count(a->t->work.m);
    double largest = 0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)x[i]));
    assert_true(largest > 0);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)x[i] - (double)y[i]) <= 1e-4 * largest))
            fail_msg("number %lld: %.9g and %.9g, the largest is %.3g", (long long)i, (double)x[i],
                     (double)y[i], largest);
}
