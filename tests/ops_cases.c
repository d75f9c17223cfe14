/* ops_cases.c -- see ops_cases.h. */
#include "tests/ops_cases.h"

#include "tests/ops_attention.h"

/* ---- rows ---- */

typedef struct Sizes {
    int64_t rows, in, out;
} Sizes; /* what a case needs of them */

static int32_t *below(int64_t n, int32_t bound, uint64_t seed) {
    int32_t *x = malloc(sizeof *x * (size_t)n + 1);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) x[i] = (int32_t)random_below(seed, 1, (uint64_t)i, (uint64_t)bound);
    return x;
}

static Tensor whole_below(OpsRig *r, int64_t n, int32_t bound, uint64_t seed) {
    int32_t *x = below(n, bound, seed);
    Tensor t = WHOLE(r, x, n);
    free(x);
    return t;
}

/* First, second, ... but shuffled: (i * 7 + 3) mod n, n no multiple of 7. */
static Tensor scattered(OpsRig *r, int64_t n, int32_t bound) {
    int32_t *x = below(n, bound, 1);
    for (int64_t i = 0; i < n; i++) x[i] = (int32_t)((i * 7 + 3) % bound);
    Tensor t = WHOLE(r, x, n);
    free(x);
    return t;
}

static void run_gather(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor table = NORMAL(r, DT_BF16, 1, 1, 97, z->in), id = whole_below(r, z->rows, 97, 2);
    Tensor y = BLANK(r, r->act, z->rows, z->in);
    ops_rig_gather(r, (GatherArgs){y, table, id});
    ops_rig_take(r, "y", SAME, y);
}

static void run_scatter(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor x = NORMAL(r, r->act, 1, 1, z->rows, z->in), id = scattered(r, z->rows, 97);
    Tensor y = NORMAL(r, r->act, 2, 1, 97, z->in);
    ops_rig_scatter(r, (ScatterArgs){y, x, id});
    ops_rig_take(r, "y", SAME, y);
}

/* [rows,in,out]: a norm over each of `in` heads; out 1 leaves them away. x is so small that eps counts. */
static void run_norm(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor x = NORMAL(r, r->act, 1, 0.01, z->rows, z->in, z->out), w = NORMAL(r, DT_BF16, 2, 1, z->out);
    Tensor rstd = BLANK(r, r->real, z->rows * z->in), y = BLANK(r, r->act, z->rows, z->in, z->out);
    ops_rig_norm(r, (NormArgs){y, rstd, x, w, 1e-5f});
    ops_rig_take(r, "y", COARSE, y);
    ops_rig_take(r, "rstd", FINE, rstd);
    ops_rig_norm(r, (NormArgs){.y = x, .x = x, .w = w, .eps = 1e-5f});
    ops_rig_take(r, "x normed in place", COARSE, x);
}

static void run_norm_back(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    int64_t rows = z->rows * z->in;
    Tensor x = NORMAL(r, r->act, 1, 2, z->rows, z->in, z->out), w = NORMAL(r, DT_BF16, 2, 1, z->out);
    Tensor dy = NORMAL(r, r->act, 3, 1, z->rows, z->in, z->out),
           dx = NORMAL(r, r->act, 4, 1, z->rows, z->in, z->out);
    double *scale = malloc(sizeof *scale * (size_t)rows);
    assert_non_null(scale);
    for (int64_t i = 0; i < rows; i++) scale[i] = 0.4 + 0.01 * (double)(i % 20);
    Tensor rstd = FLOATS(r, r->real, scale, rows);
    free(scale);
    ops_rig_norm_back(r, (NormBackArgs){dx, dy, x, w, rstd, true});
    ops_rig_take(r, "dx +=", COARSE, dx);
    Tensor fresh = BLANK(r, r->act, z->rows, z->in, z->out);
    ops_rig_norm_back(r, (NormBackArgs){fresh, dy, x, w, rstd, false});
    ops_rig_take(r, "dx", COARSE, fresh);
    ops_rig_norm_back(r, (NormBackArgs){dy, dy, x, w, rstd, false});
    ops_rig_take(r, "dy made dx in place", COARSE, dy);
}

/* ---- products ---- */

static void run_linear(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor x = NORMAL(r, r->act, 1, 1 / sqrt((double)z->in), z->rows, z->in),
           w = NORMAL(r, DT_BF16, 2, 1, z->out, z->in);
    Tensor b = NORMAL(r, DT_BF16, 3, 1, z->out), y = BLANK(r, r->act, z->rows, z->out);
    Tensor sum = NORMAL(r, r->act, 4, 1, z->rows, z->out);
    Tensor residual = NORMAL(r, r->act, 5, 1, z->rows, z->out);
    ops_rig_linear(r, (LinearArgs){.y = y, .x = x, .w = w, .b = b});
    ops_rig_take(r, "y", COARSE, y);
    ops_rig_linear(r, (LinearArgs){y, x, w, b, residual});
    ops_rig_take(r, "y from a residual", COARSE, y);
    ops_rig_linear(r, (LinearArgs){.y = sum, .x = x, .w = w, .residual = sum});
    ops_rig_take(r, "y += without bias", COARSE, sum);
}

static void run_linear_back(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor dy = NORMAL(r, r->act, 1, 1 / sqrt((double)z->out), z->rows, z->out),
           w = NORMAL(r, DT_BF16, 2, 1, z->out, z->in);
    Tensor dx = BLANK(r, r->act, z->rows, z->in), sum = NORMAL(r, r->act, 4, 1, z->rows, z->in);
    ops_rig_linear_back(r, (LinearBackArgs){dx, dy, w, false});
    ops_rig_take(r, "dx", COARSE, dx);
    ops_rig_linear_back(r, (LinearBackArgs){sum, dy, w, true});
    ops_rig_take(r, "dx +=", COARSE, sum);
}

/* Logits are kept as sums are; so are the gradients that come back from them, and those of queries and keys.
 */
static void run_linear_real(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor x = NORMAL(r, r->act, 1, 1 / sqrt((double)z->in), z->rows, z->in),
           w = NORMAL(r, DT_BF16, 2, 1, z->out, z->in), y = BLANK(r, r->real, z->rows, z->out);
    ops_rig_linear(r, (LinearArgs){.y = y, .x = x, .w = w});
    ops_rig_take(r, "y", FINE, y);
}

static void run_linear_back_real(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor dy = NORMAL(r, r->real, 1, 1 / sqrt((double)z->out), z->rows, z->out),
           w = NORMAL(r, DT_BF16, 2, 1, z->out, z->in), dx = BLANK(r, r->act, z->rows, z->in);
    ops_rig_linear_back(r, (LinearBackArgs){dx, dy, w, false});
    ops_rig_take(r, "dx", COARSE, dx);
}

/* ---- elements ---- */

static void run_swiglu(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor gate = NORMAL(r, r->act, 1, (double)z->out, z->rows, z->in),
           up = NORMAL(r, r->act, 2, 1, z->rows, z->in);
    Tensor y = BLANK(r, r->act, z->rows, z->in);
    ops_rig_swiglu(r, (SwigluArgs){y, gate, up});
    ops_rig_take(r, "y", COARSE, y);
}

static void run_swiglu_back(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor gate = NORMAL(r, r->act, 1, (double)z->out, z->rows, z->in),
           up = NORMAL(r, r->act, 2, 1, z->rows, z->in);
    Tensor dy = NORMAL(r, r->act, 3, 1, z->rows, z->in);
    Tensor dgate = BLANK(r, r->act, z->rows, z->in), dup = BLANK(r, r->act, z->rows, z->in);
    ops_rig_swiglu_back(r, (SwigluBackArgs){dgate, dup, dy, gate, up});
    ops_rig_take(r, "dgate", COARSE, dgate);
    ops_rig_take(r, "dup", COARSE, dup);
    ops_rig_swiglu_back(r, (SwigluBackArgs){gate, up, dy, gate, up});
    ops_rig_take(r, "gate made dgate in place", COARSE, gate);
    ops_rig_take(r, "up made dup in place", COARSE, up);
}

/* ---- heads ---- */

typedef struct HeadSizes {
    int64_t rows, H, G, D;
    bool norm;
} HeadSizes;

/* Rows go to distinct slots of 4 pages, every fifth to none. */
static Tensor slots(OpsRig *r, int64_t rows) {
    int32_t *x = below(rows, 1, 1);
    for (int64_t i = 0; i < rows; i++) x[i] = i % 5 == 2 ? -1 : (int32_t)((i * 7 + 3) % (4 * KV_PAGE));
    Tensor t = WHOLE(r, x, rows);
    free(x);
    return t;
}

static Tensor frequencies(OpsRig *r, int64_t D) {
    float freq[128];
    for (int64_t i = 0; i < D / 2; i++) freq[i] = powf(10000, -2 * (float)i / (float)D);
    Tensor f = BLANK(r, DT_F32, D / 2);
    assert_ok(r->ops->copy(r->stream, f.data, freq, tensor_bytes(f)));
    return f;
}

static Tensor head_weights(OpsRig *r, const HeadSizes *z, uint64_t seed) {
    return z->norm ? NORMAL(r, DT_BF16, seed, 1, z->D) : (Tensor){0};
}

/* Where there is a norm, so small that its eps counts. */
static double raw_scale(const HeadSizes *z) {
    return z->norm ? 0.01 : 1;
}

static void run_heads(OpsRig *r, const void *shape) {
    const HeadSizes *z = shape;
    Tensor q_raw = NORMAL(r, r->act, 1, raw_scale(z), z->rows, z->H, z->D),
           q = BLANK(r, r->act, z->rows, z->H, z->D);
    Tensor k = NORMAL(r, r->act, 2, raw_scale(z), z->rows, z->G, z->D),
           v = NORMAL(r, r->act, 3, 1, z->rows, z->G, z->D);
    Tensor k_pool = NORMAL(r, r->act, 4, 1, 4, z->G, KV_PAGE, z->D);
    Tensor v_pool = NORMAL(r, r->act, 5, 1, 4, z->G, KV_PAGE, z->D);
    HeadsArgs a = {q,
                   k_pool,
                   v_pool,
                   q_raw,
                   k,
                   v,
                   head_weights(r, z, 6),
                   head_weights(r, z, 7),
                   whole_below(r, z->rows, 131072, 8),
                   slots(r, z->rows),
                   frequencies(r, z->D),
                   1e-5f};
    ops_rig_heads(r, a);
    ops_rig_take(r, "q", COARSE, q);
    ops_rig_take(r, "k pool", COARSE, k_pool);
    ops_rig_take(r, "v pool", SAME, v_pool);
    a.q = q_raw;
    ops_rig_heads(r, a);
    ops_rig_take(r, "q in place", COARSE, q_raw);
}

static void run_heads_back(OpsRig *r, const void *shape) {
    const HeadSizes *z = shape;
    Tensor dq = NORMAL(r, r->real, 1, 1, z->rows, z->H, z->D), dq_raw = BLANK(r, r->act, z->rows, z->H, z->D);
    Tensor dk_raw = BLANK(r, r->act, z->rows, z->G, z->D), dv = BLANK(r, r->act, z->rows, z->G, z->D);
    Tensor dk_pool = NORMAL(r, r->real, 2, 1, 4, z->G, KV_PAGE, z->D);
    Tensor dv_pool = NORMAL(r, r->real, 3, 1, 4, z->G, KV_PAGE, z->D), none = {0};
    Tensor q = z->norm ? NORMAL(r, r->act, 4, raw_scale(z), z->rows, z->H, z->D) : none;
    Tensor k = z->norm ? NORMAL(r, r->act, 5, raw_scale(z), z->rows, z->G, z->D) : none;
    HeadsBackArgs a = {dq_raw,
                       dk_raw,
                       dv,
                       dq,
                       dk_pool,
                       dv_pool,
                       q,
                       k,
                       head_weights(r, z, 6),
                       head_weights(r, z, 7),
                       whole_below(r, z->rows, 131072, 8),
                       slots(r, z->rows),
                       frequencies(r, z->D),
                       1e-5f};
    ops_rig_heads_back(r, a);
    ops_rig_take(r, "dq_raw", COARSE, dq_raw);
    ops_rig_take(r, "dk_raw", COARSE, dk_raw);
    ops_rig_take(r, "dv", SAME, dv);
}

/* ---- attention ---- */

static void run_attn(OpsRig *r, const void *shape) {
    Attention at;
    Tensor o, lse;
    attention_open(&at, r, shape);
    attention_forward(&at, r, &o, &lse);
    ops_rig_take(r, "o", COARSE, o);
    ops_rig_take(r, "lse", FINE, lse);
    Tensor bare = BLANK(r, r->act, at.layout.T, at.q.dim[1], at.q.dim[2]);
    ops_rig_attn(r,
                 (AttnArgs){.o = bare, .q = at.q, .k = at.k, .v = at.v, .plan = at.plan, .scale = at.scale});
    ops_rig_take(r, "o without lse", COARSE, bare);
    attention_close(&at, r);
}

/* o and lse of the reference on the same values: what goes back does not inherit an error of what came
 * forward. */
static void forward_of_reference(OpsRig *r, const AttnShape *shape, Tensor *o, Tensor *lse) {
    OpsRig ref;
    Attention at;
    Tensor right_o, right_lse;
    ops_rig_open(&ref, &ops_ref, DT_F64, r->grid);
    attention_open(&at, &ref, shape);
    attention_forward(&at, &ref, &right_o, &right_lse);
    double *x = ops_rig_read(&ref, right_o), *y = ops_rig_read(&ref, right_lse);
    *o = ops_rig_floats(r, r->act, x, right_o.ndim, right_o.dim);
    for (int64_t i = 0; i < tensor_count(right_lse); i++)
        y[i] = (float)y[i]; /* on a grid of f32 in every run */
    DType grid = r->grid;
    r->grid = DT_F32;
    *lse = ops_rig_floats(r, r->real, y, right_lse.ndim, right_lse.dim);
    r->grid = grid;
    free(x), free(y);
    attention_close(&at, &ref);
    ops_rig_close(&ref);
}

static void run_attn_back(OpsRig *r, const void *shape) {
    Attention at;
    Tensor o, lse, none = {0};
    attention_open(&at, r, shape);
    forward_of_reference(r, shape, &o, &lse);
    int64_t G = at.shape->G, D = at.shape->D, own = at.own_pages, learned = at.learned_pages + 1;
    Tensor dq = BLANK(r, r->real, at.layout.T, at.q.dim[1], D);
    Tensor dk_own = BLANK(r, r->real, own, G, KV_PAGE, D), dv_own = BLANK(r, r->real, own, G, KV_PAGE, D);
    Tensor dk = NORMAL(r, r->real, 5, 1, learned, G, KV_PAGE, D),
           dv = NORMAL(r, r->real, 6, 1, learned, G, KV_PAGE, D);
    AttnBackArgs a = {dq, dk_own, dv_own, dk, dv, at.d_o, o, lse, at.q, at.k, at.v, at.plan, at.scale};
    ops_rig_attn_back(r, a);
    a.dq = a.dk_own = a.dv_own = none; /* layer 0; the learned pages are added to once more */
    ops_rig_attn_back(r, a);
    ops_rig_take(r, "dq", COARSE, dq);
    ops_rig_take(r, "dk_own", COARSE, dk_own);
    ops_rig_take(r, "dv_own", COARSE, dv_own);
    ops_rig_take(r, "dk_learned", COARSE, dk);
    ops_rig_take(r, "dv_learned", COARSE, dv);
    a.dq = BLANK(r, r->real, at.layout.T, at.q.dim[1], D);
    a.dk_learned = a.dv_learned = none; /* nothing learns */
    ops_rig_attn_back(r, a);
    ops_rig_take(r, "dq alone", COARSE, a.dq);
    attention_close(&at, r);
}

/* ---- logits ---- */

/* Like a model's: most far below the best. `in` is the vocabulary, `out` how many candidates a row has. */
static Tensor logits_of(OpsRig *r, const Sizes *z, uint64_t seed) {
    return NORMAL(r, r->real, seed, 3, z->rows, z->in);
}

static void run_distill(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    int32_t *first = below(z->rows + 1, 1, 1), *id = below(z->rows * z->out, 1, 1);
    double *logprob = malloc(sizeof(double) * (size_t)(z->rows * z->out) + 1);
    assert_non_null(logprob);
    for (int32_t w = 0; w < z->rows; w++) {
        int32_t n = w % 5 == 3 ? 0 : (int32_t)z->out; /* a row that nobody supervises */
        first[w + 1] = first[w] + n;
        for (int32_t j = 0; j < n; j++) {
            id[first[w] + j] = (int32_t)((w * 31 + j * (z->in / z->out)) % z->in); /* all over the row */
            logprob[first[w] + j] = -log(2.0) * (j + 1) - 0.1;
        }
    }
    int64_t N = first[z->rows];
    Tensor t_first = WHOLE(r, first, z->rows + 1), t_id = WHOLE(r, id, N), p = FLOATS(r, DT_F32, logprob, N);
    free(first), free(id), free(logprob);
    Tensor loss = BLANK(r, r->real, z->rows), kl = BLANK(r, r->real, z->rows),
           best = BLANK(r, DT_I32, z->rows);
    Tensor logits = logits_of(r, z, 3);
    ops_rig_distill(r, (DistillArgs){loss, kl, best, logits, t_first, t_id, p, 0.25f, false});
    ops_rig_take(r, "loss", FINE, loss);
    ops_rig_take(r, "kl", FINE, kl);
    ops_rig_take(r, "best", SAME, best);
    ops_rig_take(r, "logits left alone", SAME, logits);
    ops_rig_distill(
        r,
        (DistillArgs){
            .logits = logits, .first = t_first, .id = t_id, .logprob = p, .scale = 0.25f, .gradient = true});
    ops_rig_take(r, "gradient", FINE, logits);
}

/* Two candidates so far above all other tokens that 1 - Q is no difference of rounded numbers. */
static void run_distill_sure(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    double *x = malloc(sizeof(double) * (size_t)(z->rows * z->in));
    int32_t *first = below(z->rows + 1, 1, 1), *id = below(2 * z->rows, 1, 1);
    double *logprob = malloc(sizeof(double) * (size_t)(2 * z->rows));
    assert_true(x && logprob);
    for (int64_t i = 0; i < z->rows * z->in; i++) x[i] = (double)random_normal(7, 0, (uint64_t)i);
    for (int32_t w = 0; w < z->rows; w++) {
        first[w + 1] = 2 * (w + 1);
        for (int32_t j = 0; j < 2; j++) {
            id[2 * w + j] = (int32_t)((w * 31 + j * z->in / 2) % z->in);
            logprob[2 * w + j] = log(0.5 - 0.001);
            x[w * z->in + id[2 * w + j]] = 24 + w;
        }
    }
    Tensor logits = FLOATS(r, r->real, x, z->rows, z->in), kl = BLANK(r, r->real, z->rows);
    ops_rig_distill(r, (DistillArgs){.kl = kl,
                                     .logits = logits,
                                     .first = WHOLE(r, first, z->rows + 1),
                                     .id = WHOLE(r, id, 2 * z->rows),
                                     .logprob = FLOATS(r, DT_F32, logprob, 2 * z->rows)});
    free(x), free(first), free(id), free(logprob);
    ops_rig_take(r, "kl", FINE, kl);
}

/* A grid of eighths makes many ties. */
static void run_topk(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    double *x = malloc(sizeof(double) * (size_t)(z->rows * z->in));
    assert_non_null(x);
    for (int64_t i = 0; i < z->rows * z->in; i++)
        x[i] = round(24 * (double)random_normal(1, 0, (uint64_t)i)) / 8;
    Tensor logits = FLOATS(r, r->real, x, z->rows, z->in);
    free(x);
    Tensor id = BLANK(r, DT_I32, z->rows, z->out), logprob = BLANK(r, r->real, z->rows, z->out);
    ops_rig_topk(r, (TopkArgs){id, logprob, logits});
    ops_rig_take(r, "id", SAME, id);
    ops_rig_take(r, "logprob", FINE, logprob);
}

/* No token is better than another, by whatever sign of zero. */
static void run_topk_alike(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    double *x = malloc(sizeof(double) * (size_t)(z->rows * z->in));
    assert_non_null(x);
    for (int64_t i = 0; i < z->rows * z->in; i++) x[i] = i % 3 ? 0.0 : -0.0;
    Tensor logits = FLOATS(r, r->real, x, z->rows, z->in);
    free(x);
    Tensor id = BLANK(r, DT_I32, z->rows, z->out), logprob = BLANK(r, r->real, z->rows, z->out);
    ops_rig_topk(r, (TopkArgs){id, logprob, logits});
    ops_rig_take(r, "id", SAME, id);
    ops_rig_take(r, "logprob", FINE, logprob);
}

/* Rows with every mixture of settings. */
static void run_sample(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    enum { MOST = 64 };
    double temperature[MOST], top_p[MOST], min_p[MOST];
    int32_t top_k[MOST];
    assert_true(z->rows <= MOST);
    for (int32_t w = 0; w < z->rows; w++) {
        temperature[w] = w % 6 ? 0.5 + 0.5 * (w % 5) : 0;
        top_p[w] = w % 3 ? 1 : w % 2 ? 0.875 : 0.5;
        min_p[w] = w % 4 ? 0 : 0.0625;
        top_k[w] = w % 5 < 3 ? 0 : 10 * (w % 5);
    }
    Tensor seed = whole_below(r, 2 * z->rows, 1 << 30, 3);
    seed = tensor_shape(seed, z->rows, 2);
    Tensor id = BLANK(r, DT_I32, z->rows), logprob = BLANK(r, r->real, z->rows);
    ops_rig_sample(r, (SampleArgs){id, logprob, logits_of(r, z, 1), FLOATS(r, DT_F32, temperature, z->rows),
                                   FLOATS(r, DT_F32, top_p, z->rows), FLOATS(r, DT_F32, min_p, z->rows),
                                   WHOLE(r, top_k, z->rows), whole_below(r, z->rows, 1000, 2), seed});
    ops_rig_take(r, "id", SAME, id);
    ops_rig_take(r, "logprob", FINE, logprob);
}

/* Filters that leave hundreds of tokens or end among equal ones; in every fifth row all tokens are equal. */
static void run_sample_ties(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    enum { ROWS = 20 };
    static const double top_p[] = {1, 0.9, 0.5, 0.99, 0};
    static const int32_t top_k[] = {0, 300, 1, 700};
    double temperature[ROWS], p[ROWS], min_p[ROWS], *x = malloc(sizeof(double) * (size_t)(ROWS * z->in));
    int32_t k[ROWS];
    assert_non_null(x);
    for (int32_t w = 0; w < ROWS; w++) {
        temperature[w] = w % 6 == 5 ? 0 : 1 + w % 2;
        p[w] = top_p[w % 5], min_p[w] = w % 7 == 1 ? 0.5 : 0, k[w] = top_k[w % 4];
        for (int64_t v = 0; v < z->in; v++)
            x[w * z->in + v] = w % 5 == 2 ? 1 : round(3.0 * random_normal(8, (uint64_t)w, (uint64_t)v)) / 2;
    }
    Tensor seed = tensor_shape(whole_below(r, 2 * ROWS, 1 << 30, 3), ROWS, 2), id = BLANK(r, DT_I32, ROWS);
    Tensor logits = FLOATS(r, r->real, x, ROWS, z->in);
    free(x);
    ops_rig_sample(r, (SampleArgs){.id = id,
                                   .logits = logits,
                                   .temperature = FLOATS(r, DT_F32, temperature, ROWS),
                                   .top_p = FLOATS(r, DT_F32, p, ROWS),
                                   .min_p = FLOATS(r, DT_F32, min_p, ROWS),
                                   .top_k = WHOLE(r, k, ROWS),
                                   .counter = whole_below(r, ROWS, 1000, 2),
                                   .seed = seed});
    ops_rig_take(r, "id", SAME, id);
}

/* ---- learning ---- */

/* What a pool's rows hold beyond the rounded masters they should be; of rows that do not learn, what they
 * hold. */
static void take_pool(OpsRig *r, Tensor p, Tensor pool, const int32_t *page, const int32_t *from,
                      const int32_t *to, DType keep) {
    double *master = ops_rig_read(r, p), *x = ops_rig_read(r, pool);
    int64_t row_size = p.dim[4], block = p.dim[2] * KV_PAGE * row_size;
    for (int64_t i = 0; i < tensor_count(p); i++) {
        int64_t n = i / block % p.dim[1],
                at = (i / block / p.dim[1] * pool.dim[1] + page[n]) * block + i % block;
        bool to_bf16 = keep == DT_BF16 || pool.dtype == DT_BF16;
        double right = to_bf16 ? bf16_to_f32(f32_to_bf16((float)master[i])) : (float)master[i];
        int64_t row = i / row_size % KV_PAGE;
        if (row >= from[n] && row < to[n]) x[at] -= right;
    }
    Tensor rest = ops_rig_floats(r, r->real, x, pool.ndim, pool.dim);
    ops_rig_take(r, "pool beyond the rounded masters", SAME, rest);
    free(master), free(x);
}

/* Half way between two bf16: where the step is 0, the master is rounded at a tie. */
static void make_ties(OpsRig *r, Tensor *p) {
    double *x = ops_rig_read(r, *p);
    for (int64_t i = 0; i < tensor_count(*p); i++) {
        union {
            float f;
            uint32_t u;
        } bits = {(float)x[i]};
        bits.u = (bits.u & 0xffff0000u) | 0x8000u;
        x[i] = bits.f;
    }
    *p = ops_rig_floats(r, p->dtype, x, p->ndim, p->dim);
    free(x);
}

/* 4 slices of 3 pages, the first with a frozen row, the last short; `in` heads of size `out`. */
static void run_adam(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    const int64_t dim[5] = {4, 3, z->in, KV_PAGE, z->out};
    Tensor p = ops_rig_normal(r, r->real, 1, 1, 5, dim), g = ops_rig_normal(r, r->real, 2, 0.1, 5, dim);
    Tensor m = ops_rig_normal(r, r->real, 3, 0.1, 5, dim), v = ops_rig_normal(r, r->real, 4, 0.1, 5, dim);
    make_ties(r, &p);
    double *x = ops_rig_read(r, v);
    for (int64_t i = 0; i < tensor_count(v); i++) x[i] *= x[i]; /* second moments are squares */
    v = ops_rig_floats(r, r->real, x, 5, dim);
    free(x);
    Tensor pool = NORMAL(r, r->act, 5, 1, 4, 7, z->in, KV_PAGE, z->out);
    const int32_t page[] = {5, 0, 3}, from[] = {1, 0, 0}, to[] = {64, 64, 37}, step[] = {1, 2, 70};
    const double lr[] = {0.02, 0.001, 0};
    Tensor t_from = WHOLE(r, from, 3), t_to = WHOLE(r, to, 3), sum = BLANK(r, DT_F64, 1);
    ops_rig_squared_norm(r, (SquaredNormArgs){sum, g, t_from, t_to});
    ops_rig_adam(r, (AdamArgs){p, g, m, v, pool, WHOLE(r, page, 3), t_from, t_to, FLOATS(r, DT_F32, lr, 3),
                               WHOLE(r, step, 3), 0.9f, 0.95f, 1e-8f, 0.5f, z->rows ? DT_BF16 : DT_F32});
    ops_rig_take(r, "sum", FINE, sum);
    ops_rig_squared_norm(r, (SquaredNormArgs){sum, g, t_from, t_to});
    ops_rig_take(r, "sum of a cleared gradient", SAME, sum);
    ops_rig_take(r, "p", FINE, p);
    ops_rig_take(r, "g", SAME, g);
    ops_rig_take(r, "m", FINE, m);
    ops_rig_take(r, "v", FINE, v);
    take_pool(r, p, pool, page, from, to, z->rows ? DT_BF16 : DT_F32);
}

/* ---- the list ---- */

#define SIZES(rows, in, out)       (&(const Sizes){rows, in, out})
#define HEADS(rows, H, G, D, norm) (&(const HeadSizes){rows, H, G, D, norm})

/* Attention: every head size, H/G of 1, 2, 3, 4, 7 and 8, prefixes around a page's border. */
static const AttnShape shapes[] = {
    {"one key", 1, 1, 64, {0}, {{.rows = 1}}, 0},
    {"63 of a prefix, group 3", 1, 3, 64, {63}, {{.rows = 9, .read = {{1}}}}, 0},
    {"64 of a prefix, group 7", 1, 7, 64, {64}, {{.rows = 5, .read = {{1}}}}, 0},
    {"65 of a prefix, group 8", 1, 8, 32, {65}, {{.rows = 6, .read = {{1}}}}, 0},
    {"a prefix of one row, group 2", 2, 2, 128, {1}, {{.rows = 4, .read = {{1}}}}, 0},
    {"130 of a prefix, heads of 96", 2, 1, 96, {130}, {{.rows = 7, .read = {{1}}}}, 0},
    {"heads of 256, group 4", 1, 4, 256, {20}, {{.rows = 5, .read = {{1}}}}, 0},
    {"own rows over a page's border", 1, 2, 32, {0}, {{.rows = 70}}, 0},
    {"three prefixes, mixed",
     2,
     2,
     32,
     {65, 30, 64},
     {{.rows = 3, .read = {{1}, {2}, {3}}},
      {.rows = 8, .read = {{3}, {1}}},
      {.rows = 2},
      {.rows = 5, .read = {{2}}}},
     0},
    {"prefixes without their first row, or parts of them",
     1,
     3,
     32,
     {140, 40},
     {{.rows = 6, .read = {{1, 1, 0}}},
      {.rows = 3, .read = {{1}, {2, 1, 0}}},
      {.rows = 4, .read = {{1, 66, 60}}}},
     0},
    {"one prefix seen twice by a sequence",
     1,
     2,
     64,
     {70, 10},
     {{.rows = 3, .read = {{1}, {2}, {1}}}, {.rows = 2, .read = {{1}}}},
     0},
    {"decoding: one row, many own keys",
     2,
     3,
     64,
     {65},
     {{.rows = 1, .keys = 130, .read = {{1}}},
      {.rows = 1, .keys = 64, .read = {{1}}},
      {.rows = 1, .keys = 1, .read = {{1}}},
      {.rows = 1, .keys = 65}},
     0},
    {"a later piece: rows behind own keys, from a later row",
     1,
     4,
     32,
     {33},
     {{.rows = 10, .keys = 75, .from = 3, .read = {{1}}}, {.rows = 4, .keys = 5, .from = 62}},
     0},
    {"two pieces of a sequence in one batch",
     1,
     2,
     32,
     {0, 12, 20},
     {{.rows = 40, .read = {{3}}},
      {.rows = 30, .keys = 70, .read = {{3}}, .with = 1},
      {.rows = 2, .read = {{2}}}},
     0},
    {"huge scores", 1, 2, 64, {70}, {{.rows = 12, .read = {{1}}}}, 100},
    {"a long prefix", 1, 2, 32, {1100}, {{.rows = 2, .read = {{1}}}, {.rows = 1, .read = {{1, 1, 0}}}}, 0},
    /* enough rows for several tiles of packed rows, as prefill and training have them */
    {"tiles of rows, group 3, heads of 128",
     2,
     3,
     128,
     {200, 70},
     {{.rows = 60, .read = {{1}, {2}}}, {.rows = 17, .read = {{2, 1, 0}}}},
     0},
    {"tiles of rows, group 1, heads of 64",
     2,
     1,
     64,
     {64},
     {{.rows = 150}, {.rows = 33, .keys = 97, .from = 40, .read = {{1}}}, {.rows = 128, .keys = 129}},
     0},
    {"tiles of rows, group 7, heads of 128",
     1,
     7,
     128,
     {140},
     {{.rows = 40, .read = {{1, 66, 60}}}, {.rows = 19, .keys = 70, .read = {{1, 1, 0}}}},
     0},
    {"many segments, group 8, heads of 64",
     1,
     8,
     64,
     {130, 10, 64},
     {{.rows = 20, .read = {{1, 1, 0}, {2}, {3, 5, 20}, {1, 64, 64}, {2, 9, 1}, {3}}},
      {.rows = 17, .keys = 60, .from = 60, .read = {{3}, {3}, {2}, {1, 65, 0}}}},
     0},
    {"huge scores of many rows", 1, 2, 64, {70, 1}, {{.rows = 40, .read = {{1}, {2}}}}, 100},
    {"few rows beside many, group 4, heads of 128",
     1,
     4,
     128,
     {100, 65},
     {{.rows = 16, .read = {{1}}},
      {.rows = 17, .read = {{1}, {2}}},
      {.rows = 1, .keys = 66, .read = {{1}}},
      {.rows = 33, .read = {{2}}},
      {.rows = 2, .read = {{1}}}},
     0},
    {"two pieces in one batch from odd packed rows, group 3, heads of 64",
     2,
     3,
     64,
     {70, 12, 20},
     {{.rows = 7, .read = {{1}, {3, 3, 9}}},
      {.rows = 41, .read = {{3}}},
      {.rows = 30, .keys = 71, .read = {{3}}, .with = 2},
      {.rows = 2, .keys = 5, .from = 62, .read = {{2}, {1, 63, 2}}}},
     0},
    {"rows of one page in several parts, group 7, heads of 64",
     1,
     7,
     64,
     {70},
     {{.rows = 150, .read = {{1}}}, {.rows = 3, .read = {{1}}}},
     0},
    /* as decoding has them: few rows each, many together */
    {"short pieces behind one prefix, group 3, heads of 128",
     2,
     3,
     128,
     {300, 70},
     {{.rows = 16, .keys = 80, .read = {{1}}},
      {.rows = 16, .read = {{1}, {2}}},
      {.rows = 9, .keys = 130, .from = 5, .read = {{2}, {1}}},
      {.rows = 1, .keys = 64, .read = {{1}}},
      {.rows = 4, .read = {{1, 1, 0}}}},
     0},
    {"a long prefix in pieces that end within pages, group 4, heads of 64",
     2,
     4,
     64,
     {1150},
     {{.rows = 2, .keys = 270, .read = {{1}}},
      {.rows = 1, .read = {{1, 63, 1086}}},
      {.rows = 3, .keys = 3, .from = 61, .read = {{1, 64, 1024}}}},
     0},
    {"twenty heads a key head", 1, 20, 64, {70}, {{.rows = 5, .keys = 66, .read = {{1}}}, {.rows = 1}}, 0},
    {"more heads a key head than packed rows",
     1,
     131,
     64,
     {70},
     {{.rows = 2, .read = {{1}}}, {.rows = 1, .keys = 65}},
     0},
};
#define ATTN(i, slack)                                                                                       \
    {"attn", run_attn, &shapes[i], slack}, {                                                                 \
        "attn_back", run_attn_back, &shapes[i], 4 * (slack)                                                  \
    }

const OpsCase ops_cases[] = {
    {"gather, width 40", run_gather, SIZES(13, 40, 0), 1},
    {"gather, odd width", run_gather, SIZES(50, 1003, 0), 1},
    {"scatter, width 40", run_scatter, SIZES(13, 40, 0), 1},
    {"scatter, odd width", run_scatter, SIZES(50, 1003, 0), 1},
    {"norm, width 64", run_norm, SIZES(5, 1, 64), 4},
    {"norm, odd width", run_norm, SIZES(17, 1, 1003), 4},
    {"norm over heads", run_norm, SIZES(6, 3, 128), 4},
    {"norm, two groups a lane, many rows", run_norm, SIZES(61, 1, 2560), 4},
    {"norm, four groups a lane", run_norm, SIZES(9, 1, 5117), 4},
    {"norm over many small heads", run_norm, SIZES(40, 9, 32), 4},
    {"norm_back, width 64", run_norm_back, SIZES(5, 1, 64), 4},
    {"norm_back, odd width", run_norm_back, SIZES(17, 1, 1003), 4},
    {"norm_back over heads", run_norm_back, SIZES(6, 3, 128), 4},
    {"norm_back, two groups a lane, many rows", run_norm_back, SIZES(61, 1, 2560), 4},
    {"norm_back, four groups a lane", run_norm_back, SIZES(9, 1, 5117), 4},
    {"norm_back over many small heads", run_norm_back, SIZES(40, 9, 32), 4},
    {"linear", run_linear, SIZES(5, 64, 48), 4},
    {"linear, one row", run_linear, SIZES(1, 152, 203), 4},
    {"linear, odd", run_linear, SIZES(33, 65, 131), 4},
    {"linear, tiles", run_linear, SIZES(130, 320, 70), 8},
    {"linear, few rows", run_linear, SIZES(3, 320, 70), 4},
    {"linear, sixteen rows", run_linear, SIZES(16, 96, 41), 4},
    {"linear to logits", run_linear_real, SIZES(9, 64, 53), 4},
    {"linear_back", run_linear_back, SIZES(5, 64, 48), 4},
    {"linear_back of sums", run_linear_back_real, SIZES(70, 64, 48), 4},
    {"linear_back, one row", run_linear_back, SIZES(1, 152, 203), 4},
    {"linear_back, odd", run_linear_back, SIZES(33, 65, 131), 4},
    {"linear_back, tiles", run_linear_back, SIZES(130, 320, 70), 8},
    {"heads, no norms", run_heads, HEADS(9, 2, 1, 64, false), 4},
    {"heads, heads of 96", run_heads, HEADS(30, 3, 3, 96, false), 4},
    {"heads with norms", run_heads, HEADS(21, 7, 1, 128, true), 8},
    {"heads with norms, heads of 32", run_heads, HEADS(90, 4, 2, 32, true), 8},
    {"heads with norms, heads of 256", run_heads, HEADS(6, 2, 1, 256, true), 8},
    {"heads, odd heads", run_heads, HEADS(13, 3, 1, 26, true), 8},
    {"heads_back, no norms", run_heads_back, HEADS(9, 2, 1, 64, false), 4},
    {"heads_back, heads of 96", run_heads_back, HEADS(30, 3, 3, 96, false), 4},
    {"heads_back with norms", run_heads_back, HEADS(21, 7, 1, 128, true), 8},
    {"heads_back with norms, heads of 32", run_heads_back, HEADS(90, 4, 2, 32, true), 8},
    {"heads_back with norms, heads of 256", run_heads_back, HEADS(6, 2, 1, 256, true), 8},
    {"heads_back, odd heads", run_heads_back, HEADS(13, 3, 1, 26, true), 8},
    {"swiglu, small gates", run_swiglu, SIZES(5, 40, 1), 4},
    {"swiglu, large gates", run_swiglu, SIZES(13, 611, 40), 4},
    {"swiglu_back, small gates", run_swiglu_back, SIZES(5, 40, 1), 4},
    {"swiglu_back, large gates", run_swiglu_back, SIZES(13, 611, 40), 4},
    ATTN(0, 8),
    ATTN(1, 4),
    ATTN(2, 4),
    ATTN(3, 4),
    ATTN(4, 4),
    ATTN(5, 4),
    ATTN(6, 4),
    ATTN(7, 4),
    ATTN(8, 4),
    ATTN(9, 4),
    ATTN(10, 4),
    ATTN(11, 4),
    ATTN(12, 4),
    ATTN(13, 4),
    ATTN(14, 1000),
    ATTN(15, 8),
    ATTN(16, 4),
    ATTN(17, 4),
    ATTN(18, 4),
    ATTN(19, 4),
    ATTN(20, 1000),
    ATTN(21, 4),
    ATTN(22, 4),
    ATTN(23, 4),
    ATTN(24, 4),
    ATTN(25, 4),
    ATTN(26, 4),
    ATTN(27, 4),
    {"distill, few tokens", run_distill, SIZES(6, 50, 4), 8},
    {"distill, one candidate", run_distill, SIZES(5, 1003, 1), 8},
    {"distill, a large vocabulary", run_distill, SIZES(9, 5003, 20), 8},
    {"distill, several parts", run_distill, SIZES(4, 19997, 20), 8},
    {"distill, a sure student", run_distill_sure, SIZES(6, 203, 0), 8},
    {"topk, one", run_topk, SIZES(5, 3001, 1), 4},
    {"topk, 20", run_topk, SIZES(5, 3001, 20), 4},
    {"topk, all", run_topk, SIZES(3, 50, 50), 4},
    {"topk, several parts and readings", run_topk, SIZES(3, 19997, 70), 4},
    {"topk, all alike", run_topk_alike, SIZES(2, 3001, 20), 4},
    {"sample, few tokens", run_sample, SIZES(60, 50, 0), 4},
    {"sample, a large vocabulary", run_sample, SIZES(30, 3001, 0), 4},
    {"sample, several parts", run_sample, SIZES(4, 19997, 0), 4},
    {"sample, ties", run_sample_ties, SIZES(0, 2100, 0), 4},
    {"adam to bf16", run_adam, SIZES(1, 1, 40), 8},
    {"adam to f32", run_adam, SIZES(0, 2, 64), 8},
    {"adam, many heads of an odd width", run_adam, SIZES(1, 90, 3), 8},
};
const int ops_cases_count = sizeof ops_cases / sizeof *ops_cases;

/* ---- agreement ---- */

static const char *detail(const OpsCase *c) {
    bool attention = c->run == run_attn || c->run == run_attn_back;
    return attention ? ((const AttnShape *)c->shape)->name : "";
}

/* COARSE when the backend's activations are bf16. */
static double allowed(const Output *right, DType act, double slack) {
    double largest = 0.1, rounding = 0;
    for (int64_t i = 0; i < right->n; i++) {
        largest = fmax(largest, fabs(right->x[i]));
        rounding = fmax(rounding, fabs(bf16_to_f32(f32_to_bf16((float)right->x[i])) - right->x[i]));
    }
    if (right->nearness == SAME) return 0;
    if (right->nearness == COARSE && act == DT_BF16) return 2 * rounding + 1e-6 * largest;
    return slack * 4e-7 * largest;
}

/* Both NaN, as rows nobody wrote are, is agreement; in an output of SAME only. */
static void check_output(const OpsCase *c, const Output *got, const Output *right, const OpsRig *r) {
    double within = allowed(right, r->act, c->slack);
    assert_int_equal(got->n, right->n);
    for (int64_t i = 0; i < got->n; i++)
        if (!(fabs(got->x[i] - right->x[i]) <= within))
            fail_msg("%s %s: %s in %s: %s[%lld] is %.9g, wanted %.9g within %.3g", c->name, detail(c),
                     r->ops->name, dtype_name(r->act), got->name, (long long)i, got->x[i], right->x[i],
                     within);
}

void ops_case_check(const OpsCase *c, const Ops *ops, DType act) {
    OpsRig oracle, r;
    DType grid = act == DT_BF16 ? DT_BF16 : DT_F32;
    ops_rig_open(&oracle, &ops_ref, DT_F64, grid);
    ops_rig_open(&r, ops, act, grid);
    c->run(&oracle, c->shape);
    c->run(&r, c->shape);
    assert_int_equal(r.outs, oracle.outs);
    for (int32_t i = 0; i < r.outs; i++) check_output(c, &r.out[i], &oracle.out[i], &r);
    ops_rig_close(&r);
    ops_rig_close(&oracle);
}

void ops_case_spoil(const OpsCase *c, const Ops *ops, DType act) {
    OpsRig r;
    ops_rig_open(&r, ops, act, DT_F32);
    r.spoil = true;
    c->run(&r, c->shape);
    ops_rig_close(&r);
}

void ops_case_repeat(const OpsCase *c, const Ops *ops, DType act, void (*between)(void)) {
    OpsRig r[2];
    for (int i = 0; i < 2; i++) {
        if (i && between) between();
        ops_rig_open(&r[i], ops, act, DT_F32);
        c->run(&r[i], c->shape);
    }
    for (int32_t i = 0; i < r[0].outs; i++)
        if (memcmp(r[0].out[i].x, r[1].out[i].x, sizeof(double) * (size_t)r[0].out[i].n))
            fail_msg("%s %s: %s: %s has other bits the second time", c->name, detail(c), ops->name,
                     r[0].out[i].name);
    ops_rig_close(&r[0]);
    ops_rig_close(&r[1]);
}

/* ---- broken layouts ---- */

typedef struct Broken {
    const char *why;
    void (*make)(Attention *at);
} Broken;

static void too_many_rows(Attention *at) {
    at->row[at->layout.S] = at->layout.T += 100;
}
static void rows_uncovered(Attention *at) {
    at->layout.T++;
}
static void empty_sequence(Attention *at) {
    at->row[1] = 0;
}
static void no_segment(Attention *at) {
    at->seg[1] = 0;
}
static void negative_from(Attention *at) {
    at->segment[0].from = -1;
}
static void empty_segment(Attention *at) {
    at->segment[0].length = 0;
}
static void segment_beyond(Attention *at) {
    at->segment[0].length += 64 * ATTN_ENTRIES;
}
static void own_too_short(Attention *at) {
    at->segment[at->seg[1] - 1].length = 1;
}
static void page_beyond(Attention *at) {
    at->page[0] = at->layout.pages;
}
static void page_negative(Attention *at) {
    at->page[1] = -1;
}
static void own_and_learned(Attention *at) {
    at->own_grad[at->page[0]] = 0;
}
static void pool_too_large(Attention *at) {
    at->layout.pages++;
}

static const Broken broken[] = {
    {"rows beyond the plan", too_many_rows},          {"rows that no sequence has", rows_uncovered},
    {"a sequence without rows", empty_sequence},      {"a sequence without segments", no_segment},
    {"a segment from a negative row", negative_from}, {"an empty segment", empty_segment},
    {"a segment beyond its entries", segment_beyond}, {"fewer own keys than rows", own_too_short},
    {"a page beyond the pool", page_beyond},          {"a negative page", page_negative},
    {"a page both own and learned", own_and_learned}, {"a pool larger than planned", pool_too_large},
};

void ops_layouts_spoil(const Ops *ops, DType act) {
    static const AttnShape shape = {
        "", 1, 2, 32, {70}, {{.rows = 3, .read = {{1}}}, {.rows = 2, .read = {{1}}}}, 0};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        OpsRig r;
        Attention at;
        ops_rig_open(&r, ops, act, DT_F32);
        attention_open(&at, &r, &shape);
        broken[i].make(&at);
        Status st = ops->attn_plan(r.stream, at.plan, &at.layout);
        if (st != ST_ARG) fail_msg("%s: %s gave: %s", ops->name, broken[i].why, status_text(st));
        attention_close(&at, &r);
        ops_rig_close(&r);
    }
    AttnPlan *plan;
    assert_fails(ST_ARG, ops->plan_open(&plan, &(AttnLimits){4, 1, 1, 1, 1, 3, 2, 64, act, false}));
    assert_null(plan);
}
