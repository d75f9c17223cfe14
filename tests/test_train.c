/* test_train.c -- training on tiny random models. The teacher is the model itself behind a longer context, so
 * that there is something to learn, and behind that very context the divergence must be zero. */
#include "tests/test.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/learn/metrics.h"
#include "engine/learn/schedule.h"
#include "engine/learn/trainer_state.h"
#include "engine/transformer/capture.h"
#include "kernels/base/random.h"
#include "kernels/host.h"
#include "tests/fail_calls.h"
#include "tests/tiny_model.h"

static char folder[] = "train.XXXXXX";

static const char *in_folder(const char *name) {
    static char path[8][512];
    static int next;
    next = (next + 1) % 8;
    snprintf(path[next], sizeof path[next], "%s/%s", folder, name);
    return path[next];
}

/* ---- a model, a teacher, conversations ---- */

enum { PAGES = 60, TEACHER_ROWS = 90, ROWS = 70, FROZEN = 1, TOKENS = 24 };

typedef struct World {
    Model *m;
    PagePool *pool;
    Stream *s;
    Batch *batch;
    Acts *acts;
    CaptureTools tools;
    Prefix *teacher;
} World;

static void random_tokens(const Model *m, int32_t *out, int32_t n, uint64_t stream) {
    for (int32_t i = 0; i < n; i++)
        out[i] = (int32_t)random_below(3, stream, (uint64_t)i, (uint64_t)m->cfg.vocab);
}

static Prefix *capture_random(World *w, int32_t n, uint64_t stream) {
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
    memset(pool_all(w->pool).data, 0xff,
           tensor_bytes(pool_all(w->pool))); /* NaN, wherever nobody has written */
    assert_ok(ops->stream_open(&w->s, &(StreamLimits){128, 256, c.vocab}));
    assert_ok(batch_open(&w->batch, w->m, w->pool, &(BatchLimits){128, 4, 8, 40}, false));
    assert_ok(acts_open(&w->acts, w->m, &(ActsLimits){.rows = 128, .logits = TOKENS, .act = DT_F32}));
    w->tools = (CaptureTools){w->m, w->pool, w->batch, w->acts, w->s};
    w->teacher = capture_random(w, TEACHER_ROWS, 100);
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

/* n tokens, of which the second half is supervised; every fifth of the supervised ones is skipped, as user
 * turns are. */
static void add_conversation(World *w, Dataset *d, int64_t number, int32_t n, int32_t topk) {
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

static DatasetInfo info_for(const World *w) {
    return (DatasetInfo){.model = w->m->fingerprint,
                         .tokenizer = "tokens",
                         .template_family = "chatml",
                         .corpus = "none",
                         .settings = "{}"};
}

/* topk 0: the whole vocabulary. */
static Dataset *make_data(World *w, const char *name, int64_t conversations, int32_t topk) {
    Dataset *d;
    DatasetInfo info = info_for(w);
    unlink(in_folder(name));
    assert_ok(dataset_create(&d, in_folder(name), &info, false));
    assert_ok(dataset_begin(d));
    for (int64_t i = 0; i < conversations; i++)
        add_conversation(w, d, i, 8 + (int32_t)(i * 7 % (TOKENS - 7)), topk ? topk : w->m->cfg.vocab);
    assert_ok(dataset_commit(d, conversations));
    return d;
}

static Cartridge *new_cartridge(World *w) {
    Prefix *p = capture_random(w, ROWS, 101);
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

static TrainerOptions options(void) {
    TrainerOptions o = trainer_defaults();
    o.rows_max = 256;
    o.step_tokens = 60;
    o.lr = 0.05;
    o.warmup = 2;
    o.seed = 5;
    return o;
}

/* A trainer with a cartridge of its own. */
typedef struct Rig { Cartridge *c; Ranks *ranks; Trainer *t; } Rig;

static void open_rig(Rig *r, World *w, Dataset *d, const TrainerOptions *o) {
    r->c = new_cartridge(w);
    assert_ok(ranks_solo(&r->ranks));
    assert_ok(trainer_open(&r->t, w->m, w->pool, r->c, &d, 1, r->ranks, o));
}

static void close_rig(Rig *r) {
    trainer_close(r->t);
    ranks_close(r->ranks);
    cartridge_close(r->c);
}

/* ---- schedule ---- */

static void assert_close(double got, double want, double within) {
    if (!(fabs(got - want) <= within)) fail_msg("%.9g, wanted %.9g within %.3g", got, want, within);
}

static void test_rates(void **state) {
    (void)state;
    TrainerOptions o = trainer_defaults();
    o.warmup = 4, o.lr_end = 0.1;
    assert_close(schedule_peak(65536), 2e-2, 1e-12);
    assert_close(schedule_peak(384), 1e-2, 1e-12);
    for (int s = SCHEDULE_CONSTANT; s <= SCHEDULE_COSINE; s++) {
        o.schedule = (Schedule)s;
        assert_close(schedule_rate(&o, 2, 0, 25), 0.5, 1e-12); /* warm before the first step */
        assert_close(schedule_rate(&o, 2, 3, 25), 2, 1e-12);
        assert_close(schedule_rate(&o, 2, 4, 25), 2, 1e-12);
        assert_close(schedule_rate(&o, 2, 24, 25), s == SCHEDULE_CONSTANT ? 2 : 0.2, 1e-12);
        assert_close(schedule_rate(&o, 2, 14, 25), s == SCHEDULE_CONSTANT ? 2 : 1.1, 1e-12); /* half way */
    }
    o.schedule = SCHEDULE_COSINE;
    assert_close(schedule_rate(&o, 2, 9, 25), 2 * (0.1 + 0.9 * (0.5 + sqrt(0.125))), 1e-12);
    o.schedule = SCHEDULE_LINEAR;
    assert_close(schedule_rate(&o, 2, 9, 25), 2 * (0.1 + 0.9 * 0.75), 1e-12);
    o.warmup = 0;
    assert_close(schedule_rate(&o, 2, 0, 1), 2, 1e-12); /* one step only */
    o.warmup = 100;
    assert_close(schedule_rate(&o, 2, 3, 8), 2, 1e-12); /* half of the run at most */
}

/* ---- visits ---- */

static void open_visits(Visits *v, Dataset *d, const World *w, const TrainerOptions *o) {
    VisitLimits limits = {o->rows_max, w->m->cfg.vocab, 1000};
    assert_ok(visits_open(v, &d, 1, o, &limits));
}

/* Each epoch visits each training conversation once, in another order; nothing held out is ever trained on.
 */
static void test_visits_every_conversation_once_an_epoch(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "visits", 100, 2);
    TrainerOptions o = options();
    Visits v;
    o.epochs = 3;
    open_visits(&v, d, w, &o);
    assert_int_equal(v.heldouts, 32);
    assert_int_equal(v.trains, 68);
    assert_int_equal(v.total, 3 * 68);
    int64_t seen[100] = {0}, moved = 0;
    for (int64_t i = 0; i < v.total; i++) {
        int64_t which = visits_at(&v, i);
        seen[which]++;
        assert_int_equal(seen[which], i / 68 + 1);
        moved += i >= 68 && visits_at(&v, i) != visits_at(&v, i % 68);
    }
    for (int64_t i = 0; i < v.heldouts; i++) assert_int_equal(seen[v.heldout[i]], 0);
    assert_true(moved > 100);
    visits_close(&v);
    o.seed = 6;
    Visits other;
    open_visits(&v, d, w, &o);
    o.seed = 5;
    open_visits(&other, d, w, &o);
    assert_memory_not_equal(v.heldout, other.heldout, sizeof *v.heldout * 32);
    visits_close(&v);
    visits_close(&other);
    dataset_close(d);
}

/* A step ends with the conversation that reaches its tokens, and the steps cover the run. The last one may be half as
 * large, or half as large again. */
static void test_steps_reach_their_tokens(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "visits", 100, 2);
    TrainerOptions o = options();
    int32_t longer = 0, shorter = 0;
    for (o.step_tokens = 40; o.step_tokens < 100; o.step_tokens += 3) {
        Visits v;
        int64_t at = 0, steps = 0;
        open_visits(&v, d, w, &o);
        for (; at < v.total; steps++) {
            VisitStep s = visits_step(&v, at);
            int64_t last = v.size[visits_at(&v, at + s.visits - 1)].supervised, most = s.supervised - last;
            at += s.visits;
            bool ends = at == v.total;
            assert_true(s.supervised >= (ends ? (o.step_tokens + 1) / 2 : o.step_tokens));
            assert_true(most < (ends ? o.step_tokens + last + (o.step_tokens + 1) / 2 : o.step_tokens));
            longer += ends && most >= o.step_tokens;
            shorter += ends && s.supervised < o.step_tokens;
        }
        assert_int_equal(steps, v.steps);
        visits_close(&v);
    }
    assert_true(longer > 2 && shorter > 2);
    dataset_close(d);
}

static void test_held_out_is_at_most_half(void **state) {
    World *w = *state;
    TrainerOptions o = options();
    static const int64_t count[] = {1, 3, 40, 90}, held[] = {0, 1, 20, 32};
    for (int i = 0; i < 4; i++) {
        Dataset *d = make_data(w, "visits", count[i], 1);
        Visits v;
        open_visits(&v, d, w, &o);
        assert_int_equal(v.heldouts, held[i]);
        visits_close(&v);
        dataset_close(d);
    }
}

static void test_shifts_spread_evenly(void **state) {
    (void)state;
    enum { DRAWS = 4000, SPREAD = 7 };
    Visits v = {.trains = 50, .spread = SPREAD, .seed = 3};
    int32_t seen[SPREAD + 1] = {0};
    for (int64_t i = 0; i < DRAWS; i++) {
        int32_t shift = visits_shift(&v, i);
        assert_true(shift >= 0 && shift <= SPREAD);
        seen[shift]++;
    }
    for (int32_t i = 0; i <= SPREAD; i++)
        assert_in_range(seen[i], DRAWS / (SPREAD + 1) - 100, DRAWS / (SPREAD + 1) + 100);
    v.spread = 0;
    assert_int_equal(visits_shift(&v, 17), 0);
}

/* ---- packs ---- */

static void test_a_pack_places_rows_and_targets(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "packs", 3, 2);
    Prefix *p = capture_random(w, ROWS, 101);
    Pack pack;
    Conversation c;
    bool fits;
    int32_t row = 0, target = 0;
    assert_ok(pack_open(&pack, w->m, w->pool,
                        &(PackLimits){.rows = 64, .seqs = 3, .candidates = 2, .prefix_pages = p->pages}));
    for (int64_t i = 0; i < 3; i++) {
        assert_ok(dataset_get(d, i, &c));
        assert_ok(pack_add(&pack, p, &c, (int32_t)i * 10, &fits));
        assert_true(fits);
        assert_int_equal(pack.batch->T, row + c.n - 1); /* the last token is not fed */
        for (int32_t k = 0; k < c.n - 1; k++) {
            assert_int_equal(pack.batch->token[row + k], c.token[k]);
            assert_int_equal(pack.batch->pos[row + k], ROWS + i * 10 + k);
        }
        for (int32_t j = 0; j < c.targets; j++, target++) {
            assert_int_equal(pack.row[target], row + c.at[j] - 1);
            assert_memory_equal(pack.id + pack.first[target], c.id + c.first[j], 2 * sizeof *c.id);
        }
        row += c.n - 1;
    }
    assert_int_equal(pack.targets, target);
    assert_int_equal(pack.first[target], 2 * target);
    assert_ok(pack_add(&pack, p, &c, 0, &fits));
    assert_false(fits);
    assert_int_equal(pack.targets, target);
    assert_int_equal(pack.batch->T, row);
    pack_clear(&pack);
    assert_ok(pack_add(&pack, NULL, &c, 0, &fits));
    assert_int_equal(pack.batch->pos[0], 0);
    pack_close(&pack);
    prefix_drop(p);
    dataset_close(d);
}

/* ---- one step ---- */

static const float *moment(const Rig *r) {
    return r->t->work.m.data;
}

static double largest(const float *v, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fabs((double)v[i]) > most ? fabs((double)v[i]) : most;
    return most;
}

static void assert_alike(const float *a, const float *b, int64_t n, double share) {
    double scale = largest(a, n);
    assert_true(scale > 0);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)a[i] - (double)b[i]) <= share * scale))
            fail_msg("number %lld: %.9g and %.9g, the largest is %.3g", (long long)i, (double)a[i],
                     (double)b[i], scale);
}

/* How a step falls into micro-batches must not matter: all in one, a few, each conversation alone. */
static void test_micro_batches_add_up(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "micro", 24, 5);
    TrainerOptions o = options();
    o.step_tokens = 200, o.heldout = 0, o.spread = 9;
    static const int32_t rows[] = {512, 64, 31};
    Rig rig[3];
    StepReport report[3];
    for (int i = 0; i < 3; i++) {
        o.rows_max = rows[i];
        open_rig(&rig[i], w, d, &o);
        assert_ok(trainer_step(rig[i].t, &report[i]));
    }
    assert_true(report[0].rows > 256);
    int64_t n = tensor_count(rig[0].t->work.m);
    for (int i = 1; i < 3; i++) {
        assert_close(report[i].loss, report[0].loss, 1e-6);
        assert_close(report[i].kl, report[0].kl, 1e-6);
        assert_close(report[i].grad_norm, report[0].grad_norm, 1e-5 * report[0].grad_norm);
        assert_alike(moment(&rig[0]), moment(&rig[i]), n, 1e-4);
    }
    for (int i = 0; i < 3; i++) close_rig(&rig[i]);
    dataset_close(d);
}

/* The gradient is that of a mean: the same conversations twice in a step, by two epochs, change nothing. */
static void test_a_step_is_a_mean(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "mean", 6, 5);
    TrainerOptions o = options();
    Rig once, twice;
    StepReport a, b;
    o.heldout = 0, o.steps = 1;
    open_rig(&once, w, d, &o);
    o.step_tokens = 0;
    for (int64_t i = 0; i < once.t->visits.count; i++) o.step_tokens += once.t->visits.size[i].supervised;
    close_rig(&once);
    open_rig(&once, w, d, &o);
    o.step_tokens *= 2;
    open_rig(&twice, w, d, &o);
    assert_ok(trainer_step(once.t, &a));
    assert_ok(trainer_step(twice.t, &b));
    assert_int_equal(b.supervised, 2 * a.supervised);
    assert_int_equal(b.conversations, 12);
    assert_close(b.loss, a.loss, 1e-6);
    assert_alike(moment(&once), moment(&twice), tensor_count(once.t->work.m), 1e-4);
    close_rig(&once);
    close_rig(&twice);
    dataset_close(d);
}

static void test_a_step_allocates_nothing(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "steady", 30, 5);
    TrainerOptions o = options();
    Rig r;
    StepReport report;
    HeldOut h;
    open_rig(&r, w, d, &o);
    int64_t opens = host_mem_opens();
    int32_t free_pages = pool_free(w->pool);
    for (int i = 0; i < 3; i++) assert_ok(trainer_step(r.t, &report));
    assert_ok(trainer_heldout(r.t, &h));
    assert_int_equal(host_mem_opens(), opens);
    assert_int_equal(pool_free(w->pool), free_pages);
    close_rig(&r);
    dataset_close(d);
}

static void read_rows(World *w, const Prefix *p, int32_t layer, float *key, float *value) {
    const ModelConfig *c = &w->m->cfg;
    assert_ok(prefix_read(p, w->s, layer, tensor_of(key, DT_F32, c->kv_heads, p->rows, c->head_dim),
                          tensor_of(value, DT_F32, c->kv_heads, p->rows, c->head_dim)));
}

/* The frozen row stays, all others move, and everything in the pool is a bf16 number: what a file would hold.
 */
static void test_only_rows_that_may_learn_move(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "frozen", 24, 5);
    TrainerOptions o = options();
    o.steps = 3;
    int64_t G = w->m->cfg.kv_heads, D = w->m->cfg.head_dim, n = G * ROWS * D;
    float *before = malloc(sizeof *before * 2 * (size_t)n), *after = malloc(sizeof *after * 2 * (size_t)n);
    Rig r;
    StepReport report;
    open_rig(&r, w, d, &o);
    read_rows(w, r.c->prefix, 1, before, before + n);
    for (int i = 0; i < 3; i++) assert_ok(trainer_step(r.t, &report));
    read_rows(w, r.c->prefix, 1, after, after + n);
    int64_t moved = 0;
    for (int64_t i = 0; i < 2 * n; i++) {
        if (i / D % ROWS < FROZEN) assert_true(before[i] == after[i]);
        else moved += before[i] != after[i];
        assert_true(after[i] == bf16_to_f32(f32_to_bf16(after[i])));
    }
    assert_true(moved > 2 * n * 9 / 10);
    free(before);
    free(after);
    close_rig(&r);
    dataset_close(d);
}

static void poison(World *w, Prefix *p) {
    const ModelConfig *c = &w->m->cfg;
    int64_t n = (int64_t)c->kv_heads * p->rows * c->head_dim;
    float *nan = malloc(sizeof *nan * (size_t)n);
    memset(nan, 0xff, sizeof *nan * (size_t)n);
    Tensor t = tensor_of(nan, DT_F32, c->kv_heads, p->rows, c->head_dim);
    assert_ok(prefix_write(p, w->s, 0, t, t));
    free(nan);
}

/* A step that diverges changes nothing: repaired, the run goes on as one that never saw it. */
static void test_divergence_changes_nothing(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "diverges", 24, 5);
    TrainerOptions o = options();
    Rig hurt, well;
    StepReport report;
    open_rig(&hurt, w, d, &o);
    open_rig(&well, w, d, &o);
    assert_ok(trainer_step(hurt.t, &report));
    poison(w, hurt.c->prefix);
    assert_fails(ST_DIVERGED, trainer_step(hurt.t, &report));
    assert_says("step 2");
    assert_int_equal(hurt.t->at.step, 1);
    assert_ok(working_show(&hurt.t->work, hurt.t->work.master));
    assert_ok(trainer_step(hurt.t, &report));
    for (int i = 0; i < 2; i++) assert_ok(trainer_step(well.t, &report));
    size_t bytes = tensor_bytes(well.t->work.master);
    assert_memory_equal(hurt.t->work.master.data, well.t->work.master.data, bytes);
    assert_memory_equal(hurt.t->work.m.data, well.t->work.m.data, bytes);
    assert_memory_equal(hurt.t->work.v.data, well.t->work.v.data, bytes);
    close_rig(&hurt);
    close_rig(&well);
    dataset_close(d);
}

static void test_a_large_gradient_is_clipped(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "clip", 12, 5);
    TrainerOptions o = options();
    Rig whole, clipped;
    StepReport a, b;
    o.clip = 0;
    open_rig(&whole, w, d, &o);
    assert_ok(trainer_step(whole.t, &a));
    o.clip = a.grad_norm / 4;
    open_rig(&clipped, w, d, &o);
    assert_ok(trainer_step(clipped.t, &b));
    assert_close(a.grad_norm, b.grad_norm, 1e-9);
    for (int64_t i = 0, n = tensor_count(whole.t->work.m); i < n; i++)
        assert_close((double)moment(&clipped)[i], (double)moment(&whole)[i] / 4, 1e-6 * a.grad_norm);
    close_rig(&whole);
    close_rig(&clipped);
    dataset_close(d);
}

/* ---- learning ---- */

/* Promise 7: with all of the vocabulary kept, the teacher behind its own context has no divergence from
 * itself. */
static void test_the_teacher_agrees_with_itself(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "self", 20, 0);
    TrainerOptions o = options();
    Rig r;
    HeldOut self, none, start;
    open_rig(&r, w, d, &o);
    assert_ok(trainer_heldout_behind(r.t, w->teacher, &self));
    assert_ok(trainer_heldout_behind(r.t, NULL, &none));
    assert_ok(trainer_heldout(r.t, &start));
    assert_int_equal(self.conversations, 10);
    assert_true(self.kl >= 0 && self.kl < 1e-5);
    assert_true(self.agree == 1);
    assert_true(none.kl > 0.05 && start.kl > 0.05);
    assert_true(self.loss < none.loss && self.loss < start.loss);
    close_rig(&r);
    dataset_close(d);
}

/* A handful of conversations is learnt by heart. All of the vocabulary is kept: the loss drops a tail, and
 * what is nearest to a teacher without its tail is not nearest to the teacher. */
static void test_learns_by_heart(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "heart", 6, 0);
    TrainerOptions o = options();
    Rig r;
    StepReport first, last;
    o.heldout = 0, o.steps = 100, o.lr = 0.1, o.schedule = SCHEDULE_COSINE;
    open_rig(&r, w, d, &o);
    assert_ok(trainer_step(r.t, &first));
    while (r.t->at.step < o.steps) assert_ok(trainer_step(r.t, &last));
    assert_fails(ST_ARG, trainer_step(r.t, &last));
    assert_true(first.kl > 0.05);
    if (!(last.kl < first.kl / 100)) fail_msg("kl %g after %g", last.kl, first.kl);
    close_rig(&r);
    dataset_close(d);
}

static void test_a_file_holds_what_was_evaluated(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "file", 40, 0);
    TrainerOptions o = options();
    HeldOut first, best, again;
    Rig r;
    o.epochs = 4;
    open_rig(&r, w, d, &o);
    assert_ok(trainer_run(r.t, false, NULL, &first, &best));
    assert_true(best.kl < first.kl);
    assert_ok(cartridge_save(r.c, w->s, in_folder("file.cartridge")));
    Cartridge *read;
    assert_ok(cartridge_open(&read, in_folder("file.cartridge"), w->m, "tokens", "chatml", w->pool, w->s));
    assert_ok(trainer_heldout_behind(r.t, read->prefix, &again));
    assert_true(again.kl == best.kl && again.loss == best.loss);
    assert_int_equal(read->info.steps, r.t->visits.steps);
    assert_int_equal(read->info.conversations, 4 * 20);
    assert_true(read->info.kl_heldout == best.kl);
    assert_true(read->info.learning_rate == o.lr);
    assert_true(read->info.loss_last < read->info.loss_first);
    cartridge_close(read);
    close_rig(&r);
    dataset_close(d);
}

/* A rate that only does harm. */
static TrainerOptions harmful_options(void) {
    TrainerOptions o = options();
    o.lr = 30, o.steps = 50, o.eval_every = 2, o.patience = 3, o.schedule = SCHEDULE_CONSTANT;
    return o;
}

/* The run ends early, and leaves the rows it began with. */
static void test_patience_keeps_the_best(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "patience", 40, 8);
    TrainerOptions o = harmful_options();
    HeldOut first, best, after;
    Rig r;
    open_rig(&r, w, d, &o);
    assert_ok(trainer_run(r.t, false, NULL, &first, &best));
    assert_int_equal(r.t->at.step, 6);
    assert_int_equal(r.t->at.best_step, 0);
    assert_true(best.kl == first.kl);
    assert_ok(trainer_heldout(r.t, &after));
    assert_true(after.kl == first.kl);
    close_rig(&r);
    dataset_close(d);
}

/* Trained with a spread, a cartridge serves later positions better than one trained without. */
static void test_spread_helps_at_a_distance(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "spread", 8, 0);
    double kl[2];
    for (int i = 0; i < 2; i++) {
        TrainerOptions o = options();
        Rig r;
        StepReport report;
        o.heldout = 0, o.steps = 60, o.spread = i ? 64 : 0;
        open_rig(&r, w, d, &o);
        for (int64_t k = 0; k < o.steps; k++) assert_ok(trainer_step(r.t, &report));
        r.t->visits.heldouts = 1, r.t->visits.heldout[0] = 0;
        r.c->prefix->pos_end += 48;
        HeldOut far;
        assert_ok(trainer_heldout(r.t, &far));
        kl[i] = far.kl;
        close_rig(&r);
    }
    if (!(kl[1] < kl[0] / 1.5)) fail_msg("kl %g with a spread, %g without", kl[1], kl[0]);
    dataset_close(d);
}

/* ---- stop and resume ---- */

static void clean_run(const char *name) {
    char path[300];
    static const char *const file[] = {"checkpoint.safetensors", "metrics.jsonl"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", in_folder(name), file[i]);
        unlink(path);
    }
    rmdir(in_folder(name));
}

typedef struct Stopper { int64_t polls, stop_at; } Stopper;

static bool stop_at(void *user) {
    Stopper *s = user;
    return ++s->polls == s->stop_at;
}

static TrainerOptions run_options(void) {
    TrainerOptions o = options();
    o.rows_max = 64, o.step_tokens = 60, o.steps = 4, o.eval_every = 2, o.save_every = 3, o.spread = 3;
    return o;
}

/* One run in a folder, stopped at the n-th poll (0: never); the cartridge goes to a file of the folder's
 * name. */
static Status run_once(World *w, Dataset *d, const char *name, bool resume, Stopper *stopper) {
    TrainerOptions o = run_options();
    char file[100];
    Watch watch = {.stop = stop_at, .user = stopper};
    Rig r;
    o.run_dir = in_folder(name);
    open_rig(&r, w, d, &o);
    Status st = trainer_run(r.t, resume, &watch, NULL, NULL);
    snprintf(file, sizeof file, "%s.cartridge", name);
    if (!st) assert_ok(cartridge_save(r.c, w->s, in_folder(file)));
    close_rig(&r);
    return st;
}

static void assert_same_files(const char *a, const char *b) {
    char *x, *y;
    size_t n, m;
    assert_ok(file_read(&x, &n, in_folder(a)));
    assert_ok(file_read(&y, &m, in_folder(b)));
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

/* metrics.jsonl of two runs, line by line, seconds left out. */
static void assert_same_metrics(const char *a, const char *b) {
    char path[2][300], line[2][1000];
    snprintf(path[0], sizeof path[0], "%s/metrics.jsonl", in_folder(a));
    snprintf(path[1], sizeof path[1], "%s/metrics.jsonl", in_folder(b));
    FILE *x = fopen(path[0], "r"), *y = fopen(path[1], "r");
    assert_true(x && y);
    int64_t lines = 0;
    for (;; lines++) {
        bool more = fgets(line[0], sizeof line[0], x) != NULL;
        assert_int_equal(more, fgets(line[1], sizeof line[1], y) != NULL);
        if (!more) break;
        for (int i = 0; i < 2; i++) {
            char *seconds = strstr(line[i], "\"seconds\"");
            if (seconds) *seconds = '\0';
        }
        assert_string_equal(line[0], line[1]);
    }
    assert_int_equal(lines, 4 + 3);
    fclose(x);
    fclose(y);
}

/* Promise 8. Stopped at every poll in turn, then resumed: file and metrics as if it had never been stopped.
 */
static void test_stopped_anywhere_and_resumed_is_the_same(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "resume", 24, 5);
    Stopper never = {0, 0};
    clean_run("whole");
    assert_ok(run_once(w, d, "whole", false, &never));
    assert_true(never.polls > 15);
    for (int64_t n = 1; n <= never.polls; n++) {
        Stopper once = {0, n}, on = {0, 0};
        clean_run("parts");
        assert_fails(ST_STOPPED, run_once(w, d, "parts", false, &once));
        assert_ok(run_once(w, d, "parts", true, &on));
        assert_same_files("whole.cartridge", "parts.cartridge");
        assert_same_metrics("whole", "parts");
    }
    /* and stopped again and again, each time a little later than where it stood */
    clean_run("parts");
    Status st = ST_STOPPED;
    int32_t runs = 0;
    for (; st == ST_STOPPED && runs < 200; runs++) st = run_once(w, d, "parts", runs > 0, &(Stopper){0, 9});
    assert_ok(st);
    assert_true(runs > 2);
    assert_same_files("whole.cartridge", "parts.cartridge");
    assert_same_metrics("whole", "parts");
    clean_run("parts");
    clean_run("whole");
    dataset_close(d);
}

static void test_patience_survives_a_stop(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "resume", 24, 5);
    TrainerOptions o = harmful_options();
    o.run_dir = in_folder("patient");
    for (int64_t n = 4; n < 24; n += 5) {
        Stopper once = {0, n};
        Rig r;
        clean_run("patient");
        open_rig(&r, w, d, &o);
        assert_fails(ST_STOPPED, trainer_run(r.t, false, &(Watch){.stop = stop_at, .user = &once}, NULL, NULL));
        close_rig(&r);
        open_rig(&r, w, d, &o);
        assert_ok(trainer_run(r.t, true, NULL, NULL, NULL));
        assert_int_equal(r.t->at.step, 6);
        assert_int_equal(r.t->at.best_step, 0);
        close_rig(&r);
    }
    clean_run("patient");
    dataset_close(d);
}

static void test_a_finished_run_can_be_resumed(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "resume", 24, 5);
    Stopper never = {0, 0};
    clean_run("whole");
    assert_ok(run_once(w, d, "whole", true, &never)); /* nothing to resume: from the start */
    assert_fails(ST_ARG, run_once(w, d, "whole", false, &never));
    assert_says("resume it");
    rename(in_folder("whole.cartridge"), in_folder("parts.cartridge"));
    assert_ok(run_once(w, d, "whole", true, &never));
    assert_same_files("whole.cartridge", "parts.cartridge");
    clean_run("whole");
    dataset_close(d);
}

/* The disk fills up after any number of bytes: the checkpoint before is still there, and good. */
static void test_a_full_disk_leaves_the_last_checkpoint(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "resume", 24, 5);
    Stopper never = {0, 0};
    char checkpoint[300];
    clean_run("whole");
    assert_ok(run_once(w, d, "whole", false, &never));
    snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint.safetensors", in_folder("whole"));
    FileMap map;
    assert_ok(file_map(&map, checkpoint));
    int64_t size = (int64_t)map.size;
    file_unmap(&map);
    const int64_t room[] = {0, 1, size / 2, size - 1, size, size + 5000, 2 * size - 1};
    for (size_t i = 0; i < sizeof room / sizeof *room; i++) {
        clean_run("parts");
        file_fail_after(room[i]); /* the first checkpoint is written at step 3, the second at the end */
        assert_fails(ST_NOSPACE, run_once(w, d, "parts", false, &never));
        file_fail_after(-1);
        assert_ok(run_once(w, d, "parts", true, &never));
        assert_same_files("whole.cartridge", "parts.cartridge");
        assert_same_metrics("whole", "parts");
    }
    clean_run("parts");
    clean_run("whole");
    dataset_close(d);
}

/* A run in which the n-th call that writes fails. */
static Status run_failing(World *w, Dataset *d, const char *name, int64_t n, bool *happened) {
    TrainerOptions o = run_options();
    Rig r;
    o.run_dir = in_folder(name);
    open_rig(&r, w, d, &o);
    fail_call(n, EIO);
    Status st = trainer_run(r.t, false, NULL, NULL, NULL);
    *happened = fail_call_happened();
    close_rig(&r);
    return st;
}

/* Whichever call fails, of two checkpoints and their folder: no half of a checkpoint, no file beside it or left
 * open, and resumed it is the run that nothing happened to. */
static void test_any_call_that_fails_leaves_a_checkpoint(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "resume", 24, 5);
    Stopper never = {0, 0};
    int failed = 0, forgiven = 0, files = test_folder_count("/proc/self/fd");
    clean_run("whole");
    assert_ok(run_once(w, d, "whole", false, &never));
    bool happened = true;
    for (int64_t n = 0; happened; n++) {
        clean_run("parts");
        Status st = run_failing(w, d, "parts", n, &happened);
        if (st) assert_int_equal(st, ST_IO);
        failed += st != ST_OK;
        forgiven += happened && !st;
        assert_int_equal(test_folder_count("/proc/self/fd"), files);
        assert_ok(run_once(w, d, "parts", true, &never));
        assert_int_equal(test_folder_count(in_folder("parts")), 2); /* checkpoint and metrics */
        assert_same_files("whole.cartridge", "parts.cartridge");
        assert_same_metrics("whole", "parts");
    }
    assert_true(failed > 10);         /* folder; open, write, sync, close, rename of each */
    assert_int_equal(forgiven, 2 * 2); /* syncing and closing the folder, where the file is already */
    clean_run("parts");
    clean_run("whole");
    dataset_close(d);
}

static void assert_load_names(Rig *r, const char *path, const char *what) {
    assert_fails(ST_MISMATCH, trainer_load(r->t, path));
    assert_says(what);
}

static void test_a_checkpoint_is_for_its_run(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "resume", 24, 5), *e = make_data(w, "other", 41, 5);
    TrainerOptions o = run_options();
    const char *path = in_folder("a.checkpoint");
    Rig r;
    StepReport report;
    open_rig(&r, w, d, &o);
    assert_ok(trainer_step(r.t, &report));
    assert_ok(trainer_save(r.t, path));
    assert_ok(trainer_load(r.t, path));
    close_rig(&r);
    o.lr *= 2;
    open_rig(&r, w, d, &o);
    assert_load_names(&r, path, "lr is 0.05");
    close_rig(&r);
    o = run_options(), o.seed = 99;
    open_rig(&r, w, d, &o);
    assert_load_names(&r, path, "seed is");
    close_rig(&r);
    o = run_options();
    open_rig(&r, w, e, &o);
    assert_load_names(&r, path, "data is");
    close_rig(&r);
    dataset_close(d);
    dataset_close(e);
}

static void put_byte(const char *path, int64_t at, int v) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, at, SEEK_SET);
    fputc(v, f);
    fclose(f);
}

static void test_a_damaged_checkpoint_changes_nothing(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "resume", 24, 5);
    TrainerOptions o = run_options();
    const char *path = in_folder("a.checkpoint");
    Rig r;
    StepReport report;
    char *data;
    size_t size;
    open_rig(&r, w, d, &o);
    assert_ok(trainer_step(r.t, &report));
    assert_ok(trainer_save(r.t, path));
    assert_ok(trainer_step(r.t, &report));
    assert_ok(file_read(&data, &size, path));
    for (size_t at = 3; at < size; at += size / 29) {
        put_byte(path, (long)at, data[at] ^ 0x55);
        assert_fails(ST_FORMAT, trainer_load(r.t, path));
        assert_int_equal(r.t->at.step, 2);
        put_byte(path, (long)at, data[at]);
    }
    assert_int_equal(truncate(path, (off_t)size - 1), 0);
    assert_fails(ST_FORMAT, trainer_load(r.t, path));
    free(data);
    close_rig(&r);
    dataset_close(d);
}

static void hear(void *user, const char *stage, int64_t done, int64_t total, const char *detail) {
    (void)stage, (void)done, (void)total;
    if (strstr(detail, "other machine settings")) *(int *)user += 1;
}

/* A checkpoint of a machine with other settings is taken, and says so. */
static void test_another_machine_is_announced(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "resume", 24, 5);
    TrainerOptions o = run_options();
    Rig r;
    int heard = 0;
    char here[160], checkpoint[300];
    clean_run("moved");
    assert_fails(ST_STOPPED, run_once(w, d, "moved", false, &(Stopper){0, 12}));
    snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint.safetensors", in_folder("moved"));
    SafeFile *f;
    SafeEntry e[4];
    assert_ok(safe_open(&f, checkpoint));
    assert_int_equal(safe_count(f), 4);
    for (int32_t i = 0; i < 4; i++) {
        e[i].name = safe_name(f, i);
        assert_ok(safe_find(f, e[i].name, &e[i].t));
    }
    const SafeMeta meta[] = {{"settings", safe_meta(f, "settings")}, {"progress", safe_meta(f, "progress")},
                             {"machine", "99 threads, abacus"}};
    assert_ok(safe_write(in_folder("moved.checkpoint"), e, 4, meta, 3, true));
    safe_close(f);
    rename(in_folder("moved.checkpoint"), checkpoint);
    o.run_dir = in_folder("moved");
    open_rig(&r, w, d, &o);
    trainer_machine(r.t, here, sizeof here);
    assert_non_null(strstr(here, "1 rank"));
    assert_ok(trainer_run(r.t, true, &(Watch){.progress = hear, .user = &heard}, NULL, NULL));
    assert_int_equal(heard, 1);
    close_rig(&r);
    clean_run("moved");
    dataset_close(d);
}

/* ---- what does not fit ---- */

static void assert_refused(World *w, Dataset *d, const TrainerOptions *o, Status code, const char *what) {
    Cartridge *c = new_cartridge(w);
    Ranks *ranks;
    Trainer *t;
    assert_ok(ranks_solo(&ranks));
    int64_t live = host_mem_live();
    assert_fails(code, trainer_open(&t, w->m, w->pool, c, &d, 1, ranks, o));
    assert_says(what);
    assert_null(t);
    assert_int_equal(host_mem_live(), live);
    ranks_close(ranks);
    cartridge_close(c);
}

static void test_data_of_others_is_refused(void **state) {
    World *w = *state;
    TrainerOptions o = options();
    const char *path = in_folder("foreign");
    static const char *const what[] = {"another model", "another tokenizer", "another template"};
    for (int i = 0; i < 3; i++) {
        DatasetInfo info = info_for(w);
        Dataset *d;
        if (i == 0) info.model = "0123";
        if (i == 1) info.tokenizer = "words";
        if (i == 2) info.template_family = "llama3";
        unlink(path);
        assert_ok(dataset_create(&d, path, &info, false));
        assert_ok(dataset_begin(d));
        add_conversation(w, d, 0, 10, 2);
        assert_ok(dataset_commit(d, 1));
        assert_refused(w, d, &o, ST_MISMATCH, what[i]);
        dataset_close(d);
    }
}

static void test_what_does_not_fit_is_refused(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "large", 20, 2), *none = make_data(w, "none", 0, 2);
    TrainerOptions o = options();
    o.rows_max = 12;
    assert_refused(w, d, &o, ST_ARG, "answers are never cut");
    o = options(), o.spread = 4000;
    assert_refused(w, d, &o, ST_ARG, "context leaves");
    o = options(), o.rows_max = PAGES * KV_PAGE;
    assert_refused(w, d, &o, ST_FULL, "are free");
    o = options(), o.lr = -1;
    assert_refused(w, d, &o, ST_ARG, "learning rate");
    o = options(), o.epochs = 0;
    assert_refused(w, d, &o, ST_ARG, "epochs");
    assert_refused(w, none, &(TrainerOptions){.rows_max = 8, .step_tokens = 8, .epochs = 1, .eps = 1}, ST_ARG,
                   "nothing to learn");
    Conversation beyond;
    Dataset *e;
    DatasetInfo info = info_for(w);
    assert_ok(dataset_get(d, 0, &beyond));
    ((int32_t *)(uintptr_t)beyond.token)[0] = w->m->cfg.vocab;
    assert_ok(dataset_create(&e, in_folder("beyond"), &info, false));
    assert_ok(dataset_begin(e));
    assert_ok(dataset_add(e, &beyond));
    assert_ok(dataset_commit(e, 1));
    o = options();
    assert_refused(w, e, &o, ST_MISMATCH, "vocabulary");
    dataset_close(d);
    dataset_close(none);
    dataset_close(e);
}

/* No memory at any point of opening: a clear error, and nothing is left. */
static void test_no_memory(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "resume", 24, 5);
    TrainerOptions o = options();
    int64_t opens = host_mem_opens();
    Rig r;
    open_rig(&r, w, d, &o);
    opens = host_mem_opens() - opens;
    close_rig(&r);
    assert_true(opens >= 4);
    Cartridge *c = new_cartridge(w);
    Ranks *ranks;
    assert_ok(ranks_solo(&ranks));
    for (int64_t n = 1;; n++) {
        int64_t live = host_mem_live();
        host_mem_fail_at(n);
        Status st = trainer_open(&r.t, w->m, w->pool, c, &d, 1, ranks, &o);
        host_mem_fail_at(0);
        if (!st) break;
        assert_int_equal(st, ST_NOMEM);
        assert_int_equal(host_mem_live(), live);
        assert_true(n < 50);
    }
    trainer_close(r.t);
    ranks_close(ranks);
    cartridge_close(c);
    dataset_close(d);
}

/* ---- ranks ---- */

/* Under mpirun: the ranks together do what one does alone, to rounding, and all of them hold the same rows.
 */
static void test_ranks_equal_one(void **state) {
    World *w = *state;
    Dataset *d = make_data(w, "ranks", 40, 5);
    TrainerOptions o = options();
    Rig alone, together;
    StepReport a, b;
    HeldOut x, y;
    o.step_tokens = 150, o.spread = 5, o.steps = 3;
    open_rig(&alone, w, d, &o);
    together.c = new_cartridge(w);
    assert_ok(ranks_mpi(&together.ranks));
    int32_t ranks = ranks_count(together.ranks);
    assert_int_equal(ranks, atoi(getenv("TEST_RANKS_WANTED")));
    assert_ok(trainer_open(&together.t, w->m, w->pool, together.c, &d, 1, together.ranks, &o));
    assert_ok(trainer_step(alone.t, &a));
    assert_ok(trainer_step(together.t, &b));
    assert_close(b.loss, a.loss, 1e-6);
    assert_close(b.grad_norm, a.grad_norm, 1e-5 * a.grad_norm);
    assert_int_equal(a.supervised, b.supervised);
    int64_t n = tensor_count(alone.t->work.m);
    assert_alike(moment(&alone), moment(&together), n, 1e-4);
    for (int i = 0; i < 2; i++) assert_ok(trainer_step(together.t, &b));
    assert_ok(trainer_heldout(together.t, &x));
    Digest mine = sha256_of(together.t->work.master.data, tensor_bytes(together.t->work.master)),
           first = mine;
    assert_ok(ranks_share(together.ranks, &first, sizeof first, 0));
    assert_true(digest_equal(mine, first));
    assert_ok(trainer_heldout_behind(alone.t, together.c->prefix, &y));
    assert_close(x.kl, y.kl, 1e-6);
    assert_int_equal(x.supervised, y.supervised);
    close_rig(&alone);
    close_rig(&together);
    dataset_close(d);
}

/* ---- the program ---- */

static int open_all(void **state) {
    static World w;
    if (!mkdtemp(folder)) return -1;
    open_world(&w, &ops_cpu, TINY_QWEN2);
    *state = &w;
    return 0;
}

static int close_all(void **state) {
    close_world(*state);
    DIR *o = opendir(folder);
    for (struct dirent *e; o && (e = readdir(o));) unlink(in_folder(e->d_name));
    if (o) closedir(o);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest ranks[] = {cmocka_unit_test(test_ranks_equal_one)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_visits_every_conversation_once_an_epoch),
        cmocka_unit_test(test_steps_reach_their_tokens),
        cmocka_unit_test(test_held_out_is_at_most_half),
        cmocka_unit_test(test_shifts_spread_evenly),
        cmocka_unit_test(test_a_pack_places_rows_and_targets),
        cmocka_unit_test(test_micro_batches_add_up),
        cmocka_unit_test(test_a_step_is_a_mean),
        cmocka_unit_test(test_a_step_allocates_nothing),
        cmocka_unit_test(test_only_rows_that_may_learn_move),
        cmocka_unit_test(test_divergence_changes_nothing),
        cmocka_unit_test(test_a_large_gradient_is_clipped),
        cmocka_unit_test(test_the_teacher_agrees_with_itself),
        cmocka_unit_test(test_learns_by_heart),
        cmocka_unit_test(test_a_file_holds_what_was_evaluated),
        cmocka_unit_test(test_patience_keeps_the_best),
        cmocka_unit_test(test_spread_helps_at_a_distance),
        cmocka_unit_test(test_stopped_anywhere_and_resumed_is_the_same),
        cmocka_unit_test(test_patience_survives_a_stop),
        cmocka_unit_test(test_a_finished_run_can_be_resumed),
        cmocka_unit_test(test_a_full_disk_leaves_the_last_checkpoint),
        cmocka_unit_test(test_any_call_that_fails_leaves_a_checkpoint),
        cmocka_unit_test(test_a_checkpoint_is_for_its_run),
        cmocka_unit_test(test_a_damaged_checkpoint_changes_nothing),
        cmocka_unit_test(test_another_machine_is_announced),
        cmocka_unit_test(test_data_of_others_is_refused),
        cmocka_unit_test(test_what_does_not_fit_is_refused),
        cmocka_unit_test(test_no_memory),
    };
    if (getenv("TEST_RANKS_WANTED")) return cmocka_run_group_tests(ranks, open_all, close_all);
    return cmocka_run_group_tests(tests, open_all, close_all);
}
