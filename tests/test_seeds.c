/* test_seeds.c -- what a self-study asks for: seeds are functions of their number, questions asked before are
 * known by their words, and settings name what changes the rows. */
#include "tests/test.h"

#include "engine/learn/repeats.h"
#include "engine/learn/seeds.h"
#include "engine/learn/study.h"

/* ---- repeats ---- */

static void test_repeats(void **state) {
    (void)state;
    Repeats *r;
    double share;
    char many[64];
    assert_ok(repeats_open(&r));
    assert_ok(repeats_share(r, " who is the captain ", &share));
    assert_float_equal(share, 0, 0);
    assert_ok(repeats_add(r, " who is the captain of the ferry "));
    assert_ok(repeats_add(r, " who is the mayor "));
    assert_ok(repeats_share(r, " who is the captain of the ferry ", &share));
    assert_float_equal(share, 1, 0);
    assert_ok(repeats_share(r, " who is the captain of the ship ", &share));
    assert_float_equal(share, 5.0 / 6, 1e-9);
    assert_ok(repeats_share(r, " is who captain the of ", &share)); /* the same words in another order */
    assert_float_equal(share, 0, 0);
    assert_ok(repeats_share(r, " the mayor of the ferry ",
                            &share)); /* 2 of 4 pairs in one, 3 of 4 in two together */
    assert_float_equal(share, 0.5, 1e-9);
    assert_ok(repeats_add(r, " why "));
    assert_ok(repeats_share(r, " why ", &share));
    assert_float_equal(share, 1, 0);
    for (int i = 0; i < 3000; i++) { /* the tables grow */
        snprintf(many, sizeof many, " what is number %d of %d ", i, i / 3);
        assert_ok(repeats_add(r, many));
    }
    for (int i = 0; i < 3000; i++) {
        snprintf(many, sizeof many, " what is number %d of %d ", i, i / 3);
        assert_ok(repeats_share(r, many, &share));
        assert_float_equal(share, 1, 0);
    }
    assert_ok(repeats_share(r, " what is number 3001 of 7 ", &share));
    assert_float_equal(share, 3.0 / 5, 1e-9);
    repeats_close(r);
}

/* ---- seeds ---- */

static void test_seeds_are_functions_of_their_number(void **state) {
    (void)state;
    StudyOptions o = study_defaults();
    static const char chunk[] =
        "The ferry is the Grey Gannet. Its captain is Ingrid Solberg. It sails at seven in the morning.";
    bool seen[SEED_KINDS] = {false}, sentence[3] = {false};
    for (int k = 0; k < SEED_KINDS; k++) o.weight[k] = k != SEED_CREATIVE;
    o.force_openings = true;
    o.ask = (const char *const[]){"One?", "Two?"};
    o.asks = 2;
    for (int64_t i = 0; i < 200; i++) {
        Seed a, b;
        assert_ok(seed_draw(&a, &o, bytes_of(chunk), i, (int32_t)(i % 16)));
        assert_ok(seed_draw(&b, &o, bytes_of(chunk), i, (int32_t)(i % 16)));
        assert_string_equal(a.text, b.text);
        assert_true(a.kind == b.kind && a.opening == b.opening);
        assert_null(strstr(a.text, "%s"));
        seen[a.kind] = true;
        if (a.kind == SEED_FOCUS) {
            sentence[0] |= strstr(a.text, "Grey Gannet.") != NULL;
            sentence[1] |= strstr(a.text, "Its captain is Ingrid Solberg.") != NULL;
            sentence[2] |= strstr(a.text, "seven in the morning.") != NULL;
            assert_true(*a.opening);
        }
        seed_close(&a);
        seed_close(&b);
    }
    for (int k = 0; k < SEED_KINDS; k++) assert_int_equal(seen[k], k != SEED_CREATIVE);
    assert_true(sentence[0] && sentence[1] && sentence[2]);
}

static void test_settings_name_what_changes_the_rows(void **state) {
    (void)state;
    StudyOptions o = study_defaults();
    char *a, *b;
    assert_ok(study_settings(&o, &a));
    o.conversations++;
    assert_ok(study_settings(&o, &b));
    assert_string_equal(a, b);
    free(b);
    o.seed = 0x8000000000000001u;
    assert_ok(study_settings(&o, &b));
    assert_non_null(strstr(b, "\"9223372036854775809\""));
    assert_string_not_equal(a, b);
    free(a);
    free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repeats),
        cmocka_unit_test(test_seeds_are_functions_of_their_number),
        cmocka_unit_test(test_settings_name_what_changes_the_rows),
    };
    return cmocka_run_group_tests_name("seeds", tests, NULL, NULL);
}
