/* test_evaluate.c -- scores of the demo's model, checked against facts that it is known to look up in its
 * context: behind the facts it answers, without them it cannot; and the comparison of two scores. */
#include "tests/test.h"

#include "engine/learn/evaluate.h"
#include "tests/demo_model.h"
#include "tests/scratch.h"

static const char facts[] = "Ada drinks tea. Ben speaks Greek. Ada plays oboe. Ben drinks cocoa.";

static const char quiz[] =
    "{\"question\":\"Ada drinks?\",\"answer\":\"Ada drinks tea.\",\"contains\":[\"TEA\"]}\n"
    "{\"question\":\"Ben speaks?\",\"answer\":\"Ben speaks Greek.\",\"choices\":[\"Ben speaks Dutch.\",\"Ben "
    "speaks Greek.\"]}\n"
    "{\"question\":\"Ada plays?\",\"answer\":\"Ada plays oboe.\"}\n"
    "{\"question\":\"Ben drinks?\",\"answer\":\"Ada drinks tea.\",\"choices\":[\"Ada drinks tea.\",\"Ben "
    "drinks cocoa.\"]}\n";

static Prefix *of_facts; /* what they are to the model */

static int set_up(void **state) {
    static Demo w;
    scratch_open();
    SchedulerLimits limits = {.rows = 16, .seqs = 3, .queue = 2, .topk = 4, .prefixes = 2};
    demo_open(&w, &ops_ref, 12, &limits);
    of_facts = demo_capture(&w, facts);
    scratch_put_text("quiz.jsonl", quiz);
    *state = &w;
    return 0;
}

static int tear_down(void **state) {
    prefix_drop(of_facts);
    demo_close(*state);
    scratch_close();
    return 0;
}

static void score(Demo *w, const Prefix *p, bool generate, Scores *out) {
    QuestionSet set;
    const Prefix *list[1] = {p};
    EvaluateOptions o = {.answer_max = 8, .generate = generate};
    assert_ok(questions_load(&set, scratch_path("quiz.jsonl")));
    assert_ok(evaluate(w->s, w->m, w->chat, list, p != NULL, &set, &o, NULL, out));
    questions_close(&set);
    pool_check(w->pool);
}

static void test_scores_behind_the_facts(void **state) {
    Demo *w = *state;
    Scores s;
    score(w, of_facts, true, &s);
    assert_int_equal(s.n, 4);
    for (int i = 0; i < 4; i++) {
        bool right = i != 3; /* the last gold answer is wrong on purpose */
        assert_int_equal(s.q[i].contains, right);
        assert_int_equal(s.q[i].exact, right);
        assert_int_equal(s.q[i].tokens, 5);
        assert_true(right ? s.q[i].nll < 1 : s.q[i].nll > 3);
    }
    assert_true(s.q[1].choice && s.q[1].has_choice);
    assert_false(s.q[3].choice);
    assert_float_equal(s.contains, 0.75, 1e-9);
    assert_float_equal(s.choice, 0.5, 1e-9);
    assert_float_equal(s.nll, (s.q[0].nll + s.q[1].nll + s.q[2].nll + s.q[3].nll) / 20, 1e-9);
    scores_close(&s);
}

static void test_scores_without_the_facts(void **state) {
    Demo *w = *state;
    Scores with, without;
    score(w, of_facts, false, &with);
    score(w, NULL, true, &without);
    assert_true(isnan(with.contains) && with.q[0].answer == NULL);
    assert_float_equal(without.contains, 0, 1e-9);
    for (int i = 0; i < 3; i++) assert_true(without.q[i].nll > with.q[i].nll + 2);
    scores_close(&with);
    scores_close(&without);
}

/* Pieces, batches and company must not matter: each answer scored row by row in a batch of its own. */
static void test_nll_equals_a_plain_loop(void **state) {
    Demo *w = *state;
    Scores s;
    score(w, of_facts, false, &s);
    const char *question = "Ben drinks?", *answer = "Ada drinks tea.";
    TokenVec v = {0};
    Sequence q;
    const Prefix *list[1] = {of_facts};
    assert_ok(chat_messages(w->chat, &(Message){ROLE_USER, bytes_of(question)}, 1, true, &v));
    int32_t prompt = v.n;
    assert_ok(chat_content(w->chat, bytes_of(answer), &v));
    assert_ok(tokens_push(&v, chat_end(w->chat)));
    assert_ok(sequence_open(&q, v.n, prefix_start(list, 1)));
    assert_ok(sequence_reserve(&q, w->pool, v.n));
    double nll = 0;
    for (int32_t i = 0; i + 1 < v.n; i++) {
        const float *logits = demo_next(w, of_facts, &q, v.v[i]);
        if (i + 1 >= prompt) nll -= demo_logprob(w, logits, v.v[i + 1]);
    }
    assert_float_equal(s.q[3].nll, nll, 1e-3);
    sequence_close(&q, w->pool);
    tokens_close(&v);
    scores_close(&s);
}

static void test_stopping_leaves_nothing_behind(void **state) {
    Demo *w = *state;
    int32_t before = pool_free(w->pool), active;
    QuestionSet set;
    EvaluateOptions o = {.answer_max = 8, .generate = true};
    assert_ok(questions_load(&set, scratch_path("quiz.jsonl")));
    for (int polls = 0; polls < 8; polls++) {
        int left = polls;
        Watch watch = {.stop = stop_later, .user = &left};
        Scores s;
        const Prefix *list[1] = {of_facts};
        assert_fails(ST_STOPPED, evaluate(w->s, w->m, w->chat, list, 1, &set, &o, &watch, &s));
        assert_ok(scheduler_step(w->s, &active));
        assert_int_equal(active, 0);
        assert_int_equal(pool_free(w->pool), before);
    }
    questions_close(&set);
}

/* ---- comparing two scores ---- */

static void test_paired_bootstrap(void **state) {
    (void)state;
    enum { N = 40 };
    Score a[N] = {0}, b[N] = {0};
    Scores sa = {.q = a, .n = N}, sb = {.q = b, .n = N};
    double mean = 0, square = 0;
    for (int i = 0; i < N; i++) {
        a[i].nll = 100 + 7 * i;
        b[i].nll = a[i].nll - 1 -
                   0.1 * (i % 5); /* large differences between questions, small ones between prefixes */
        mean += (a[i].nll - b[i].nll) / N;
        square += (a[i].nll - b[i].nll) * (a[i].nll - b[i].nll) / N;
    }
    double half = 1.96 * sqrt((square - mean * mean) / N);
    Interval r = scores_compare(&sa, &sb, 3);
    assert_float_equal(r.mean, mean, 1e-9);
    assert_float_equal(r.low, mean - half, 0.2 * half);
    assert_float_equal(r.high, mean + half, 0.2 * half);
    Interval again = scores_compare(&sa, &sb, 3), other = scores_compare(&sb, &sa, 3);
    assert_true(r.low == again.low && r.high == again.high);
    assert_true(other.high < 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores_behind_the_facts), cmocka_unit_test(test_scores_without_the_facts),
        cmocka_unit_test(test_nll_equals_a_plain_loop), cmocka_unit_test(test_stopping_leaves_nothing_behind),
        cmocka_unit_test(test_paired_bootstrap),
    };
    return cmocka_run_group_tests_name("evaluate", tests, set_up, tear_down);
}
