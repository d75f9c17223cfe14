/* ops.c -- how fast each operation is, beside what this machine can do.
 *
 *   bench_ops [--json] [--shape smollm2|llama1b] [--only NAME]
 *
 * Two ceilings are measured first: reading memory (a sum over 512 MiB) and multiplying (sgemm of a 1536 x
 * 1536 x 1536 product), both with all threads. Every operation is held against the one that bounds it: bytes
 * that must move, each counted once, or arithmetic. Times are the fastest of several calls; operands fit a
 * cache where the model's do. A percentage above 100 means that operands stayed in a cache. */
#include <cblas.h>
#undef I
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/random.h"
#include "kernels/ops.h"

typedef struct Shape { const char *name; int32_t C, F, H, G, D, V; } Shape;

static const Shape shapes[] = {
    {"smollm2", 576, 1536, 9, 3, 64, 49152},
    {"llama1b", 2048, 8192, 32, 8, 64, 128256},
};

typedef struct Bench {
    const Ops *ops;
    Stream *stream;
    const Shape *shape;
    const char *only;
    bool json, any;
    double read_ceiling, flop_ceiling; /* per second */
    uint8_t *mem;                      /* owned: all operands, taken from the front for each operation */
    Arena arena;
} Bench;

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(Status st) {
    if (!st) return;
    fprintf(stderr, "bench_ops: %s\n", status_message());
    exit(1);
}

/* The fastest of the calls that fit 0.2 seconds, three at least. */
#define FASTEST(out, call)                                                                                   \
    do {                                                                                                     \
        double start_ = seconds_now(), best_ = INFINITY;                                                     \
        for (int n_ = 0; n_ < 3 || seconds_now() - start_ < 0.2; n_++) {                                     \
            double t_ = seconds_now();                                                                       \
            call;                                                                                            \
            t_ = seconds_now() - t_;                                                                         \
            best_ = t_ < best_ ? t_ : best_;                                                                 \
        }                                                                                                    \
        *(out) = best_;                                                                                      \
    } while (0)

/* ---- operands ---- */

static Tensor take(Bench *b, DType type, int32_t ndim, const int64_t *dim) {
    Tensor t;
    check(tensor_place(&t, &b->arena, type, ndim, dim));
    return t;
}
#define TAKE(b, type, ...) take((b), (type), TENSOR_SHAPE(__VA_ARGS__))

static float noise(int64_t i) {
    return (float)((uint64_t)i * 0x9E3779B97F4A7C15u >> 40) * 0x1p-23f - 1.0f; /* between -1 and 1 */
}

static Tensor some(Tensor t, float size) {
    for (int64_t i = 0; i < tensor_count(t); i++) {
        if (t.dtype == DT_F32) ((float *)t.data)[i] = size * noise(i);
        else ((uint16_t *)t.data)[i] = f32_to_bf16(size * noise(i));
    }
    return t;
}
#define SOME(b, type, ...) some(TAKE((b), (type), __VA_ARGS__), 1)

static Tensor counted(Bench *b, int64_t n, int32_t first, int32_t step) {
    Tensor t = TAKE(b, DT_I32, n);
    for (int64_t i = 0; i < n; i++) ((int32_t *)t.data)[i] = first + step * (int32_t)i;
    return t;
}

/* ---- ceilings ---- */

static double sum_words(const uint64_t *x, int64_t n) {
    uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return (double)sum;
}

static void measure_ceilings(Bench *b) {
    enum { WORDS = 512 << 17, N = 1536 };
    double seconds, sum = 0;
    memset(b->mem, 1, (size_t)WORDS * 8);
    FASTEST(&seconds, sum += sum_words((const uint64_t *)(const void *)b->mem, WORDS));
    b->read_ceiling = sum > 0 ? WORDS * 8.0 / seconds : 0;
    Tensor x = SOME(b, DT_F32, N, N), w = SOME(b, DT_F32, N, N), y = TAKE(b, DT_F32, N, N);
    FASTEST(&seconds, cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, N, N, N, 1, x.data, N, w.data, N,
                                  0, y.data, N));
    b->flop_ceiling = 2.0 * N * N * N / seconds;
}

/* ---- reports ---- */

static void begin_report(const Bench *b) {
    if (b->json) {
        printf("{\"read_gb_per_s\": %.1f, \"sgemm_gflop_per_s\": %.1f, \"results\": [",
               b->read_ceiling * 1e-9, b->flop_ceiling * 1e-9);
        return;
    }
    printf("ceilings: %.1f GB/s reading, %.1f GFLOP/s sgemm\n\n", b->read_ceiling * 1e-9,
           b->flop_ceiling * 1e-9);
    printf("%-8s %-12s %-30s %12s %14s %9s\n", "model", "operation", "sizes", "time", "rate", "ceiling");
}

static void end_report(const Bench *b) {
    if (b->json) printf("\n]}\n");
}

/* What neither memory nor arithmetic bounds. */
static void report_time(Bench *b, const char *name, const char *sizes, double seconds) {
    if (b->json)
        printf("%s\n{\"model\": \"%s\", \"operation\": \"%s\", \"sizes\": \"%s\", \"seconds\": %.3e}",
               b->any ? "," : "", b->shape->name, name, sizes, seconds);
    else
        printf("%-8s %-12s %-30s %9.1f us\n", b->shape->name, name, sizes, seconds * 1e6);
    b->any = true;
}

/* Work: bytes that must move, or operations of arithmetic; the other is 0. */
static void report(Bench *b, const char *name, const char *sizes, double bytes, double flops,
                   double seconds) {
    if (bytes + flops == 0) {
        report_time(b, name, sizes, seconds);
        return;
    }
    double rate = (bytes + flops) / seconds, share = rate / (bytes > 0 ? b->read_ceiling : b->flop_ceiling);
    const char *unit = bytes > 0 ? "GB/s" : "GFLOP/s";
    if (b->json)
        printf("%s\n{\"model\": \"%s\", \"operation\": \"%s\", \"sizes\": \"%s\", \"seconds\": %.3e, "
               "\"rate\": %.2f, "
               "\"unit\": \"%s\", \"of_ceiling\": %.3f}",
               b->any ? "," : "", b->shape->name, name, sizes, seconds, rate * 1e-9, unit, share);
    else
        printf("%-8s %-12s %-30s %9.1f us %6.1f %-7s %7.0f %%\n", b->shape->name, name, sizes, seconds * 1e6,
               rate * 1e-9, unit, 100 * share);
    b->any = true;
    fflush(stdout);
}

/* Times `call` and reports it, unless another operation was asked for. */
#define RUN(b, name, bytes, flops, call, ...)                                                                \
    do {                                                                                                     \
        char sizes_[48];                                                                                     \
        double seconds_;                                                                                     \
        snprintf(sizes_, sizeof sizes_, __VA_ARGS__);                                                        \
        FASTEST(&seconds_, check(call));                                                                     \
        report((b), (name), sizes_, (double)(bytes), (double)(flops), seconds_);                             \
    } while (0)

/* ---- operations ---- */

static void bench_linear_one(Bench *b, int64_t T, int64_t in, int64_t outputs) {
    arena_init(&b->arena, b->mem, b->arena.size);
    Tensor x = SOME(b, DT_F32, T, in), w = SOME(b, DT_BF16, outputs, in), y = TAKE(b, DT_F32, T, outputs);
    LinearArgs a = {.y = y, .x = x, .w = w};
    bool skinny = T <= 8; /* reading the weights takes longer than the arithmetic */
    RUN(b, "linear", skinny ? 2.0 * (double)(in * outputs) : 0, skinny ? 0 : 2.0 * (double)(T * in * outputs),
        b->ops->linear(b->stream, &a), "T %lld, %lld -> %lld", (long long)T, (long long)in,
        (long long)outputs);
}

static void bench_linear(Bench *b) {
    const Shape *s = b->shape;
    const int64_t rows[] = {1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128, 512};
    for (int i = 0; i < 12; i++) bench_linear_one(b, rows[i], s->C, s->F);
    bench_linear_one(b, 16, s->F, s->C);
    bench_linear_one(b, 48, s->F, s->C);
    bench_linear_one(b, 512, s->C, s->C);
    bench_linear_one(b, 512, s->C, s->G * s->D);
    bench_linear_one(b, 512, s->F, s->C);
    bench_linear_one(b, 1, s->C, s->V);
    bench_linear_one(b, 8, s->C, s->V);
    bench_linear_one(b, 128, s->C, s->V);
}

static void bench_linear_back_one(Bench *b, int64_t T, int64_t in, int64_t outputs) {
    arena_init(&b->arena, b->mem, b->arena.size);
    Tensor dx = TAKE(b, DT_F32, T, in), w = SOME(b, DT_BF16, outputs, in), dy = SOME(b, DT_F32, T, outputs);
    LinearBackArgs a = {.dx = dx, .dy = dy, .w = w};
    RUN(b, "linear_back", 0, 2.0 * (double)(T * in * outputs), b->ops->linear_back(b->stream, &a),
        "T %lld, %lld <- %lld", (long long)T, (long long)in, (long long)outputs);
}

static void bench_linear_back(Bench *b) {
    const Shape *s = b->shape;
    bench_linear_back_one(b, 512, s->C, s->F);
    bench_linear_back_one(b, 512, s->F, s->C);
    bench_linear_back_one(b, 512, s->C, s->G * s->D);
    bench_linear_back_one(b, 128, s->C, s->V);
}

static void bench_rows(Bench *b) {
    const int64_t T = 1000, C = b->shape->C;
    Tensor table = SOME(b, DT_BF16, 4096, C), id = counted(b, T, 7, 4), y = TAKE(b, DT_F32, T, C);
    GatherArgs gather = {y, table, id};
    RUN(b, "gather", T * C * 6, 0, b->ops->gather(b->stream, &gather), "T %lld, C %lld", (long long)T,
        (long long)C);
}

static void bench_norm(Bench *b) {
    const int64_t T = 1000, C = b->shape->C;
    Tensor x = SOME(b, DT_F32, T, C), w = SOME(b, DT_BF16, C), y = TAKE(b, DT_F32, T, C),
           rstd = TAKE(b, DT_F32, T);
    Tensor dy = SOME(b, DT_F32, T, C), dx = TAKE(b, DT_F32, T, C);
    NormArgs norm = {y, rstd, x, w, 1e-5f};
    RUN(b, "norm", T * C * 8, 0, b->ops->norm(b->stream, &norm), "T %lld, C %lld", (long long)T,
        (long long)C);
    NormBackArgs back = {dx, dy, x, w, rstd, false};
    RUN(b, "norm_back", T * C * 12, 0, b->ops->norm_back(b->stream, &back), "T %lld, C %lld", (long long)T,
        (long long)C);
}

static void bench_swiglu(Bench *b) {
    const int64_t T = 1000, F = b->shape->F;
    Tensor y = TAKE(b, DT_F32, T, F), gate = SOME(b, DT_F32, T, F), up = SOME(b, DT_F32, T, F);
    Tensor dgate = TAKE(b, DT_F32, T, F), dup = TAKE(b, DT_F32, T, F);
    SwigluArgs a = {y, gate, up};
    RUN(b, "swiglu", T * F * 12, 0, b->ops->swiglu(b->stream, &a), "T %lld, F %lld", (long long)T,
        (long long)F);
    SwigluBackArgs back = {dgate, dup, y, gate, up};
    RUN(b, "swiglu_back", T * F * 20, 0, b->ops->swiglu_back(b->stream, &back), "T %lld, F %lld",
        (long long)T, (long long)F);
}

static void bench_heads(Bench *b) {
    const int64_t T = 1000, H = b->shape->H, G = b->shape->G, D = b->shape->D, pages = T / KV_PAGE + 1;
    Tensor q = SOME(b, DT_F32, T, H, D), k = SOME(b, DT_F32, T, G, D), v = SOME(b, DT_F32, T, G, D);
    Tensor kp = TAKE(b, DT_F32, pages, G, KV_PAGE, D), vp = TAKE(b, DT_F32, pages, G, KV_PAGE, D);
    Tensor pos = counted(b, T, 0, 1), slot = counted(b, T, 0, 1), freq = SOME(b, DT_F32, D / 2), none = {0};
    HeadsArgs a = {q, kp, vp, q, k, v, none, none, pos, slot, freq, 0};
    const int64_t bytes = T * (H + 2 * G) * D * 8;
    RUN(b, "heads", bytes, 0, b->ops->heads(b->stream, &a), "T %lld, H %lld, G %lld", (long long)T,
        (long long)H, (long long)G);
    Tensor dq = TAKE(b, DT_F32, T, H, D);
    HeadsBackArgs back = {dq, k, v, q, kp, vp, none, none, none, none, pos, slot, freq, 0};
    RUN(b, "heads_back", bytes, 0, b->ops->heads_back(b->stream, &back), "T %lld, H %lld, G %lld",
        (long long)T, (long long)H, (long long)G);
}

/* S sequences behind one prefix of P rows, each with n rows whose own keys before them number `past`. */
typedef struct Crowd { int32_t S, P, n, past; bool train; } Crowd;

static void lay_out(Bench *b, const Crowd *c, AttnLayout *l, int32_t own_pages, int32_t prefix_pages) {
    int32_t pages = prefix_pages + c->S * own_pages;
    int32_t *row = counted(b, c->S + 1, 0, c->n).data, *seg = counted(b, c->S + 1, 0, c->P ? 2 : 1).data;
    int32_t *own = counted(b, pages, -prefix_pages, 1).data, *learned = counted(b, pages, 0, 1).data;
    Segment *segment = TAKE(b, DT_I32, 2 * c->S * (int32_t)(sizeof(Segment) / sizeof(int32_t))).data;
    for (int32_t i = 0, n = 0; i < c->S; i++) {
        if (c->P) segment[n++] = (Segment){0, 0, c->P};
        segment[n++] = (Segment){prefix_pages + i * own_pages, 0, c->past + c->n};
    }
    for (int32_t i = prefix_pages; i < pages; i++) learned[i] = -1;
    for (int32_t i = 0; i < prefix_pages; i++) own[i] = -1;
    *l = (AttnLayout){c->S * c->n, c->S, row, seg, segment, counted(b, pages, 0, 1).data, pages, pages,
                      c->train ? own : NULL, c->train ? learned : NULL};
}

static void bench_attn_one(Bench *b, Crowd c) {
    const Shape *s = b->shape;
    int32_t own_pages = (c.past + c.n + KV_PAGE - 1) / KV_PAGE, prefix_pages = (c.P + KV_PAGE - 1) / KV_PAGE;
    arena_init(&b->arena, b->mem, b->arena.size);
    AttnLayout l;
    lay_out(b, &c, &l, own_pages, prefix_pages);
    AttnLimits limits = {l.T, l.S, l.seg[l.S], l.entries, l.pages, s->H, s->G, s->D, DT_F32, c.train};
    AttnPlan *plan;
    check(b->ops->plan_open(&plan, &limits));
    RUN(b, "attn_plan", 0, 0, b->ops->attn_plan(b->stream, plan, &l), "S %d, P %d, %d rows, past %d", c.S,
        c.P, c.n, c.past);
    Tensor k = some(TAKE(b, DT_F32, l.pages, s->G, KV_PAGE, s->D), 1),
           v = some(TAKE(b, DT_F32, l.pages, s->G, KV_PAGE, s->D), 1);
    Tensor q = SOME(b, DT_F32, l.T, s->H, s->D), o = TAKE(b, DT_F32, l.T, s->H, s->D),
           lse = TAKE(b, DT_F32, l.T, s->H);
    /* pairs of a query head's row and a key; 2 D multiply-adds each, backward 5 D */
    double pairs = (double)l.T * s->H * (c.P + c.past + 0.5 * (c.n + 1));
    double moved = 8.0 * s->G * s->D * (c.P + (double)c.S * (c.past + c.n));
    bool decode = c.n == 1 && c.S == 1;
    AttnArgs a = {o, lse, q, k, v, plan, 0.125f};
    RUN(b, "attn", decode ? moved : 0, decode ? 0 : 4 * pairs * s->D, b->ops->attn(b->stream, &a),
        "S %d, P %d, %d rows, past %d", c.S, c.P, c.n, c.past);
    if (c.train) {
        Tensor dq = TAKE(b, DT_F32, l.T, s->H, s->D), d_o = SOME(b, DT_F32, l.T, s->H, s->D);
        Tensor own[2], learned[2];
        for (int i = 0; i < 2; i++) {
            own[i] = TAKE(b, DT_F32, c.S * own_pages, s->G, KV_PAGE, s->D);
            learned[i] = some(TAKE(b, DT_F32, prefix_pages, s->G, KV_PAGE, s->D), 0);
        }
        AttnBackArgs back = {dq, own[0], own[1], learned[0], learned[1], d_o, o, lse, q, k, v, plan, 0.125f};
        RUN(b, "attn_back", 0, 10 * pairs * s->D, b->ops->attn_back(b->stream, &back), "S %d, P %d, %d rows",
            c.S, c.P, c.n);
    }
    b->ops->plan_close(plan);
}

static void bench_attn(Bench *b) {
    const Crowd crowds[] = {
        {10, 128, 100, 0, true}, {10, 2048, 100, 0, true}, {1, 0, 512, 0, false}, {1, 0, 512, 3584, false},
        {1, 0, 1, 2047, false},  {1, 2048, 1, 100, false}, {32, 2048, 1, 100, false},
    };
    for (size_t i = 0; i < sizeof crowds / sizeof *crowds; i++) bench_attn_one(b, crowds[i]);
}

/* A bell, and a few tokens far above it, as with a model. */
static Tensor some_logits(Bench *b, int64_t W, int64_t V) {
    Tensor t = TAKE(b, DT_F32, W, V);
    for (int64_t i = 0; i < W * V; i++)
        ((float *)t.data)[i] =
            3 * (noise(i) + noise(5 * i + 1) + noise(7 * i + 2)) + (i % 4999 == 77 ? 14 : 0);
    return t;
}

static void bench_distill(Bench *b) {
    enum { W = 128, K = 20 };
    const int64_t V = b->shape->V;
    Tensor logits = some_logits(b, W, V), loss = TAKE(b, DT_F32, W), kl = TAKE(b, DT_F32, W),
           best = TAKE(b, DT_I32, W);
    Tensor first = counted(b, W + 1, 0, K), id = counted(b, W * K, 11, 13),
           logprob = some(TAKE(b, DT_F32, W * K), 0);
    for (int64_t i = 0; i < W * K; i++) ((float *)logprob.data)[i] = -4;
    DistillArgs a = {loss, kl, best, logits, first, id, logprob, 1.0f, false};
    RUN(b, "distill", 4 * W * V, 0, b->ops->distill(b->stream, &a), "%d x %lld, loss only", W, (long long)V);
    a.gradient = true;
    RUN(b, "distill", 8 * W * V, 0, b->ops->distill(b->stream, &a), "%d x %lld, gradient", W, (long long)V);
}

static void bench_choice(Bench *b) {
    enum { W = 32, K = 20 };
    const int64_t V = b->shape->V;
    Tensor logits = some_logits(b, W, V), ids = TAKE(b, DT_I32, W, K), logprobs = TAKE(b, DT_F32, W, K);
    TopkArgs top = {ids, logprobs, logits};
    RUN(b, "topk", 4 * W * V, 0, b->ops->topk(b->stream, &top), "%d x %lld, K %d", W, (long long)V, K);
    Tensor id = TAKE(b, DT_I32, W), logprob = TAKE(b, DT_F32, W), temperature = TAKE(b, DT_F32, W),
           top_p = TAKE(b, DT_F32, W);
    Tensor min_p = some(TAKE(b, DT_F32, W), 0), counter = counted(b, W, 0, 1), seed = counted(b, 2 * W, 0, 1);
    Tensor all = counted(b, W, 0, 0);
    seed = tensor_shape(seed, W, 2);
    SampleArgs a = {id, logprob, logits, temperature, top_p, min_p, all, counter, seed};
    const struct {
        const char *what;
        float temperature, top_p;
    } how[] = {{"greedy", 0, 1}, {"drawn", 1, 1}, {"top_p 0.9", 1, 0.9f}};
    for (int i = 0; i < 3; i++) {
        for (int w = 0; w < W; w++) {
            ((float *)temperature.data)[w] = how[i].temperature;
            ((float *)top_p.data)[w] = how[i].top_p;
        }
        RUN(b, "sample", 4 * W * V, 0, b->ops->sample(b->stream, &a), "%d x %lld, %s", W, (long long)V,
            how[i].what);
    }
}

static void bench_adam(Bench *b) {
    enum { SLICES = 60, N = 4 };
    const int64_t G = b->shape->G, D = b->shape->D, count = (int64_t)SLICES * N * G * KV_PAGE * D;
    Tensor p = SOME(b, DT_F32, SLICES, N, G, KV_PAGE, D), g = SOME(b, DT_F32, SLICES, N, G, KV_PAGE, D);
    Tensor m = SOME(b, DT_F32, SLICES, N, G, KV_PAGE, D), v = TAKE(b, DT_F32, SLICES, N, G, KV_PAGE, D);
    Tensor pool = TAKE(b, DT_F32, SLICES, N, G, KV_PAGE, D), lr = TAKE(b, DT_F32, N),
           sum = TAKE(b, DT_F64, 1);
    memset(v.data, 0, tensor_bytes(v));
    for (int i = 0; i < N; i++) ((float *)lr.data)[i] = 1e-3f;
    Tensor page = counted(b, N, 0, 1), from = counted(b, N, 0, 0), to = counted(b, N, KV_PAGE, 0),
           step = counted(b, N, 5, 0);
    SquaredNormArgs norm = {sum, g, from, to};
    RUN(b, "squared_norm", 4 * count, 0, b->ops->squared_norm(b->stream, &norm), "%lld numbers",
        (long long)count);
    AdamArgs a = {p, g, m, v, pool, page, from, to, lr, step, 0.9f, 0.95f, 1e-8f, 1, DT_BF16};
    RUN(b, "adam", 36 * count, 0, b->ops->adam(b->stream, &a), "%lld numbers", (long long)count);
}

static const struct {
    const char *name;
    void (*run)(Bench *b);
} groups[] = {
    {"linear", bench_linear},   {"linear_back", bench_linear_back},
    {"attn", bench_attn},       {"rows", bench_rows},
    {"norm", bench_norm},       {"heads", bench_heads},
    {"swiglu", bench_swiglu},
    {"distill", bench_distill}, {"choice", bench_choice},
    {"adam", bench_adam},
};

static void run_groups(Bench *b) {
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        if (b->only && strcmp(b->only, groups[i].name)) continue;
        arena_init(&b->arena, b->mem, b->arena.size);
        groups[i].run(b);
    }
}

static int usage(void) {
    fprintf(stderr, "bench_ops [--json] [--shape smollm2|llama1b] [--only GROUP]\ngroups:");
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) fprintf(stderr, " %s", groups[i].name);
    fprintf(stderr, "\n");
    return 2;
}

int main(int argc, char **argv) {
    Bench b = {.ops = &ops_cpu};
    const char *shape = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json")) b.json = true;
        else if (!strcmp(argv[i], "--shape") && i + 1 < argc) shape = argv[++i];
        else if (!strcmp(argv[i], "--only") && i + 1 < argc) b.only = argv[++i];
        else return usage();
    }
    const size_t bytes = (size_t)1500 << 20;
    void *mem;
    check(b.ops->mem_open(&mem, bytes));
    check(b.ops->stream_open(&b.stream, &(StreamLimits){1024, 8192, 128256}));
    b.mem = mem;
    arena_init(&b.arena, mem, bytes);
    measure_ceilings(&b);
    begin_report(&b);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (shape && strcmp(shape, shapes[i].name)) continue;
        b.shape = &shapes[i];
        run_groups(&b);
    }
    end_report(&b);
    b.ops->stream_close(b.stream);
    b.ops->mem_close(mem);
    return 0;
}
