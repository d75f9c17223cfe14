/* test_train.c -- training as a whole: it learns, keeps what was best and puts it into a file; what it cannot
 * work with is refused before it begins; several ranks do what one does. */
#include "tests/train_rig.h"

#include "kernels/host.h"
#include "tests/scratch.h"

/* ---- learning ---- */

/* Promise 7: with all of the vocabulary kept, the teacher behind its own context has no divergence from
 * itself. */
static void test_the_teacher_agrees_with_itself(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "self", 20, 0);
    TrainerOptions o = train_options();
    Training r;
    HeldOut self, none, start;
    training_open(&r, w, d, &o);
    assert_ok(trainer_heldout_behind(r.t, w->teacher, &self));
    assert_ok(trainer_heldout_behind(r.t, NULL, &none));
    assert_ok(trainer_heldout(r.t, &start));
    assert_int_equal(self.conversations, 10);
    assert_true(self.kl >= 0 && self.kl < 1e-5);
    assert_true(self.agree == 1);
    assert_true(none.kl > 0.05 && start.kl > 0.05);
    assert_true(self.loss < none.loss && self.loss < start.loss);
    training_close(&r);
    dataset_close(d);
}

/* A handful of conversations is learnt by heart. All of the vocabulary is kept: the loss drops a tail, and
 * what is nearest to a teacher without its tail is not nearest to the teacher. */
static void test_learns_by_heart(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "heart", 6, 0);
    TrainerOptions o = train_options();
    Training r;
    StepReport first, last;
    o.heldout = 0, o.steps = 100, o.lr = 0.1, o.schedule = SCHEDULE_COSINE;
    training_open(&r, w, d, &o);
    assert_ok(trainer_step(r.t, &first));
    while (r.t->at.step < o.steps) assert_ok(trainer_step(r.t, &last));
    assert_fails(ST_ARG, trainer_step(r.t, &last));
    assert_true(first.kl > 0.05);
    if (!(last.kl < first.kl / 100)) fail_msg("kl %g after %g", last.kl, first.kl);
    training_close(&r);
    dataset_close(d);
}

static void test_a_file_holds_what_was_evaluated(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "file", 40, 0);
    TrainerOptions o = train_options();
    HeldOut first, best, again;
    Training r;
    o.epochs = 4;
    training_open(&r, w, d, &o);
    assert_ok(trainer_run(r.t, false, NULL, &first, &best));
    assert_true(best.kl < first.kl);
    assert_ok(cartridge_save(r.c, w->s, scratch_path("file.cartridge")));
    Cartridge *read;
    assert_ok(cartridge_open(&read, scratch_path("file.cartridge"), w->m, "tokens", "chatml", w->pool, w->s));
    assert_ok(trainer_heldout_behind(r.t, read->prefix, &again));
    assert_true(again.kl == best.kl && again.loss == best.loss);
    assert_int_equal(read->info.steps, r.t->visits.steps);
    assert_int_equal(read->info.conversations, 4 * 20);
    assert_true(read->info.kl_heldout == best.kl);
    assert_true(read->info.learning_rate == o.lr);
    assert_true(read->info.loss_last < read->info.loss_first);
    cartridge_close(read);
    training_close(&r);
    dataset_close(d);
}

/* The run ends early, and leaves the rows it began with. */
static void test_patience_keeps_the_best(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "patience", 40, 8);
    TrainerOptions o = harmful_options();
    HeldOut first, best, after;
    Training r;
    training_open(&r, w, d, &o);
    assert_ok(trainer_run(r.t, false, NULL, &first, &best));
    assert_int_equal(r.t->at.step, 6);
    assert_int_equal(r.t->at.best_step, 0);
    assert_true(best.kl == first.kl);
    assert_ok(trainer_heldout(r.t, &after));
    assert_true(after.kl == first.kl);
    training_close(&r);
    dataset_close(d);
}

/* Trained with a spread, a cartridge serves later positions better than one trained without. */
static void test_spread_helps_at_a_distance(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "spread", 8, 0);
    double kl[2];
    for (int i = 0; i < 2; i++) {
        TrainerOptions o = train_options();
        Training r;
        StepReport report;
        o.heldout = 0, o.steps = 60, o.spread = i ? 64 : 0;
        training_open(&r, w, d, &o);
        for (int64_t k = 0; k < o.steps; k++) assert_ok(trainer_step(r.t, &report));
        r.t->visits.heldouts = 1, r.t->visits.heldout[0] = 0;
        r.c->prefix->pos_end += 48;
        HeldOut far;
        assert_ok(trainer_heldout(r.t, &far));
        kl[i] = far.kl;
        training_close(&r);
    }
    if (!(kl[1] < kl[0] / 1.5)) fail_msg("kl %g with a spread, %g without", kl[1], kl[0]);
    dataset_close(d);
}

/* ---- what does not fit ---- */

static void assert_refused(World *w, Dataset *d, const TrainerOptions *o, Status code, const char *what) {
    Cartridge *c = world_cartridge(w);
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
    TrainerOptions o = train_options();
    const char *path = scratch_path("foreign");
    static const char *const what[] = {"another model", "another tokenizer", "another template"};
    for (int i = 0; i < 3; i++) {
        DatasetInfo info = world_info(w);
        Dataset *d;
        if (i == 0) info.model = "0123";
        if (i == 1) info.tokenizer = "words";
        if (i == 2) info.template_family = "llama3";
        unlink(path);
        assert_ok(dataset_create(&d, path, &info, false));
        assert_ok(dataset_begin(d));
        world_add(w, d, 0, 10, 2);
        assert_ok(dataset_commit(d, 1));
        assert_refused(w, d, &o, ST_MISMATCH, what[i]);
        dataset_close(d);
    }
}

static void test_what_does_not_fit_is_refused(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "large", 20, 2), *none = world_data(w, "none", 0, 2);
    TrainerOptions o = train_options();
    o.rows_max = 12;
    assert_refused(w, d, &o, ST_ARG, "answers are never cut");
    o = train_options(), o.spread = 4000;
    assert_refused(w, d, &o, ST_ARG, "context leaves");
    o = train_options(), o.rows_max = PAGES * KV_PAGE;
    assert_refused(w, d, &o, ST_FULL, "are free");
    o = train_options(), o.lr = -1;
    assert_refused(w, d, &o, ST_ARG, "learning rate");
    o = train_options(), o.epochs = 0;
    assert_refused(w, d, &o, ST_ARG, "epochs");
    assert_refused(w, none, &(TrainerOptions){.rows_max = 8, .step_tokens = 8, .epochs = 1, .eps = 1}, ST_ARG,
                   "nothing to learn");
    Conversation beyond;
    Dataset *e;
    DatasetInfo info = world_info(w);
    assert_ok(dataset_get(d, 0, &beyond));
    ((int32_t *)(uintptr_t)beyond.token)[0] = w->m->cfg.vocab;
    assert_ok(dataset_create(&e, scratch_path("beyond"), &info, false));
    assert_ok(dataset_begin(e));
    assert_ok(dataset_add(e, &beyond));
    assert_ok(dataset_commit(e, 1));
    o = train_options();
    assert_refused(w, e, &o, ST_MISMATCH, "vocabulary");
    dataset_close(d);
    dataset_close(none);
    dataset_close(e);
}

/* No memory at any point of opening: a clear error, and nothing is left. */
static void test_no_memory(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "resume", 24, 5);
    TrainerOptions o = train_options();
    int64_t opens = host_mem_opens();
    Training r;
    training_open(&r, w, d, &o);
    opens = host_mem_opens() - opens;
    training_close(&r);
    assert_true(opens >= 4);
    Cartridge *c = world_cartridge(w);
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

/* Under mpirun: the ranks together do what one does alone, to rounding, and all hold the same rows. */
static void test_ranks_equal_one(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "ranks", 40, 5);
    TrainerOptions o = train_options();
    Training alone, together;
    StepReport a, b;
    HeldOut x, y;
    o.step_tokens = 150, o.spread = 5, o.steps = 3;
    training_open(&alone, w, d, &o);
    together.c = world_cartridge(w);
    assert_ok(ranks_mpi(&together.ranks));
    int32_t ranks = ranks_count(together.ranks);
    assert_int_equal(ranks, atoi(getenv("TEST_RANKS_WANTED")));
    assert_ok(trainer_open(&together.t, w->m, w->pool, together.c, &d, 1, together.ranks, &o));
    assert_ok(trainer_step(alone.t, &a));
    assert_ok(trainer_step(together.t, &b));
    assert_within(b.loss, a.loss, 1e-6);
    assert_within(b.grad_norm, a.grad_norm, 1e-5 * a.grad_norm);
    assert_int_equal(a.supervised, b.supervised);
    training_alike(&alone, &together);
    for (int i = 0; i < 2; i++) assert_ok(trainer_step(together.t, &b));
    assert_ok(trainer_heldout(together.t, &x));
    Digest mine = sha256_of(together.t->work.master.data, tensor_bytes(together.t->work.master)),
           first = mine;
    assert_ok(ranks_share(together.ranks, &first, sizeof first, 0));
    assert_true(digest_equal(mine, first));
    assert_ok(trainer_heldout_behind(alone.t, together.c->prefix, &y));
    assert_within(x.kl, y.kl, 1e-6);
    assert_int_equal(x.supervised, y.supervised);
    training_close(&alone);
    training_close(&together);
    dataset_close(d);
}

int main(void) {
    const struct CMUnitTest ranks[] = {cmocka_unit_test(test_ranks_equal_one)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_teacher_agrees_with_itself),
        cmocka_unit_test(test_learns_by_heart),
        cmocka_unit_test(test_a_file_holds_what_was_evaluated),
        cmocka_unit_test(test_patience_keeps_the_best),
        cmocka_unit_test(test_spread_helps_at_a_distance),
        cmocka_unit_test(test_data_of_others_is_refused),
        cmocka_unit_test(test_what_does_not_fit_is_refused),
        cmocka_unit_test(test_no_memory),
    };
    if (getenv("TEST_RANKS_WANTED"))
        return cmocka_run_group_tests_name("ranks", ranks, world_set_up, world_tear_down);
    return cmocka_run_group_tests_name("train", tests, world_set_up, world_tear_down);
}
