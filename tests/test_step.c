/* test_step.c -- one step of training: its gradient is a mean however it falls into micro-batches, it moves
 * just the rows that may learn, allocates nothing, and changes nothing when it diverges. */
#include "tests/train_rig.h"

#include "kernels/host.h"

/* How a step falls into micro-batches must not matter: all in one, a few, each conversation alone. */
static void test_micro_batches_add_up(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "micro", 24, 5);
    TrainerOptions o = train_options();
    o.step_tokens = 200, o.heldout = 0, o.spread = 9;
    static const int32_t rows[] = {512, 64, 31};
    Training rig[3];
    StepReport report[3];
    for (int i = 0; i < 3; i++) {
        o.rows_max = rows[i];
        training_open(&rig[i], w, d, &o);
        assert_ok(trainer_step(rig[i].t, &report[i]));
    }
    assert_true(report[0].rows > 256);
    for (int i = 1; i < 3; i++) {
        assert_within(report[i].loss, report[0].loss, 1e-6);
        assert_within(report[i].kl, report[0].kl, 1e-6);
        assert_within(report[i].grad_norm, report[0].grad_norm, 1e-5 * report[0].grad_norm);
        training_alike(&rig[0], &rig[i]);
    }
    for (int i = 0; i < 3; i++) training_close(&rig[i]);
    dataset_close(d);
}

/* The gradient is that of a mean: the same conversations twice in a step, by two epochs, change nothing. */
static void test_a_step_is_a_mean(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "mean", 6, 5);
    TrainerOptions o = train_options();
    Training once, twice;
    StepReport a, b;
    o.heldout = 0, o.steps = 1;
    training_open(&once, w, d, &o);
    o.step_tokens = 0;
    for (int64_t i = 0; i < once.t->visits.count; i++) o.step_tokens += once.t->visits.size[i].supervised;
    training_close(&once);
    training_open(&once, w, d, &o);
    o.step_tokens *= 2;
    training_open(&twice, w, d, &o);
    assert_ok(trainer_step(once.t, &a));
    assert_ok(trainer_step(twice.t, &b));
    assert_int_equal(b.supervised, 2 * a.supervised);
    assert_int_equal(b.conversations, 12);
    assert_within(b.loss, a.loss, 1e-6);
    training_alike(&once, &twice);
    training_close(&once);
    training_close(&twice);
    dataset_close(d);
}

static void test_a_step_allocates_nothing(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "steady", 30, 5);
    TrainerOptions o = train_options();
    Training r;
    StepReport report;
    HeldOut h;
    training_open(&r, w, d, &o);
    int64_t opens = host_mem_opens();
    int32_t free_pages = pool_free(w->pool);
    for (int i = 0; i < 3; i++) assert_ok(trainer_step(r.t, &report));
    assert_ok(trainer_heldout(r.t, &h));
    assert_int_equal(host_mem_opens(), opens);
    assert_int_equal(pool_free(w->pool), free_pages);
    training_close(&r);
    dataset_close(d);
}

static void read_rows(World *w, const Prefix *p, int32_t layer, float *key, float *value) {
    const ModelConfig *c = &w->m->cfg;
    assert_ok(prefix_read(p, w->s, layer, tensor_of(key, DT_F32, c->kv_heads, p->rows, c->head_dim),
                          tensor_of(value, DT_F32, c->kv_heads, p->rows, c->head_dim)));
}

/* The frozen row stays, all others move, and all in the pool are bf16 numbers: what a file would hold. */
static void test_only_rows_that_may_learn_move(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "frozen", 24, 5);
    TrainerOptions o = train_options();
    o.steps = 3;
    int64_t G = w->m->cfg.kv_heads, D = w->m->cfg.head_dim, n = G * ROWS * D;
    float *before = malloc(sizeof *before * 2 * (size_t)n), *after = malloc(sizeof *after * 2 * (size_t)n);
    Training r;
    StepReport report;
    training_open(&r, w, d, &o);
    read_rows(w, r.c->prefix, 1, before, before + n);
    for (int i = 0; i < 3; i++) assert_ok(trainer_step(r.t, &report));
    read_rows(w, r.c->prefix, 1, after, after + n);
    int64_t moved = 0;
    for (int64_t i = 0; i < 2 * n; i++) {
        if (i / D % ROWS < FROZEN)
            assert_true(before[i] == after[i]);
        else
            moved += before[i] != after[i];
        assert_true(after[i] == bf16_to_f32(f32_to_bf16(after[i])));
    }
    assert_true(moved > 2 * n * 9 / 10);
    free(before);
    free(after);
    training_close(&r);
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
    Dataset *d = world_data(w, "diverges", 24, 5);
    TrainerOptions o = train_options();
    Training hurt, well;
    StepReport report;
    training_open(&hurt, w, d, &o);
    training_open(&well, w, d, &o);
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
    training_close(&hurt);
    training_close(&well);
    dataset_close(d);
}

static void test_a_large_gradient_is_clipped(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "clip", 12, 5);
    TrainerOptions o = train_options();
    Training whole, clipped;
    StepReport a, b;
    o.clip = 0;
    training_open(&whole, w, d, &o);
    assert_ok(trainer_step(whole.t, &a));
    o.clip = a.grad_norm / 4;
    training_open(&clipped, w, d, &o);
    assert_ok(trainer_step(clipped.t, &b));
    assert_within(a.grad_norm, b.grad_norm, 1e-9);
    for (int64_t i = 0, n = tensor_count(whole.t->work.m); i < n; i++)
        assert_within((double)training_moment(&clipped)[i], (double)training_moment(&whole)[i] / 4,
                      1e-6 * a.grad_norm);
    training_close(&whole);
    training_close(&clipped);
    dataset_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_micro_batches_add_up),
        cmocka_unit_test(test_a_step_is_a_mean),
        cmocka_unit_test(test_a_step_allocates_nothing),
        cmocka_unit_test(test_only_rows_that_may_learn_move),
        cmocka_unit_test(test_divergence_changes_nothing),
        cmocka_unit_test(test_a_large_gradient_is_clipped),
    };
    return cmocka_run_group_tests_name("step", tests, world_set_up, world_tear_down);
}
