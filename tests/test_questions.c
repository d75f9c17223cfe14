/* test_questions.c -- texts are compared by their words, and question files are read: what is in them, what
 * is wrong with them, and which of their questions fit a text. */
#include "tests/test.h"

#include "engine/learn/evaluate.h"
#include "engine/learn/words.h"
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_words_are_found_whole),
        cmocka_unit_test(test_invented_names_and_numbers),
        cmocka_unit_test(test_question_files),
        cmocka_unit_test(test_the_harbour_set_is_readable),
        cmocka_unit_test(test_questions_find_their_text),
    };
    return cmocka_run_group_tests_name("questions", tests, scratch_set_up, scratch_tear_down);
}
