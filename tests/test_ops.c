/* test_ops.c -- every table of operations keeps the contract of ops.h: ops_cases is walked for each of them.
 * What the definition itself must satisfy stands in test_grad.c. */
#include "kernels/cpu.h"
#include "tests/ops_cases.h"

typedef struct Backend {
    const char *name;
    const Ops *ops;
    DType act;
} Backend;

/* Copies of the CPU's kernels that this machine cannot run have no table: their tests are skipped. */
static Backend backends[] = {
    {"ref f32", &ops_ref, DT_F32},
    {"ref bf16", &ops_ref, DT_BF16},
    {"cpu", &ops_cpu, DT_F32},
    {"cpu portable", &ops_cpu_portable, DT_F32},
    {"cpu AVX2", NULL, DT_F32},
    {"cpu AVX-512", NULL, DT_F32},
};
enum { BACKENDS = sizeof backends / sizeof *backends };

static const Backend *backend_of(void **state) {
    const Backend *b = *state;
    if (!b->ops) skip();
    return b;
}

static void test_agrees(void **state) {
    const Backend *b = backend_of(state);
    for (int i = 0; ops_case(i); i++) ops_case_check(ops_case(i), b->ops, b->act);
}

static void test_refuses(void **state) {
    const Backend *b = backend_of(state);
    for (int i = 0; ops_case(i); i++) ops_case_spoil(ops_case(i), b->ops, b->act);
    ops_layouts_spoil(b->ops, b->act);
}

static void test_repeats(void **state) {
    const Backend *b = backend_of(state);
    for (int i = 0; ops_case(i); i++) ops_case_repeat(ops_case(i), b->ops, b->act, NULL);
}

/* Memory is counted, and its failures name the bytes; nothing that was opened before stays open. */
static void test_memory(void **state) {
    const Backend *b = backend_of(state);
    int64_t live = host_mem_live();
    for (int64_t n = 1; n <= 2; n++) {
        Stream *s = NULL;
        AttnPlan *plan = NULL;
        AttnLimits limits = {8, 2, 4, 8, 8, 2, 1, 32, b->act, true};
        host_mem_fail_at(n);
        Status st = b->ops->stream_open(&s, &(StreamLimits){8, 64, 100});
        if (!st) st = b->ops->plan_open(&plan, &limits);
        host_mem_fail_at(0);
        assert_int_equal(st, ST_NOMEM);
        assert_says("bytes");
        b->ops->stream_close(s);
        b->ops->plan_close(plan);
        assert_int_equal(host_mem_live(), live);
    }
}

int main(void) {
    enum { KINDS = 4 };
    void (*const kinds[KINDS])(void **) = {test_agrees, test_refuses, test_repeats, test_memory};
    const char *const names[KINDS] = {"agrees with the reference", "refuses spoiled arguments",
                                      "repeats its bits", "reports missing memory"};
    backends[BACKENDS - 2].ops = ops_cpu_avx2();
    backends[BACKENDS - 1].ops = ops_cpu_avx512();
    struct CMUnitTest tests[BACKENDS * KINDS];
    static char title[BACKENDS * KINDS][64];
    for (int i = 0; i < BACKENDS * KINDS; i++) {
        Backend *b = &backends[i / KINDS];
        snprintf(title[i], sizeof title[i], "%s %s", b->name, names[i % KINDS]);
        tests[i] = (struct CMUnitTest){title[i], kinds[i % KINDS], NULL, NULL, b};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
