/* test_decode.c -- attention of decoding rows (attn_decode.cu) where ops_cases_attn.c sees single batches.
 *
 * A sequence has the same queries, keys and values wherever it stands: all come from its number. So batches
 * of several compositions can be compared row by row, and a row's bits must not depend on who else is there,
 * on how many read the same prefix (which chooses the form of the kernel), on where the page list names its
 * pages, or on the waves that a batch is cut into. What a row's bits are in the first place is a matter for
 * ops_cases_attn.c; here one batch is compared with the reference: equal must not mean equally wrong. */
#include "tests/ops_rig.h"
#include "tests/simt/control.h"
#include "tests/simt/gpu_table.h"

static const Ops *ops;

static const SimtRun in_order = {"in order", 0, 1, 1}, at_random = {"at random", 1, 5, 3};

/* ---- a world of pages ---- */

/* Two prefixes and a sequence's own keys, in pages; each sequence's own are its own. */
typedef struct World {
    int32_t G, group, D;
    int32_t prefix[2]; /* keys */
    int32_t own;       /* keys of each sequence */
    int32_t seqs;
} World;

enum { SEQS_MAX = 96, ROWS_MAX = SEQS_MAX * 16, ENTRIES_MAX = 4096, READS = 2 };

/* Who takes part, in this order: sequence `number` with `rows` rows, behind the prefixes of its mask. */
typedef struct Guest {
    int32_t number, rows, prefixes;
} Guest;
typedef struct Batch {
    Guest guest[SEQS_MAX];
    int32_t guests;
    bool copies; /* every sequence reads prefixes from copies of their pages of its own */
} Batch;

static int32_t pages_of(int32_t keys) {
    return (keys + KV_PAGE - 1) / KV_PAGE;
}

/* Pages of the pool: the prefixes', copies of them for each sequence, and each one's own. */
static int32_t page_of(const World *w, int32_t copy, int32_t which, int32_t i) {
    int32_t prefixes = pages_of(w->prefix[0]) + pages_of(w->prefix[1]);
    return (copy + 1) * prefixes + (which ? pages_of(w->prefix[0]) : 0) + i;
}
static int32_t own_page_of(const World *w, int32_t number, int32_t i) {
    return page_of(w, w->seqs, 0, 0) + number * pages_of(w->own) + i;
}
static int32_t pool_pages(const World *w) {
    return own_page_of(w, w->seqs, 0);
}

/* ---- a batch as a layout ---- */

typedef struct Layout {
    int32_t row[SEQS_MAX + 1], seg[SEQS_MAX + 1], page[ENTRIES_MAX];
    Segment segment[SEQS_MAX * (READS + 1)];
    AttnLayout layout;
} Layout;

static void add_pages(AttnLayout *l, int32_t *page, int32_t first, int32_t n) {
    assert_true(l->entries + n <= ENTRIES_MAX);
    for (int32_t i = 0; i < n; i++) page[l->entries++] = first + i;
}

static void add_guest(Layout *to, const World *w, const Batch *b, const Guest *g) {
    AttnLayout *l = &to->layout;
    int32_t n = to->seg[l->S];
    for (int32_t which = 0; which < 2; which++) {
        if (!(g->prefixes >> which & 1)) continue;
        to->segment[n++] = (Segment){l->entries, 0, w->prefix[which]};
        add_pages(l, to->page, page_of(w, b->copies ? g->number : -1, which, 0), pages_of(w->prefix[which]));
    }
    to->segment[n++] = (Segment){l->entries, 0, w->own};
    add_pages(l, to->page, own_page_of(w, g->number, 0), pages_of(w->own));
    to->row[l->S + 1] = to->row[l->S] + g->rows;
    to->seg[++l->S] = n;
}

static void lay_out(Layout *to, const World *w, const Batch *b) {
    memset(to, 0, sizeof *to);
    for (int32_t i = 0; i < b->guests; i++) add_guest(to, w, b, &b->guest[i]);
    AttnLayout *l = &to->layout;
    l->T = to->row[l->S], l->pages = pool_pages(w);
    l->row = to->row, l->seg = to->seg, l->segment = to->segment, l->page = to->page;
}

/* ---- values ---- */

/* Row r of sequence `number` counts from its last: pieces of different lengths end with the same rows. */
static void query_of(double *to, const World *w, const Guest *g, int32_t row) {
    int64_t n = (int64_t)w->G * w->group * w->D;
    uint64_t from = ((uint64_t)g->number * 16 + (uint64_t)(g->rows - 1 - row)) * (uint64_t)n;
    for (int64_t i = 0; i < n; i++) to[i] = (double)random_normal(7, 0, from + (uint64_t)i);
}

static Tensor queries(OpsRig *r, const World *w, const Batch *b) {
    static double x[ROWS_MAX * 1024];
    int64_t H = w->G * w->group, t = 0;
    for (int32_t i = 0; i < b->guests; i++)
        for (int32_t row = 0; row < b->guest[i].rows; row++, t++)
            query_of(x + t * H * w->D, w, &b->guest[i], row);
    return FLOATS(r, r->act, x, t, H, w->D);
}

/* A copy of a prefix's page holds what the page does. */
static Tensor pool(OpsRig *r, const World *w, uint64_t seed) {
    int64_t page = (int64_t)w->G * KV_PAGE * w->D, pages = pool_pages(w), copied = page_of(w, 0, 0, 0);
    double *x = malloc(sizeof(double) * (size_t)(pages * page));
    assert_non_null(x);
    for (int64_t i = 0; i < pages * page; i++) {
        int64_t p = i / page, own = own_page_of(w, 0, 0);
        x[i] = (double)random_normal(seed, 0, (uint64_t)(p < own ? p % copied * page + i % page : i));
    }
    Tensor t = FLOATS(r, r->act, x, pages, w->G, KV_PAGE, w->D);
    free(x);
    return t;
}

/* ---- running one ---- */

typedef struct Result {
    int32_t T;
    double *o, *lse;
} Result;

static AttnLimits limits_of(const World *w, DType act) {
    return (AttnLimits){.rows = ROWS_MAX,
                        .seqs = w->seqs,
                        .segments = w->seqs * 3,
                        .entries = ENTRIES_MAX,
                        .pages = pool_pages(w),
                        .heads = w->G * w->group,
                        .kv_heads = w->G,
                        .head_dim = w->D,
                        .act = act};
}

static AttnArgs args_of(OpsRig *r, const World *w, const Batch *b, AttnPlan *plan) {
    Tensor q = queries(r, w, b), k = pool(r, w, 8), v = pool(r, w, 9);
    Tensor o = BLANK(r, r->act, q.dim[0], q.dim[1], q.dim[2]), lse = BLANK(r, DT_F32, q.dim[0], q.dim[1]);
    return (AttnArgs){o, lse, q, k, v, plan, 1 / sqrtf((float)w->D)};
}

/* Twice with one plan: what the first run leaves behind must not matter to the second. */
static Result run(const Ops *table, DType act, const World *w, const Batch *b) {
    OpsRig r;
    static Layout l;
    AttnPlan *plan;
    AttnLimits limits = limits_of(w, act);
    ops_rig_open(&r, table, act, DT_BF16);
    lay_out(&l, w, b);
    assert_ok(table->plan_open(&plan, &limits));
    assert_ok(table->attn_plan(r.stream, plan, &l.layout));
    AttnArgs a = args_of(&r, w, b, plan);
    Result result = {l.layout.T, NULL, NULL};
    for (int i = 0; i < 2; i++) {
        free(result.o), free(result.lse);
        ops_rig_attn(&r, a);
        result.o = ops_rig_read(&r, a.o), result.lse = ops_rig_read(&r, a.lse);
    }
    table->plan_close(plan);
    ops_rig_close(&r);
    return result;
}

static void result_free(Result *r) {
    free(r->o), free(r->lse);
}

/* The rows of guest i of `many` are those of the one guest of `alone`. */
static void same_rows(const World *w, const Batch *many, const Result *all, int32_t i, const Result *alone,
                      const char *company) {
    int64_t H = w->G * w->group, first = 0, rows = many->guest[i].rows;
    for (int32_t g = 0; g < i; g++) first += many->guest[g].rows;
    for (int64_t j = 0; j < rows * H * w->D; j++)
        if (all->o[first * H * w->D + j] != alone->o[j])
            fail_msg("%s: o[%lld] of sequence %d is %.9g, alone %.9g", company, (long long)j,
                     many->guest[i].number, all->o[first * H * w->D + j], alone->o[j]);
    for (int64_t j = 0; j < rows * H; j++)
        if (all->lse[first * H + j] != alone->lse[j])
            fail_msg("%s: lse[%lld] of sequence %d is %.9g, alone %.9g", company, (long long)j,
                     many->guest[i].number, all->lse[first * H + j], alone->lse[j]);
}

/* ---- company ---- */

static void crowd(Batch *b, const World *w, int32_t others, int32_t rows, int32_t prefixes) {
    for (int32_t i = 0; i < others; i++)
        b->guest[b->guests++] = (Guest){1 + i % (w->seqs - 1), rows, prefixes};
}

/* Sequence 0 in company: `before` others, itself, `after` others of `rows` rows each. */
typedef struct Company {
    const char *name;
    int32_t before, after, rows, prefixes;
    bool copies;
} Company;

static const Company companies[] = {
    {"one before", 1, 0, 1, 3, false},
    {"five after", 0, 5, 1, 3, false},
    {"among thirty", 12, 18, 1, 1, false},
    {"among longer ones", 15, 15, 3, 3, false},
    {"others behind the second prefix", 7, 3, 16, 2, false},
    {"others without a prefix", 3, 3, 2, 0, false},
    {"a prefix of its own", 2, 9, 2, 3, true},
};

static const World worlds[] = {
    {2, 3, 64, {300, 70}, 90, 31},
    {1, 4, 128, {1100, 33}, 17, 31},
    {1, 20, 64, {128, 1}, 64, 31},
};

static void check_company(const World *w, int32_t rows, const SimtRun *how) {
    Batch lonely = {{{0, rows, 3}}, 1, false};
    simt_control(&in_order);
    Result alone = run(ops, DT_BF16, w, &lonely);
    simt_control(how);
    for (size_t i = 0; i < sizeof companies / sizeof *companies; i++) {
        const Company *c = &companies[i];
        Batch b = {.copies = c->copies};
        crowd(&b, w, c->before, c->rows, c->prefixes);
        b.guest[b.guests++] = (Guest){0, rows, 3};
        crowd(&b, w, c->after, c->rows, c->prefixes);
        Result all = run(ops, DT_BF16, w, &b);
        same_rows(w, &b, &all, c->before, &alone, c->name);
        result_free(&all);
    }
    result_free(&alone);
}

static void test_company(void **state) {
    (void)state;
    check_company(&worlds[0], 1, &at_random);
    check_company(&worlds[1], 5, &at_random);
    check_company(&worlds[2], 3, &at_random);
}

/* ---- against the reference ---- */

static void test_agrees(void **state) {
    (void)state;
    const World *w = &worlds[0];
    Batch b = {.guests = 0};
    crowd(&b, w, 30, 3, 3);
    simt_control(&at_random);
    Result fast = run(ops, DT_BF16, w, &b), right = run(&ops_ref, DT_F32, w, &b);
    int64_t n = (int64_t)fast.T * w->G * w->group;
    for (int64_t i = 0; i < n * w->D; i++) assert_true(fabs(fast.o[i] - right.o[i]) < 0.01);
    for (int64_t i = 0; i < n; i++) assert_true(fabs(fast.lse[i] - right.lse[i]) < 1e-4);
    result_free(&fast), result_free(&right);
}

/* ---- waves ---- */

/* 70 sequences of 16 rows with three parts each are 3360 parts; 1120 slots take them in four waves, and two
 * of the sequences that are looked at have rows in two of these. */
static void test_waves(void **state) {
    (void)state;
    static const World w = {1, 1, 64, {70, 70}, 300, 70};
    static const int32_t looked_at[] = {0, 23, 46, 69};
    Batch b = {.guests = 0};
    for (int32_t i = 0; i < w.seqs; i++) b.guest[b.guests++] = (Guest){i, 16, 1};
    simt_control(&at_random);
    Result all = run(ops, DT_BF16, &w, &b);
    for (size_t i = 0; i < sizeof looked_at / sizeof *looked_at; i++) {
        Batch lonely = {{{looked_at[i], 16, 1}}, 1, false};
        Result alone = run(ops, DT_BF16, &w, &lonely);
        same_rows(&w, &b, &all, looked_at[i], &alone, "four waves");
        result_free(&alone);
    }
    result_free(&all);
}

/* ---- limits ---- */

/* One row of one head, behind the same key so many times. Keys are zero: o is the mean of the values. */
static void check_mean(OpsRig *r, AttnPlan *plan, int32_t prefixes) {
    enum { D = 64 };
    Tensor q = NORMAL(r, DT_BF16, 1, 1, 1, 1, D), o = BLANK(r, DT_BF16, 1, 1, D),
           lse = BLANK(r, DT_F32, 1, 1);
    Tensor k = NORMAL(r, DT_BF16, 2, 0, 2, 1, KV_PAGE, D), v = NORMAL(r, DT_BF16, 3, 1, 2, 1, KV_PAGE, D);
    ops_rig_attn(r, (AttnArgs){o, lse, q, k, v, plan, 1});
    double *got = ops_rig_read(r, o), *got_lse = ops_rig_read(r, lse), *value = ops_rig_read(r, v);
    for (int i = 0; i < D; i++) {
        double right = (prefixes * value[5 * D + i] + value[KV_PAGE * D + i]) / (prefixes + 1);
        assert_true(fabs(got[i] - right) < 0.01 + 0.005 * fabs(right));
    }
    assert_true(fabs(got_lse[0] - log(prefixes + 1)) < 1e-5);
    free(got), free(got_lse), free(value);
}

static void check_prefixes(int32_t prefixes, Status wanted) {
    enum { SEGMENTS = 1100 };
    static const int32_t row[] = {0, 1}, page[] = {0, 1};
    static Segment segment[SEGMENTS];
    for (int32_t i = 0; i < prefixes; i++) segment[i] = (Segment){0, 5, 1};
    segment[prefixes] = (Segment){1, 0, 1};
    const int32_t seg[] = {0, prefixes + 1};
    AttnLayout l = {1, 1, row, seg, segment, page, 2, 2, NULL, NULL};
    AttnLimits limits = {.rows = 1,
                         .seqs = 1,
                         .segments = SEGMENTS,
                         .entries = 2,
                         .pages = 2,
                         .heads = 1,
                         .kv_heads = 1,
                         .head_dim = 64,
                         .act = DT_BF16};
    AttnPlan *plan;
    OpsRig r;
    ops_rig_open(&r, ops, DT_BF16, DT_BF16);
    assert_ok(ops->plan_open(&plan, &limits));
    assert_int_equal(ops->attn_plan(r.stream, plan, &l), wanted);
    if (wanted)
        assert_says("1025 chunks of keys, at most 1024");
    else
        check_mean(&r, plan, prefixes);
    ops->plan_close(plan);
    ops_rig_close(&r);
}

/* A row has as many parts as there are slots at most, and that many it may have. */
static void test_limits(void **state) {
    (void)state;
    simt_control(&at_random);
    check_prefixes(1023, ST_OK);
    check_prefixes(1024, ST_UNSUPPORTED);
}

/* ---- recordings ---- */

/* A launch that was recorded for one batch serves the next one: it finds the list in device memory. */
static void test_recording(void **state) {
    (void)state;
    const World *w = &worlds[0];
    Batch first = {.guests = 0}, second = {.copies = true};
    crowd(&first, w, 2, 2, 1);
    crowd(&second, w, 4, 1, 3);
    static Layout l;
    AttnPlan *plan;
    AttnLimits limits = limits_of(w, DT_BF16);
    OpsRig r;
    simt_control(&at_random);
    ops_rig_open(&r, ops, DT_BF16, DT_BF16);
    assert_ok(ops->plan_open(&plan, &limits));
    lay_out(&l, w, &first);
    assert_ok(ops->attn_plan(r.stream, plan, &l.layout));
    AttnArgs a = args_of(&r, w, &second, plan); /* as many rows as the first */
    Recording *launch;
    assert_true(ops->plan_records(plan));
    assert_ok(ops->record(r.stream));
    assert_ok(ops->attn(r.stream, &a));
    assert_ok(ops->record_end(r.stream, &launch));
    assert_ok(ops->replay(r.stream, launch));
    lay_out(&l, w, &second);
    assert_ok(ops->attn_plan(r.stream, plan, &l.layout));
    for (int i = 0; i < 2; i++) assert_ok(ops->replay(r.stream, launch));
    Result replayed = {4, ops_rig_read(&r, a.o), ops_rig_read(&r, a.lse)};
    ops->recording_close(launch);
    ops->plan_close(plan);
    ops_rig_close(&r);
    for (int32_t i = 0; i < second.guests; i++) {
        Batch lonely = {{second.guest[i]}, 1, false};
        Result alone = run(ops, DT_BF16, w, &lonely);
        same_rows(w, &second, &replayed, i, &alone, "replayed");
        result_free(&alone);
    }
    result_free(&replayed);
}

/* ---- bytes, and banks that never make a warp wait ---- */

/* 64 rows that share 2048 keys and have 512 of their own, 24 heads over 8, of 128. Here they are 3 over 1:
 * nothing that is read or written belongs to two key heads. */
static void test_bytes(void **state) {
    (void)state;
    static const World w = {1, 3, 128, {2048, 0}, 512, 64};
    Batch b = {.guests = 0};
    for (int32_t i = 0; i < w.seqs; i++) b.guest[b.guests++] = (Guest){i, 1, 1};
    simt_control(&in_order);
    simt_counters_clear();
    Result all = run(ops, DT_BF16, &w, &b);
    result_free(&all);
    SimtCounters c = simt_counters("attn_decode");
    double pages = 2.0 * (2048 + 64 * 512) * 128 * 2,
           moved = (double)(c.read + c.written) / (double)c.launches;
    print_message("pages %.0f bytes, moved %.0f: %.4f; mma %llu\n", pages, moved, moved / pages,
                  (unsigned long long)(c.mma / c.launches));
    assert_int_equal(c.ldmatrix_waves, c.ldmatrix);
    assert_int_equal(c.shared_waves, c.shared_ideal);
    assert_true(moved <= 1.15 * pages);
}

/* An argument chooses the tests whose name contains it; "bytes" is for the counting build. */
int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_company), cmocka_unit_test(test_agrees), cmocka_unit_test(test_waves),
        cmocka_unit_test(test_limits),  cmocka_unit_test(test_recording),  cmocka_unit_test(test_bytes),
    };
    char pattern[64];
    ops = gpu_table();
    snprintf(pattern, sizeof pattern, "*%s*", argc > 1 ? argv[1] : "bytes");
    if (argc > 1)
        cmocka_set_test_filter(pattern);
    else
        cmocka_set_skip_filter(pattern);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
