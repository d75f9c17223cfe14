/* test_visits.c -- what a step is given: its rate, the conversations it visits and how far behind the
 * cartridge, and where their rows and targets lie in a batch. */
#include "tests/train_rig.h"

#include "engine/learn/schedule.h"

/* ---- rates ---- */

static void test_rates(void **state) {
    (void)state;
    TrainerOptions o = trainer_defaults();
    o.warmup = 4, o.lr_end = 0.1;
    assert_within(schedule_peak(65536), 2e-2, 1e-12);
    assert_within(schedule_peak(384), 1e-2, 1e-12);
    for (int s = SCHEDULE_CONSTANT; s <= SCHEDULE_COSINE; s++) {
        o.schedule = (Schedule)s;
        assert_within(schedule_rate(&o, 2, 0, 25), 0.5, 1e-12); /* warm before the first step */
        assert_within(schedule_rate(&o, 2, 3, 25), 2, 1e-12);
        assert_within(schedule_rate(&o, 2, 4, 25), 2, 1e-12);
        assert_within(schedule_rate(&o, 2, 24, 25), s == SCHEDULE_CONSTANT ? 2 : 0.2, 1e-12);
        assert_within(schedule_rate(&o, 2, 14, 25), s == SCHEDULE_CONSTANT ? 2 : 1.1, 1e-12); /* half way */
    }
    o.schedule = SCHEDULE_COSINE;
    assert_within(schedule_rate(&o, 2, 9, 25), 2 * (0.1 + 0.9 * (0.5 + sqrt(0.125))), 1e-12);
    o.schedule = SCHEDULE_LINEAR;
    assert_within(schedule_rate(&o, 2, 9, 25), 2 * (0.1 + 0.9 * 0.75), 1e-12);
    o.warmup = 0;
    assert_within(schedule_rate(&o, 2, 0, 1), 2, 1e-12); /* one step only */
    o.warmup = 100;
    assert_within(schedule_rate(&o, 2, 3, 8), 2, 1e-12); /* half of the run at most */
}

/* ---- visits ---- */

static void open_visits(Visits *v, Dataset *d, const World *w, const TrainerOptions *o) {
    VisitLimits limits = {o->rows_max, w->m->cfg.vocab, 1000};
    assert_ok(visits_open(v, &d, 1, o, &limits));
}

/* Each epoch visits each training conversation once, in another order, and none that is held out. */
static void test_visits_every_conversation_once_an_epoch(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "visits", 100, 2);
    TrainerOptions o = train_options();
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

/* A step ends with the conversation that reaches its tokens, and the steps cover the run. The last one may be
 * half as large, or half as large again. */
static void test_steps_reach_their_tokens(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "visits", 100, 2);
    TrainerOptions o = train_options();
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
    TrainerOptions o = train_options();
    static const int64_t count[] = {1, 3, 40, 90}, held[] = {0, 1, 20, 32};
    for (int i = 0; i < 4; i++) {
        Dataset *d = world_data(w, "visits", count[i], 1);
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
    Dataset *d = world_data(w, "packs", 3, 2);
    Prefix *p = world_capture(w, ROWS, 101);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_visits_every_conversation_once_an_epoch),
        cmocka_unit_test(test_steps_reach_their_tokens),
        cmocka_unit_test(test_held_out_is_at_most_half),
        cmocka_unit_test(test_shifts_spread_evenly),
        cmocka_unit_test(test_a_pack_places_rows_and_targets),
    };
    return cmocka_run_group_tests_name("visits", tests, world_set_up, world_tear_down);
}
