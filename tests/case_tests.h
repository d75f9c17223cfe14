/* case_tests.h -- tests that are tried on several cases: one test for each, named after both. For a program
 * with a list `cases` of CASES structs that begin with a name; a test finds its case in *state. */
#ifndef TESTS_CASE_TESTS_H
#define TESTS_CASE_TESTS_H

#include "tests/test.h"

enum { CASE_TESTS_MAX = 256 };
static struct CMUnitTest case_tests[CASE_TESTS_MAX];
static size_t case_tests_count;

static inline void case_test(const char *name, CMUnitTestFunction f, void *of) {
    static char title[CASE_TESTS_MAX][96];
    char *t = title[case_tests_count];
    if (case_tests_count == CASE_TESTS_MAX) abort();
    snprintf(t, sizeof title[0], of ? "%s [%s]" : "%s", name, of ? *(const char *const *)of : "");
    case_tests[case_tests_count++] = (struct CMUnitTest){.name = t, .test_func = f, .initial_state = of};
}

#define ON_CASE(f, i) case_test(#f, f, &cases[i])
#define FIRST_CASES(f, n)                                                                                    \
    for (int i_ = 0; i_ < (n); i_++) ON_CASE(f, i_)
#define ALL_CASES(f)     FIRST_CASES(f, CASES)
#define ONCE(f)          case_test(#f, f, NULL)
#define RUN_TESTS(group) _cmocka_run_group_tests(group, case_tests, case_tests_count, NULL, NULL)

#endif
