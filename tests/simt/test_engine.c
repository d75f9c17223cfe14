/* test_engine.c -- the whole engine on the emulated GPU: forward over prefixes and own tokens, decoding rows
 * that share a prefix, and a training step's gradient, for models of every family and head size that the
 * kernels tell apart.
 *
 * The oracle is the reference in f32 on the same weights. What bf16 costs is measured, not guessed: the
 * reference with bf16 activations makes some largest error, and the GPU may make twice that. Device memory is
 * out of the host's reach while this runs, as on a real machine: an engine that peeks at it crashes. */
#include "engine/transformer/recorded.h"
#include "tests/rig.h"
#include "tests/simt/control.h"
#include "tests/simt/gpu_table.h"

typedef struct Case {
    const char *name;
    TinyFamily family;
    int32_t heads, kv_heads, head_dim; /* 0: the family's own */
} Case;

static Case cases[] = {
    {"llama, heads of 32", TINY_LLAMA, 0, 0, 0},
    {"qwen2, heads of 32", TINY_QWEN2, 0, 0, 0},
    {"qwen3, heads of 32", TINY_QWEN3, 0, 0, 0},
    {"llama, 6 heads of 64 over 2", TINY_LLAMA, 6, 2, 64},
    {"qwen2, 7 heads of 64 over 1", TINY_QWEN2, 7, 1, 64},
    {"qwen3, 4 heads of 128 over 1", TINY_QWEN3, 4, 1, 128},
};
enum { CASES = sizeof cases / sizeof *cases };

static const Ops *simt;

static ModelConfig config_of(const Case *c) {
    ModelConfig m = tiny_config(c->family);
    if (c->head_dim) m.heads = c->heads, m.kv_heads = c->kv_heads, m.head_dim = c->head_dim;
    return m;
}

/* Two prefixes; two long sequences and four that decode, three of them behind the same prefix. */
enum { LONG = 70, TALKS = 6, ROWS = LONG + 20 + 1 + 1 + 1 + 3, TOKENS = 80, GRAD_PAGES = 2, CANDIDATES = 3 };
typedef struct Scene {
    Rig rig;
    Prefix *document, *other;
    const Prefix *list[TALKS][2];
    int32_t token[TALKS][TOKENS];
    Talk talk[TALKS];
} Scene;

static void open_scene(Scene *s, const Case *c, const Ops *ops, DType act) {
    static const int32_t rows[TALKS] = {LONG, 20, 1, 1, 1, 3};
    ModelConfig m = config_of(c);
    *s = (Scene){0};
    rig_open_config(&s->rig, ops, act, &m, true);
    s->document = rig_random_prefix(&s->rig, 100, 3);
    s->other = rig_random_prefix(&s->rig, 9, 4);
    for (int32_t i = 0; i < TALKS; i++) {
        s->list[i][0] = i == 3 ? s->other : s->document;
        s->list[i][1] = s->other;
        rig_tokens(&s->rig, s->token[i], TOKENS, 20 + (uint64_t)i);
        s->talk[i] = (Talk){s->list[i], i == 1 ? 0 : i == 5 ? 2 : 1, s->token[i], rows[i], 0};
    }
}

static void close_scene(Scene *s) {
    rig_forget(&s->rig);
    prefix_drop(s->document), prefix_drop(s->other);
    rig_close(&s->rig);
}

static double largest_error(const double *a, const double *b, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(a[i] - b[i]));
    return most;
}

/* got may be twice as far from right as plain bf16 is. */
static void check_as_near_as_bf16(const double *got, const double *plain, const double *right, int64_t n,
                                  const char *what) {
    double error = largest_error(got, right, n), allowed = 2 * largest_error(plain, right, n);
    for (int64_t i = 0; i < n; i++) assert_true(isfinite(got[i]));
    if (error > allowed) fail_msg("%s: off by %.3g, twice the error of bf16 is %.3g", what, error, allowed);
}

static double *logits_of(const Case *c, const Ops *ops, DType act, int64_t *n) {
    Scene s;
    open_scene(&s, c, ops, act);
    *n = (int64_t)ROWS * s.rig.model->cfg.vocab;
    double *x = rig_ask(&s.rig, s.talk, TALKS);
    close_scene(&s);
    return x;
}

static void test_logits(void **state) {
    const Case *c = *state;
    int64_t n;
    double *right = logits_of(c, &ops_ref, DT_F32, &n), *plain = logits_of(c, &ops_ref, DT_BF16, &n);
    double *got = logits_of(c, simt, DT_BF16, &n);
    check_as_near_as_bf16(got, plain, right, n, "logits");
    free(right), free(plain), free(got);
}

/* Gradient of both prefixes: the first learns, and the second too, so that the order of pages matters. */
static double *gradient_of(const Case *c, const Ops *ops, DType act, double *loss, int64_t *n) {
    Scene s;
    open_scene(&s, c, ops, act);
    Rig *r = &s.rig;
    const ModelConfig *m = &r->model->cfg;
    int32_t row[ROWS], first[ROWS + 1], id[ROWS * CANDIDATES], supervised = 0;
    float logprob[ROWS * CANDIDATES];
    for (int32_t t = 1; t < ROWS; t += 3, supervised++) {
        row[supervised] = t;
        first[supervised] = supervised * CANDIDATES;
        for (int32_t k = 0; k < CANDIDATES; k++) {
            id[supervised * CANDIDATES + k] = (t * 7 + k * 11) % m->vocab;
            logprob[supervised * CANDIDATES + k] = -1.2f - 0.3f * (float)k;
        }
    }
    first[supervised] = supervised * CANDIDATES;
    Targets targets = {supervised, row, first, id, logprob};
    Tensor grad = {0};
    void *mem;
    int64_t bytes = 4 * (int64_t)(2 * m->layers) * (GRAD_PAGES + 1) * m->kv_heads * KV_PAGE * m->head_dim;
    assert_ok(ops->mem_open(&mem, (size_t)bytes));
    grad = tensor_of(mem, DT_F32, 2 * m->layers, GRAD_PAGES + 1, m->kv_heads, KV_PAGE, m->head_dim);
    assert_ok(ops->zero(r->stream, grad));
    batch_learn(r->batch, s.document, 0);
    batch_learn(r->batch, s.other, GRAD_PAGES);
    rig_run(r, s.talk, TALKS);
    LossSums sums = {0};
    KvGrad g = {grad};
    assert_ok(distill(r->model, r->acts, &targets, 1.0f / (float)supervised, true, &sums, r->stream));
    assert_ok(backward(r->model, r->batch, r->acts, &g, r->stream));
    *loss = sums.loss / (double)sums.rows;
    *n = tensor_count(grad);
    double *x = rig_read(r, grad);
    ops->mem_close(mem);
    close_scene(&s);
    return x;
}

static void test_gradient(void **state) {
    const Case *c = *state;
    int64_t n;
    double loss[3];
    double *right = gradient_of(c, &ops_ref, DT_F32, &loss[0], &n),
           *plain = gradient_of(c, &ops_ref, DT_BF16, &loss[1], &n);
    double *got = gradient_of(c, simt, DT_BF16, &loss[2], &n);
    assert_within(loss[2], loss[0], 2 * fabs(loss[1] - loss[0]) + 1e-3 * loss[0]);
    check_as_near_as_bf16(got, plain, right, n, "gradient");
    free(right), free(plain), free(got);
}

/* The same batch twice: same bits, also when blocks run in another order. */
static void test_bits(void **state) {
    const Case *c = *state;
    int64_t n;
    double *one = logits_of(c, simt, DT_BF16, &n);
    simt_control(&(SimtRun){"at random", 1, 5, 4});
    double *two = logits_of(c, simt, DT_BF16, &n);
    simt_control(&(SimtRun){"in order", 0, 1, 1});
    assert_memory_equal(one, two, sizeof *one * (size_t)n);
    free(one), free(two);
}

/* Three rows that decode: behind the document, behind the other prefix, behind nothing. */
enum { DECODING = 3 };
static void decoding_talks(Scene *s, Talk *talk, bool other_way) {
    for (int32_t i = 0; i < DECODING; i++) {
        talk[i] = s->talk[2 + i];
        talk[i].prefixes = other_way ? 2 - i : i;
        talk[i].token = s->token[other_way ? DECODING + i : i];
    }
}

static void run_recorded(Scene *s, Recorded *recorded, const Talk *talk) {
    Rig *r = &s->rig;
    rig_run(r, talk,
            DECODING); /* the batch, planned and uploaded; what forward made goes, to be made again */
    assert_ok(simt->zero(r->stream, acts_hidden(r->acts)));
    assert_int_equal(simt->plan_records(r->batch->plan), r->model->cfg.head_dim >= 64);
    assert_ok(recorded_forward(recorded, r->batch, r->acts, r->stream));
}

/* Recorded with one batch and replayed with another: tokens, prefixes and lengths are what they are now. */
static void test_recorded(void **state) {
    const Case *c = *state;
    Scene s;
    Talk talk[DECODING];
    Recorded *recorded;
    open_scene(&s, c, simt, DT_BF16);
    assert_ok(recorded_open(&recorded, s.rig.model, DECODING));
    decoding_talks(&s, talk, false);
    double *right = rig_ask(&s.rig, talk, DECODING);
    decoding_talks(&s, talk, true);
    run_recorded(&s, recorded, talk);
    double *other = rig_logits(&s.rig, 0, DECODING);
    decoding_talks(&s, talk, false);
    run_recorded(&s, recorded, talk);
    double *got = rig_logits(&s.rig, 0, DECODING);
    size_t bytes = sizeof *got * DECODING * (size_t)s.rig.model->cfg.vocab;
    assert_memory_equal(got, right, bytes);
    assert_true(memcmp(got, other, bytes) != 0);
    free(right), free(other), free(got);
    recorded_close(recorded);
    close_scene(&s);
}

int main(void) {
    enum { KINDS = 4 };
    void (*const kind[KINDS])(void **) = {test_logits, test_gradient, test_bits, test_recorded};
    const char *const name[KINDS] = {"logits", "gradient", "bits in another order", "a recorded pass"};
    static char title[CASES * KINDS][80];
    struct CMUnitTest tests[CASES * KINDS];
    simt = gpu_table();
    simt_memory_apart(1);
    for (int i = 0; i < CASES * KINDS; i++) {
        snprintf(title[i], sizeof title[i], "%s: %s", cases[i / KINDS].name, name[i % KINDS]);
        tests[i] = (struct CMUnitTest){title[i], kind[i % KINDS], NULL, NULL, &cases[i / KINDS]};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
