/* test_traffic.c -- what element-wise kernels promise beside right results: every input is read once and
 * every output written once (within 5%: weights, positions and lists are small), in accesses of 16 bytes, and
 * shared memory never makes a warp wait. Bytes are those that warps ask of device memory, whatever a cache
 * may save. */
#include "tests/ops_rig.h"
#include "tests/simt/control.h"
#include "tests/simt/gpu_table.h"

enum { T = 200, C = 3072, F = 4096, H = 24, G = 8, D = 128 };

static const Ops *ops;

/* The least bytes, and those counted since the counters were cleared. */
static void check(const char *name, const char *kernel, int64_t read, int64_t written) {
    SimtCounters c = simt_counters(kernel);
    double share = (double)(c.read + c.written) / (double)(read + written);
    double each = (double)(c.read + c.written) / (double)c.requests;
    print_message("%s: %llu bytes read, %llu written, %.3f of the floor, %.0f bytes an access\n", name,
                  (unsigned long long)c.read, (unsigned long long)c.written, share, each);
    if (!(share >= 1 && share <= 1.05)) fail_msg("%s: %.3f of the floor, wanted 1 to 1.05", name, share);
    assert_int_equal(c.written, written);
    assert_int_equal(c.shared_waves, c.shared_ideal);
    if (each < 300)
        fail_msg("%s: %.0f bytes an access, wanted the 512 of a warp but for short lists", name, each);
}

static int64_t bytes(Tensor t) {
    return (int64_t)tensor_bytes(t);
}

static Tensor counted(OpsRig *r, int64_t n) {
    int32_t x[T];
    for (int32_t i = 0; i < n; i++) x[i] = i;
    return WHOLE(r, x, n);
}

static void test_rows(void **state) {
    (void)state;
    OpsRig r;
    ops_rig_open(&r, ops, DT_BF16, DT_BF16);
    Tensor y = BLANK(&r, DT_BF16, T, C), x = NORMAL(&r, DT_BF16, 1, 1, T, C), id = counted(&r, T);
    simt_counters_clear();
    ops_rig_gather(&r, (GatherArgs){y, x, id});
    check("gather", "gather", bytes(x) + bytes(id), bytes(y));
    simt_counters_clear();
    ops_rig_scatter(&r, (ScatterArgs){y, x, id});
    check("scatter", "scatter", bytes(x) + bytes(id), bytes(y));
    ops_rig_close(&r);
}

static void check_norm(int64_t width, const char *name, const char *back_name) {
    OpsRig r;
    ops_rig_open(&r, ops, DT_BF16, DT_BF16);
    Tensor y = BLANK(&r, DT_BF16, T, width), x = NORMAL(&r, DT_BF16, 1, 1, T, width),
           w = NORMAL(&r, DT_BF16, 2, 1, width);
    Tensor rstd = BLANK(&r, DT_F32, T);
    simt_counters_clear();
    ops_rig_norm(&r, (NormArgs){y, rstd, x, w, 1e-5f});
    check(name, "norm_kernel", bytes(x) + bytes(w), bytes(y) + bytes(rstd));
    simt_counters_clear();
    ops_rig_norm_back(&r, (NormBackArgs){y, y, x, w, rstd, false});
    check(back_name, "norm_back", 2 * bytes(x) + bytes(w) + bytes(rstd), bytes(y));
    Tensor dx = NORMAL(&r, DT_BF16, 3, 1, T, width);
    simt_counters_clear();
    ops_rig_norm_back(&r, (NormBackArgs){dx, y, x, w, rstd, true});
    check(back_name, "norm_back", 3 * bytes(x) + bytes(w) + bytes(rstd), bytes(y));
    ops_rig_close(&r);
}

static void test_norm(void **state) {
    (void)state;
    check_norm(2048, "norm of 2048", "norm_back of 2048");
    check_norm(3072, "norm of 3072", "norm_back of 3072");
    check_norm(8192, "norm of 8192", "norm_back of 8192");
}

static void check_heads(bool norm, const char *name, const char *back_name) {
    OpsRig r;
    ops_rig_open(&r, ops, DT_BF16, DT_BF16);
    Tensor q = BLANK(&r, DT_BF16, T, H, D), q_raw = NORMAL(&r, DT_BF16, 1, 1, T, H, D);
    Tensor k = NORMAL(&r, DT_BF16, 2, 1, T, G, D), v = NORMAL(&r, DT_BF16, 3, 1, T, G, D);
    Tensor kp = BLANK(&r, DT_BF16, 4, G, KV_PAGE, D), vp = BLANK(&r, DT_BF16, 4, G, KV_PAGE, D),
           w = NORMAL(&r, DT_BF16, 4, 1, D);
    Tensor pos = counted(&r, T), slot = counted(&r, T), freq = NORMAL(&r, DT_F32, 5, 1, D / 2), none = {0};
    int64_t small = 2 * bytes(pos) + bytes(freq) + (norm ? 2 * bytes(w) : 0), rows = bytes(q) + 2 * bytes(k);
    if (!norm) w = none;
    simt_counters_clear();
    ops_rig_heads(&r, (HeadsArgs){q, kp, vp, q_raw, k, v, w, w, pos, slot, freq, 1e-5f});
    check(name, "heads_kernel", rows + small, rows);
    Tensor dq = NORMAL(&r, DT_F32, 6, 1, T, H, D), dkp = NORMAL(&r, DT_F32, 7, 1, 4, G, KV_PAGE, D);
    Tensor dvp = NORMAL(&r, DT_F32, 8, 1, 4, G, KV_PAGE, D), dk = BLANK(&r, DT_BF16, T, G, D),
           dv = BLANK(&r, DT_BF16, T, G, D);
    int64_t raw = norm ? bytes(q) + bytes(k) : 0;
    simt_counters_clear();
    ops_rig_heads_back(&r, (HeadsBackArgs){q, dk, dv, dq, dkp, dvp, q_raw, k, w, w, pos, slot, freq, 1e-5f});
    check(back_name, "heads_kernel", 2 * rows + raw + small, rows);
    ops_rig_close(&r);
}

static void test_heads(void **state) {
    (void)state;
    check_heads(false, "heads", "heads_back");
    check_heads(true, "heads with norms", "heads_back with norms");
}

static void test_swiglu(void **state) {
    (void)state;
    OpsRig r;
    ops_rig_open(&r, ops, DT_BF16, DT_BF16);
    Tensor y = BLANK(&r, DT_BF16, T, F), gate = NORMAL(&r, DT_BF16, 1, 1, T, F),
           up = NORMAL(&r, DT_BF16, 2, 1, T, F);
    simt_counters_clear();
    ops_rig_swiglu(&r, (SwigluArgs){y, gate, up});
    check("swiglu", "swiglu_kernel", 2 * bytes(y), bytes(y));
    simt_counters_clear();
    ops_rig_swiglu_back(&r, (SwigluBackArgs){gate, up, y, gate, up});
    check("swiglu_back", "swiglu_back", 3 * bytes(y), 2 * bytes(y));
    ops_rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_swiglu),
    };
    ops = gpu_table();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
