/* test_study.c -- self-study with the demo's model: what the dataset holds is what the teacher thinks,
 * checked against a plain pass over chunk and conversation; the same settings give the same rows however
 * often the study was stopped; and what is dropped is dropped for the reason given. */
#include "tests/test.h"

#include "engine/learn/study.h"
#include "tests/demo_model.h"
#include "tests/scratch.h"

/* ---- what the model knows ---- */

enum { FACTS = 24 };
static const char *const names[] = {"Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana"};
static char text[1024];
static const char *asks[8];
static Corpus *corpus;
static char ask_text[8][32];

static void write_facts(void) {
    static const char *const fact[] = {"drinks tea", "plays oboe", "speaks Greek"};
    for (int i = 0; i < FACTS; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s %s.", i ? " " : "", names[i / 3],
                 fact[i % 3]);
    for (int i = 0; i < 8; i++) {
        snprintf(ask_text[i], sizeof ask_text[i], "%s what?", names[i]);
        asks[i] = ask_text[i];
    }
}

static int set_up(void **state) {
    static Demo w;
    write_facts();
    scratch_open();
    SchedulerLimits limits = {.rows = 32, .seqs = 4, .queue = 6, .topk = 20, .prefixes = 2};
    demo_open(&w, &ops_cpu, 40, &limits);
    assert_ok(corpus_of_text(&corpus, bytes_of(text), "facts"));
    *state = &w;
    return 0;
}

static int tear_down(void **state) {
    corpus_close(corpus);
    demo_close(*state);
    scratch_close();
    return 0;
}

static StudyOptions options(void) {
    StudyOptions o = study_defaults();
    o.conversations = 24;
    o.per_chunk = 4;
    o.instruction = "";
    o.chunk = (ChunkRule){CHUNK_TOKENS, 90, 4096};
    memset(o.weight, 0, sizeof o.weight);
    o.weight[SEED_ASK] = 1;
    o.ask = asks;
    o.asks = 8;
    o.question_max = 6;
    o.answer_max = 8;
    o.question_temperature = 1;
    o.duplicate_overlap = 2;
    o.seed = 7;
    return o;
}

static Dataset *open_data(Demo *w, const char *name, const StudyOptions *o, bool resume) {
    char file[64], *settings, tokenizer[65];
    Dataset *d;
    snprintf(file, sizeof file, "%s.study", name);
    digest_hex(tokenizer_digest(w->t), tokenizer);
    assert_ok(study_settings(o, &settings));
    DatasetInfo info = {.model = w->m->fingerprint,
                        .tokenizer = tokenizer,
                        .template_family = chat_family(w->chat),
                        .corpus = "facts",
                        .corpus_tokens = 100,
                        .settings = settings};
    assert_ok(dataset_create(&d, scratch_path(file), &info, resume));
    free(settings);
    return d;
}

static Status study(Demo *w, const StudyOptions *o, Dataset *d, const Watch *watch, StudySums *sums) {
    Status st = study_run(w->s, w->chat, w->m, corpus, o, d, watch, sums);
    int32_t active;
    assert_ok(scheduler_step(w->s, &active));
    assert_int_equal(active, 0);
    pool_check(w->pool);
    assert_int_equal(pool_free(w->pool), pool_pages(w->pool));
    return st;
}

/* ---- what the rows say ---- */

static void check_target(Demo *w, const Conversation *c, int32_t j, const float *x) {
    int32_t V = w->m->cfg.vocab, best = 0;
    double mass = 0;
    for (int32_t v = 1; v < V; v++)
        if (x[v] > x[best]) best = v;
    assert_int_equal(c->token[c->at[j]], best); /* answers are greedy */
    assert_int_equal(c->id[c->first[j]], best);
    for (int32_t k = c->first[j]; k < c->first[j + 1]; k++) {
        assert_true(mass < 0.99); /* the fewest */
        assert_float_equal(c->logprob[k], demo_logprob(w, x, c->id[k]), 2e-3);
        mass += exp((double)c->logprob[k]);
    }
    assert_true(mass >= 0.99 || c->first[j + 1] - c->first[j] == 20);
}

/* The chunk (all facts) in a system turn, then the conversation token by token: every target is what comes
 * there. */
static void check_conversation(Demo *w, const Conversation *c) {
    Prefix *p = demo_capture(w, text);
    const Prefix *list[1] = {p};
    Sequence q;
    assert_ok(sequence_open(&q, c->n, prefix_start(list, 1)));
    assert_ok(sequence_reserve(&q, w->pool, c->n));
    int32_t j = 0;
    for (int32_t i = 0; i + 1 < c->n; i++) {
        const float *logits = demo_next(w, p, &q, c->token[i]);
        if (j < c->targets && c->at[j] == i + 1) check_target(w, c, j++, logits);
    }
    assert_int_equal(j, c->targets);
    assert_int_equal(c->at[j - 1], c->n - 1); /* ends with the last supervised token */
    sequence_close(&q, w->pool);
    prefix_drop(p);
}

static void test_rows_are_what_the_teacher_thinks(void **state) {
    Demo *w = *state;
    StudyOptions o = options();
    StudySums sums;
    Dataset *d = open_data(w, "rows", &o, false);
    assert_ok(study(w, &o, d, NULL, &sums));
    assert_true(sums.kept >= o.conversations && sums.kept < o.conversations + o.per_chunk);
    assert_int_equal(sums.kept, dataset_count(d));
    int32_t good = 0;
    for (int64_t i = 0; i < sums.kept; i++) {
        Conversation c;
        assert_ok(dataset_get(d, i, &c));
        if (i < 6) check_conversation(w, &c);
        assert_int_equal(c.token[c.n - 1], chat_end(w->chat));
        assert_string_equal(c.kind, "ask");
        char sentence[200]; /* "Ada drinks?" -> "Ada drinks tea." is in the text */
        snprintf(sentence, sizeof sentence, "%.*s", (int)strcspn(c.question, "?"), c.question);
        good += strstr(text, c.answer) && !strncmp(c.answer, sentence, strlen(sentence));
    }
    assert_true(good >= 0.8 * (double)sums.kept);
    dataset_close(d);
}

/* The conversation shows the user turn, the assistant turn, and nothing of chunk or seed. */
static void test_rows_hold_only_the_conversation(void **state) {
    Demo *w = *state;
    StudyOptions o = options();
    o.conversations = 4;
    Dataset *d = open_data(w, "layout", &o, false);
    assert_ok(study(w, &o, d, NULL, NULL));
    Conversation c;
    TokenVec want = {0};
    assert_ok(dataset_get(d, 0, &c));
    Message m[2] = {{ROLE_USER, bytes_of(c.question)}, {ROLE_ASSISTANT, bytes_of(c.answer)}};
    assert_ok(chat_messages(w->chat, m, 2, false, &want));
    assert_true(want.n >= c.n);
    assert_memory_equal(want.v, c.token, (size_t)c.n * sizeof(int32_t));
    tokens_close(&want);
    dataset_close(d);
}

static void test_several_rounds(void **state) {
    Demo *w = *state;
    StudyOptions o = options();
    o.conversations = 8;
    o.rounds = 3;
    Dataset *d = open_data(w, "rounds", &o, false);
    assert_ok(study(w, &o, d, NULL, NULL));
    int32_t longest = 0;
    for (int64_t i = 0; i < dataset_count(d); i++) {
        Conversation c;
        int32_t ends = 0, supervised_ends = 0;
        assert_ok(dataset_get(d, i, &c));
        if (i < 3) check_conversation(w, &c);
        for (int32_t k = 0; k < c.n; k++) ends += c.token[k] == chat_end(w->chat);
        for (int32_t j = 0; j < c.targets; j++) supervised_ends += c.token[c.at[j]] == chat_end(w->chat);
        assert_int_equal(ends, 2 * supervised_ends); /* one user and one assistant turn a round */
        if (supervised_ends > longest) longest = supervised_ends;
    }
    assert_int_equal(longest, 3);
    dataset_close(d);
}

/* ---- stopping ---- */

static void assert_same_rows(Dataset *a, Dataset *b) {
    assert_int_equal(dataset_count(a), dataset_count(b));
    assert_int_equal(dataset_next(a), dataset_next(b));
    for (int64_t i = 0; i < dataset_count(a); i++) {
        Conversation x, y;
        assert_ok(dataset_get(a, i, &x));
        assert_ok(dataset_get(b, i, &y));
        assert_int_equal(x.number, y.number);
        assert_int_equal(x.n, y.n);
        assert_int_equal(x.targets, y.targets);
        assert_memory_equal(x.token, y.token, (size_t)x.n * sizeof *x.token);
        assert_memory_equal(x.first, y.first, ((size_t)x.targets + 1) * sizeof *x.first);
        assert_memory_equal(x.id, y.id, (size_t)x.first[x.targets] * sizeof *x.id);
        assert_memory_equal(x.logprob, y.logprob, (size_t)x.first[x.targets] * sizeof *x.logprob);
    }
}

static void test_stopped_and_resumed_equals_never_stopped(void **state) {
    Demo *w = *state;
    StudyOptions o = options();
    o.duplicate_overlap = 1; /* the list of asked questions must be found again */
    o.conversations = 12;
    Dataset *whole = open_data(w, "whole", &o, false), *parts = open_data(w, "parts", &o, false);
    assert_ok(study(w, &o, whole, NULL, NULL));
    int64_t waves = 0;
    for (int polls = 8, left = 8;; left = polls += 9) {
        int64_t before = dataset_next(parts);
        Watch watch = {.stop = stop_later, .user = &left};
        Status st = study(w, &o, parts, &watch, NULL);
        waves += dataset_next(parts) > before;
        dataset_close(parts);
        parts = open_data(w, "parts", &o, true);
        if (!st) break;
        assert_int_equal(st, ST_STOPPED);
        assert_true(polls < 1000);
    }
    assert_true(waves >= 2); /* else nothing was resumed */
    assert_same_rows(whole, parts);
    dataset_close(whole);
    dataset_close(parts);
}

static void test_a_study_can_be_extended(void **state) {
    Demo *w = *state;
    StudyOptions o = options();
    StudySums sums;
    o.conversations = 4;
    Dataset *d = open_data(w, "extended", &o, false);
    assert_ok(study(w, &o, d, NULL, NULL));
    int64_t before = dataset_count(d);
    assert_ok(study(w, &o, d, NULL, &sums)); /* nothing left to do */
    assert_int_equal(sums.kept, before);
    o.conversations = 9;
    assert_ok(study(w, &o, d, NULL, &sums));
    assert_true(sums.kept >= 9);
    Conversation c;
    for (int64_t i = 0; i < sums.kept; i++) {
        assert_ok(dataset_get(d, i, &c));
        assert_true(c.number >= i);
    }
    dataset_close(d);
}

/* ---- dropping ---- */

typedef struct Count {
    const char *reason;
    int64_t n;
} Count;

static void count_reason(void *user, const char *reason, int64_t n) {
    Count *c = user;
    if (!strcmp(c->reason, reason)) c->n += n;
}

static int64_t drops(Dataset *d, const char *reason) {
    Count c = {reason, 0};
    assert_ok(dataset_drops(d, count_reason, &c));
    return c.n;
}

/* Three facts about Ada allow some three questions: with repeats dropped, a study of ten runs out of them,
 * says so and keeps what it has. */
static void test_repeats_are_dropped_until_tries_run_out(void **state) {
    Demo *w = *state;
    StudyOptions o = options();
    StudySums sums;
    o.conversations = 10;
    o.asks = 1;
    o.duplicate_overlap = 1;
    Dataset *d = open_data(w, "repeats", &o, false);
    assert_fails(ST_ARG, study(w, &o, d, NULL, &sums));
    assert_says("asked before");
    assert_int_equal(sums.tried, 40);
    assert_int_equal(drops(d, "asked before") + drops(d, "question unrelated to the chunk") + sums.kept +
                         drops(d, "answer too long") + drops(d, "question too short"),
                     40);
    assert_true(sums.kept >= 2);
    for (int64_t i = 0; i < sums.kept; i++) {
        Conversation a;
        assert_ok(dataset_get(d, i, &a));
        char *mine = strdup(a.question);
        for (int64_t k = 0; k < i; k++) {
            assert_ok(dataset_get(d, k, &a));
            assert_string_not_equal(a.question, mine);
        }
        free(mine);
    }
    dataset_close(d);
}

static void test_long_and_unlikely_answers(void **state) {
    Demo *w = *state;
    StudyOptions o = options();
    o.conversations = 4;
    o.answer_max = 2; /* answers have five tokens */
    Dataset *d = open_data(w, "long", &o, false);
    assert_fails(ST_ARG, study(w, &o, d, NULL, NULL));
    assert_int_equal(dataset_count(d), 0);
    assert_true(drops(d, "answer too long") >= 12);
    dataset_close(d);
    o.keep_cut = true;
    d = open_data(w, "cut", &o, false);
    assert_ok(study(w, &o, d, NULL, NULL));
    Conversation c;
    assert_ok(dataset_get(d, 0, &c));
    assert_int_equal(c.targets, 2);
    assert_int_not_equal(c.token[c.n - 1], chat_end(w->chat));
    check_conversation(w, &c);
    dataset_close(d);
    o = options();
    o.conversations = 4;
    o.answer_floor = 0.1f; /* no probability is above one */
    d = open_data(w, "unlikely", &o, false);
    assert_fails(ST_ARG, study(w, &o, d, NULL, NULL));
    assert_true(drops(d, "answer unlikely") >= 12);
    dataset_close(d);
}

/* Two questions fit the facts, one shares no content word with them. */
static void test_questions_from_a_file(void **state) {
    Demo *w = *state;
    StudyOptions o = options();
    StudySums sums;
    scratch_put_text("asked.jsonl", "{\"question\":\"Ada drinks?\"}\n{\"question\":\"Zoe studies?\"}\n"
                                    "{\"question\":\"Hana speaks?\"}\n");
    o.questions_path = scratch_path("asked.jsonl");
    o.conversations = 3;
    o.duplicate_overlap = 1;
    Dataset *d = open_data(w, "file", &o, false);
    assert_ok(study(w, &o, d, NULL, &sums));
    assert_int_equal(sums.kept, 2);
    assert_true(drops(d, "no question in the file fits the chunk") > 0);
    Conversation c;
    assert_ok(dataset_get(d, 0, &c));
    assert_string_equal(c.kind, "file");
    check_conversation(w, &c);
    bool hana = !strcmp(c.question, "Hana speaks?");
    assert_string_equal(c.answer, hana ? "Hana speaks Greek." : "Ada drinks tea.");
    dataset_close(d);
    o.questions_path = "/nowhere.jsonl";
    d = open_data(w, "nofile", &o, false);
    assert_fails(ST_NOTFOUND, study(w, &o, d, NULL, NULL));
    dataset_close(d);
}

/* Questions that must end in a question mark, from a model that knows no such request: forced first words are
 * kept as the question's own. */
static void test_forced_openings(void **state) {
    Demo *w = *state;
    StudyOptions o = options();
    o.conversations = 1;
    memset(o.weight, 0, sizeof o.weight);
    o.weight[SEED_FOCUS] = 1;
    o.force_openings = true;
    o.drop_unrelated = false;
    o.question_temperature = 0.8f;
    Dataset *d = open_data(w, "forced", &o, false);
    Status st = study(w, &o, d, NULL, NULL);
    assert_true(st == ST_OK || st == ST_ARG);
    Conversation c;
    for (int64_t i = 0; i < dataset_count(d); i++) {
        assert_ok(dataset_get(d, i, &c));
        assert_true(c.question[strlen(c.question) - 1] == '?');
        assert_true(strchr("WH", c.question[0]) || !strncmp(c.question, "In", 2));
    }
    dataset_close(d);
}

static void test_bad_options(void **state) {
    Demo *w = *state;
    StudyOptions o = options();
    Dataset *d = open_data(w, "bad", &o, false);
    o.weight[SEED_ASK] = 0;
    assert_fails(ST_ARG, study(w, &o, d, NULL, NULL));
    o = options();
    o.asks = 0;
    assert_fails(ST_ARG, study(w, &o, d, NULL, NULL));
    o = options();
    o.topk = 21;
    assert_fails(ST_ARG, study(w, &o, d, NULL, NULL));
    o = options();
    o.chunk.low = 100000;
    assert_fails(ST_ARG, study(w, &o, d, NULL, NULL));
    assert_int_equal(dataset_count(d), 0);
    dataset_close(d);
}

/* A pool for one chunk at a time still works, one for none says what is short. */
static void test_small_pools(void **state) {
    Demo *w = *state;
    StudyOptions o = options();
    o.conversations = 4;
    for (int32_t pages = 1; pages <= 4; pages++) {
        Demo small = *w;
        SchedulerLimits l = scheduler_limits(w->s);
        char name[24];
        snprintf(name, sizeof name, "small%d", pages);
        assert_ok(pool_open(&small.pool, &w->m->cfg, &ops_cpu, DT_F32, pages));
        assert_ok(scheduler_open(&small.s, w->m, small.pool, &l));
        Dataset *d = open_data(w, name, &o, false);
        if (pages < 3)
            assert_int_not_equal(study(&small, &o, d, NULL, NULL), ST_OK);
        else
            assert_ok(study(&small, &o, d, NULL, NULL));
        dataset_close(d);
        scheduler_close(small.s);
        pool_close(small.pool);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_what_the_teacher_thinks),
        cmocka_unit_test(test_rows_hold_only_the_conversation),
        cmocka_unit_test(test_several_rounds),
        cmocka_unit_test(test_stopped_and_resumed_equals_never_stopped),
        cmocka_unit_test(test_a_study_can_be_extended),
        cmocka_unit_test(test_repeats_are_dropped_until_tries_run_out),
        cmocka_unit_test(test_long_and_unlikely_answers),
        cmocka_unit_test(test_questions_from_a_file),
        cmocka_unit_test(test_forced_openings),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_small_pools),
    };
    return cmocka_run_group_tests_name("study", tests, set_up, tear_down);
}
