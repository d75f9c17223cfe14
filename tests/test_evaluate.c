/* Evaluation: question files, the comparison of texts, and scores of the demo model checked against facts
 * that it is known to look up in its context: behind the facts it answers, without them it cannot. */
#include "tests/test.h"

#include "engine/learn/evaluate.h"
#include "engine/learn/init.h"
#include "engine/learn/words.h"
#include "tests/demo_model.h"
#include "tests/scratch.h"

/* ---- words ---- */

static void assert_words(const char *text, const char *want) {
    char *words;
    assert_ok(words_of(&words, bytes_of(text)));
    assert_string_equal(words, want);
    free(words);
}

static void test_words(void **state) {
    (void)state;
    assert_words("Who's there?", " who s there ");
    assert_words("  The \"Grey\tGannet\"...", " the grey gannet ");
    assert_words("", " ");
    assert_words("?!", " ");
    assert_words("2,340 people, 12, 5", " 2340 people 12 5 ");
    assert_words("Stra\xc3\x9f"
                 "e \xc3\x89T\xc3\x89",
                 " strasse \xc3\xa9t\xc3\xa9 ");
    char *words;
    assert_fails(ST_FORMAT, words_of(&words, bytes_of("\xff")));
}

static void test_words_are_found_whole(void **state) {
    (void)state;
    assert_true(words_contain(" it is 41 metres tall ", " 41 metres "));
    assert_false(words_contain(" it is 412 metres tall ", " 41 "));
    assert_false(words_contain(" it is ", " "));
    assert_int_equal(words_count(" it is 41 "), 3);
    assert_int_equal(words_count(" "), 0);
    static const char *const content[] = {"ferry",  "1683",   "7",   "abouts",
                                          "aboard", "your's", "ada", "teller"};
    static const char *const everyday[] = {"about",    "your",    "the",     "of",   "who",
                                           "describe", "passage", "summary", "tell", "x"};
    for (size_t i = 0; i < sizeof content / sizeof *content; i++)
        assert_true(word_is_content(bytes_of(content[i])));
    for (size_t i = 0; i < sizeof everyday / sizeof *everyday; i++)
        assert_false(word_is_content(bytes_of(everyday[i])));
}

static void assert_invents(const char *text, bool want) {
    bool yes;
    assert_ok(words_invent(bytes_of(text), " the ferry grey gannet carries 86 passengers for 2340 people ",
                           " who is ingrid ", &yes));
    if (yes != want) fail_msg("\"%s\": %d", text, yes);
}

static void test_invented_names_and_numbers(void **state) {
    (void)state;
    assert_invents("The ferry is the Grey Gannet.", false);
    assert_invents("The ferry is the Black Swan.", true);
    assert_invents("Ferries sail. Boats float! \"Ships sink.\"",
                   false); /* capitals only because sentences begin */
    assert_invents("It is Ingrid's.", false);
    assert_invents("It carries 86 and 2,340.", false);
    assert_invents("It carries 87.", true);
    assert_invents("14 cars.", true);
    assert_invents("I think, so I am.", false);
    assert_invents("It is \xc3\x89mile.", true);
    assert_invents("", false);
}

/* ---- question files ---- */

static const char *write_file(const char *text) {
    scratch_put_text("set.jsonl", text);
    return scratch_path("set.jsonl");
}

static void test_question_files(void **state) {
    (void)state;
    QuestionSet s;
    assert_ok(questions_load(&s, write_file("{\"question\":\"a?\",\"answer\":\"b\"}\n\n"
                                            "{\"question\":\"c?\",\"answer\":\"d\",\"choices\":[\"d\",\"e\"],"
                                            "\"contains\":[\"d\"],\"x\":1}")));
    assert_int_equal(s.n, 2);
    assert_string_equal(s.q[1].choices[1], "e");
    assert_int_equal(s.q[1].n_contains, 1);
    questions_close(&s);
    assert_fails(
        ST_FORMAT,
        questions_load(&s, write_file("{\"question\":\"a?\",\"answer\":\"b\"}\n{\"question\":\"a?\"}\n")));
    assert_says("line 2");
    assert_says("answer");
    assert_fails(ST_FORMAT,
                 questions_load(&s, write_file("{\"question\":\"a?\",\"answer\":\"b\",\"choices\":[1]}")));
    assert_says("choices");
    assert_fails(ST_FORMAT, questions_load(&s, write_file("{\"question\":")));
    assert_says("line 1");
    assert_fails(ST_FORMAT, questions_load(&s, write_file("[1]\n")));
    assert_fails(ST_FORMAT, questions_load(&s, write_file("\n \n")));
    assert_fails(ST_FORMAT, questions_load(&s, write_file("{\"question\":\"\xff\",\"answer\":\"b\"}")));
    assert_says("UTF-8");
    assert_fails(ST_NOTFOUND, questions_load(&s, "/nowhere/set.jsonl"));
    assert_ok(questions_read(&s, write_file("{\"question\":\"a?\"}"), false));
    assert_null(s.q[0].answer);
    questions_close(&s);
}

static void test_the_harbour_set_is_readable(void **state) {
    (void)state;
    QuestionSet s;
    assert_ok(questions_load(&s, CARTRIDGE_SOURCE_DIR "/tools/demo/harbour.questions.jsonl"));
    assert_int_equal(s.n, 40);
    for (int32_t i = 0; i < s.n; i++) /* a gold answer must pass its own test */
        for (int32_t k = 0; k < s.q[i].n_contains; k++) {
            char *words, *part;
            assert_ok(words_of(&words, bytes_of(s.q[i].answer)));
            assert_ok(words_of(&part, bytes_of(s.q[i].contains[k])));
            if (!words_contain(words, part)) fail_msg("question %d: \"%s\" lacks \"%s\"", i, words, part);
            free(words);
            free(part);
        }
    questions_close(&s);
}

static bool skip_second(void *user, int32_t i) {
    (void)user;
    return i == 1;
}

static void test_questions_find_their_text(void **state) {
    (void)state;
    QuestionSet s;
    QuestionRanks *r;
    int32_t best[4], found;
    assert_ok(questions_read(&s,
                             write_file("{\"question\":\"Who steers the ferry of Skarrow?\"}\n"
                                        "{\"question\":\"Who keeps the lighthouse of Skarrow?\"}\n"
                                        "{\"question\":\"Where is Skarrow?\"}\n"
                                        "{\"question\":\"What is this?\"}\n"),
                             false));
    assert_ok(question_ranks_open(&r, &s));
    assert_ok(question_ranks_best(r, " the lighthouse of skarrow ", NULL, NULL, 4, best, &found));
    assert_int_equal(found, 3); /* the last one shares no content word */
    assert_int_equal(best[0], 1);
    assert_int_equal(best[1], 0); /* ties by order */
    assert_ok(question_ranks_best(r, " the lighthouse of skarrow ", skip_second, NULL, 1, best, &found));
    assert_int_equal(found, 1);
    assert_int_equal(best[0], 0);
    question_ranks_close(r);
    questions_close(&s);
}

/* ---- scores ---- */

static const char facts[] = "Ada drinks tea. Ben speaks Greek. Ada plays oboe. Ben drinks cocoa.";

static Prefix *of_facts; /* what they are to the model */

static int set_up(void **state) {
    static Demo w;
    scratch_open();
    SchedulerLimits limits = {.rows = 16, .seqs = 3, .queue = 2, .topk = 4, .prefixes = 2};
    demo_open(&w, &ops_ref, 12, &limits);
    of_facts = demo_capture(&w, facts);
    *state = &w;
    return 0;
}

static int tear_down(void **state) {
    prefix_drop(of_facts);
    demo_close(*state);
    scratch_close();
    return 0;
}

static const char quiz[] =
    "{\"question\":\"Ada drinks?\",\"answer\":\"Ada drinks tea.\",\"contains\":[\"TEA\"]}\n"
    "{\"question\":\"Ben speaks?\",\"answer\":\"Ben speaks Greek.\",\"choices\":[\"Ben speaks Dutch.\",\"Ben "
    "speaks Greek.\"]}\n"
    "{\"question\":\"Ada plays?\",\"answer\":\"Ada plays oboe.\"}\n"
    "{\"question\":\"Ben drinks?\",\"answer\":\"Ada drinks tea.\",\"choices\":[\"Ada drinks tea.\",\"Ben "
    "drinks cocoa.\"]}\n";

static void score(Demo *w, const Prefix *p, bool generate, Scores *out) {
    QuestionSet set;
    const Prefix *list[1] = {p};
    EvaluateOptions o = {.answer_max = 8, .generate = generate};
    assert_ok(questions_load(&set, write_file(quiz)));
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
    assert_ok(questions_load(&set, write_file(quiz)));
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

/* ---- starts ---- */

static void rows_of(Demo *w, const Prefix *p, int32_t layer, float *out) {
    CaptureTools t;
    scheduler_capture_tools(w->s, &t);
    int64_t n = (int64_t)w->m->cfg.kv_heads * prefix_visible(p) * w->m->cfg.head_dim;
    Tensor key = tensor_of(out, DT_F32, w->m->cfg.kv_heads, prefix_visible(p), w->m->cfg.head_dim);
    Tensor value = tensor_of(out + n, DT_F32, w->m->cfg.kv_heads, prefix_visible(p), w->m->cfg.head_dim);
    assert_ok(prefix_read(p, t.stream, layer, key, value));
}

static void init_with(Demo *w, InitOptions o, Cartridge **c) {
    CaptureTools t;
    scheduler_capture_tools(w->s, &t);
    o.frozen = 1;
    assert_ok(cartridge_init(c, &t, w->chat, &o));
    char digest[65];
    digest_hex(tokenizer_digest(w->t), digest);
    assert_ok(cartridge_fits(&(*c)->info, w->m, digest, chat_family(w->chat)));
    assert_int_equal((*c)->info.rows, (*c)->prefix->rows);
}

/* The first rows of the capture of a text are the capture of its first tokens. */
static void test_a_start_from_text_is_its_prefill(void **state) {
    Demo *w = *state;
    Cartridge *c;
    enum { ROWS = 9 };
    init_with(w, (InitOptions){.kind = INIT_FIRST, .rows = ROWS, .text = bytes_of(facts)}, &c);
    const ModelConfig *cfg = &w->m->cfg;
    int64_t all = prefix_visible(of_facts), G = cfg->kv_heads, D = cfg->head_dim;
    float *cut = calloc((size_t)(2 * G * ROWS * D), sizeof *cut),
          *full = calloc((size_t)(2 * G * all * D), sizeof *full);
    for (int32_t l = 0; l < cfg->layers; l++) {
        rows_of(w, c->prefix, l, cut);
        rows_of(w, of_facts, l, full);
        for (int64_t g = 0; g < 2 * G; g++)
            for (int64_t i = 0; i < ROWS * D; i++)
                assert_float_equal(cut[g * ROWS * D + i], full[g * all * D + i], 1e-4);
    }
    assert_string_equal(c->info.init, "first");
    free(cut);
    free(full);
    cartridge_close(c);
}

static void test_random_starts(void **state) {
    Demo *w = *state;
    Cartridge *text, *vectors, *again;
    enum { ROWS = 70 };
    init_with(w, (InitOptions){.kind = INIT_RANDOM_TEXT, .rows = ROWS, .seed = 3}, &text);
    init_with(w, (InitOptions){.kind = INIT_RANDOM_VECTORS, .rows = ROWS, .seed = 3}, &vectors);
    init_with(w, (InitOptions){.kind = INIT_RANDOM_VECTORS, .rows = ROWS, .seed = 3}, &again);
    int64_t G = w->m->cfg.kv_heads, D = w->m->cfg.head_dim, n = 2 * G * ROWS * D;
    float *a = calloc((size_t)n, sizeof *a), *b = calloc((size_t)n, sizeof *b),
          *c = calloc((size_t)n, sizeof *c);
    rows_of(w, text->prefix, 1, a);
    rows_of(w, vectors->prefix, 1, b);
    rows_of(w, again->prefix, 1, c);
    assert_memory_equal(b, c, (size_t)n * sizeof *b);
    for (int half = 0; half < 2; half++) { /* keys, values */
        double real = 0, drawn = 0;
        for (int64_t i = half * n / 2; i < (half + 1) * n / 2; i++) {
            bool first = i / D % ROWS == 0;
            if (first) assert_true(a[i] == b[i]);
            real += first ? 0 : (double)a[i] * (double)a[i];
            drawn += first ? 0 : (double)b[i] * (double)b[i];
        }
        assert_true(fabs(drawn / real - 1) < 0.1);
    }
    assert_true(fabsf(a[D] - b[D]) > 1e-6f);
    free(a);
    free(b);
    free(c);
    cartridge_close(text);
    cartridge_close(vectors);
    cartridge_close(again);
}

static void test_a_start_from_a_cartridge(void **state) {
    Demo *w = *state;
    CaptureTools t;
    Cartridge *c, *next;
    const char *file = scratch_path("a.cartridge");
    scheduler_capture_tools(w->s, &t);
    init_with(w, (InitOptions){.kind = INIT_TEXT, .rows = 0, .text = bytes_of(facts)}, &c);
    assert_int_equal(c->info.rows, of_facts->rows);
    assert_ok(cartridge_save(c, t.stream, file));
    init_with(w, (InitOptions){.kind = INIT_CARTRIDGE, .path = file}, &next);
    assert_int_equal(next->info.rows, c->info.rows);
    assert_int_equal(strlen(next->info.init), 64);
    assert_true(next->prefix->page[0] != c->prefix->page[0]);
    cartridge_close(next);
    InitOptions o = {.kind = INIT_CARTRIDGE, .path = file, .rows = 5, .frozen = 1};
    assert_fails(ST_ARG, cartridge_init(&next, &t, w->chat, &o));
    assert_says("5 were asked for");
    o = (InitOptions){.kind = INIT_FIRST, .text = bytes_of(facts), .rows = 4000};
    assert_fails(ST_ARG, cartridge_init(&next, &t, w->chat, &o));
    o = (InitOptions){.kind = INIT_FIRST, .text = bytes_of(facts), .rows = 4, .frozen = 5};
    assert_fails(ST_ARG, cartridge_init(&next, &t, w->chat, &o));
    assert_null(next);
    cartridge_close(c);
    scratch_remove("a.cartridge");
    pool_check(w->pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_words_are_found_whole),
        cmocka_unit_test(test_invented_names_and_numbers),
        cmocka_unit_test(test_question_files),
        cmocka_unit_test(test_the_harbour_set_is_readable),
        cmocka_unit_test(test_questions_find_their_text),
        cmocka_unit_test(test_scores_behind_the_facts),
        cmocka_unit_test(test_scores_without_the_facts),
        cmocka_unit_test(test_nll_equals_a_plain_loop),
        cmocka_unit_test(test_stopping_leaves_nothing_behind),
        cmocka_unit_test(test_paired_bootstrap),
        cmocka_unit_test(test_a_start_from_text_is_its_prefill),
        cmocka_unit_test(test_random_starts),
        cmocka_unit_test(test_a_start_from_a_cartridge),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
