/* test_plan.c -- what `plan` says against what happens: the bytes of a session and of training on the demo's
 * model are those that mem_open was asked for, printed ones included; users that fit do, one more does not;
 * the arithmetic of time gives numbers that can be worked out by hand. */
#include "tests/run_program.h"

#include "engine/learn/init.h"
#include "kernels/cpu.h"
#include "kernels/host.h"
#include "tools/command.h"
#include "tools/job.h"
#include "tools/plan_time.h"
#include "tools/threads.h"

#define MODEL CARTRIDGE_SOURCE_DIR "/tools/demo/model"

static int set_up(void **state) {
    threads_set(2); /* the kernels' scratch depends on it; the program below gets the same */
    return scratch_set_up(state);
}

static ModelConfig demo_config(void) {
    ModelConfig c;
    assert_ok(model_config_read(&c, MODEL));
    return c;
}

/* ---- bytes ---- */

/* model_open copies through a stream of its own, which it gives back. */
static int64_t of_loading(void) {
    return (int64_t)cpu_stream_bytes(&(StreamLimits){1, 1, 1});
}

static void expect_session(const SessionLimits *limits) {
    PlanJob job = {.model = demo_config(), .limits = *limits};
    PlanBytes b;
    Session s;
    assert_ok(plan_bytes(&b, &job, NULL));
    int64_t before = host_mem_asked();
    assert_ok(session_open(&s, MODEL, limits));
    assert_int_equal(host_mem_asked() - before - of_loading(), plan_total(&b));
    assert_int_equal(b.pages, tensor_bytes(pool_all(s.pool)));
    assert_int_equal(b.learning, 0);
    session_close(&s);
}

static void test_bytes_of_a_session(void **state) {
    (void)state;
    expect_session(&(SessionLimits){.held_rows = 64, .seqs = 1, .seq_rows = 300, .pass_rows = 512});
    expect_session(&(SessionLimits){.held_rows = 5000, .seqs = 33, .seq_rows = 65, .pass_rows = 40});
    threads_set(1);
    expect_session(&(SessionLimits){.held_rows = 64, .seqs = 4, .seq_rows = 300, .pass_rows = 512});
    threads_set(2);
}

/* One conversation with so many candidates for its supervised token. */
static Dataset *make_data(const Session *s, int32_t candidates) {
    enum { TOKENS = 6 };
    Dataset *d;
    int32_t token[TOKENS] = {3, 4, 5, 6, 7, 8}, at = TOKENS - 1, first[2] = {0, candidates}, id[32];
    float logprob[32];
    for (int32_t i = 0; i < candidates; i++) id[i] = i, logprob[i] = -3;
    DatasetInfo info = {.model = s->model->fingerprint,
                        .tokenizer = s->tokenizer_hex,
                        .template_family = chat_family(s->chat),
                        .corpus = "none",
                        .settings = "{}"};
    scratch_remove("data");
    assert_ok(dataset_create(&d, scratch_path("data"), &info, false));
    assert_ok(dataset_begin(d));
    assert_ok(dataset_add(d, &(Conversation){.n = TOKENS,
                                             .targets = 1,
                                             .token = token,
                                             .at = &at,
                                             .first = first,
                                             .id = id,
                                             .logprob = logprob,
                                             .kind = "",
                                             .question = "",
                                             .answer = ""}));
    assert_ok(dataset_commit(d, 1));
    return d;
}

/* Bytes that train asks for: its session, then its trainer. */
static int64_t asked_by_training(const PlanJob *job) {
    Session s;
    Cartridge *c;
    Ranks *ranks;
    Trainer *t;
    int64_t before = host_mem_asked();
    assert_ok(session_open(&s, MODEL, &job->limits));
    int64_t session = host_mem_asked() - before - of_loading();
    InitOptions init = {.kind = INIT_RANDOM_VECTORS, .rows = job->rows, .frozen = 1};
    assert_ok(cartridge_init(&c, &s.capture, s.chat, &init));
    Dataset *d = make_data(&s, job->candidates);
    assert_ok(ranks_solo(&ranks));
    before = host_mem_asked();
    assert_ok(trainer_open(&t, s.model, s.pool, c, &d, 1, ranks, &job->train));
    int64_t trainer = host_mem_asked() - before;
    trainer_close(t);
    ranks_close(ranks);
    dataset_close(d);
    cartridge_close(c);
    session_close(&s);
    return session + trainer;
}

static PlanJob training_job(int32_t rows, int32_t micro_rows, int32_t candidates, int64_t corpus_rows) {
    StudyOptions study = study_defaults();
    PlanJob job = {.model = demo_config(),
                   .limits = job_study_limits(&study),
                   .training = true,
                   .train = trainer_defaults(),
                   .rows = rows,
                   .candidates = candidates};
    job.train.rows_max = micro_rows, job.train.heldout = 0;
    job_add_training(&job.limits, &job.train, rows, corpus_rows);
    return job;
}

static void test_bytes_of_training(void **state) {
    (void)state;
    static const struct {
        int32_t rows, micro_rows, candidates;
        int64_t corpus;
    } size[] = {{8, 64, 1, 0}, {128, 1024, 20, 3000}, {65, 100, 32, 0}};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        PlanJob job = training_job(size[i].rows, size[i].micro_rows, size[i].candidates, size[i].corpus);
        PlanBytes b;
        assert_ok(plan_bytes(&b, &job, NULL));
        assert_int_equal(plan_total(&b), asked_by_training(&job));
        int64_t state_bytes = 5ll * 2 * job.model.layers * pages_for(job.rows) * job.model.kv_heads *
                              KV_PAGE * job.model.head_dim * 4;
        assert_in_range(b.learning - (size_t)state_bytes, 0, 4096); /* and short lists */
    }
}

/* A number of the JSON that the program prints; key NULL: it prints none. */
static double printed(const char *arguments, const char *key, int code) {
    char line[1024];
    snprintf(line, sizeof line, "OMP_NUM_THREADS=2 %s %s 2>/dev/null", CARTRIDGE_PROGRAM, arguments);
    int left = shell_run(line);
    if (left != code) fail_msg("%s: left with %d, wanted %d: %s", arguments, left, code, program_output);
    if (!key) return 0;
    snprintf(line, sizeof line, "\"%s\":", key);
    char *at = strstr(program_output, line);
    if (!at) fail_msg("%s: no %s in %s", arguments, key, program_output);
    return strtod(at + strlen(line), NULL);
}

static void test_printed_bytes_are_those_of_train(void **state) {
    (void)state;
    PlanJob job = training_job(40, 300, 20, 2000);
    double total =
        printed("plan train --json -m " MODEL " -p 40 --micro-rows 300 --corpus-tokens 2000", "total", 0);
    assert_int_equal((int64_t)total, asked_by_training(&job));
    double f32 = printed("plan train --json -m " MODEL " --device cpu", "pages", 0);
    double bf16 = printed("plan train --json -m " MODEL " --card h100", "pages", 0);
    assert_true(f32 == 2 * bf16); /* keys and values of a card are bf16 */
}

static void test_what_does_not_fit_leaves_with_4(void **state) {
    (void)state;
    printed("plan train --json -m " MODEL " --memory 1M", "total", 4);
    printed("plan serve --json -m " MODEL " --corpus-tokens 100 --memory 1M", "users_that_fit", 4);
    printed("plan serve --json -m " MODEL " --corpus-tokens 100 --card all --users 65536 --turn-tokens 3000",
            "users_that_fit", 4);
    printed("plan serve --json -m " MODEL " --corpus-tokens 100 --card all", "users_that_fit", 0);
    printed("plan train --json -m " MODEL " --card nothing", NULL, 2);
}

/* ---- users ---- */

static void expect_last(const PlanServe *s, double memory, const Card *card) {
    int32_t users;
    assert_ok(plan_users(&users, s, memory, card));
    assert_in_range(users, 1, USERS_MAX - 1);
    for (int32_t more = 0; more < 2; more++) {
        PlanJob job;
        PlanBytes b;
        assert_ok(plan_serve_job(&job, s, users + more));
        assert_ok(plan_bytes(&b, &job, card));
        assert_int_equal((double)plan_total(&b) <= memory, more == 0);
    }
}

static void test_users_that_fit(void **state) {
    (void)state;
    int32_t users[3];
    for (int i = 0; i < 3; i++) {
        PlanServe s = {.model = demo_config(),
                       .context = (PlanContext)i,
                       .rows = i == PLAN_ROWS ? 16 : 2000,
                       .copies = 1,
                       .turn = 200};
        expect_last(&s, 300e6, NULL);
        expect_last(&s, 300e6, &plan_cards[0]);
        assert_ok(plan_users(&users[i], &s, 300e6, NULL));
        assert_ok(plan_users(&users[i], &s, 300e6, NULL));
        s.rows = s.model.context_max - s.turn + 1;
        int32_t none;
        assert_ok(plan_users(&none, &s, 300e6, NULL));
        assert_int_equal(none, 0);
    }
    assert_true(users[PLAN_FULL] < users[PLAN_SHARED] && users[PLAN_SHARED] < users[PLAN_ROWS]);
}

/* ---- time ---- */

static void test_seconds_by_hand(void **state) {
    (void)state;
    ModelConfig c = {
        .layers = 2, .width = 10, .ffn = 20, .heads = 2, .kv_heads = 1, .head_dim = 5, .vocab = 100};
    Rates r = {.wide = 1000, .narrow = 100, .bandwidth = 1e9};
    double weights = 2 * (2 * 10 * 10 + 2 * 10 * 5 + 3 * 10 * 20), head = 100 * 10; /* 1800, 1000 */
    Passes p = {.count = 3, .rows = 70};
    assert_within(passes_seconds(&c, &r, &p), 3 * 2 * 70 * weights / 1000, 1e-6);
    p.rows = 7;
    assert_within(passes_seconds(&c, &r, &p), 3 * 2 * 7 * weights / 100, 1e-6);
    p.logits = 2;
    assert_within(passes_seconds(&c, &r, &p), 3 * 2 * (7 * weights + 2 * head) / 100, 1e-6);
    p.keys = 11;
    double attn = 7 * 11 * 4 * 10 * 2;
    assert_within(passes_seconds(&c, &r, &p), 3 * (2 * (7 * weights + 2 * head) + attn) / 100, 1e-6);
    p.back = true;
    assert_within(passes_seconds(&c, &r, &p), 3 * (4 * (7 * weights + 2 * head) + 3.5 * attn) / 100, 1e-6);
    r.bandwidth = 10; /* now reading is what takes long */
    p.kv_bytes = 123;
    assert_within(passes_seconds(&c, &r, &p), 3 * (2 * 2 * (weights + head) + 123) / 10, 1e-6);
}

static void test_more_work_takes_longer(void **state) {
    (void)state;
    ModelConfig c = demo_config();
    Rates r = rates_of_card(&plan_cards[0]);
    StudyOptions study = study_defaults();
    TrainerOptions train = trainer_defaults();
    TrainWork w = {&c, &study, &train, 16, 400, 0.5, 1};
    TrainTime once = train_seconds(&r, &w);
    assert_true(once.study > 0 && once.train > 0);
    w.conversations = 800;
    TrainTime twice = train_seconds(&r, &w);
    assert_within(twice.study, 2 * once.study, 1e-9);
    assert_true(twice.train > 1.8 * once.train);
    w.study = NULL;
    assert_true(train_seconds(&r, &w).study == 0);
    train.steps = 1;
    assert_true(train_seconds(&r, &w).train < twice.train);
}

static void test_rates_of_this_cpu(void **state) {
    (void)state;
    ModelConfig c = demo_config();
    Rates r;
    assert_ok(rates_of_cpu(&r, &c));
    assert_true(r.wide > 1e6 && r.wide < 1e14 && r.narrow > 1e6 && r.narrow < 1e14);
    assert_true(r.bandwidth > 1e7 && r.bandwidth < 1e13);
}

/* ---- the command ---- */

static void test_sizes(void **state) {
    (void)state;
    double v;
    assert_ok(plan_size(&v, "memory", "24G"));
    assert_true(v == 24e9);
    assert_ok(plan_size(&v, "memory", "1.5Gi"));
    assert_true(v == 1.5 * (1 << 30));
    assert_ok(plan_size(&v, "memory", "77"));
    assert_true(v == 77);
    static const char *const wrong[] = {"", "G", "24X", "-1G", "0", "1 G", "nan"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_fails(ST_ARG, plan_size(&v, "memory", wrong[i]));
}

/* Where plan and train have the same option, it has the same default: a plan of nothing but defaults is that
 * run's. */
static void test_defaults_are_those_of_train(void **state) {
    (void)state;
    CommandOptions plan, train;
    int same = 0;
    assert_ok(command_options_open(&plan, &cmd_plan));
    assert_ok(command_options_open(&train, &cmd_train));
    for (int32_t i = 0; i < plan.set.n; i++) {
        const Option *p = plan.set.slot[i].row;
        OptionSlot *t = options_find(&train.set, p->name, strlen(p->name));
        if (!t || !p->fallback) continue;
        assert_string_equal(p->fallback, t->row->fallback);
        same++;
    }
    assert_true(same > 15);
    command_options_close(&plan);
    command_options_close(&train);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_of_a_session),
        cmocka_unit_test(test_bytes_of_training),
        cmocka_unit_test(test_printed_bytes_are_those_of_train),
        cmocka_unit_test(test_what_does_not_fit_leaves_with_4),
        cmocka_unit_test(test_users_that_fit),
        cmocka_unit_test(test_seconds_by_hand),
        cmocka_unit_test(test_more_work_takes_longer),
        cmocka_unit_test(test_rates_of_this_cpu),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_defaults_are_those_of_train),
    };
    return cmocka_run_group_tests_name("plan", tests, set_up, scratch_tear_down);
}
