/* ops_cases_logits.c -- cases of what is done with rows of logits: the loss against a teacher and its
 * gradient, the best tokens, and drawing one. */
#include "tests/ops_subjects.h"

/* Like a model's: most far below the best. `in` is the vocabulary, `out` how many candidates a row has. */
static Tensor logits_of(OpsRig *r, const Sizes *z, uint64_t seed) {
    return NORMAL(r, r->real, seed, 3, z->rows, z->in);
}

static int32_t *zeros(int64_t n) {
    int32_t *x = calloc((size_t)n + 1, sizeof *x);
    assert_non_null(x);
    return x;
}

/* What a teacher thought of each row. */
typedef struct Teacher {
    Tensor first, id, logprob;
} Teacher;

/* `out` candidates all over a row, each half as likely as the one before; every fifth row has none. */
static Teacher teacher_of(OpsRig *r, const Sizes *z) {
    int32_t *first = zeros(z->rows + 1), *id = zeros(z->rows * z->out);
    double *logprob = malloc(sizeof(double) * (size_t)(z->rows * z->out) + 1);
    assert_non_null(logprob);
    for (int32_t w = 0; w < z->rows; w++) {
        int32_t n = w % 5 == 3 ? 0 : (int32_t)z->out;
        first[w + 1] = first[w] + n;
        for (int32_t j = 0; j < n; j++) {
            id[first[w] + j] = (int32_t)((w * 31 + j * (z->in / z->out)) % z->in);
            logprob[first[w] + j] = -log(2.0) * (j + 1) - 0.1;
        }
    }
    int64_t N = first[z->rows];
    Teacher t = {WHOLE(r, first, z->rows + 1), WHOLE(r, id, N), FLOATS(r, DT_F32, logprob, N)};
    free(first), free(id), free(logprob);
    return t;
}

static void run_distill(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Teacher t = teacher_of(r, z);
    Tensor loss = BLANK(r, r->real, z->rows), kl = BLANK(r, r->real, z->rows),
           best = BLANK(r, DT_I32, z->rows);
    Tensor logits = logits_of(r, z, 3);
    ops_rig_distill(r, (DistillArgs){loss, kl, best, logits, t.first, t.id, t.logprob, 0.25f, false});
    ops_rig_take(r, "loss", FINE, loss);
    ops_rig_take(r, "kl", FINE, kl);
    ops_rig_take(r, "best", SAME, best);
    ops_rig_take(r, "logits left alone", SAME, logits);
    ops_rig_distill(r, (DistillArgs){.logits = logits,
                                     .first = t.first,
                                     .id = t.id,
                                     .logprob = t.logprob,
                                     .scale = 0.25f,
                                     .gradient = true});
    ops_rig_take(r, "gradient", FINE, logits);
}

/* Two candidates so far above all other tokens that 1 - Q is no difference of rounded numbers. */
static void run_distill_sure(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    double *x = malloc(sizeof(double) * (size_t)(z->rows * z->in));
    int32_t *first = zeros(z->rows + 1), *id = zeros(2 * z->rows);
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
static double eighths(int64_t i) {
    return round(24 * (double)random_normal(1, 0, (uint64_t)i)) / 8;
}

/* No token is better than another, by whatever sign of zero. */
static double zero_of_some_sign(int64_t i) {
    return i % 3 ? 0.0 : -0.0;
}

static void topk_of(OpsRig *r, const Sizes *z, double (*logit)(int64_t i)) {
    double *x = malloc(sizeof(double) * (size_t)(z->rows * z->in));
    assert_non_null(x);
    for (int64_t i = 0; i < z->rows * z->in; i++) x[i] = logit(i);
    Tensor logits = FLOATS(r, r->real, x, z->rows, z->in);
    free(x);
    Tensor id = BLANK(r, DT_I32, z->rows, z->out), logprob = BLANK(r, r->real, z->rows, z->out);
    ops_rig_topk(r, (TopkArgs){id, logprob, logits});
    ops_rig_take(r, "id", SAME, id);
    ops_rig_take(r, "logprob", FINE, logprob);
}

static void run_topk(OpsRig *r, const void *shape) {
    topk_of(r, shape, eighths);
}

static void run_topk_alike(OpsRig *r, const void *shape) {
    topk_of(r, shape, zero_of_some_sign);
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
    Tensor id = BLANK(r, DT_I32, z->rows), logprob = BLANK(r, r->real, z->rows);
    ops_rig_sample(r, (SampleArgs){id, logprob, logits_of(r, z, 1), FLOATS(r, DT_F32, temperature, z->rows),
                                   FLOATS(r, DT_F32, top_p, z->rows), FLOATS(r, DT_F32, min_p, z->rows),
                                   WHOLE(r, top_k, z->rows), BELOW(r, 1000, 2, z->rows),
                                   BELOW(r, 1 << 30, 3, z->rows, 2)});
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
    Tensor id = BLANK(r, DT_I32, ROWS), logits = FLOATS(r, r->real, x, ROWS, z->in);
    free(x);
    ops_rig_sample(r, (SampleArgs){.id = id,
                                   .logits = logits,
                                   .temperature = FLOATS(r, DT_F32, temperature, ROWS),
                                   .top_p = FLOATS(r, DT_F32, p, ROWS),
                                   .min_p = FLOATS(r, DT_F32, min_p, ROWS),
                                   .top_k = WHOLE(r, k, ROWS),
                                   .counter = BELOW(r, 1000, 2, ROWS),
                                   .seed = BELOW(r, 1 << 30, 3, ROWS, 2)});
    ops_rig_take(r, "id", SAME, id);
}

static const OpsCase cases[] = {
    CASE("distill, few tokens", run_distill, SIZES(6, 50, 4), 8),
    CASE("distill, one candidate", run_distill, SIZES(5, 1003, 1), 8),
    CASE("distill, a large vocabulary", run_distill, SIZES(9, 5003, 20), 8),
    CASE("distill, several parts", run_distill, SIZES(4, 19997, 20), 8),
    CASE("distill, a sure student", run_distill_sure, SIZES(6, 203, 0), 8),
    CASE("topk, one", run_topk, SIZES(5, 3001, 1), 4),
    CASE("topk, 20", run_topk, SIZES(5, 3001, 20), 4),
    CASE("topk, all", run_topk, SIZES(3, 50, 50), 4),
    CASE("topk, several parts and readings", run_topk, SIZES(3, 19997, 70), 4),
    CASE("topk, all alike", run_topk_alike, SIZES(2, 3001, 20), 4),
    CASE("sample, few tokens", run_sample, SIZES(60, 50, 0), 4),
    CASE("sample, a large vocabulary", run_sample, SIZES(30, 3001, 0), 4),
    CASE("sample, several parts", run_sample, SIZES(4, 19997, 0), 4),
    CASE("sample, ties", run_sample_ties, SIZES(0, 2100, 0), 4),
};
const OpsSubject ops_cases_logits = SUBJECT(cases);
