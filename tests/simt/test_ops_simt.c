/* test_ops_simt.c -- every operation of the CUDA backend, run by the emulator, against the reference.
 *
 * Each case of tests/ops_cases.h is a test, in order and under random schedules with several blocks at a time. An
 * argument chooses the cases of that name or, where none has it, those whose name contains it. Race detection and bounds
 * are the business of how this program is built: once plainly, once with the thread sanitizer, once with the address
 * sanitizer. */
#include "tests/ops_cases.h"
#include "tests/simt/control.h"
#include "tests/simt/gpu_table.h"

static const Ops *ops;

#ifdef SIMT_RACES /* the race detector is slow, and has seen every access when one kind of test has passed */
enum { KINDS = 1 };
#else
enum { KINDS = 3 };
#endif

static const SimtRun runs[] = {{"in order", 0, 1, 1}, {"at random", 1, 2, 3}};
enum { RUNS = sizeof runs / sizeof *runs, MORE_RUNS = 8 };

/* Other schedules, for who has the time (tools/check --long). */
static void check_at_random(const OpsCase *c) {
    for (int i = 0; i < MORE_RUNS; i++) {
        simt_control(&(SimtRun){"at random", 1, 100 + (uint64_t)i, 1 + i % 4});
        ops_case_check(c, ops, DT_BF16);
    }
}

static void test_agrees(void **state) {
    const OpsCase *c = *state;
    for (int i = 0; i < RUNS; i++) {
        simt_control(&runs[i]);
        ops_case_check(c, ops, DT_BF16);
    }
    if (getenv("CARTRIDGE_TEST_LONG")) check_at_random(c);
    if (KINDS == 1 || strstr(c->name, "linear")) return; /* products are bf16's business; the others also compute in f32 */
    simt_control(&runs[0]);
    ops_case_check(c, ops, DT_F32);
}

static void test_refuses(void **state) {
    simt_control(&runs[0]);
    ops_case_spoil(*state, ops, DT_BF16);
}

/* Many blocks at a time overtake each other: who comes last is another one than in order. */
static void go_random(void) {
    static const SimtRun many = {"many at random", 1, 3, 8};
    simt_control(&many);
}

static void test_repeats(void **state) {
    simt_control(&runs[0]);
    ops_case_repeat(*state, ops, DT_BF16, go_random);
}

static void test_layouts(void **state) {
    (void)state;
    ops_layouts_spoil(ops, DT_BF16);
}

enum { TESTS_MAX = 512 };
static void (*const kinds[])(void **) = {test_agrees, test_refuses, test_repeats};
static const char *const kind_name[] = {"agrees", "refuses spoiled arguments", "repeats its bits"};
static struct CMUnitTest tests[TESTS_MAX];

static bool named(const char *name) {
    for (int i = 0; ops_case(i); i++)
        if (!strcmp(ops_case(i)->name, name)) return true;
    return false;
}

static bool chosen(const OpsCase *c, const char *wanted) {
    if (!wanted) return true;
    return named(wanted) ? !strcmp(c->name, wanted) : strstr(c->name, wanted) != NULL;
}

int main(int argc, char **argv) {
    static char title[TESTS_MAX][96];
    size_t n = 0;
    ops = gpu_table();
    const OpsCase *c;
    for (int i = 0; (c = ops_case(i)); i++) {
        if (!chosen(c, argv[1])) continue;
        if (n + KINDS >= TESTS_MAX) return 1;
        for (int k = 0; k < KINDS; k++, n++) {
            snprintf(title[n], sizeof title[n], "%s %d %s", c->name, i, kind_name[k]);
            tests[n] = (struct CMUnitTest){title[n], kinds[k], NULL, NULL, (void *)(uintptr_t)c};
        }
    }
    if (argc == 1) tests[n++] = (struct CMUnitTest){"broken layouts are refused", test_layouts, NULL, NULL, NULL};
    return _cmocka_run_group_tests("simt", tests, n, NULL, NULL);
}
