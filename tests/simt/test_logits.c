/* test_logits.c -- the traffic of the kernels on logits and of Adam, counted: distill reads the logits twice
 * and writes them once, topk and sample by temperature 0 read them once, Adam moves 34 bytes a number. Bytes
 * are those that warps ask of device memory, whatever a cache may save. */
#include "tests/ops_rig.h"
#include "tests/simt/control.h"
#include "tests/simt/gpu_table.h"

enum { W = 6, K = 20 };

static const Ops *ops;

/* Within 5% of `read` and `written` bytes, and no more memory touched by it than that. */
static void check(const char *name, const char *kernel, int64_t read, int64_t written) {
    enum { SECTOR = 32 };
    SimtCounters c = simt_counters(kernel);
    double bytes = (double)(c.read + c.written), share = bytes / (double)(read + written);
    double touched = SECTOR * (double)c.sectors / (double)(read + written);
    print_message("%s: %llu bytes read, %llu written, %.3f of the floor, in sectors %.3f\n", name,
                  (unsigned long long)c.read, (unsigned long long)c.written, share, touched);
    if (!(share >= 1 && share <= 1.05)) fail_msg("%s: %.3f of the floor, wanted 1 to 1.05", name, share);
    if (touched > 1.15) fail_msg("%s: sectors of %.3f of the floor, wanted 1.15 at most", name, touched);
}

static Tensor whole(OpsRig *r, int64_t n, int32_t step) {
    int32_t x[W * K + 1];
    for (int32_t i = 0; i < n; i++) x[i] = i * step;
    return WHOLE(r, x, n);
}

/* With an odd V only every fourth row begins at a 16-byte boundary. */
static void check_distill(const char *name, int64_t V) {
    OpsRig r;
    ops_rig_open(&r, ops, DT_BF16, DT_F32);
    Tensor logits = NORMAL(&r, DT_F32, 1, 3, W, V), p = NORMAL(&r, DT_F32, 2, 1, W * K);
    int64_t bytes = (int64_t)tensor_bytes(logits);
    simt_counters_clear();
    ops_rig_distill(&r, (DistillArgs){.logits = logits,
                                      .first = whole(&r, W + 1, K),
                                      .id = whole(&r, W * K, 97),
                                      .logprob = p,
                                      .scale = 1,
                                      .gradient = true});
    check(name, "distill_", bytes, bytes);
    check(name, "logits_parts", bytes, 0);
    ops_rig_close(&r);
}

static void test_distill(void **state) {
    (void)state;
    check_distill("distill", 16384);
    check_distill("distill, an odd vocabulary", 16381);
}

static void test_topk(void **state) {
    (void)state;
    OpsRig r;
    ops_rig_open(&r, ops, DT_BF16, DT_F32);
    Tensor logits = NORMAL(&r, DT_F32, 1, 3, W, 16384);
    simt_counters_clear();
    ops_rig_topk(&r, (TopkArgs){BLANK(&r, DT_I32, W, K), BLANK(&r, DT_F32, W, K), logits});
    SimtCounters c = simt_counters("topk_");
    double share = (double)(c.read + c.written) / (double)tensor_bytes(logits);
    print_message("topk: %.3f of the floor\n", share);
    assert_true(share >= 1 && share <= 1.1); /* lists between the parts, and candidates are read again */
    ops_rig_close(&r);
}

static void test_sample(void **state) {
    (void)state;
    OpsRig r;
    ops_rig_open(&r, ops, DT_BF16, DT_F32);
    const double zero[W] = {0};
    Tensor logits = NORMAL(&r, DT_F32, 1, 3, W, 16384), none = FLOATS(&r, DT_F32, zero, W);
    simt_counters_clear();
    ops_rig_sample(&r,
                   (SampleArgs){BLANK(&r, DT_I32, W), BLANK(&r, DT_F32, W), logits, none, none, none,
                                whole(&r, W, 1), whole(&r, W, 1), tensor_shape(whole(&r, 2 * W, 1), W, 2)});
    check("sample, temperature 0", "", (int64_t)tensor_bytes(logits), 0);
    ops_rig_close(&r);
}

/* A frozen row and the tail of a last page cost no more than the clearing of their gradient. */
static void test_adam(void **state) {
    (void)state;
    enum { SLICES = 2, PAGES = 2, G = 2, D = 128, ROW = SLICES * G * D };
    static const int32_t page[] = {2, 0}, from[] = {1, 0}, to[] = {64, 37}, step[] = {1, 9};
    static const double lr[] = {0.02, 0.02};
    const int64_t dim[5] = {SLICES, PAGES, G, KV_PAGE, D}, learning = (63 + 37) * ROW, all = 2 * 64 * ROW;
    OpsRig r;
    ops_rig_open(&r, ops, DT_BF16, DT_F32);
    Tensor t[4];
    for (int i = 0; i < 4; i++) t[i] = ops_rig_normal(&r, DT_F32, (uint64_t)i, 1, 5, dim);
    Tensor v = BLANK(&r, DT_F32, SLICES, PAGES, G, KV_PAGE, D),
           pool = BLANK(&r, DT_BF16, SLICES, 3, G, KV_PAGE, D);
    Tensor t_from = WHOLE(&r, from, 2), t_to = WHOLE(&r, to, 2);
    assert_ok(ops->zero(r.stream, v));
    simt_counters_clear();
    ops_rig_squared_norm(&r, (SquaredNormArgs){BLANK(&r, DT_F64, 1), t[1], t_from, t_to});
    check("squared_norm", "", 4 * learning, 0);
    simt_counters_clear();
    ops_rig_adam(&r,
                 (AdamArgs){t[0], t[1], t[2], v, pool, WHOLE(&r, page, 2), t_from, t_to,
                            FLOATS(&r, DT_F32, lr, 2), WHOLE(&r, step, 2), 0.9f, 0.95f, 1e-8f, 1, DT_BF16});
    check("adam", "", 16 * learning, 14 * learning + 4 * all);
    ops_rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distill),
        cmocka_unit_test(test_topk),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_adam),
    };
    ops = gpu_table();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
