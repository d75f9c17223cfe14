/* test_faults.c -- what goes wrong on a GPU: memory that is not there, kernels that fault. Whatever call for
 * memory fails, everything that was opened before it is given back, and the message says what was asked. A
 * kernel that faults is named by its operation, though the host has queued others since. */
#include "engine/run/scheduler.h"
#include "tests/ops_rig.h"
#include "tests/rig.h"
#include "tests/simt/control.h"
#include "tests/simt/gpu_table.h"

#define FOLDER CARTRIDGE_SOURCE_DIR "/tests/golden/llama"
enum { PAGES = 12, ROWS = 16, SEQS = 2, NO_FAILURE = 0 };

static const Ops *ops;

/* ---- memory ---- */

/* Everything that serving and training open on a device, in order, up to the first failure. */
static Status open_engine(bool training) {
    Status st = ST_OK;
    Model *m = NULL;
    PagePool *pool = NULL;
    Batch *batch = NULL;
    Acts *acts = NULL;
    Stream *stream = NULL;
    Scheduler *scheduler = NULL;
    TRY_TO(done, model_open(&m, FOLDER, ops));
    TRY_TO(done, pool_open(&pool, &m->cfg, ops, ops->act, PAGES));
    TRY_TO(done, ops->stream_open(&stream, &(StreamLimits){ROWS, m->cfg.ffn, m->cfg.vocab}));
    TRY_TO(done, batch_open(&batch, m, pool, &(BatchLimits){ROWS, SEQS, 4, 8}, training));
    TRY_TO(done, acts_open(&acts, m,
                           &(ActsLimits){.rows = ROWS,
                                         .logits = 2,
                                         .candidates = 3,
                                         .seqs = SEQS,
                                         .training = training,
                                         .act = ops->act}));
    TRY_TO(done, scheduler_open(&scheduler, m, pool, &(SchedulerLimits){ROWS, SEQS, 2, 3, 1}));
done:
    scheduler_close(scheduler);
    acts_close(acts);
    batch_close(batch);
    ops->stream_close(stream);
    pool_close(pool);
    model_close(m);
    return st;
}

/* Until a call for memory that there is no more: then nothing has failed. */
static void test_every_call_for_memory_may_fail(void **state) {
    (void)state;
    enum { CALLS_MIN = 12, CALLS_MAX = 200 };
    size_t live = simt_blocks_live();
    for (int training = 0; training < 2; training++) {
        int n = 1;
        for (;; n++) {
            simt_memory_fail_at(n);
            Status st = open_engine(training);
            simt_memory_fail_at(NO_FAILURE);
            if (simt_blocks_live() != live)
                fail_msg("call %d for memory fails: %zu blocks stay open", n, simt_blocks_live() - live);
            if (st == ST_OK) break;
            if (st != ST_NOMEM)
                fail_msg("call %d for memory fails: %s, %s", n, status_text(st), status_message());
            assert_in_range(n, 1, CALLS_MAX);
        }
        assert_in_range(n, CALLS_MIN, CALLS_MAX);
    }
}

/* The message of a device that is full: what was asked, what is free, what would help. */
static void test_a_full_device(void **state) {
    (void)state;
    enum { BYTES = 1 << 20 };
    void *mem;
    simt_memory(BYTES);
    assert_fails(ST_NOMEM, ops->mem_open(&mem, 3 * BYTES));
    assert_null(mem);
    assert_says("3145728 bytes asked");
    assert_says("1048576 free");
    assert_says("fewer pages");
    simt_memory((size_t)4 << 30);
    assert_ok(ops->mem_open(&mem, 3 * BYTES));
    ops->mem_close(mem);
}

/* ---- kernels ---- */

/* Operations that are queued one behind the other. */
typedef struct Work {
    GatherArgs gather;
    NormArgs norm;
    SwigluArgs swiglu;
    TopkArgs topk;
    SquaredNormArgs squared_norm;
} Work;

static void prepare(Work *w, OpsRig *r) {
    const int32_t id[] = {3, 1}, from[] = {0}, to[] = {64};
    Tensor x = NORMAL(r, DT_BF16, 1, 1, 4, 64), y = BLANK(r, DT_BF16, 4, 64), none = {0};
    w->gather = (GatherArgs){BLANK(r, DT_BF16, 2, 64), x, WHOLE(r, id, 2)};
    w->norm = (NormArgs){y, none, x, NORMAL(r, DT_BF16, 2, 1, 64), 1e-5f};
    w->swiglu = (SwigluArgs){y, x, x};
    w->topk = (TopkArgs){BLANK(r, DT_I32, 4, 3), BLANK(r, DT_F32, 4, 3), NORMAL(r, DT_F32, 1, 1, 4, 64)};
    w->squared_norm = (SquaredNormArgs){BLANK(r, DT_F64, 1), NORMAL(r, DT_F32, 1, 1, 2, 1, 1, 64, 8),
                                        WHOLE(r, from, 1), WHOLE(r, to, 1)};
}

/* Queues operation `i` and says its name. */
static const char *queue(const Work *w, int i, Stream *s) {
    switch (i) {
    case 0:
        assert_ok(ops->gather(s, &w->gather));
        return "gather: ";
    case 1:
        assert_ok(ops->norm(s, &w->norm));
        return "norm: ";
    case 2:
        assert_ok(ops->swiglu(s, &w->swiglu));
        return "swiglu: ";
    case 3:
        assert_ok(ops->topk(s, &w->topk));
        return "topk: ";
    case 4:
        assert_ok(ops->squared_norm(s, &w->squared_norm));
        return "squared_norm: ";
    default:
        return NULL;
    }
}

static void test_a_fault_is_named_by_its_operation(void **state) {
    (void)state;
    enum { OPERATIONS = 5 };
    for (int faulty = 0; faulty < OPERATIONS; faulty++) {
        OpsRig r;
        Work w;
        const char *wanted = NULL;
        ops_rig_open(&r, ops, DT_BF16, DT_BF16);
        prepare(&w, &r);
        for (int i = 0; i < OPERATIONS; i++) {
            if (i == faulty) simt_fault_at(1);
            const char *name = queue(&w, i, r.stream);
            if (i == faulty) wanted = name;
        }
        assert_fails(ST_DEVICE, ops->sync(r.stream));
        if (strncmp(status_message(), wanted, strlen(wanted)))
            fail_msg("%sa fault; the message is: %s", wanted, status_message());
        simt_reset();
        ops_rig_close(&r);
    }
}

/* ---- a pass of the scheduler ---- */

typedef struct Seen {
    int32_t tokens;
    Finish finish;
} Seen;

static void see(void *user, const Delivery *d) {
    Seen *s = user;
    if (d->id >= 0) s->tokens++;
    s->finish = d->finish;
}

/* Whichever kernel of a pass faults: the request is told, the error names an operation, and all can be
 * closed. */
static void test_a_pass_that_faults(void **state) {
    (void)state;
    static const int kernel[] = {1, 2, 5, 11, 20};
    static const int32_t token[] = {1, 5, 9, 3};
    size_t live = simt_blocks_live();
    for (size_t i = 0; i < sizeof kernel / sizeof *kernel; i++) {
        Model *m;
        PagePool *pool;
        Scheduler *s;
        Seen seen = {0, RUNNING};
        int32_t active;
        assert_ok(model_open(&m, FOLDER, ops));
        assert_ok(pool_open(&pool, &m->cfg, ops, ops->act, PAGES));
        assert_ok(scheduler_open(&s, m, pool, &(SchedulerLimits){ROWS, SEQS, 2, 3, 1}));
        Request q = {.token = token,
                     .n = 4,
                     .pos = -1,
                     .new_max = 8,
                     .sampling = {.top_p = 1},
                     .deliver = see,
                     .user = &seen};
        uint64_t ticket;
        assert_ok(scheduler_submit(s, &q, &ticket));
        simt_fault_at(kernel[i]);
        assert_fails(ST_DEVICE, scheduler_step(s, &active));
        if (strstr(status_message(), "an operation")) fail_msg("nothing is named: %s", status_message());
        assert_int_equal(seen.finish, FINISH_FAILED);
        assert_int_equal(seen.tokens, 0);
        simt_reset();
        scheduler_close(s);
        pool_close(pool);
        model_close(m);
        assert_int_equal(simt_blocks_live(), live);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call_for_memory_may_fail),
        cmocka_unit_test(test_a_full_device),
        cmocka_unit_test(test_a_fault_is_named_by_its_operation),
        cmocka_unit_test(test_a_pass_that_faults),
    };
    ops = gpu_table();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
