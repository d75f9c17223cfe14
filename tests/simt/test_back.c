/* test_back.c -- what attention's backward kernels promise beside right results: that they multiply little in
 * vain, that shared memory never makes them wait, that gradients of keys and values are written once.
 *
 * One sequence of `own` rows behind a prefix that learns; the values do not matter to what is counted. */
#include "tests/ops_rig.h"
#include "tests/simt/control.h"
#include "tests/simt/gpu_table.h"

enum { PAGES = 40 };
static const double MMA_FLOPS = 2 * 16 * 8 * 16;

typedef struct Shape {
    int32_t D, G, group, prefix, own;
} Shape;

static const Ops *ops;

static int32_t pages_of(int32_t keys) {
    return (keys + KV_PAGE - 1) / KV_PAGE;
}

typedef struct Batch {
    int32_t row[2], seg[2], page[PAGES], own_grad[PAGES], learned_grad[PAGES];
    Segment segment[2];
    AttnLayout layout;
} Batch;

static void lay_out(Batch *b, const Shape *z) {
    int32_t learned = pages_of(z->prefix), pages = learned + pages_of(z->own), n = 0;
    assert_true(pages <= PAGES);
    *b = (Batch){.row = {0, z->own}};
    for (int32_t i = 0; i < pages; i++) {
        b->page[i] = i;
        b->learned_grad[i] = i < learned ? i : -1;
        b->own_grad[i] = i < learned ? -1 : i - learned;
    }
    if (z->prefix) b->segment[n++] = (Segment){0, 0, z->prefix};
    b->segment[n++] = (Segment){learned, 0, z->own};
    b->seg[1] = n;
    b->layout = (AttnLayout){z->own,  1,     b->row, b->seg,      b->segment,
                             b->page, pages, pages,  b->own_grad, b->learned_grad};
}

static void run(OpsRig *r, const Shape *z) {
    Batch b;
    AttnPlan *plan;
    lay_out(&b, z);
    int64_t T = z->own, G = z->G, H = G * z->group, D = z->D, pages = b.layout.pages;
    int64_t learned = pages_of(z->prefix), own = pages - learned;
    AttnLimits limits = {z->own, 1,       2,   (int32_t)pages, (int32_t)pages, (int32_t)H, (int32_t)z->G,
                         z->D,   DT_BF16, true};
    assert_ok(ops->plan_open(&plan, &limits));
    assert_ok(ops->attn_plan(r->stream, plan, &b.layout));
    AttnBackArgs a = {.plan = plan, .scale = 1 / sqrtf((float)D)};
    a.dq = BLANK(r, DT_F32, T, H, D);
    a.dk_own = BLANK(r, DT_F32, own, G, KV_PAGE, D), a.dv_own = BLANK(r, DT_F32, own, G, KV_PAGE, D);
    if (learned) {
        a.dk_learned = NORMAL(r, DT_F32, 1, 1, learned, G, KV_PAGE, D);
        a.dv_learned = NORMAL(r, DT_F32, 2, 1, learned, G, KV_PAGE, D);
    }
    a.d_o = NORMAL(r, DT_BF16, 3, 1, T, H, D), a.o = NORMAL(r, DT_BF16, 4, 1, T, H, D);
    a.q = NORMAL(r, DT_BF16, 5, 1, T, H, D), a.lse = NORMAL(r, DT_F32, 6, 1, T, H);
    a.k = NORMAL(r, DT_BF16, 7, 1, pages, G, KV_PAGE, D),
    a.v = NORMAL(r, DT_BF16, 8, 1, pages, G, KV_PAGE, D);
    simt_counters_clear();
    assert_ok(ops->attn_back(r->stream, &a));
    assert_ok(ops->sync(r->stream));
    ops->plan_close(plan);
}

/* Five products of a query with each key that it sees, in mma operations. */
static double useful_mma(const Shape *z) {
    double own = z->own, pairs = own * z->prefix + own * (own + 1) / 2;
    return pairs * z->G * z->group * 10 * z->D / MMA_FLOPS;
}

static void check_shared(const char *kernel) {
    SimtCounters c = simt_counters(kernel);
    assert_true(c.ldmatrix > 0);
    assert_int_equal(c.ldmatrix_waves, c.ldmatrix);
    assert_int_equal(c.shared_waves, c.shared_ideal);
}

static void check_work(const Shape *z, double most) {
    OpsRig r;
    ops_rig_open(&r, ops, DT_BF16, DT_BF16);
    run(&r, z);
    SimtCounters all = simt_counters("attn_back"), keys = simt_counters("back_keys"),
                 queries = simt_counters("back_queries");
    double share = (double)all.mma / useful_mma(z);
    print_message(
        "head size %d, group %d, prefix %d, own %d: %llu mma, %.3f of five products; keys: %llu bytes "
        "read, %llu written; queries: %llu and %llu\n",
        z->D, z->group, z->prefix, z->own, (unsigned long long)all.mma, share, (unsigned long long)keys.read,
        (unsigned long long)keys.written, (unsigned long long)queries.read,
        (unsigned long long)queries.written);
    if (!(share >= 1.4 && share <= most)) fail_msg("%.3f of five products, wanted 1.4 to %.3f", share, most);
    check_shared("back_keys");
    check_shared("back_queries");
    ops_rig_close(&r);
}

static void test_prefix_and_own(void **state) {
    (void)state;
    check_work(&(Shape){128, 1, 3, 2048, 512}, 1.5);
    check_work(&(Shape){64, 1, 4, 2048, 128}, 1.5);
}

static void test_own_alone(void **state) {
    (void)state;
    check_work(&(Shape){128, 1, 3, 0, 512}, 1.7);
    check_work(&(Shape){64, 1, 4, 0, 512}, 1.7);
    check_work(&(Shape){128, 1, 1, 0, 512}, 1.7);
}

/* Where no page is cut into parts, every gradient is written once and nothing else is. */
static void test_written_once(void **state) {
    (void)state;
    const Shape z = {64, 8, 1, 256, 512};
    const uint64_t page = (uint64_t)z.G * KV_PAGE * (uint64_t)z.D * sizeof(float);
    OpsRig r;
    ops_rig_open(&r, ops, DT_BF16, DT_BF16);
    run(&r, &z);
    assert_int_equal(simt_counters("back_keys").written, 2 * page * (uint64_t)pages_of(z.prefix + z.own));
    assert_int_equal(simt_counters("back_queries").written, page / KV_PAGE * (uint64_t)z.own);
    ops_rig_close(&r);
}

int main(void) {
    ops = gpu_table();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefix_and_own),
        cmocka_unit_test(test_own_alone),
        cmocka_unit_test(test_written_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
