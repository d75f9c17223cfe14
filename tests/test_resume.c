/* test_resume.c -- checkpoints: a run that is stopped anywhere, or left by a full disk or a failing call,
 * goes on to the very file that an undisturbed one gives; checkpoints of other runs and damaged ones are
 * refused.
 *
 * Two runs of one dataset are compared: "whole", to which nothing happens, and "parts". */
#include "tests/train_rig.h"

#include <errno.h>

#include "tests/fail_calls.h"
#include "tests/scratch.h"

#define CHECKPOINT "a.checkpoint"

typedef struct Stopper {
    int64_t polls, stop_at;
} Stopper;

static bool stop_at(void *user) {
    Stopper *s = user;
    return ++s->polls == s->stop_at;
}

static TrainerOptions run_options(void) {
    TrainerOptions o = train_options();
    o.rows_max = 64, o.step_tokens = 60, o.steps = 4, o.eval_every = 2, o.save_every = 3, o.spread = 3;
    return o;
}

/* One run in a folder, stopped at the n-th poll (0: never); the cartridge goes to a file of the folder's
 * name. */
static Status run_once(World *w, Dataset *d, const char *name, bool resume, Stopper *stopper) {
    TrainerOptions o = run_options();
    char file[100];
    Watch watch = {.stop = stop_at, .user = stopper};
    Training r;
    o.run_dir = scratch_path(name);
    training_open(&r, w, d, &o);
    Status st = trainer_run(r.t, resume, &watch, NULL, NULL);
    snprintf(file, sizeof file, "%s.cartridge", name);
    if (!st) assert_ok(cartridge_save(r.c, w->s, scratch_path(file)));
    training_close(&r);
    return st;
}

/* metrics.jsonl of both runs, line by line, seconds left out. */
static void assert_same_metrics(void) {
    char line[2][1000];
    FILE *x = fopen(scratch_path("whole/metrics.jsonl"), "r");
    FILE *y = fopen(scratch_path("parts/metrics.jsonl"), "r");
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

/* What the run in parts leaves is what the whole one does. */
static void assert_same_run(void) {
    scratch_same("whole.cartridge", "parts.cartridge");
    assert_same_metrics();
}

/* The dataset, after its undisturbed run, which was polled so many times. */
static Dataset *run_whole(World *w, int64_t *polls) {
    Dataset *d = world_data(w, "resume", 24, 5);
    Stopper never = {0, 0};
    scratch_remove("whole");
    assert_ok(run_once(w, d, "whole", false, &never));
    *polls = never.polls;
    return d;
}

/* Promise 8. Stopped at every poll in turn, then resumed: file and metrics as if never stopped. */
static void test_stopped_anywhere_and_resumed_is_the_same(void **state) {
    World *w = *state;
    int64_t polls;
    Dataset *d = run_whole(w, &polls);
    assert_true(polls > 15);
    for (int64_t n = 1; n <= polls; n++) {
        scratch_remove("parts");
        assert_fails(ST_STOPPED, run_once(w, d, "parts", false, &(Stopper){0, n}));
        assert_ok(run_once(w, d, "parts", true, &(Stopper){0, 0}));
        assert_same_run();
    }
    /* and stopped again and again, each time a little later than where it stood */
    scratch_remove("parts");
    Status st = ST_STOPPED;
    int32_t runs = 0;
    for (; st == ST_STOPPED && runs < 200; runs++) st = run_once(w, d, "parts", runs > 0, &(Stopper){0, 9});
    assert_ok(st);
    assert_true(runs > 2);
    assert_same_run();
    dataset_close(d);
}

static void test_patience_survives_a_stop(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "resume", 24, 5);
    TrainerOptions o = harmful_options();
    o.run_dir = scratch_path("patient");
    for (int64_t n = 4; n < 24; n += 5) {
        Stopper once = {0, n};
        Training r;
        scratch_remove("patient");
        training_open(&r, w, d, &o);
        assert_fails(ST_STOPPED,
                     trainer_run(r.t, false, &(Watch){.stop = stop_at, .user = &once}, NULL, NULL));
        training_close(&r);
        training_open(&r, w, d, &o);
        assert_ok(trainer_run(r.t, true, NULL, NULL, NULL));
        assert_int_equal(r.t->at.step, 6);
        assert_int_equal(r.t->at.best_step, 0);
        training_close(&r);
    }
    dataset_close(d);
}

static void test_a_finished_run_can_be_resumed(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "resume", 24, 5);
    Stopper never = {0, 0};
    scratch_remove("whole");
    assert_ok(run_once(w, d, "whole", true, &never)); /* nothing to resume: from the start */
    assert_fails(ST_ARG, run_once(w, d, "whole", false, &never));
    assert_says("resume it");
    rename(scratch_path("whole.cartridge"), scratch_path("parts.cartridge"));
    assert_ok(run_once(w, d, "whole", true, &never));
    scratch_same("whole.cartridge", "parts.cartridge");
    dataset_close(d);
}

/* The disk fills up after any number of bytes: the checkpoint before is still there, and good. */
static void test_a_full_disk_leaves_the_last_checkpoint(void **state) {
    World *w = *state;
    Stopper never = {0, 0};
    int64_t polls;
    Dataset *d = run_whole(w, &polls);
    FileMap map;
    assert_ok(file_map(&map, scratch_path("whole/checkpoint.safetensors")));
    int64_t size = (int64_t)map.size;
    file_unmap(&map);
    const int64_t room[] = {0, 1, size / 2, size - 1, size, size + 5000, 2 * size - 1};
    for (size_t i = 0; i < sizeof room / sizeof *room; i++) {
        scratch_remove("parts");
        file_fail_after(room[i]); /* the first checkpoint is written at step 3, the second at the end */
        assert_fails(ST_NOSPACE, run_once(w, d, "parts", false, &never));
        file_fail_after(-1);
        assert_ok(run_once(w, d, "parts", true, &never));
        assert_same_run();
    }
    dataset_close(d);
}

/* A run in which the n-th call that writes fails. */
static Status run_failing(World *w, Dataset *d, const char *name, int64_t n, bool *happened) {
    TrainerOptions o = run_options();
    Training r;
    o.run_dir = scratch_path(name);
    training_open(&r, w, d, &o);
    fail_call(n, EIO);
    Status st = trainer_run(r.t, false, NULL, NULL, NULL);
    *happened = fail_call_happened();
    training_close(&r);
    return st;
}

/* Whichever call fails, of two checkpoints and their folder: no half of a checkpoint, no file beside it or
 * left open, and resumed it is the run that nothing happened to. */
static void test_any_call_that_fails_leaves_a_checkpoint(void **state) {
    World *w = *state;
    Stopper never = {0, 0};
    int64_t polls;
    Dataset *d = run_whole(w, &polls);
    int failed = 0, forgiven = 0, files = open_files();
    bool happened = true;
    for (int64_t n = 0; happened; n++) {
        scratch_remove("parts");
        Status st = run_failing(w, d, "parts", n, &happened);
        if (st) assert_int_equal(st, ST_IO);
        failed += st != ST_OK;
        forgiven += happened && !st;
        assert_int_equal(open_files(), files);
        assert_ok(run_once(w, d, "parts", true, &never));
        assert_int_equal(test_folder_count(scratch_path("parts")), 2); /* checkpoint and metrics */
        assert_same_run();
    }
    assert_true(failed > 10);          /* folder; open, write, sync, close, rename of each */
    assert_int_equal(forgiven, 2 * 2); /* syncing and closing the folder, where the file is already */
    dataset_close(d);
}

static void refuse_checkpoint(World *w, Dataset *d, const TrainerOptions *o, const char *what) {
    Training r;
    training_open(&r, w, d, o);
    assert_fails(ST_MISMATCH, trainer_load(r.t, scratch_path(CHECKPOINT)));
    assert_says(what);
    training_close(&r);
}

static void test_a_checkpoint_is_for_its_run(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "resume", 24, 5), *e = world_data(w, "other", 41, 5);
    TrainerOptions o = run_options(), other_rate = o, other_seed = o;
    Training r;
    StepReport report;
    training_open(&r, w, d, &o);
    assert_ok(trainer_step(r.t, &report));
    assert_ok(trainer_save(r.t, scratch_path(CHECKPOINT)));
    assert_ok(trainer_load(r.t, scratch_path(CHECKPOINT)));
    training_close(&r);
    other_rate.lr *= 2, other_seed.seed = 99;
    refuse_checkpoint(w, d, &other_rate, "lr is 0.05");
    refuse_checkpoint(w, d, &other_seed, "seed is");
    refuse_checkpoint(w, e, &o, "data is");
    dataset_close(d);
    dataset_close(e);
}

static void test_a_damaged_checkpoint_changes_nothing(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "resume", 24, 5);
    TrainerOptions o = run_options();
    Training r;
    StepReport report;
    size_t size;
    training_open(&r, w, d, &o);
    assert_ok(trainer_step(r.t, &report));
    assert_ok(trainer_save(r.t, scratch_path(CHECKPOINT)));
    assert_ok(trainer_step(r.t, &report));
    char *data = scratch_read(CHECKPOINT, &size);
    for (size_t at = 3; at < size; at += size / 29) {
        scratch_put_byte(CHECKPOINT, at, (char)(data[at] ^ 0x55));
        assert_fails(ST_FORMAT, trainer_load(r.t, scratch_path(CHECKPOINT)));
        assert_int_equal(r.t->at.step, 2);
        scratch_put_byte(CHECKPOINT, at, data[at]);
    }
    assert_int_equal(truncate(scratch_path(CHECKPOINT), (off_t)size - 1), 0);
    assert_fails(ST_FORMAT, trainer_load(r.t, scratch_path(CHECKPOINT)));
    free(data);
    training_close(&r);
    dataset_close(d);
}

static void hear(void *user, const char *stage, int64_t done, int64_t total, const char *detail) {
    (void)stage, (void)done, (void)total;
    if (strstr(detail, "other machine settings")) *(int *)user += 1;
}

/* A checkpoint of a machine with other settings is taken, and says so. */
static void test_another_machine_is_announced(void **state) {
    World *w = *state;
    Dataset *d = world_data(w, "resume", 24, 5);
    TrainerOptions o = run_options();
    Training r;
    int heard = 0;
    char here[160];
    const char *checkpoint = scratch_path("moved/checkpoint.safetensors");
    scratch_remove("moved");
    assert_fails(ST_STOPPED, run_once(w, d, "moved", false, &(Stopper){0, 12}));
    SafeFile *f;
    SafeEntry e[4];
    assert_ok(safe_open(&f, checkpoint));
    assert_int_equal(safe_count(f), 4);
    for (int32_t i = 0; i < 4; i++) {
        e[i].name = safe_name(f, i);
        assert_ok(safe_find(f, e[i].name, &e[i].t));
    }
    const SafeMeta meta[] = {{"settings", safe_meta(f, "settings")},
                             {"progress", safe_meta(f, "progress")},
                             {"machine", "99 threads, abacus"}};
    assert_ok(safe_write(scratch_path("moved.checkpoint"), e, 4, meta, 3, true));
    safe_close(f);
    rename(scratch_path("moved.checkpoint"), checkpoint);
    o.run_dir = scratch_path("moved");
    training_open(&r, w, d, &o);
    trainer_machine(r.t, here, sizeof here);
    assert_non_null(strstr(here, "1 rank"));
    assert_ok(trainer_run(r.t, true, &(Watch){.progress = hear, .user = &heard}, NULL, NULL));
    assert_int_equal(heard, 1);
    training_close(&r);
    dataset_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stopped_anywhere_and_resumed_is_the_same),
        cmocka_unit_test(test_patience_survives_a_stop),
        cmocka_unit_test(test_a_finished_run_can_be_resumed),
        cmocka_unit_test(test_a_full_disk_leaves_the_last_checkpoint),
        cmocka_unit_test(test_any_call_that_fails_leaves_a_checkpoint),
        cmocka_unit_test(test_a_checkpoint_is_for_its_run),
        cmocka_unit_test(test_a_damaged_checkpoint_changes_nothing),
        cmocka_unit_test(test_another_machine_is_announced),
    };
    return cmocka_run_group_tests_name("resume", tests, world_set_up, world_tear_down);
}
