/* test_grad.c -- what the definition itself must satisfy, so that it may judge the others: every backward
 * operation of ops_ref against central differences of its forward one, in f64; and properties that hold of
 * any right answer. */
#include "tests/ops_attention.h"

/* ---- differences ---- */

/* sum of weight * forward output: a number whose gradient with respect to an input is what backward gives for
 * dy = weight. */
typedef double (*Measure)(OpsRig *r, void *case_);

static double weighted(Tensor y, Tensor weight) {
    const double *a = y.data, *b = weight.data;
    double sum = 0;
    for (int64_t i = 0; i < tensor_count(y); i++) sum += a[i] * b[i];
    return sum;
}

/* At some 60 elements of x, spread over those that are numbers: the difference quotient is `gradient`. Where
 * x is a pool of pages, `at` tells where element i of the gradient has its input. */
static void check_gradient(OpsRig *r, Measure f, void *c, Tensor x, Tensor gradient, const int64_t *at,
                           const char *what) {
    const double h = 1e-5, *g = gradient.data;
    double *value = x.data;
    int64_t n = tensor_count(gradient), live = 0, seen = 0;
    for (int64_t i = 0; i < n; i++) live += !isnan(value[at ? at[i] : i]);
    assert_true(live > 0);
    for (int64_t i = 0; i < n; i++) {
        double *v = &value[at ? at[i] : i], kept = *v;
        if (isnan(kept) || seen++ % (live / 60 + 1)) continue;
        *v = kept + h;
        double above = f(r, c);
        *v = kept - h;
        double below = f(r, c), difference = (above - below) / (2 * h);
        *v = kept;
        if (!(fabs(difference - g[i]) <= 1e-7 * fmax(1, fabs(g[i]))))
            fail_msg("%s[%lld]: gradient %.12g, difference %.12g", what, (long long)i, g[i], difference);
    }
}

typedef struct Norm {
    NormArgs forward;
    Tensor dy;
} Norm;
static double norm_measure(OpsRig *r, void *c) {
    Norm *n = c;
    ops_rig_norm(r, n->forward);
    return weighted(n->forward.y, n->dy);
}

static void test_norm(void **state) {
    (void)state;
    OpsRig r;
    ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
    Tensor x = NORMAL(&r, DT_F64, 1, 1, 3, 2, 10), dy = NORMAL(&r, DT_F64, 2, 1, 3, 2, 10),
           w = NORMAL(&r, DT_F64, 3, 1, 10);
    Norm n = {{BLANK(&r, DT_F64, 3, 2, 10), BLANK(&r, DT_F64, 6), x, w, 1e-5f}, dy};
    norm_measure(&r, &n);
    Tensor dx = BLANK(&r, DT_F64, 3, 2, 10), twice = BLANK(&r, DT_F64, 3, 2, 10);
    ops_rig_norm_back(&r, (NormBackArgs){dx, dy, x, w, n.forward.rstd, false});
    ops_rig_norm_back(&r, (NormBackArgs){twice, dy, x, w, n.forward.rstd, false});
    ops_rig_norm_back(&r, (NormBackArgs){twice, dy, x, w, n.forward.rstd, true});
    check_gradient(&r, norm_measure, &n, x, dx, NULL, "norm dx");
    for (int i = 0; i < 60; i++) assert_within(((double *)twice.data)[i], 2 * ((double *)dx.data)[i], 1e-14);
    ops_rig_close(&r);
}

typedef struct Linear {
    LinearArgs forward;
    Tensor dy;
} Linear;
static double linear_measure(OpsRig *r, void *c) {
    Linear *l = c;
    ops_rig_linear(r, l->forward);
    return weighted(l->forward.y, l->dy);
}

static void test_linear(void **state) {
    (void)state;
    OpsRig r;
    ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
    Tensor x = NORMAL(&r, DT_F64, 1, 1, 4, 9), dy = NORMAL(&r, DT_F64, 2, 1, 4, 7),
           w = NORMAL(&r, DT_F64, 3, 1, 7, 9);
    Linear l = {{BLANK(&r, DT_F64, 4, 7), x, w, NORMAL(&r, DT_F64, 4, 1, 7), NORMAL(&r, DT_F64, 5, 1, 4, 7)},
                dy};
    Tensor dx = BLANK(&r, DT_F64, 4, 9);
    ops_rig_linear_back(&r, (LinearBackArgs){dx, dy, w, false});
    check_gradient(&r, linear_measure, &l, x, dx, NULL, "linear dx");
    ops_rig_close(&r);
}

typedef struct Heads {
    HeadsArgs forward;
    Tensor dq, dk, dv; /* of q and of the pools */
} Heads;
static double heads_measure(OpsRig *r, void *c) {
    Heads *h = c;
    ops_rig_heads(r, h->forward);
    return weighted(h->forward.q, h->dq) + weighted(h->forward.k_pool, h->dk) +
           weighted(h->forward.v_pool, h->dv);
}

/* Forward and back share slots: a pool's page is its gradient's. */
static void check_heads(bool norm) {
    OpsRig r;
    ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
    const int32_t pos[] = {0, 5, 70000}, slot[] = {70, -1, 3};
    const double freq[] = {1, 0.3, 0.01, 0.0004};
    Tensor none = {0}, w_q = norm ? NORMAL(&r, DT_F64, 7, 1, 8) : none,
           w_k = norm ? NORMAL(&r, DT_F64, 8, 1, 8) : none;
    Tensor q = NORMAL(&r, DT_F64, 1, 1, 3, 4, 8), k = NORMAL(&r, DT_F64, 2, 1, 3, 2, 8),
           v = NORMAL(&r, DT_F64, 3, 1, 3, 2, 8);
    Heads h = {{BLANK(&r, DT_F64, 3, 4, 8), NORMAL(&r, DT_F64, 9, 1, 2, 2, KV_PAGE, 8),
                NORMAL(&r, DT_F64, 9, 1, 2, 2, KV_PAGE, 8), q, k, v, w_q, w_k, WHOLE(&r, pos, 3),
                WHOLE(&r, slot, 3), FLOATS(&r, DT_F32, freq, 4), 1e-5f},
               NORMAL(&r, DT_F64, 4, 1, 3, 4, 8),
               NORMAL(&r, DT_F64, 5, 1, 2, 2, KV_PAGE, 8),
               NORMAL(&r, DT_F64, 6, 1, 2, 2, KV_PAGE, 8)};
    Tensor dq = BLANK(&r, DT_F64, 3, 4, 8), dk = BLANK(&r, DT_F64, 3, 2, 8), dv = BLANK(&r, DT_F64, 3, 2, 8);
    ops_rig_heads_back(&r, (HeadsBackArgs){dq, dk, dv, h.dq, h.dk, h.dv, q, k, w_q, w_k, h.forward.pos,
                                           h.forward.slot, h.forward.freq, h.forward.eps});
    check_gradient(&r, heads_measure, &h, q, dq, NULL, "heads dq");
    check_gradient(&r, heads_measure, &h, k, dk, NULL, "heads dk");
    check_gradient(&r, heads_measure, &h, v, dv, NULL, "heads dv");
    ops_rig_close(&r);
}

static void test_heads(void **state) {
    (void)state;
    check_heads(false);
    check_heads(true);
}

typedef struct Gated {
    SwigluArgs forward;
    Tensor dy;
} Gated;
static double swiglu_measure(OpsRig *r, void *c) {
    Gated *g = c;
    ops_rig_swiglu(r, g->forward);
    return weighted(g->forward.y, g->dy);
}

static void test_swiglu(void **state) {
    (void)state;
    OpsRig r;
    ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
    Tensor gate = NORMAL(&r, DT_F64, 1, 3, 5, 8), up = NORMAL(&r, DT_F64, 2, 1, 5, 8),
           dy = NORMAL(&r, DT_F64, 3, 1, 5, 8);
    Gated g = {{BLANK(&r, DT_F64, 5, 8), gate, up}, dy};
    Tensor dgate = BLANK(&r, DT_F64, 5, 8), dup = BLANK(&r, DT_F64, 5, 8);
    ops_rig_swiglu_back(&r, (SwigluBackArgs){dgate, dup, dy, gate, up});
    check_gradient(&r, swiglu_measure, &g, gate, dgate, NULL, "dgate");
    check_gradient(&r, swiglu_measure, &g, up, dup, NULL, "dup");
    ops_rig_close(&r);
}

/* ---- attention ---- */

typedef struct Attended {
    Attention at;
    Tensor o, lse;
} Attended;
static double attn_measure(OpsRig *r, void *c) {
    Attended *a = c;
    ops_rig_attn(r, (AttnArgs){a->o, a->lse, a->at.q, a->at.k, a->at.v, a->at.plan, a->at.scale});
    return weighted(a->o, a->at.d_o);
}

/* For each element of gradient pages, its place in the pool. */
static int64_t *places(const Attention *at, const int32_t *grad_of, int32_t n) {
    int64_t block = (int64_t)at->shape->G * KV_PAGE * at->shape->D;
    int64_t *place = malloc(sizeof *place * (size_t)(n * block) + 1);
    assert_non_null(place);
    for (int32_t page = 0; page < at->layout.pages; page++)
        for (int64_t i = 0; grad_of[page] >= 0 && i < block; i++)
            place[grad_of[page] * block + i] = page * block + i;
    return place;
}

/* Several prefixes in different orders and mixtures, one without its first row; a later piece whose own keys
 * are partly another sequence's rows; decoding. */
static const AttnShape shapes[] = {
    {"three prefixes",
     2,
     2,
     4,
     {65, 30, 9},
     {{.rows = 3, .read = {{1}, {2}, {3}}}, {.rows = 4, .read = {{3}, {1, 1, 0}}}, {.rows = 2}},
     0},
    {"pieces",
     1,
     3,
     8,
     {0, 5, 20},
     {{.rows = 6, .read = {{3}}},
      {.rows = 4, .keys = 10, .read = {{3}}, .with = 1},
      {.rows = 1, .keys = 70, .read = {{2}}}},
     0},
};

static void test_attention(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        OpsRig r;
        Attended a;
        ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
        Attention *at = &a.at;
        attention_open(at, &r, &shapes[i]);
        attention_forward(at, &r, &a.o, &a.lse);
        int64_t G = at->shape->G, D = at->shape->D, own = at->own_pages, learned = at->learned_pages;
        Tensor dq = BLANK(&r, DT_F64, at->layout.T, at->q.dim[1], D);
        Tensor dk_own = BLANK(&r, DT_F64, own, G, KV_PAGE, D), dv_own = BLANK(&r, DT_F64, own, G, KV_PAGE, D);
        Tensor dk = BLANK(&r, DT_F64, learned, G, KV_PAGE, D), dv = BLANK(&r, DT_F64, learned, G, KV_PAGE, D);
        assert_ok(r.ops->zero(r.stream, dk));
        assert_ok(r.ops->zero(r.stream, dv));
        ops_rig_attn_back(&r, (AttnBackArgs){dq, dk_own, dv_own, dk, dv, at->d_o, a.o, a.lse, at->q, at->k,
                                             at->v, at->plan, at->scale});
        int64_t *of_own = places(at, at->own_grad, at->own_pages);
        int64_t *of_learned = places(at, at->learned_grad, at->learned_pages);
        check_gradient(&r, attn_measure, &a, at->q, dq, NULL, "dq");
        check_gradient(&r, attn_measure, &a, at->k, dk_own, of_own, "dk_own");
        check_gradient(&r, attn_measure, &a, at->v, dv_own, of_own, "dv_own");
        check_gradient(&r, attn_measure, &a, at->k, dk, of_learned, "dk_learned");
        check_gradient(&r, attn_measure, &a, at->v, dv, of_learned, "dv_learned");
        free(of_own), free(of_learned);
        attention_close(at, &r);
        ops_rig_close(&r);
    }
}

/* One prefix of 140 rows read whole, or as rows 0..70, 70..71 and 71..140: the same o and lse. */
static void test_split(void **state) {
    (void)state;
    static const AttnShape whole = {"", 2, 2, 16, {140}, {{.rows = 5, .read = {{1}}}}, 0};
    static const AttnShape cut = {
        "", 2, 2, 16, {140}, {{.rows = 5, .read = {{1, 71, 69}, {1, 0, 70}, {1, 70, 1}}}}, 0};
    OpsRig r;
    Attention a, b;
    Tensor o[2], lse[2];
    ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
    attention_open(&a, &r, &whole);
    attention_open(&b, &r, &cut);
    attention_forward(&a, &r, &o[0], &lse[0]);
    attention_forward(&b, &r, &o[1], &lse[1]);
    for (int64_t i = 0; i < tensor_count(o[0]); i++)
        assert_within(((double *)o[1].data)[i], ((double *)o[0].data)[i], 1e-13);
    for (int64_t i = 0; i < tensor_count(lse[0]); i++)
        assert_within(((double *)lse[1].data)[i], ((double *)lse[0].data)[i], 1e-13);
    attention_close(&a, &r);
    attention_close(&b, &r);
    ops_rig_close(&r);
}

/* 5 rows behind a prefix, 3 own keys before them: changing own key j changes rows from j - 3 on, and no row
 * before. */
static void test_causal(void **state) {
    (void)state;
    enum { ROWS = 5, KEYS = 8, D = 4 };
    static const AttnShape shape = {"", 1, 1, D, {3}, {{.rows = ROWS, .keys = KEYS, .read = {{1}}}}, 0};
    OpsRig r;
    Attention at;
    Tensor before, after, lse;
    ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
    attention_open(&at, &r, &shape);
    attention_forward(&at, &r, &before, &lse);
    double *own = (double *)at.k.data + (int64_t)at.page[at.segment[1].first] * KV_PAGE * D;
    for (int j = 0; j < KEYS; j++) {
        own[j * D] += 1;
        attention_forward(&at, &r, &after, &lse);
        own[j * D] -= 1;
        for (int i = 0; i < ROWS; i++) {
            size_t row = sizeof(double) * D;
            bool same = !memcmp((char *)before.data + i * row, (char *)after.data + i * row, row);
            if (same != (i < j - 3)) fail_msg("key %d %s row %d", j, same ? "does not reach" : "reaches", i);
        }
    }
    attention_close(&at, &r);
    ops_rig_close(&r);
}

/* ---- logits ---- */

enum { VOCAB = 40 };

/* Row 0: teacher = student, all kept; row 1: 5 kept candidates of the student itself; row 2: 5 of another
 * teacher; row 3: all of another teacher. */
typedef struct Lesson {
    DistillArgs a;
    double teacher[4][VOCAB], student[4][VOCAB];
} Lesson;

static void log_softmax(double *out, const double *x) {
    double sum = 0;
    for (int v = 0; v < VOCAB; v++) sum += exp(x[v]);
    for (int v = 0; v < VOCAB; v++) out[v] = x[v] - log(sum);
}

static void lesson_open(Lesson *l, OpsRig *r) {
    Tensor logits = NORMAL(r, DT_F64, 1, 2, 4, VOCAB), other = NORMAL(r, DT_F64, 2, 2, 4, VOCAB);
    int32_t first[5] = {0}, id[4 * VOCAB], n = 0;
    double kept[4 * VOCAB];
    for (int w = 0; w < 4; w++) {
        log_softmax(l->student[w], (double *)logits.data + w * VOCAB);
        log_softmax(l->teacher[w], (double *)(w < 2 ? logits : other).data + w * VOCAB);
        for (int j = 0; j < (w == 0 || w == 3 ? VOCAB : 5); j++)
            id[n] = (j * 7 + w) % VOCAB, kept[n] = l->teacher[w][id[n]], n++;
        first[w + 1] = n;
    }
    l->a = (DistillArgs){BLANK(r, DT_F64, 4),
                         BLANK(r, DT_F64, 4),
                         BLANK(r, DT_I32, 4),
                         logits,
                         WHOLE(r, first, 5),
                         WHOLE(r, id, n),
                         FLOATS(r, DT_F32, kept, n),
                         0.5f,
                         false};
}

/* The gradient is scale times that of the summed loss. */
static double loss_measure(OpsRig *r, void *c) {
    Lesson *l = c;
    ops_rig_distill(r, l->a);
    const double *loss = l->a.loss.data;
    return (double)l->a.scale * (loss[0] + loss[1] + loss[2] + loss[3]);
}

static void test_distill(void **state) {
    (void)state;
    OpsRig r;
    Lesson l;
    ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
    lesson_open(&l, &r);
    loss_measure(&r, &l);
    const double *kl = l.a.kl.data;
    assert_within(kl[0], 0, 1e-6); /* kept log-probabilities are f32 */
    assert_within(kl[1], 0, 1e-6);
    double kept = 0, M = 0, Q = 0;
    for (int j = 0; j < 5; j++) {
        int v = (j * 7 + 2) % VOCAB;
        double p = exp(l.teacher[2][v]), q = exp(l.student[2][v]);
        M += p, Q += q, kept += p * log(p / q);
    }
    assert_within(kl[2], kept + (1 - M) * log((1 - M) / (1 - Q)), 1e-6);
    double dense = 0;
    for (int v = 0; v < VOCAB; v++) dense += exp(l.teacher[3][v]) * (l.teacher[3][v] - l.student[3][v]);
    assert_within(kl[3], dense, 1e-5);
    Tensor logits = l.a.logits, gradient = BLANK(&r, DT_F64, 4, VOCAB);
    memcpy(gradient.data, logits.data, tensor_bytes(logits));
    DistillArgs back = l.a;
    back.logits = gradient, back.gradient = true;
    ops_rig_distill(&r, back);
    check_gradient(&r, loss_measure, &l, logits, gradient, NULL, "d logits");
    ops_rig_close(&r);
}

/* A coarse teacher against a student that is anything: never negative, whatever is kept. */
static void test_kl_is_never_negative(void **state) {
    (void)state;
    OpsRig r;
    ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
    for (uint64_t seed = 1; seed <= 40; seed++) {
        Tensor logits = NORMAL(&r, DT_F64, seed, (double)(seed % 9), 1, VOCAB), kl = BLANK(&r, DT_F64, 1);
        const int32_t first[] = {0, 3}, id[] = {2, 9, 30};
        double logprob[] = {-0.3 - 0.1 * (double)(seed % 7), -2.5, -3.5};
        ops_rig_distill(&r, (DistillArgs){.kl = kl,
                                          .logits = logits,
                                          .first = WHOLE(&r, first, 2),
                                          .id = WHOLE(&r, id, 3),
                                          .logprob = FLOATS(&r, DT_F32, logprob, 3)});
        assert_true(((double *)kl.data)[0] >= 0);
        ops_rig_close(&r);
        ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
    }
    ops_rig_close(&r);
}

static void test_topk_ties(void **state) {
    (void)state;
    OpsRig r;
    ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
    const double x[] = {1, 3, 2, 3, 2, 0, 3};
    const int32_t wanted[] = {1, 3, 6, 2, 4};
    Tensor id = BLANK(&r, DT_I32, 1, 5), logprob = BLANK(&r, DT_F64, 1, 5);
    ops_rig_topk(&r, (TopkArgs){id, logprob, FLOATS(&r, DT_F64, x, 1, 7)});
    assert_memory_equal(id.data, wanted, sizeof wanted);
    double sum = exp(1) + 3 * exp(3) + 2 * exp(2) + 1;
    assert_within(((double *)logprob.data)[4], 2 - log(sum), 1e-12);
    ops_rig_close(&r);
}

/* ---- sample ---- */

typedef struct Settings {
    double temperature, top_p, min_p;
    int32_t top_k;
} Settings;

/* `rows` draws from the same logits with counters from `counter`. */
static void draw(OpsRig *r, const double *logits, int64_t V, int64_t rows, Settings s, int32_t counter,
                 int32_t *out) {
    double *x = malloc(sizeof(double) * (size_t)(rows * V)), *t = malloc(sizeof(double) * (size_t)(3 * rows));
    int32_t *n = calloc((size_t)rows, 4 * sizeof *n);
    assert_true(x && t && n);
    for (int64_t w = 0; w < rows; w++) {
        memcpy(x + w * V, logits, sizeof(double) * (size_t)V);
        t[w] = s.temperature, t[rows + w] = s.top_p, t[2 * rows + w] = s.min_p;
        n[w] = s.top_k, n[rows + w] = counter + (int32_t)w;
    }
    Tensor id = BLANK(r, DT_I32, rows);
    ops_rig_sample(r, (SampleArgs){.id = id,
                                   .logits = FLOATS(r, DT_F64, x, rows, V),
                                   .temperature = FLOATS(r, DT_F32, t, rows),
                                   .top_p = FLOATS(r, DT_F32, t + rows, rows),
                                   .min_p = FLOATS(r, DT_F32, t + 2 * rows, rows),
                                   .top_k = WHOLE(r, n, rows),
                                   .counter = WHOLE(r, n + rows, rows),
                                   .seed = WHOLE(r, n + 2 * rows, rows, 2)});
    memcpy(out, id.data, sizeof *out * (size_t)rows);
    free(x), free(t), free(n);
}

/* Six tokens with probabilities 8 4 4 2 1 1 (of 20) at temperature 1. Each setting keeps what it must, and
 * the draws follow the probabilities of what is kept: chi square below its 1 in 10000 quantile of at most 5
 * degrees (25.7). */
static void test_sample_frequencies(void **state) {
    (void)state;
    enum { V = 6, DRAWS = 4000 };
    static const double weight[V] = {1, 8, 4, 2, 4, 1};
    static const struct {
        Settings s;
        double kept[V];
    } cases[] = {
        {{1, 1, 0, 0}, {1, 8, 4, 2, 4, 1}},    {{0.5, 1, 0, 0}, {1, 64, 16, 4, 16, 1}},
        {{1, 1, 0, 2}, {0, 8, 4, 0, 0, 0}},    {{1, 0.7f, 0, 0}, {0, 8, 4, 0, 4, 0}},
        {{1, 1, 0.2f, 0}, {0, 8, 4, 2, 4, 0}}, {{1, 0.7f, 0, 3}, {0, 8, 4, 0, 0, 0}},
    };
    double logits[V];
    for (int v = 0; v < V; v++) logits[v] = log(weight[v]) + 5;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int32_t id[DRAWS], count[V] = {0};
        OpsRig r;
        ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
        draw(&r, logits, V, DRAWS, cases[c].s, 0, id);
        ops_rig_close(&r);
        for (int i = 0; i < DRAWS; i++) count[id[i]]++;
        double total = 0, chi = 0;
        for (int v = 0; v < V; v++) total += cases[c].kept[v];
        for (int v = 0; v < V; v++) {
            double expected = DRAWS * cases[c].kept[v] / total;
            if (expected > 0)
                chi += (count[v] - expected) * (count[v] - expected) / expected;
            else
                assert_int_equal(count[v], 0);
        }
        if (chi > 25.7) fail_msg("settings %zu: chi square %.1f", c, chi);
    }
}

/* Temperature 0 is the argmax, and a row draws the same token whichever rows stand beside it. */
static void test_sample_rows_are_alone(void **state) {
    (void)state;
    enum { ROWS = 30 };
    const double flat[] = {0.1, 0, 0.2, 0.2, 0};
    int32_t together[ROWS], alone, best[2];
    OpsRig r;
    ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
    draw(&r, flat, 5, 2, (Settings){0, 1, 0, 0}, 0, best);
    assert_true(best[0] == 2 && best[1] == 2);
    draw(&r, flat, 5, ROWS, (Settings){1, 1, 0, 0}, 100, together);
    ops_rig_close(&r);
    for (int w = 0; w < ROWS; w++) {
        ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
        draw(&r, flat, 5, 1, (Settings){1, 1, 0, 0}, 100 + w, &alone);
        ops_rig_close(&r);
        assert_int_equal(alone, together[w]);
    }
}

/* ---- adam ---- */

/* Three steps of a page whose rows 1 .. 3 learn, beside the formula on plain doubles. */
static void test_adam(void **state) {
    (void)state;
    enum { D = 2, N = KV_PAGE * D };
    OpsRig r;
    ops_rig_open(&r, &ops_ref, DT_F64, DT_F64);
    Tensor p = NORMAL(&r, DT_F64, 1, 1, 1, 1, 1, KV_PAGE, D), m = BLANK(&r, DT_F64, 1, 1, 1, KV_PAGE, D);
    Tensor v = BLANK(&r, DT_F64, 1, 1, 1, KV_PAGE, D), pool = NORMAL(&r, DT_BF16, 9, 1, 1, 1, 1, KV_PAGE, D);
    assert_ok(r.ops->zero(r.stream, m));
    assert_ok(r.ops->zero(r.stream, v));
    double want_p[N], want_m[N] = {0}, want_v[N] = {0}, b1 = 0.9f, b2 = 0.95f, eps = 1e-6f, lr = 0.02f;
    uint16_t old_pool[N];
    memcpy(want_p, p.data, sizeof want_p), memcpy(old_pool, pool.data, sizeof old_pool);
    for (int32_t step = 1; step <= 3; step++) {
        Tensor g = NORMAL(&r, DT_F64, 10 + (uint64_t)step, 1, 1, 1, 1, KV_PAGE, D);
        for (int i = D; i < 3 * D; i++) {
            double gi = 0.5 * ((double *)g.data)[i];
            want_m[i] = b1 * want_m[i] + (1 - b1) * gi, want_v[i] = b2 * want_v[i] + (1 - b2) * gi * gi;
            want_p[i] -= lr * want_m[i] / (1 - pow(b1, step)) / (sqrt(want_v[i] / (1 - pow(b2, step))) + eps);
        }
        const int32_t page[] = {0}, from[] = {1}, to[] = {3};
        ops_rig_adam(&r, (AdamArgs){p, g, m, v, pool, WHOLE(&r, page, 1), WHOLE(&r, from, 1),
                                    WHOLE(&r, to, 1), FLOATS(&r, DT_F32, &lr, 1), WHOLE(&r, &step, 1), 0.9f,
                                    0.95f, 1e-6f, 0.5f, DT_BF16});
        for (int i = 0; i < N; i++) assert_true(((double *)g.data)[i] == 0);
    }
    for (int i = 0; i < N; i++) {
        bool learns = i >= D && i < 3 * D;
        assert_within(((double *)p.data)[i], want_p[i], learns ? 1e-13 : 0);
        assert_within(((double *)m.data)[i], want_m[i], 1e-14);
        assert_int_equal(((uint16_t *)pool.data)[i], learns ? f32_to_bf16((float)want_p[i]) : old_pool[i]);
    }
    ops_rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_causal),
        cmocka_unit_test(test_distill),
        cmocka_unit_test(test_kl_is_never_negative),
        cmocka_unit_test(test_topk_ties),
        cmocka_unit_test(test_sample_frequencies),
        cmocka_unit_test(test_sample_rows_are_alone),
        cmocka_unit_test(test_adam),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
