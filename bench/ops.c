/* ops.c -- every operation at the sizes of real models, on one device.
 *
 *   bench_ops      [--device cpu|cuda[:N]] [--json] [--shape NAME] [--only GROUP]    time, against the
 * device's ceilings bench_ops_simt [--device simt]         [--json] [--shape NAME] [--only GROUP]    counted
 * bytes and mma, against the least
 *
 * See meter.h for how the two differ. */
#include <stdio.h>
#include <string.h>

#include "bench/meter.h"

static const Shape shapes[] = {
    {"smollm2", 576, 1536, 9, 3, 64, 49152},      {"llama1b", 2048, 8192, 32, 8, 64, 128256},
    {"llama3b", 3072, 8192, 24, 8, 128, 128256},  {"llama8b", 4096, 14336, 32, 8, 128, 128256},
    {"qwen3-4b", 2560, 9728, 32, 8, 128, 151936}, {"qwen3-8b", 4096, 12288, 32, 8, 128, 151936},
};

/* call_linear(m, args) and its like */
#define X(op, Args)                                                                                          \
    static Status call_##op(Meter *m, const void *args) {                                                    \
        return m->ops->op(m->stream, (const Args *)args);                                                    \
    }
OPERATIONS(X)
#undef X

/* RUN(m, op, kernel, bytes, flops, args, "T %d", T) */
#define RUN(m, op, kernel, bytes, flops, args, ...)                                                          \
    do {                                                                                                     \
        char sizes_[64];                                                                                     \
        snprintf(sizes_, sizeof sizes_, __VA_ARGS__);                                                        \
        meter_run((m), #op, (kernel), sizes_, (double)(bytes), (double)(flops), call_##op, (args));          \
    } while (0)

static double bytes_of(Tensor t) {
    return t.data ? (double)tensor_bytes(t) : 0;
}

static void begin_group(Meter *m) {
    arena_init(&m->arena, m->mem, m->arena.size);
}

/* ---- products ---- */

static void bench_linear_one(Meter *m, int32_t T, int32_t in, int32_t out) {
    begin_group(m);
    DType act = m->ops->act;
    Tensor x = NOISE(m, act, T, in), w = NOISE(m, DT_BF16, out, in), y = TAKE(m, act, T, out);
    LinearArgs a = {.y = y, .x = x, .w = w};
    RUN(m, linear, "skinny", bytes_of(x) + bytes_of(w) + bytes_of(y), 2.0 * T * in * out, &a,
        "T %d, %d -> %d", T, in, out);
}

static void bench_linear(Meter *m) {
    const Shape *s = m->shape;
    static const int32_t few[] = {1, 2, 4, 8, 16}, many[] = {32, 64, 128, 512};
    for (size_t i = 0; i < sizeof few / sizeof *few; i++) bench_linear_one(m, few[i], s->C, s->F);
    bench_linear_one(m, 8, s->F, s->C);
    if (!m->dense) return;
    for (size_t i = 0; i < sizeof many / sizeof *many; i++) bench_linear_one(m, many[i], s->C, s->F);
    bench_linear_one(m, 8, s->C, s->V);
    bench_linear_one(m, meter_rows(m, 512), s->F, s->C);
    bench_linear_one(m, 128, s->C, s->V);
}

static void bench_linear_back_one(Meter *m, int32_t T, int32_t in, int32_t out) {
    begin_group(m);
    DType act = m->ops->act;
    Tensor dx = TAKE(m, act, T, in), w = NOISE(m, DT_BF16, out, in), dy = NOISE(m, act, T, out);
    LinearBackArgs a = {.dx = dx, .dy = dy, .w = w};
    RUN(m, linear_back, "none", bytes_of(dx) + bytes_of(w) + bytes_of(dy), 2.0 * T * in * out, &a,
        "T %d, %d <- %d", T, in, out);
}

static void bench_linear_back(Meter *m) {
    const Shape *s = m->shape;
    if (!m->dense) return;
    bench_linear_back_one(m, meter_rows(m, 512), s->C, s->F);
    bench_linear_back_one(m, meter_rows(m, 512), s->F, s->C);
    bench_linear_back_one(m, 128, s->C, s->V);
}

/* ---- elements ---- */

static void bench_rows(Meter *m) {
    const int32_t T = meter_rows(m, 1024), C = m->shape->C;
    Tensor table = NOISE(m, DT_BF16, 8192, C), id = meter_counted(m, T, 0, 1), y = TAKE(m, m->ops->act, T, C);
    Tensor x = NOISE(m, m->ops->act, T, C);
    GatherArgs gather = {y, table, id};
    RUN(m, gather, "", 2.0 * T * C + bytes_of(y) + bytes_of(id), 0, &gather, "T %d, C %d", T, C);
    ScatterArgs scatter = {y, x, id};
    RUN(m, scatter, "", bytes_of(x) + bytes_of(y) + bytes_of(id), 0, &scatter, "T %d, C %d", T, C);
}

static void bench_norm(Meter *m) {
    const int32_t T = meter_rows(m, 1024), C = m->shape->C;
    DType act = m->ops->act;
    Tensor x = NOISE(m, act, T, C), w = NOISE(m, DT_BF16, C), y = TAKE(m, act, T, C),
           rstd = TAKE(m, DT_F32, T);
    Tensor dy = NOISE(m, act, T, C), dx = NOISE(m, act, T, C);
    NormArgs norm = {y, rstd, x, w, 1e-5f};
    RUN(m, norm, "", bytes_of(x) + bytes_of(y) + bytes_of(w) + bytes_of(rstd), 0, &norm, "T %d, C %d", T, C);
    NormBackArgs back = {dx, dy, x, w, rstd, true};
    RUN(m, norm_back, "", 4 * bytes_of(x) + bytes_of(w) + bytes_of(rstd), 0, &back, "T %d, C %d", T, C);
}

static void bench_heads(Meter *m) {
    const int32_t T = meter_rows(m, 1024), H = m->shape->H, G = m->shape->G, D = m->shape->D,
                  pages = T / KV_PAGE + 1;
    DType act = m->ops->act;
    Tensor q = TAKE(m, act, T, H, D), q_raw = NOISE(m, act, T, H, D), k_raw = NOISE(m, act, T, G, D);
    Tensor v = NOISE(m, act, T, G, D), k_pool = TAKE(m, act, pages, G, KV_PAGE, D),
           v_pool = TAKE(m, act, pages, G, KV_PAGE, D);
    Tensor w = NOISE(m, DT_BF16, D), slot = meter_counted(m, T, 0, 1), freq = NOISE(m, DT_F32, D / 2);
    HeadsArgs a = {q, k_pool, v_pool, q_raw, k_raw, v, w, w, slot, slot, freq, 1e-6f};
    double lists = 2 * bytes_of(slot) + bytes_of(freq) + 2 * bytes_of(w);
    RUN(m, heads, "", 2 * (bytes_of(q) + bytes_of(k_raw) + bytes_of(v)) + lists, 0, &a,
        "T %d, H %d, G %d, D %d", T, H, G, D);
    Tensor dq = NOISE(m, DT_F32, T, H, D), dk_pool = NOISE(m, DT_F32, pages, G, KV_PAGE, D),
           dv_pool = NOISE(m, DT_F32, pages, G, KV_PAGE, D);
    Tensor dq_raw = TAKE(m, act, T, H, D), dk_raw = TAKE(m, act, T, G, D), dv = TAKE(m, act, T, G, D);
    HeadsBackArgs b = {dq_raw, dk_raw, dv, dq, dk_pool, dv_pool, q_raw, k_raw, w, w, slot, slot, freq, 1e-6f};
    double moved = bytes_of(dq) + 2 * 4.0 * T * G * D + 2 * bytes_of(q_raw) + 3 * bytes_of(k_raw);
    RUN(m, heads_back, "", moved + lists, 0, &b, "T %d, H %d, G %d, D %d", T, H, G, D);
}

static void bench_swiglu(Meter *m) {
    const int32_t T = meter_rows(m, 1024), F = m->shape->F;
    DType act = m->ops->act;
    Tensor y = TAKE(m, act, T, F), gate = NOISE(m, act, T, F), up = NOISE(m, act, T, F);
    SwigluArgs a = {y, gate, up};
    RUN(m, swiglu, "", 3 * bytes_of(y), 0, &a, "T %d, F %d", T, F);
    SwigluBackArgs back = {gate, up, y, gate, up};
    RUN(m, swiglu_back, "", 5 * bytes_of(y), 0, &back, "T %d, F %d", T, F);
}

/* ---- attention ---- */

/* S sequences behind one prefix of P rows, each with n rows whose own keys before them number `past`. */
typedef struct Crowd {
    int32_t S, P, n, past;
    bool train;
} Crowd;
enum { CROWD_MAX = 64, CROWD_PAGES = 4096 };
typedef struct CrowdLayout {
    AttnLayout l;
    int32_t own_pages, prefix_pages;
    int32_t row[CROWD_MAX + 1], seg[CROWD_MAX + 1], page[CROWD_PAGES], own[CROWD_PAGES], learned[CROWD_PAGES];
    Segment segment[2 * CROWD_MAX];
} CrowdLayout;

static int32_t pages_of(int32_t rows) {
    return (rows + KV_PAGE - 1) / KV_PAGE;
}

static void lay_out(CrowdLayout *c, const Crowd *crowd) {
    int32_t n = 0, S = crowd->S;
    c->prefix_pages = pages_of(crowd->P), c->own_pages = pages_of(crowd->past + crowd->n);
    int32_t pages = c->prefix_pages + S * c->own_pages;
    c->row[0] = c->seg[0] = 0;
    for (int32_t i = 0; i < S; i++) {
        if (crowd->P) c->segment[n++] = (Segment){0, 0, crowd->P};
        c->segment[n++] = (Segment){c->prefix_pages + i * c->own_pages, 0, crowd->past + crowd->n};
        c->row[i + 1] = (i + 1) * crowd->n, c->seg[i + 1] = n;
    }
    for (int32_t i = 0; i < pages; i++) {
        bool prefix = i < c->prefix_pages;
        c->page[i] = i;
        c->own[i] = prefix ? -1 : i - c->prefix_pages;
        c->learned[i] = prefix ? i : -1;
    }
    c->l =
        (AttnLayout){S * crowd->n, S, c->row, c->seg, c->segment, c->page, pages, pages, c->own, c->learned};
}

static void bench_attn_back(Meter *m, const Shape *s, const Crowd *c, const CrowdLayout *k, const AttnArgs *a,
                            double pairs) {
    DType act = m->ops->act;
    Tensor dq = TAKE(m, DT_F32, k->l.T, s->H, s->D), d_o = NOISE(m, act, k->l.T, s->H, s->D), own[2],
           learned[2];
    for (int i = 0; i < 2; i++) {
        own[i] = TAKE(m, DT_F32, c->S * k->own_pages, s->G, KV_PAGE, s->D);
        learned[i] = NOISE(m, DT_F32, k->prefix_pages + 1, s->G, KV_PAGE, s->D);
    }
    AttnBackArgs b = {dq,     own[0], own[1], learned[0], learned[1], d_o,     a->o,
                      a->lse, a->q,   a->k,   a->v,       a->plan,    a->scale};
    double bytes = 2 * bytes_of(a->k) + 3 * bytes_of(a->q) + bytes_of(dq) + 2 * bytes_of(own[0]) +
                   4 * bytes_of(learned[0]) * k->prefix_pages / (k->prefix_pages + 1);
    RUN(m, attn_back, "back", bytes, 10 * pairs * s->D, &b, "S %d, P %d, %d rows", c->S, c->P, c->n);
}

static void bench_attn_one(Meter *m, const Crowd *c) {
    static CrowdLayout k;
    const Shape cut = meter_cut(m), *s = &cut;
    DType act = m->ops->act;
    begin_group(m);
    lay_out(&k, c);
    const AttnLayout *l = &k.l;
    AttnLimits limits = {l->T, l->S, l->seg[l->S], l->entries, l->pages, s->H, s->G, s->D, act, c->train};
    AttnPlan *plan;
    must(m->ops->plan_open(&plan, &limits));
    must(m->ops->attn_plan(m->stream, plan, l));
    Tensor keys = NOISE(m, act, l->pages, s->G, KV_PAGE, s->D),
           values = NOISE(m, act, l->pages, s->G, KV_PAGE, s->D);
    Tensor q = NOISE(m, act, l->T, s->H, s->D), o = TAKE(m, act, l->T, s->H, s->D),
           lse = TAKE(m, DT_F32, l->T, s->H);
    /* pairs of a query head's row and a key that it sees: 2 D multiply-adds each, backward 5 D */
    double pairs = (double)l->T * s->H * (c->P + c->past + 0.5 * (c->n + 1));
    AttnArgs a = {o, lse, q, keys, values, plan, 0.125f};
    RUN(m, attn, "", 2 * bytes_of(keys) + 2 * bytes_of(q) + bytes_of(lse), 4 * pairs * s->D, &a,
        "S %d, P %d, %d rows, past %d", c->S, c->P, c->n, c->past);
    if (c->train) bench_attn_back(m, s, c, &k, &a, pairs);
    m->ops->plan_close(plan);
}

static void bench_attn(Meter *m) {
    const Crowd crowds[] = {
        {1, 2048, 512, 0, true},   {1, 0, 512, 0, true},     {1, 512, 512, 0, true},
        {1, 0, 1, 2047, false},    {1, 2048, 1, 511, false}, {16, 2048, 1, 511, false},
        {64, 2048, 1, 511, false}, {64, 128, 1, 511, false},
    };
    for (size_t i = 0; i < sizeof crowds / sizeof *crowds; i++) bench_attn_one(m, &crowds[i]);
}

/* ---- logits ---- */

static void bench_distill(Meter *m) {
    enum { K = 20 };
    const int32_t W = meter_rows(m, 128) / 8, V = meter_cut(m).V;
    Tensor logits = meter_noise(m, TAKE(m, DT_F32, W, V), 9), loss = TAKE(m, DT_F32, W),
           kl = TAKE(m, DT_F32, W);
    Tensor best = TAKE(m, DT_I32, W), first = meter_counted(m, W + 1, 0, K),
           id = meter_counted(m, W * K, 11, 13);
    DistillArgs a = {loss, kl, best, logits, first, id, meter_floats(m, -4, W * K), 1.0f, false};
    RUN(m, distill, "", bytes_of(logits), 0, &a, "%d x %d, loss only", W, V);
    a.gradient = true;
    RUN(m, distill, "", 3 * bytes_of(logits), 0, &a, "%d x %d, gradient", W, V);
}

static void bench_choice(Meter *m) {
    enum { K = 20 };
    const int32_t W = meter_rows(m, 32) / 4, V = meter_cut(m).V;
    Tensor logits = meter_noise(m, TAKE(m, DT_F32, W, V), 9), ids = TAKE(m, DT_I32, W, K),
           logprobs = TAKE(m, DT_F32, W, K);
    TopkArgs top = {ids, logprobs, logits};
    RUN(m, topk, "", bytes_of(logits) + 2 * bytes_of(ids), 0, &top, "%d x %d, K %d", W, V, K);
    static const struct {
        const char *what;
        float temperature, top_p;
    } how[] = {{"greedy", 0, 1}, {"drawn", 1, 1}, {"top_p 0.9", 1, 0.9f}};
    Tensor seed = tensor_shape(meter_counted(m, 2 * W, 0, 1), W, 2), counter = meter_counted(m, W, 0, 1);
    for (int i = 0; i < 3; i++) {
        SampleArgs a = {TAKE(m, DT_I32, W),
                        TAKE(m, DT_F32, W),
                        logits,
                        meter_floats(m, how[i].temperature, W),
                        meter_floats(m, how[i].top_p, W),
                        meter_floats(m, 0, W),
                        meter_counted(m, W, 0, 0),
                        counter,
                        seed};
        RUN(m, sample, "", bytes_of(logits), 0, &a, "%d x %d, %s", W, V, how[i].what);
    }
}

/* ---- learning ---- */

static void bench_adam(Meter *m) {
    enum { SLICES = 16, N = 4 };
    const int32_t G = meter_cut(m).G, D = m->shape->D;
    Tensor p = NOISE(m, DT_F32, SLICES, N, G, KV_PAGE, D), g = NOISE(m, DT_F32, SLICES, N, G, KV_PAGE, D);
    Tensor moment = NOISE(m, DT_F32, SLICES, N, G, KV_PAGE, D), v = TAKE(m, DT_F32, SLICES, N, G, KV_PAGE, D);
    Tensor pool = TAKE(m, m->ops->act, SLICES, N, G, KV_PAGE, D), sum = TAKE(m, DT_F64, 1);
    must(m->ops->zero(m->stream, v));
    Tensor page = meter_counted(m, N, 0, 1), from = meter_counted(m, N, 0, 0),
           to = meter_counted(m, N, KV_PAGE, 0);
    SquaredNormArgs norm = {sum, g, from, to};
    long long count = (long long)tensor_count(p);
    RUN(m, squared_norm, "", bytes_of(g), 0, &norm, "%lld numbers", count);
    AdamArgs a = {
        p,    g,     moment, v, pool,   page, from, to, meter_floats(m, 1e-3f, N), meter_counted(m, N, 5, 0),
        0.9f, 0.95f, 1e-8f,  1, DT_BF16};
    RUN(m, adam, "", 8 * bytes_of(p) + bytes_of(pool), 0, &a, "%lld numbers", count);
}

/* ---- the program ---- */

static const struct {
    const char *name;
    void (*run)(Meter *m);
} groups[] = {
    {"linear", bench_linear}, {"linear_back", bench_linear_back},
    {"attn", bench_attn},     {"rows", bench_rows},
    {"norm", bench_norm},     {"heads", bench_heads},
    {"swiglu", bench_swiglu}, {"distill", bench_distill},
    {"choice", bench_choice}, {"adam", bench_adam},
};

static void run_groups(Meter *m, const char *only) {
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        if (only && strcmp(only, groups[i].name)) continue;
        begin_group(m);
        groups[i].run(m);
    }
}

static int usage(void) {
    fprintf(stderr, "bench_ops [--device D] [--json] [--shape NAME] [--only GROUP]\nshapes:");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) fprintf(stderr, " %s", shapes[i].name);
    fprintf(stderr, "\ngroups:");
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) fprintf(stderr, " %s", groups[i].name);
    fprintf(stderr, "\n");
    return 2;
}

int main(int argc, char **argv) {
    Meter m = {0};
    const char *shape = NULL, *only = NULL, *device = BENCH_DEVICE;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            m.json = true;
        else if (!strcmp(argv[i], "--shape") && i + 1 < argc)
            shape = argv[++i];
        else if (!strcmp(argv[i], "--only") && i + 1 < argc)
            only = argv[++i];
        else if (!strcmp(argv[i], "--device") && i + 1 < argc)
            device = argv[++i];
        else
            return usage();
    }
    must(meter_open(&m, device));
    meter_begin(&m);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (shape ? strcmp(shape, shapes[i].name) != 0 : !meter_wants(&m, &shapes[i])) continue;
        m.shape = &shapes[i];
        run_groups(&m, only);
    }
    meter_end(&m);
    meter_close(&m);
    return 0;
}
