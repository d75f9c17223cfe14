/* test_prefill.c -- what attention's prefill kernel promises beside right results: that it multiplies little
 * in vain, that shared memory never makes it wait, that a row's bits do not depend on who else is in the
 * batch.
 *
 * Sequences share one prefix. What a sequence's queries, keys and values are depends on its name alone, so
 * that it can be run in any company. */
#include "tests/ops_rig.h"
#include "tests/simt/control.h"
#include "tests/simt/gpu_table.h"

enum { SEQS = 3, PREFIX_PAGES = 32, OWN_PAGES = 8, PAGES = PREFIX_PAGES + SEQS * OWN_PAGES };
static const double MMA_FLOPS = 2 * 16 * 8 * 16;

typedef struct Shape {
    int32_t D, G, group, prefix;
    int32_t rows[SEQS]; /* by name; 0: not there */
} Shape;

typedef struct Batch {
    int32_t row[SEQS + 1], seg[SEQS + 1], page[PAGES];
    Segment segment[2 * SEQS];
    AttnLayout layout;
} Batch;

static const Ops *ops;

static void lay_out(Batch *b, const Shape *z) {
    memset(b, 0, sizeof *b);
    int32_t S = 0, n = 0;
    for (int32_t i = 0; i < PAGES; i++) b->page[i] = i;
    for (int32_t name = 0; name < SEQS; name++) {
        if (!z->rows[name]) continue;
        if (z->prefix) b->segment[n++] = (Segment){0, 0, z->prefix};
        b->segment[n++] = (Segment){PREFIX_PAGES + name * OWN_PAGES, 0, z->rows[name]};
        b->row[S + 1] = b->row[S] + z->rows[name];
        b->seg[++S] = n;
    }
    b->layout = (AttnLayout){.T = b->row[S],
                             .S = S,
                             .row = b->row,
                             .seg = b->seg,
                             .segment = b->segment,
                             .page = b->page,
                             .entries = PAGES,
                             .pages = PAGES};
}

static Tensor queries(OpsRig *r, const Shape *z, int32_t T) {
    int64_t width = (int64_t)z->G * z->group * z->D;
    double *x = malloc(sizeof(double) * (size_t)(T * width)), *to = x;
    assert_non_null(x);
    for (int32_t name = 0; name < SEQS; name++)
        for (int64_t i = 0; i < z->rows[name] * width; i++)
            *to++ = (double)random_normal(10 + (uint64_t)name, 0, (uint64_t)i);
    Tensor q = FLOATS(r, DT_BF16, x, T, z->G * z->group, z->D);
    free(x);
    return q;
}

static void run(OpsRig *r, const Shape *z, double **o, double **lse) {
    Batch b;
    AttnPlan *plan;
    lay_out(&b, z);
    int32_t T = b.layout.T, H = z->G * z->group;
    AttnLimits limits = {T, SEQS, 2 * SEQS, PAGES, PAGES, H, z->G, z->D, DT_BF16, false};
    assert_ok(ops->plan_open(&plan, &limits));
    assert_ok(ops->attn_plan(r->stream, plan, &b.layout));
    Tensor q = queries(r, z, T), to = BLANK(r, DT_BF16, T, H, z->D), sums = BLANK(r, DT_F32, T, H);
    Tensor k = NORMAL(r, DT_BF16, 1, 1, PAGES, z->G, KV_PAGE, z->D),
           v = NORMAL(r, DT_BF16, 2, 1, PAGES, z->G, KV_PAGE, z->D);
    simt_counters_clear();
    assert_ok(ops->attn(r->stream, &(AttnArgs){to, sums, q, k, v, plan, 1 / sqrtf((float)z->D)}));
    *o = ops_rig_read(r, to), *lse = ops_rig_read(r, sums);
    ops->plan_close(plan);
}

/* ---- work ---- */

/* Products of a query with the keys and the values that it sees, in mma operations. */
static double useful_mma(const Shape *z) {
    double pairs = 0, own = z->rows[0];
    pairs += own * z->prefix + own * (own + 1) / 2;
    return pairs * z->G * z->group * 4 * z->D / MMA_FLOPS;
}

static void check_work(const Shape *z, double most) {
    OpsRig r;
    double *o, *lse;
    ops_rig_open(&r, ops, DT_BF16, DT_BF16);
    run(&r, z, &o, &lse);
    SimtCounters c = simt_counters("prefill_tile");
    double share = (double)c.mma / useful_mma(z);
    print_message(
        "head size %d, group %d, prefix %d, own %d: %llu mma, %.3f of the useful ones; %llu bytes read, "
        "%llu written\n",
        z->D, z->group, z->prefix, z->rows[0], (unsigned long long)c.mma, share, (unsigned long long)c.read,
        (unsigned long long)c.written);
    if (!(share >= 1 && share <= most)) fail_msg("%.3f of the useful mma, wanted 1 to %.3f", share, most);
    assert_true(c.ldmatrix > 0 && c.shared_ideal > 0);
    assert_int_equal(c.ldmatrix_waves, c.ldmatrix);
    assert_int_equal(c.shared_waves, c.shared_ideal);
    free(o), free(lse);
    ops_rig_close(&r);
}

static void test_prefix_and_own(void **state) {
    (void)state;
    check_work(&(Shape){128, 1, 3, 2048, {512}}, 1.1);
    check_work(&(Shape){64, 1, 4, 2048, {512}}, 1.1);
}

static void test_own_alone(void **state) {
    (void)state;
    check_work(&(Shape){128, 1, 3, 0, {512}}, 1.25);
    check_work(&(Shape){64, 1, 4, 0, {512}}, 1.25);
    check_work(&(Shape){128, 1, 1, 0, {512}}, 1.25);
}

/* ---- company ---- */

static void check_same(const double *all, const double *alone, int64_t n, const char *what, int32_t name) {
    for (int64_t i = 0; i < n; i++)
        if (all[i] != alone[i])
            fail_msg("%s[%lld] of sequence %d is %.9g among others, %.9g alone", what, (long long)i, name,
                     all[i], alone[i]);
}

static void check_company(const Shape *z) {
    OpsRig r;
    double *o, *lse, *o_alone, *lse_alone;
    int64_t H = (int64_t)z->G * z->group, t = 0;
    ops_rig_open(&r, ops, DT_BF16, DT_BF16);
    run(&r, z, &o, &lse);
    for (int32_t name = 0; name < SEQS; name++) {
        Shape one = *z;
        for (int32_t i = 0; i < SEQS; i++) one.rows[i] = i == name ? z->rows[i] : 0;
        run(&r, &one, &o_alone, &lse_alone);
        check_same(o + t * H * z->D, o_alone, z->rows[name] * H * z->D, "o", name);
        check_same(lse + t * H, lse_alone, z->rows[name] * H, "lse", name);
        t += z->rows[name];
        free(o_alone), free(lse_alone);
    }
    free(o), free(lse);
    ops_rig_close(&r);
}

static void test_company(void **state) {
    (void)state;
    check_company(&(Shape){64, 2, 3, 70, {40, 150, 20}});
    check_company(&(Shape){128, 1, 7, 64, {17, 65, 90}});
}

int main(void) {
    ops = gpu_table();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefix_and_own),
        cmocka_unit_test(test_own_alone),
        cmocka_unit_test(test_company),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
