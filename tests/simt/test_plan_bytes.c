/* test_plan_bytes.c -- what a plan says of a card's memory, against what the CUDA backend takes: on the
 * emulator, whose free memory is counted to the byte. */
#include "tests/test.h"

#include "kernels/cuda_device.h"
#include "tools/device.h"
#include "tools/plan.h"

#define MODEL CARTRIDGE_SOURCE_DIR "/tools/demo/model"

static size_t bytes_free(void) {
    CudaDevice d;
    assert_ok(cuda_device_read(&d, 0));
    return d.bytes_free;
}

/* Streams and attention plans, for limits that are small, wide, long, with and without the way back. */
static void test_scratch(void **state) {
    (void)state;
    static const StreamLimits stream[] = {{1, 1, 1}, {512, 1536, 49152}, {64, 8192, 128256}};
    static const AttnLimits plan[] = {{8, 2, 4, 8, 8, 2, 1, 32, DT_BF16, true},
                                      {512, 32, 544, 4096, 700, 9, 3, 64, DT_BF16, false},
                                      {1024, 33, 66, 2000, 900, 32, 8, 128, DT_BF16, true}};
    const Ops *ops;
    assert_ok(cuda_ops(&ops, 0));
    for (int i = 0; i < 3; i++) {
        Stream *s;
        AttnPlan *p;
        size_t before = bytes_free();
        assert_ok(ops->stream_open(&s, &stream[i]));
        assert_int_equal(before - bytes_free(), cuda_stream_bytes(&stream[i]));
        before = bytes_free();
        assert_ok(ops->plan_open(&p, &plan[i]));
        assert_int_equal(before - bytes_free(), cuda_plan_bytes(&plan[i]));
        ops->plan_close(p);
        ops->stream_close(s);
    }
}

/* A whole session. The stream that loads the weights is gone when it is open. */
static void test_a_session(void **state) {
    (void)state;
    static const SessionLimits limits[] = {{.held_rows = 64, .seqs = 1, .seq_rows = 300, .pass_rows = 512},
                                           {.held_rows = 5000, .seqs = 33, .seq_rows = 65, .pass_rows = 40}};
    assert_ok(device_choose("cuda"));
    for (int i = 0; i < 2; i++) {
        PlanJob job = {.limits = limits[i]};
        PlanBytes b;
        Session s;
        assert_ok(model_config_read(&job.model, MODEL));
        assert_ok(plan_bytes(&b, &job, &plan_cards[0]));
        size_t before = bytes_free();
        assert_ok(session_open(&s, MODEL, &limits[i]));
        assert_int_equal(before - bytes_free(), plan_total(&b));
        session_close(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scratch),
        cmocka_unit_test(test_a_session),
    };
    return cmocka_run_group_tests_name("plan on a card", tests, NULL, NULL);
}
