/* test_cpu.c -- what the fast CPU backend promises beyond the contract of ops.h (which test_ops walks): the
 * same bits with any number of threads, the same bits of a row's attention in any company, no allocation in
 * an operation, and every copy of the kernels that this machine can run agreeing with the reference.
 *
 * One list of cases serves all of these: a case runs one operation on fixed random inputs and collects all
 * outputs as floats. Rows of pages that no key lies in are NaN. */
#include <math.h>
#include <stdlib.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "kernels/attn_plan_cpu.h"
#include "kernels/base/random.h"
#include "tests/count_allocations.h"
#include "tests/test.h"

/* ---- memory and values ---- */

enum { OUT_MAX = 1 << 22, BLOCKS_MAX = 256 };

static void *block[BLOCKS_MAX];
static int32_t blocks;

/* Zeroed memory for a tensor, given back by free_all. */
static void *room(size_t bytes) {
    assert_true(blocks < BLOCKS_MAX);
    void *p = calloc(1, bytes ? bytes : 1);
    assert_non_null(p);
    block[blocks++] = p;
    return p;
}

static void free_all(void) {
    while (blocks) free(block[--blocks]);
}

static Tensor blank(DType type, int32_t ndim, const int64_t *dim) {
    Tensor t = tensor_view(NULL, type, ndim, dim);
    int64_t n = 1;
    for (int32_t i = 0; i < ndim; i++) n *= dim[i];
    t.data = room((size_t)n * dtype_bytes(type));
    return t;
}
#define BLANK(type, ...) blank((type), TENSOR_SHAPE(__VA_ARGS__))
#define NORMAL(seed, type, ...) filled(blank((type), TENSOR_SHAPE(__VA_ARGS__)), (seed))
#define BELOW(seed, bound, ...) whole(blank(DT_I32, TENSOR_SHAPE(__VA_ARGS__)), (seed), (bound))

static Tensor filled(Tensor t, uint64_t seed) {
    for (int64_t i = 0; i < tensor_count(t); i++) {
        float x = random_normal(seed, 0, (uint64_t)i);
        if (t.dtype == DT_F32) ((float *)t.data)[i] = x;
        else ((uint16_t *)t.data)[i] = f32_to_bf16(x);
    }
    return t;
}

static Tensor whole(Tensor t, uint64_t seed, int32_t bound) {
    for (int64_t i = 0; i < tensor_count(t); i++)
        ((int32_t *)t.data)[i] = (int32_t)random_below(seed, 1, (uint64_t)i, (uint64_t)bound);
    return t;
}

static float *floats(Tensor t) {
    return t.data;
}

static int32_t *ints(Tensor t) {
    return t.data;
}

/* Everything a case wrote, one number after the other. */
typedef struct Out { int64_t n; float *x; } Out;

static void collect(Out *out, Tensor t) {
    for (int64_t i = 0; i < tensor_count(t); i++) {
        assert_true(out->n < OUT_MAX);
        float v = t.dtype == DT_F32   ? floats(t)[i]
                  : t.dtype == DT_I32 ? (float)ints(t)[i]
                                      : (float)((double *)t.data)[i];
        out->x[out->n++] = v;
    }
}

/* ---- the cases: large enough for several threads, and no size a multiple of 16 that need not be ---- */

typedef struct Bench { const Ops *ops; Stream *stream; Out *out; } Bench;

static void case_rows(Bench *b) {
    Tensor id = BELOW(1, 97, 50), table = NORMAL(2, DT_BF16, 97, 1028), y = BLANK(DT_F32, 50, 1028);
    assert_ok(b->ops->gather(b->stream, &(GatherArgs){y, table, id}));
    Tensor to = NORMAL(3, DT_F32, 97, 1028), order = BLANK(DT_I32, 50);
    for (int32_t i = 0; i < 50; i++) ints(order)[i] = (i * 13 + 5) % 97;
    assert_ok(b->ops->scatter(b->stream, &(ScatterArgs){to, y, order}));
    collect(b->out, y);
    collect(b->out, to);
}

static void case_norm(Bench *b) {
    Tensor x = NORMAL(5, DT_F32, 40, 1156), w = NORMAL(6, DT_BF16, 1156), y = BLANK(DT_F32, 40, 1156);
    Tensor rstd = BLANK(DT_F32, 40), dy = NORMAL(7, DT_F32, 40, 1156), dx = NORMAL(8, DT_F32, 40, 1156);
    assert_ok(b->ops->norm(b->stream, &(NormArgs){y, rstd, x, w, 1e-5f}));
    assert_ok(b->ops->norm_back(b->stream, &(NormBackArgs){dx, dy, x, w, rstd, true}));
    collect(b->out, y);
    collect(b->out, rstd);
    collect(b->out, dx);
}

static void linear_both(Bench *b, int64_t T, int64_t in, int64_t outputs, DType type, bool accumulate) {
    Tensor x = NORMAL(9, DT_F32, T, in), w = NORMAL(10, type, outputs, in),
           bias = NORMAL(11, DT_BF16, outputs);
    Tensor y = NORMAL(12, DT_F32, T, outputs), dx = NORMAL(13, DT_F32, T, in);
    for (int64_t i = 0; i < T * in; i++) floats(x)[i] /= sqrtf((float)in);
    assert_ok(b->ops->linear(b->stream, &(LinearArgs){y, x, w, bias, accumulate ? y : (Tensor){0}}));
    assert_ok(b->ops->linear_back(b->stream, &(LinearBackArgs){dx, y, w, accumulate}));
    collect(b->out, y);
    collect(b->out, dx);
}

/* A few rows, and outputs that leave a group of them incomplete. */
static void case_linear_few(Bench *b) {
    for (int64_t T = 1; T <= 13; T++) linear_both(b, T, 152, 1003, DT_BF16, T % 2);
    linear_both(b, 48, 33, 65, DT_BF16, true);
}

/* Several tiles each way; other types of weights. */
static void case_linear_many(Bench *b) {
    linear_both(b, 300, 800, 210, DT_BF16, false);
    linear_both(b, 97, 33, 65, DT_BF16, true);
    linear_both(b, 3, 64, 40, DT_F32, false);
}

static void case_swiglu(Bench *b) {
    Tensor gate = NORMAL(16, DT_F32, 77, 611), up = NORMAL(17, DT_F32, 77, 611), y = BLANK(DT_F32, 77, 611);
    Tensor dy = NORMAL(18, DT_F32, 77, 611), dgate = BLANK(DT_F32, 77, 611), dup = BLANK(DT_F32, 77, 611);
    for (int64_t i = 0; i < 77 * 611; i++) floats(gate)[i] *= i % 7 ? 2 : 30;
    assert_ok(b->ops->swiglu(b->stream, &(SwigluArgs){y, gate, up}));
    assert_ok(b->ops->swiglu_back(b->stream, &(SwigluBackArgs){dgate, dup, dy, gate, up}));
    collect(b->out, y);
    collect(b->out, dgate);
    collect(b->out, dup);
}

static void case_heads(Bench *b) {
    enum { T = 200, H = 6, G = 3, D = 96 };
    Tensor q = BLANK(DT_F32, T, H, D), q_raw = NORMAL(14, DT_F32, T, H, D), k = NORMAL(19, DT_F32, T, G, D);
    Tensor v = NORMAL(20, DT_F32, T, G, D), pos = BELOW(15, 131072, T), slot = BLANK(DT_I32, T);
    Tensor freq = BLANK(DT_F32, D / 2);
    Tensor k_pool = BLANK(DT_F32, 4, G, KV_PAGE, D), v_pool = BLANK(DT_F32, 4, G, KV_PAGE, D);
    Tensor w_q = NORMAL(4, DT_BF16, D), w_k = NORMAL(34, DT_BF16, D);
    for (int32_t i = 0; i < D / 2; i++) floats(freq)[i] = (float)pow(10000.0, -2.0 * i / D);
    for (int32_t i = 0; i < T; i++) ints(slot)[i] = i % 11 ? (i * 7 + 3) % 256 : -1;
    HeadsArgs a = {q, k_pool, v_pool, q_raw, k, v, w_q, w_k, pos, slot, freq, 1e-5f};
    assert_ok(b->ops->heads(b->stream, &a));
    collect(b->out, q);
    collect(b->out, k_pool);
    collect(b->out, v_pool);
    Tensor dq = BLANK(DT_F32, T, H, D), dk = BLANK(DT_F32, T, G, D), dv = BLANK(DT_F32, T, G, D);
    HeadsBackArgs back = {dq, dk, dv, q, k_pool, v_pool, q_raw, k, w_q, w_k, pos, slot, freq, 1e-5f};
    assert_ok(b->ops->heads_back(b->stream, &back));
    collect(b->out, dq);
    collect(b->out, dk);
    collect(b->out, dv);
}

/* Logits like a model's: most far below the best. */
static Tensor logits_of(uint64_t seed, int64_t W, int64_t V) {
    Tensor t = NORMAL(seed, DT_F32, W, V);
    for (int64_t i = 0; i < W * V; i++) floats(t)[i] = 3 * floats(t)[i] - 4;
    return t;
}

static void case_distill(Bench *b) {
    enum { W = 9, V = 5003, N = 20 };
    Tensor logits = logits_of(21, W, V), first = BLANK(DT_I32, W + 1), id = BLANK(DT_I32, W * N);
    Tensor logprob = BLANK(DT_F32, W * N), loss = BLANK(DT_F32, W), kl = BLANK(DT_F32, W),
           best = BLANK(DT_I32, W);
    for (int32_t w = 0; w < W; w++) {
        int32_t n = w == 4 ? 0 : N;
        ints(first)[w + 1] = ints(first)[w] + n;
        for (int32_t j = 0; j < n; j++) {
            ints(id)[ints(first)[w] + j] = (w * 131 + j * 241) % V;
            floats(logprob)[ints(first)[w] + j] = (float)(-0.8 - j * 0.6);
        }
    }
    for (int pass = 0; pass < 2; pass++) {
        assert_ok(b->ops->distill(b->stream,
                                  &(DistillArgs){loss, kl, best, logits, first, id, logprob, 0.25f, pass}));
        collect(b->out, loss);
        collect(b->out, kl);
        collect(b->out, best);
    }
    collect(b->out, logits);
}

static void case_topk(Bench *b) {
    enum { W = 5, V = 3001 };
    Tensor logits = logits_of(22, W, V);
    for (int32_t i = 0; i < W * V; i++) floats(logits)[i] = roundf(floats(logits)[i] * 8) / 8; /* many ties */
    const int32_t counts[] = {1, 20, V};
    for (int i = 0; i < 3; i++) {
        Tensor id = BLANK(DT_I32, W, counts[i]), logprob = BLANK(DT_F32, W, counts[i]);
        assert_ok(b->ops->topk(b->stream, &(TopkArgs){id, logprob, logits}));
        collect(b->out, id);
        collect(b->out, logprob);
    }
}

static void case_sample(Bench *b) {
    enum { W = 96, V = 3001 };
    Tensor logits = logits_of(23, W, V), id = BLANK(DT_I32, W), logprob = BLANK(DT_F32, W),
           top_k = BLANK(DT_I32, W);
    Tensor temperature = BLANK(DT_F32, W), top_p = BLANK(DT_F32, W), min_p = BLANK(DT_F32, W);
    Tensor counter = BELOW(24, 1000, W), seed = BELOW(25, 1 << 30, W, 2);
    for (int32_t w = 0; w < W; w++) {
        floats(temperature)[w] = w % 6 ? 0.5f + 0.5f * (float)(w % 5) : 0;
        floats(top_p)[w] = w % 3 ? 1 : w % 2 ? 0.999f : 0.5f;
        floats(min_p)[w] = w % 4 ? 0 : 0.05f;
        ints(top_k)[w] = w % 5 < 3 ? 0 : 10 * (w % 5);
    }
    assert_ok(b->ops->sample(
        b->stream, &(SampleArgs){id, logprob, logits, temperature, top_p, min_p, top_k, counter, seed}));
    collect(b->out, id);
    collect(b->out, logprob);
}

/* Rows of every shape, with some tokens forbidden: at first flat and steep ones, of which top_p leaves most
 * or little; then a peak above a plain so wide that it is drawn from although rare noise is needed for that,
 * or that top_p ends in it. */
static void case_sample_shapes(Bench *b) {
    enum { W = 640, V = 5003 };
    static const float width[] = {0.01f, 0.5f, 2, 6, 40}, top_p[] = {1, 0.5f, 0.97f, 0.9999f};
    Tensor logits = NORMAL(31, DT_F32, W, V), id = BLANK(DT_I32, W), top_k = BLANK(DT_I32, W);
    Tensor temperature = BLANK(DT_F32, W), top = BLANK(DT_F32, W), min_p = BLANK(DT_F32, W);
    Tensor counter = BELOW(32, 1000, W), seed = BELOW(33, 1 << 30, W, 2);
    for (int32_t w = 0; w < W; w++) {
        float *row = floats(logits) + (int64_t)w * V;
        bool peaked = w >= W / 2, reached = w % 2;
        floats(temperature)[w] = 0.25f * (float)(1 + w % 7);
        floats(top)[w] = !peaked ? top_p[w % 4] : reached ? 0.7f : 1;
        floats(min_p)[w] = peaked || w % 11 ? 0 : 1e-3f;
        for (int32_t v = 0; v < V; v++)
            row[v] = v % 97 == w % 97 || w == 7 ? -INFINITY : 30 + width[peaked ? 0 : w % 5] * row[v];
        if (peaked) row[w * 61 % V] = 30 + (reached ? 8.5f : 11) * floats(temperature)[w];
    }
    SampleArgs a = {id, {0}, logits, temperature, top, min_p, top_k, counter, seed};
    assert_ok(b->ops->sample(b->stream, &a));
    collect(b->out, id);
}

static void case_adam(Bench *b) {
    enum { SLICES = 4, N = 3, G = 2, D = 40, PAGES = 7 };
    Tensor p = NORMAL(26, DT_F32, SLICES, N, G, KV_PAGE, D), g = NORMAL(27, DT_F32, SLICES, N, G, KV_PAGE, D);
    Tensor m = BLANK(DT_F32, SLICES, N, G, KV_PAGE, D), v = BLANK(DT_F32, SLICES, N, G, KV_PAGE, D);
    Tensor pool = BLANK(DT_F32, SLICES, PAGES, G, KV_PAGE, D), sum = BLANK(DT_F64, 1),
           page = BLANK(DT_I32, N);
    Tensor from = BLANK(DT_I32, N), to = BLANK(DT_I32, N), lr = BLANK(DT_F32, N), step = BLANK(DT_I32, N);
    for (int32_t i = 0; i < N; i++) {
        ints(page)[i] = 2 * i + 1, ints(from)[i] = i ? 0 : 1, ints(to)[i] = i == 2 ? 37 : KV_PAGE;
        floats(lr)[i] = 0.01f * (float)(i + 1), ints(step)[i] = i + 1;
    }
    assert_ok(b->ops->squared_norm(b->stream, &(SquaredNormArgs){sum, g, from, to}));
    AdamArgs a = {p, g, m, v, pool, page, from, to, lr, step, 0.9f, 0.95f, 1e-8f, 0.5f, DT_F32};
    assert_ok(b->ops->adam(b->stream, &a));
    collect(b->out, sum);
    collect(b->out, p);
    collect(b->out, g);
    collect(b->out, m);
    collect(b->out, v);
    collect(b->out, pool);
}

/* ---- attention ---- */

/* Two prefixes, A in pages 0 to 18 (1200 rows, three chunks) and B in page 19 (37 rows), and sequences behind
 * them; the third leaves A's first row out. A learns, B is read only. Sequence i owns pages 20 + 2 i and the
 * next. */
enum { A_ROWS = 1200, B_ROWS = 37, PAGES = 40, SEQS = 6, KV_HEADS = 2, OWN_FIRST = 20 };
static int32_t head_size = 32; /* of the case that runs */
typedef struct Attention {
    int32_t group, T, S;
    int32_t row[SEQS + 1], seg[SEQS + 1], page[PAGES], own_grad[PAGES], learned_grad[PAGES];
    Segment segment[3 * SEQS];
    Tensor q, d_o, k, v;
} Attention;

static const struct {
    int32_t rows, keys, prefixes[2], from;
} talks[SEQS] = {{7, 7, {0, -1}, 0}, {40, 100, {0, 1}, 0}, {3, 3, {0, -1}, 1},
                 {1, 60, {1, 0}, 0}, {1, 1, {-1, -1}, 0},  {20, 20, {0, 1}, 0}};

static void poison(Tensor pool, int32_t page, int32_t from) {
    for (int32_t g = 0; g < KV_HEADS; g++)
        for (int64_t i = from * head_size; i < KV_PAGE * head_size; i++)
            floats(pool)[((int64_t)page * KV_HEADS + g) * KV_PAGE * head_size + i] = NAN;
}

static void poison_all(Tensor pool) {
    poison(pool, A_ROWS / KV_PAGE, A_ROWS % KV_PAGE);
    poison(pool, 19, B_ROWS);
    for (int32_t s = 0; s < SEQS; s++) {
        int32_t keys = talks[s].keys, first = OWN_FIRST + 2 * s;
        poison(pool, first, keys < KV_PAGE ? keys : KV_PAGE);
        poison(pool, first + 1, keys > KV_PAGE ? keys - KV_PAGE : 0);
    }
}

/* Adds one sequence: its segments and rows. */
static void add_talk(Attention *at, int32_t s) {
    int32_t n = at->seg[at->S];
    for (int32_t i = 0; i < 2; i++) {
        int32_t which = talks[s].prefixes[i];
        if (which == 0) at->segment[n++] = (Segment){0, talks[s].from, A_ROWS - talks[s].from};
        if (which == 1) at->segment[n++] = (Segment){19, 0, B_ROWS};
    }
    at->segment[n++] = (Segment){OWN_FIRST + 2 * s, 0, talks[s].keys};
    at->S++;
    at->seg[at->S] = n;
    at->row[at->S] = at->T = at->T + talks[s].rows;
}

/* The sequences of a mask; a sequence's queries are the same in every batch. */
static void attention_open(Attention *at, int32_t group, unsigned mask) {
    *at = (Attention){.group = group};
    for (int32_t i = 0; i < PAGES; i++) {
        at->page[i] = i;
        at->own_grad[i] = i >= OWN_FIRST ? i - OWN_FIRST : -1;
        at->learned_grad[i] = i < 19 ? 18 - i : -1;
    }
    int64_t H = KV_HEADS * group;
    at->q = BLANK(DT_F32, 80, H, head_size);
    at->d_o = BLANK(DT_F32, 80, H, head_size);
    for (int32_t s = 0; s < SEQS; s++) {
        if (!(mask >> s & 1)) continue;
        Tensor q = NORMAL(100 + (uint64_t)s, DT_F32, talks[s].rows, H, head_size);
        Tensor d_o = NORMAL(200 + (uint64_t)s, DT_F32, talks[s].rows, H, head_size);
        memcpy(tensor_rows(at->q, at->T, talks[s].rows).data, q.data, tensor_bytes(q));
        memcpy(tensor_rows(at->d_o, at->T, talks[s].rows).data, d_o.data, tensor_bytes(d_o));
        add_talk(at, s);
    }
    at->q = tensor_rows(at->q, 0, at->T);
    at->d_o = tensor_rows(at->d_o, 0, at->T);
    at->k = NORMAL(30, DT_F32, PAGES, KV_HEADS, KV_PAGE, head_size);
    at->v = NORMAL(31, DT_F32, PAGES, KV_HEADS, KV_PAGE, head_size);
    poison_all(at->k);
    poison_all(at->v);
}

static AttnPlan *plan_for(const Ops *ops, const Attention *at, int32_t rows, bool gradients) {
    AttnLimits limits = {.rows = rows,
                         .seqs = SEQS,
                         .segments = 3 * SEQS,
                         .entries = PAGES,
                         .pages = PAGES,
                         .heads = KV_HEADS * at->group,
                         .kv_heads = KV_HEADS,
                         .head_dim = head_size,
                         .act = DT_F32,
                         .backward = true};
    AttnPlan *plan;
    assert_ok(ops->plan_open(&plan, &limits));
    AttnLayout layout = {at->T, at->S, at->row, at->seg, at->segment, at->page, PAGES, PAGES,
                         gradients ? at->own_grad : NULL, gradients ? at->learned_grad : NULL};
    assert_ok(ops->attn_plan(NULL, plan, &layout));
    return plan;
}

static void run_attention(const Bench *b, const Attention *at, AttnPlan *plan, bool back) {
    int64_t H = KV_HEADS * at->group;
    float scale = 1 / sqrtf((float)head_size);
    Tensor o = BLANK(DT_F32, at->T, H, head_size), lse = BLANK(DT_F32, at->T, H);
    assert_ok(b->ops->attn(b->stream, &(AttnArgs){o, lse, at->q, at->k, at->v, plan, scale}));
    collect(b->out, o);
    collect(b->out, lse);
    if (!back) return;
    Tensor dq = NORMAL(40, DT_F32, at->T, H, head_size);
    Tensor dk_own = NORMAL(41, DT_F32, 20, KV_HEADS, KV_PAGE, head_size),
           dv_own = NORMAL(42, DT_F32, 20, KV_HEADS, KV_PAGE, head_size);
    Tensor dk = NORMAL(43, DT_F32, 19, KV_HEADS, KV_PAGE, head_size),
           dv = NORMAL(44, DT_F32, 19, KV_HEADS, KV_PAGE, head_size);
    AttnBackArgs a = {dq, dk_own, dv_own, dk, dv, at->d_o, o, lse, at->q, at->k, at->v, plan, scale};
    assert_ok(b->ops->attn_back(b->stream, &a));
    /* Once more, as layer 0 does: only the learned pages, which are added to. */
    a.dq = a.dk_own = a.dv_own = (Tensor){0};
    assert_ok(b->ops->attn_back(b->stream, &a));
    collect(b->out, dq);
    collect(b->out, dk_own);
    collect(b->out, dv_own);
    collect(b->out, dk);
    collect(b->out, dv);
}

static void attention_case(Bench *b, int32_t group, int32_t head, unsigned mask) {
    Attention at;
    head_size = head;
    attention_open(&at, group, mask);
    AttnPlan *plan = plan_for(b->ops, &at, 80, true);
    run_attention(b, &at, plan, true);
    b->ops->plan_close(plan);
}

static void case_attention_1(Bench *b) {
    attention_case(b, 1, 256, 0x35);
}

static void case_attention_2(Bench *b) {
    attention_case(b, 2, 128, 0x3d);
}

static void case_attention_3(Bench *b) {
    attention_case(b, 3, 64, 0x3f);
}

static void case_attention_7(Bench *b) {
    attention_case(b, 7, 96, 0x1d);
}

static void case_attention_50(Bench *b) {
    attention_case(b, 50, 32, 0x14);
}

static const struct { const char *name; void (*run)(Bench *b); double epsilon; } cases[] = {
    {"rows", case_rows, 0},
    {"norm", case_norm, 1e-5},
    {"linear, few rows", case_linear_few, 4e-5},
    {"linear, many rows", case_linear_many, 4e-5},
    {"heads", case_heads, 2e-6},
    {"swiglu", case_swiglu, 4e-6},
    {"distill", case_distill, 1e-5},
    {"topk", case_topk, 1e-6},
    {"sample", case_sample, 1e-6},
    {"sample, rows of every shape", case_sample_shapes, 0},
    {"adam", case_adam, 1e-5},
    {"attention, group of 1", case_attention_1, 1e-5},
    {"attention, group of 2", case_attention_2, 1e-5},
    {"attention, group of 3", case_attention_3, 1e-5},
    {"attention, group of 7", case_attention_7, 1e-5},
    {"attention, group of 50", case_attention_50, 4e-5},
};
enum { CASES = sizeof cases / sizeof *cases };

static Out run_case(int i, const Ops *ops) {
    Out out = {0, malloc(sizeof(float) * OUT_MAX)};
    assert_non_null(out.x);
    Bench b = {.ops = ops, .out = &out};
    assert_ok(ops->stream_open(&b.stream, &(StreamLimits){400, 1024, 6000}));
    cases[i].run(&b);
    ops->stream_close(b.stream);
    free_all();
    return out;
}

static void use_threads(int n) {
#ifdef _OPENMP
    omp_set_num_threads(n);
#else
    (void)n;
#endif
}

/* ---- tests ---- */

static void assert_same_bits(const Out *a, const Out *b, const char *what) {
    assert_int_equal(a->n, b->n);
    for (int64_t i = 0; i < a->n; i++)
        if (memcmp(a->x + i, b->x + i, sizeof *a->x))
            fail_msg("%s: number %lld is %.9g and %.9g", what, (long long)i, (double)a->x[i],
                     (double)b->x[i]);
}

/* Errors are taken against the size of the numbers around, 1 at least. */
static void assert_outputs_near(const Out *a, const Out *b, double epsilon, const char *what) {
    assert_int_equal(a->n, b->n);
    for (int64_t i = 0; i < a->n; i++) {
        double x = a->x[i], y = b->x[i];
        if (!(fabs(x - y) <= epsilon * fmax(1, fabs(y))))
            fail_msg("%s: number %lld is %.9g, wanted %.9g", what, (long long)i, x, y);
    }
}

static void test_reference(void **state) {
    (void)state;
    const Ops *copy[] = {ops_cpu_avx512(), ops_cpu_avx2(), &ops_cpu_portable};
    for (int i = 0; i < CASES; i++) {
        Out ref = run_case(i, &ops_ref);
        for (size_t c = 0; c < sizeof copy / sizeof *copy; c++) {
            if (!copy[c]) continue;
            Out cpu = run_case(i, copy[c]);
            assert_outputs_near(&cpu, &ref, cases[i].epsilon, cases[i].name);
            free(cpu.x);
        }
        free(ref.x);
    }
}

static void test_threads(void **state) {
    (void)state;
    for (int i = 0; i < CASES; i++) {
        use_threads(1);
        Out one = run_case(i, &ops_cpu);
        use_threads(2);
        Out two = run_case(i, &ops_cpu);
        use_threads(3);
        Out three = run_case(i, &ops_cpu);
        assert_same_bits(&one, &two, cases[i].name);
        assert_same_bits(&one, &three, cases[i].name);
        free(one.x), free(two.x), free(three.x);
    }
    use_threads(2);
}

/* Streams and plans may be opened while many threads are allowed and used while few are, and the other way
 * round. */
static void test_threads_change(void **state) {
    (void)state;
    use_threads(2);
    Out wanted = run_case(3, &ops_cpu);
    Out out = {0, malloc(sizeof(float) * OUT_MAX)};
    Bench b = {.ops = &ops_cpu, .out = &out};
    use_threads(1);
    assert_ok(ops_cpu.stream_open(&b.stream, &(StreamLimits){400, 1024, 6000}));
    use_threads(4);
    cases[3].run(&b);
    ops_cpu.stream_close(b.stream);
    free_all();
    use_threads(2);
    assert_same_bits(&wanted, &out, cases[3].name);
    free(wanted.x), free(out.x);
}

/* A sequence's o and lse, alone and with any subset of the others, with a plan large or just large enough. */
static void test_company(void **state) {
    (void)state;
    const int32_t group = 3, width = KV_HEADS * 3 * head_size, heads = KV_HEADS * 3;
    for (int32_t s = 0; s < SEQS; s++) {
        Out alone = {0, malloc(sizeof(float) * OUT_MAX)}, among = {0, malloc(sizeof(float) * OUT_MAX)};
        for (unsigned mask = 1u << s; mask < 1u << SEQS; mask += 5) {
            if (!(mask >> s & 1)) continue;
            Attention at;
            alone.n = among.n = 0;
            attention_open(&at, group, 1u << s);
            AttnPlan *plan = plan_for(&ops_cpu, &at, at.T, false);
            run_attention(&(Bench){&ops_cpu, NULL, &alone}, &at, plan, false);
            ops_cpu.plan_close(plan);
            attention_open(&at, group, mask);
            plan = plan_for(&ops_cpu, &at, 300, false);
            run_attention(&(Bench){&ops_cpu, NULL, &among}, &at, plan, false);
            ops_cpu.plan_close(plan);
            int32_t before = 0;
            for (int32_t i = 0; i < s; i++) before += mask >> i & 1 ? talks[i].rows : 0;
            Out o = {talks[s].rows * width, among.x + before * width};
            Out lse = {talks[s].rows * heads, among.x + at.T * width + before * heads};
            Out o_alone = {o.n, alone.x}, lse_alone = {lse.n, alone.x + o.n};
            assert_same_bits(&o_alone, &o, "o");
            assert_same_bits(&lse_alone, &lse, "lse");
            free_all();
        }
        free(alone.x), free(among.x);
    }
}

static bool writes_page(const CpuPlan *p, const Range *r, int32_t page) {
    int32_t last = (r->from + r->length - 1) / KV_PAGE;
    if (p->own_grad[page] < 0 && p->learned_grad[page] < 0) return false;
    for (int32_t e = r->from / KV_PAGE; e <= last; e++)
        if (p->page[r->first + e] == page) return true;
    return false;
}

static bool reads(const CpuPlan *p, const Range *r, int32_t row) {
    for (int32_t i = r->reader; i < r->reader + r->readers; i++)
        if (row >= p->reader[i].row && row < p->reader[i].row + p->reader[i].rows) return true;
    return false;
}

/* In a wave, no row belongs to two ranges and no gradient page to two; A whole is one range for all that read
 * it whole, A without its first row another, in another wave. */
static void test_plan(void **state) {
    (void)state;
    Attention at;
    attention_open(&at, 3, 0x3f);
    AttnPlan *plan = plan_for(&ops_cpu, &at, 80, true);
    const CpuPlan *p = cpu_plan(plan);
    int32_t rows_of_a = 0;
    for (int32_t w = 0; w < p->waves; w++) {
        for (int32_t row = 0; row < at.T; row++) {
            int32_t n = 0;
            for (int32_t i = p->wave[w]; i < p->wave[w + 1]; i++) n += reads(p, &p->range[i], row);
            assert_true(n <= 1);
        }
        for (int32_t page = 0; page < PAGES; page++) {
            int32_t n = 0;
            for (int32_t i = p->wave[w]; i < p->wave[w + 1]; i++) n += writes_page(p, &p->range[i], page);
            assert_true(n <= 1);
        }
    }
    for (int32_t i = 0; i < p->ranges; i++)
        if (p->range[i].length == A_ROWS && p->range[i].wave == 0) rows_of_a = p->range[i].rows;
    assert_int_equal(rows_of_a, talks[0].rows + talks[1].rows + talks[5].rows);
    ops_cpu.plan_close(plan);
    free_all();
}

/* Chunks are merged in their order, whether there are slots for all of them at once or for one at a time. */
static void test_slots(void **state) {
    (void)state;
    Out out[2];
    for (int few = 0; few < 2; few++) {
        Attention at;
        attention_open(&at, 3, 0x3f);
        AttnPlan *plan = plan_for(&ops_cpu, &at, 80, true);
        if (few) ((CpuPlan *)(void *)plan)->slots = at.T;
        out[few] = (Out){0, malloc(sizeof(float) * OUT_MAX)};
        run_attention(&(Bench){&ops_cpu, NULL, &out[few]}, &at, plan, true);
        ops_cpu.plan_close(plan);
        free_all();
    }
    assert_same_bits(&out[0], &out[1], "one chunk at a time");
    free(out[0].x), free(out[1].x);
}

/* A row of a linear layer, there and back, has the same bits however many there are: decoding in a batch is
 * decoding alone. */
static void test_linear_company(void **state) {
    (void)state;
    enum { ROWS = 101, IN = 152, OUTPUTS = 203 };
    Tensor x = NORMAL(50, DT_F32, ROWS, IN), w = NORMAL(51, DT_BF16, OUTPUTS, IN);
    Tensor y = BLANK(DT_F32, ROWS, OUTPUTS), some_y = BLANK(DT_F32, ROWS, OUTPUTS);
    Tensor dx = BLANK(DT_F32, ROWS, IN), some_dx = BLANK(DT_F32, ROWS, IN);
    assert_ok(ops_cpu.linear(NULL, &(LinearArgs){.y = y, .x = x, .w = w}));
    assert_ok(ops_cpu.linear_back(NULL, &(LinearBackArgs){.dx = dx, .dy = y, .w = w}));
    for (int64_t T = 1; T < ROWS; T++) {
        int64_t first = ROWS - T;
        Tensor few_y = tensor_rows(some_y, 0, T), few_dx = tensor_rows(some_dx, 0, T);
        assert_ok(ops_cpu.linear(NULL, &(LinearArgs){.y = few_y, .x = tensor_rows(x, first, T), .w = w}));
        assert_memory_equal(few_y.data, tensor_rows(y, first, T).data, tensor_bytes(few_y));
        assert_ok(ops_cpu.linear_back(NULL, &(LinearBackArgs){.dx = few_dx, .dy = few_y, .w = w}));
        assert_memory_equal(few_dx.data, tensor_rows(dx, first, T).data, tensor_bytes(few_dx));
    }
    free_all();
}

/* Between open and close of stream and plan, operations allocate nothing; what a case takes for tensors is
 * known. */
static int64_t allocations_of(int i) {
    Out out = {0, malloc(sizeof(float) * OUT_MAX)};
    Bench b = {.ops = &ops_cpu, .out = &out};
    assert_ok(ops_cpu.stream_open(&b.stream, &(StreamLimits){400, 1024, 6000}));
    int64_t before = allocations_so_far(), tensors = blocks;
    cases[i].run(&b);
    int64_t made = allocations_so_far() - before - (blocks - tensors);
    ops_cpu.stream_close(b.stream);
    free_all();
    free(out.x);
    return made;
}

static void test_no_allocation(void **state) {
    (void)state;
    const int64_t plan = 2; /* the attention cases open one: a struct and its block */
    for (int i = 0; i < CASES; i++) {
        int64_t allowed = strncmp(cases[i].name, "attention", 9) ? 0 : plan;
        if (allocations_of(i) != allowed) fail_msg("%s allocates", cases[i].name);
    }
}

static void test_refusals(void **state) {
    (void)state;
    Stream *s;
    assert_ok(ops_cpu.stream_open(&s, &(StreamLimits){8, 64, 100}));
    Tensor half = BLANK(DT_BF16, 2, 65);
    assert_fails(ST_UNSUPPORTED, ops_cpu.swiglu(s, &(SwigluArgs){half, half, half}));
    assert_says("bf16");
    Tensor logits = BLANK(DT_F32, 1, 101), id = BLANK(DT_I32, 1, 1), logprob = BLANK(DT_F32, 1, 1);
    assert_fails(ST_ARG, ops_cpu.topk(s, &(TopkArgs){id, logprob, logits}));
    AttnPlan *plan;
    AttnLimits limits = {4, 1, 1, 1, 1, 3, 2, 64, DT_F32, false};
    assert_fails(ST_ARG, ops_cpu.plan_open(&plan, &limits));
    limits.heads = 4, limits.head_dim = 20;
    assert_fails(ST_UNSUPPORTED, ops_cpu.plan_open(&plan, &limits));
    assert_null(plan);
    ops_cpu.stream_close(s);
    free_all();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),      cmocka_unit_test(test_threads),
        cmocka_unit_test(test_threads_change), cmocka_unit_test(test_company),
        cmocka_unit_test(test_plan),           cmocka_unit_test(test_slots),
        cmocka_unit_test(test_linear_company),    cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
