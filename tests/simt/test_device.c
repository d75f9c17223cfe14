/* test_device.c -- machines that have no GPU for us: each says what is missing and what to do, and the
 * program goes on with the CPU where it may. The order matters: a process chooses its device once. */
#include "kernels/cuda_device.h"
#include "tests/simt/control.h"
#include "tests/test.h"
#include "tools/device.h"

enum { AMPERE = 80, TURING = 75, CUDA_13 = 13000, CUDA_11 = 11080 };

static void test_no_driver(void **state) {
    (void)state;
    int32_t n;
    simt_device(0, AMPERE, 0);
    assert_fails(ST_NOTFOUND, cuda_device_count(&n));
    assert_says("no CUDA driver");
    assert_says("--device cpu");
    assert_int_equal(n, 0);
}

static void test_no_device(void **state) {
    (void)state;
    const Ops *ops;
    simt_device(0, AMPERE, CUDA_13);
    assert_fails(ST_NOTFOUND, cuda_ops(&ops, 0));
    assert_says("no CUDA device");
    assert_null(ops);
}

static void test_old_driver(void **state) {
    (void)state;
    const Ops *ops;
    simt_device(1, AMPERE, CUDA_11);
    assert_fails(ST_NOTFOUND, cuda_ops(&ops, 0));
    assert_says("supports CUDA 11.8");
    assert_says("update the driver");
}

static void test_old_card(void **state) {
    (void)state;
    const Ops *ops;
    simt_device(1, TURING, CUDA_13);
    assert_fails(ST_UNSUPPORTED, cuda_ops(&ops, 0));
    assert_says("compute capability 7.5");
    assert_says("8.0 or later");
}

static void test_wrong_index(void **state) {
    (void)state;
    const Ops *ops;
    simt_device(2, AMPERE, CUDA_13);
    assert_fails(ST_ARG, cuda_ops(&ops, 2));
    assert_says("no CUDA device 2, only 0 to 1");
}

/* What the program does with --device. */
static void test_choice(void **state) {
    (void)state;
    simt_device(0, AMPERE, CUDA_13);
    assert_ok(device_choose("auto"));
    assert_ptr_equal(device_ops(), &ops_cpu);
    assert_ok(device_choose("cuda")); /* asked for and not there: a line, and the CPU */
    assert_ptr_equal(device_ops(), &ops_cpu);
    static const char *const wrong[] = {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", ""};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_fails(ST_ARG, device_choose(wrong[i]));
        assert_says("auto, cpu, cuda or cuda:N");
    }
    simt_device(1, TURING, CUDA_13);
    assert_fails(ST_UNSUPPORTED, device_choose("cuda"));
    assert_ok(device_choose("auto"));
    assert_ptr_equal(device_ops(), &ops_cpu);
    simt_device(2, AMPERE, CUDA_13);
    assert_ok(device_choose("cpu"));
    assert_ptr_equal(device_ops(), &ops_cpu);
    assert_ok(device_choose("cuda:1"));
    assert_string_equal(device_ops()->name, "simt");
}

static void test_one_device_a_process(void **state) {
    (void)state;
    const Ops *ops;
    assert_ok(cuda_ops(&ops, 1));
    assert_fails(ST_ARG, cuda_ops(&ops, 0));
    assert_says("uses CUDA device 1 already");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_driver),
        cmocka_unit_test(test_no_device),
        cmocka_unit_test(test_old_driver),
        cmocka_unit_test(test_old_card),
        cmocka_unit_test(test_wrong_index),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_one_device_a_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
