/* test_ranks.c -- what ranks say to each other. Runs as one process, and under mpirun as TEST_RANKS_WANTED of
 * them: each test computes what every rank must have contributed, so that any number will do. */
#include "tests/test.h"

#include <stdlib.h>

#include "engine/learn/ranks.h"
#include "kernels/base/random.h"

static Ranks *world;

/* What rank k gives for element i: far apart in size, so that another order of adding would show. */
static double given(int32_t k, int64_t i) {
    double v = (double)random_normal(5, (uint64_t)k, (uint64_t)i);
    return k % 2 ? v * 1e6 : v;
}

static void fill(Tensor t) {
    for (int64_t i = 0; i < tensor_count(t); i++) {
        if (t.dtype == DT_F64) ((double *)t.data)[i] = given(ranks_me(world), i);
        else ((float *)t.data)[i] = (float)given(ranks_me(world), i);
    }
}

static void assert_summed(Tensor t) {
    for (int64_t i = 0; i < tensor_count(t); i++) {
        double want = 0;
        for (int32_t k = 0; k < ranks_count(world); k++)
            want += t.dtype == DT_F64 ? given(k, i) : (double)(float)given(k, i);
        double got = t.dtype == DT_F64 ? ((double *)t.data)[i] : (double)((float *)t.data)[i];
        if (t.dtype == DT_F32) want = (double)(float)want;
        if (got != want) fail_msg("element %lld: %.17g, wanted %.17g", (long long)i, got, want);
    }
}

/* More than a piece, and no multiple of the ranks. */
static void test_sums(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 2, 7, 4096, (5 << 20) / 4 + 3, (9 << 20) / 4 + 1};
    Stream *s;
    assert_ok(ops_ref.stream_open(&s, &(StreamLimits){1, 1, 1}));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int wide = 0; wide < 2; wide++) {
            void *mem;
            assert_ok(ops_ref.mem_open(&mem, 8 * (size_t)sizes[i]));
            Tensor t = tensor_of(mem, wide ? DT_F64 : DT_F32, sizes[i]);
            fill(t);
            assert_ok(ranks_sum(world, &ops_ref, s, t));
            assert_summed(t);
            ops_ref.mem_close(mem);
        }
    }
    int32_t whole[1] = {0};
    assert_fails(ST_ARG, ranks_sum(world, &ops_ref, s, tensor_of(whole, DT_I32, 1)));
    ops_ref.stream_close(s);
}

static void test_sums_on_the_host(void **state) {
    (void)state;
    double v[3];
    Tensor t = tensor_of(v, DT_F64, 3);
    fill(t);
    assert_ok(ranks_sum_host(world, v, 3));
    assert_summed(t);
}

static void test_shares(void **state) {
    (void)state;
    for (int32_t from = 0; from < ranks_count(world); from++) {
        int32_t block[3] = {ranks_me(world), 7 * ranks_me(world), -1};
        assert_ok(ranks_share(world, block, sizeof block, from));
        assert_int_equal(block[0], from);
        assert_int_equal(block[1], 7 * from);
    }
    char c = 0;
    assert_fails(ST_ARG, ranks_share(world, &c, 1, ranks_count(world)));
}

static void test_solo(void **state) {
    (void)state;
    Ranks *r;
    double v[2] = {3, 4};
    assert_ok(ranks_solo(&r));
    assert_int_equal(ranks_me(r), 0);
    assert_int_equal(ranks_count(r), 1);
    assert_ok(ranks_sum_host(r, v, 2));
    assert_true(v[0] == 3 && v[1] == 4);
    assert_ok(ranks_share(r, v, sizeof v, 0));
    ranks_close(r);
}

/* A world that fell apart into single processes would pass everything else. */
static void test_all_are_there(void **state) {
    (void)state;
    const char *wanted = getenv("TEST_RANKS_WANTED");
    if (wanted) assert_int_equal(ranks_count(world), atoi(wanted));
    double one = 1;
    assert_ok(ranks_sum_host(world, &one, 1));
    assert_int_equal((int)one, ranks_count(world));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_solo),
        cmocka_unit_test(test_all_are_there),
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_sums_on_the_host),
        cmocka_unit_test(test_shares),
    };
    if (getenv("TEST_RANKS_WANTED") ? ranks_mpi(&world) : ranks_solo(&world)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ranks_close(world);
    return failed;
}
