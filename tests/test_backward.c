/* test_backward.c -- the loss and the way back to the cartridge. The oracle is the forward pass itself: in
 * f64, moving a cartridge's rows by a little must change the loss as the gradient says; and gradients of
 * batches must add up. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/base/random.h"
#include "tests/case_tests.h"
#include "tests/rig.h"

typedef struct Case {
    const char *name;
    const Ops *ops;
    DType act;
    TinyFamily family;
    double epsilon; /* between two ways to add up the same gradient, as a fraction of its largest element */
} Case;

static Case cases[] = {
    {"ref f64 llama", &ops_ref, DT_F64, TINY_LLAMA, 1e-12},
    {"ref f64 qwen2", &ops_ref, DT_F64, TINY_QWEN2, 1e-12},
    {"ref f64 qwen3", &ops_ref, DT_F64, TINY_QWEN3, 1e-12},
    {"ref f32 qwen3", &ops_ref, DT_F32, TINY_QWEN3, 1e-5},
    {"cpu llama", &ops_cpu, DT_F32, TINY_LLAMA, 2e-5},
    {"cpu qwen2", &ops_cpu, DT_F32, TINY_QWEN2, 2e-5},
    {"cpu qwen3", &ops_cpu, DT_F32, TINY_QWEN3, 2e-5},
};
enum { CASES = sizeof cases / sizeof cases[0], EXACT_CASES = 3 };

/* Two cartridges that learn, A of 70 rows (two pages) and B of 5; one that is only read, R of 33; a part of A
 * that starts in the middle of a page. Four sequences read them in different mixes, one of them over the
 * border of its own page, and one reads none. Supervised rows fill several chunks of logits. */
enum { A, B, R, PREFIXES, TALKS = 4, GRAD_PAGES = 3, ROWS = 12 + 70 + 3 + 5, CANDIDATES = 4 };

typedef struct Lesson {
    Rig rig;
    Prefix *prefix[PREFIXES], *part;
    const Prefix *list[TALKS][3];
    int32_t token[TALKS][80];
    Talk talk[TALKS];
    int32_t row[ROWS], first[ROWS + 1], id[ROWS * CANDIDATES];
    float logprob[ROWS * CANDIDATES];
    Targets targets;
    KvGrad grad;
} Lesson;

/* Every third row has a teacher, with 1 to CANDIDATES candidates that together have less than all of the
 * mass. */
static void make_targets(Lesson *l) {
    int32_t V = l->rig.model->cfg.vocab, n = 0, j = 0;
    for (int32_t row = 2; row < ROWS; row += row < 40 ? 3 : 4, n++) {
        l->row[n] = row;
        l->first[n] = j;
        int32_t kept = 1 + (int32_t)random_below(50, 0, (uint64_t)row, CANDIDATES);
        for (int32_t k = 0; k < kept; k++, j++) {
            l->id[j] =
                (int32_t)((random_below(50, 1, (uint64_t)row, (uint64_t)V) + (uint64_t)k * 13) % (uint64_t)V);
            l->logprob[j] = logf(0.9f * random_unit(random_block(50, 2, (uint64_t)j).v[0]) / (float)kept);
        }
    }
    l->first[n] = j;
    l->targets = (Targets){n, l->row, l->first, l->id, l->logprob};
    assert_true(n > 3 * RIG_LOGITS);
}

static void open_lesson(Lesson *l, const Case *c) {
    *l = (Lesson){0};
    rig_open(&l->rig, c->ops, c->act, c->family, true);
    static const int32_t rows[] = {70, 5, 33}, lengths[] = {12, 70, 3, 5};
    for (int i = 0; i < PREFIXES; i++) l->prefix[i] = rig_random_prefix(&l->rig, rows[i], 60 + (uint64_t)i);
    assert_ok(prefix_part(&l->part, l->prefix[A], 50, 17));
    for (int i = 0; i < TALKS; i++) rig_tokens(&l->rig, l->token[i], 80, 70 + (uint64_t)i);
    const Prefix *lists[TALKS][3] = {{l->prefix[A], l->prefix[R]},
                                     {l->prefix[R], l->prefix[A], l->prefix[B]},
                                     {l->part, l->prefix[B]},
                                     {NULL}};
    static const int32_t counts[] = {2, 3, 2, 0};
    memcpy(l->list, lists, sizeof lists);
    for (int i = 0; i < TALKS; i++) l->talk[i] = (Talk){l->list[i], counts[i], l->token[i], lengths[i], i};
    make_targets(l);
    const ModelConfig *m = &l->rig.model->cfg;
    l->grad.all = tensor_of(l, c->act, 2 * m->layers, GRAD_PAGES, m->kv_heads, KV_PAGE, m->head_dim);
    l->grad.all.data = calloc(1, tensor_bytes(l->grad.all));
    assert_non_null(l->grad.all.data);
    batch_learn(l->rig.batch, l->prefix[A], 0);
    batch_learn(l->rig.batch, l->prefix[B], 2);
}

static void close_lesson(Lesson *l) {
    free(l->grad.all.data);
    prefix_drop(l->part);
    for (int i = 0; i < PREFIXES; i++) prefix_drop(l->prefix[i]);
    rig_close(&l->rig);
}

static const float SCALE = 0.125f;

static LossSums loss_of(Lesson *l, bool gradient) {
    LossSums sums = {0};
    Rig *r = &l->rig;
    rig_run(r, l->talk, TALKS);
    assert_ok(distill(r->model, r->acts, &l->targets, SCALE, gradient, &sums, r->stream));
    if (gradient) assert_ok(backward(r->model, r->batch, r->acts, &l->grad, r->stream));
    return sums;
}

static double *take_gradient(Lesson *l) {
    int64_t n = tensor_count(l->grad.all);
    double *g = malloc(sizeof *g * (size_t)n);
    assert_non_null(g);
    tensor_convert(tensor_of(g, DT_F64, n), 0, l->grad.all, 0, n);
    memset(l->grad.all.data, 0, tensor_bytes(l->grad.all));
    return g;
}

/* ---- promise 4 ---- */

/* An element of the gradient and of the pool it belongs to. */
typedef struct Element {
    int64_t grad, pool;
} Element;

/* Row `row` (0 .. 70 of A, 70 .. 75 of B), of slice, head and column. */
static Element element_at(const Lesson *l, int64_t slice, int32_t row, int64_t g, int64_t d) {
    const ModelConfig *m = &l->rig.model->cfg;
    const Prefix *p = l->prefix[row < 70 ? A : B];
    int32_t own = row < 70 ? row : row - 70, page = own / KV_PAGE;
    int64_t grad_page = slice * GRAD_PAGES + (row < 70 ? page : 2),
            pool_page = slice * RIG_PAGES + p->page[page];
    int64_t in_page = (g * KV_PAGE + own % KV_PAGE) * m->head_dim + d,
            size = (int64_t)m->kv_heads * KV_PAGE * m->head_dim;
    return (Element){grad_page * size + in_page, pool_page * size + in_page};
}

static double loss_moved(Lesson *l, int64_t at, double by) {
    Tensor pool = pool_all(l->rig.pool);
    double was = rig_get(pool, at);
    rig_set(pool, at, was + by);
    double loss = loss_of(l, false).loss;
    rig_set(pool, at, was);
    return loss;
}

/* The central difference is wrong by O(step^2) and by rounding over the step; both are far below the bound.
 */
static void check_element(Lesson *l, const double *gradient, Element e, double largest) {
    const double step = 1e-4;
    double want = SCALE * (loss_moved(l, e.pool, step) - loss_moved(l, e.pool, -step)) / (2 * step),
           got = gradient[e.grad];
    if (!(fabs(got - want) <= 1e-6 * fabs(want) + 1e-7 * largest))
        fail_msg("gradient %lld: backward says %.10g, differences say %.10g", (long long)e.grad, got, want);
}

static void test_gradient_equals_differences(void **state) {
    Lesson l;
    open_lesson(&l, *state);
    loss_of(&l, true);
    double *gradient = take_gradient(&l), largest = 0;
    for (int64_t i = 0; i < tensor_count(l.grad.all); i++) largest = fmax(largest, fabs(gradient[i]));
    const ModelConfig *m = &l.rig.model->cfg;
    for (uint64_t slice = 0; slice < 2 * (uint64_t)m->layers; slice++)
        for (uint64_t i = 0; i < 3; i++) {
            int32_t row = (int32_t)random_below(80 + i, slice, 0, i ? 70 : 5) + (i ? 0 : 70);
            check_element(&l, gradient,
                          element_at(&l, (int64_t)slice, row,
                                     (int64_t)random_below(80 + i, slice, 1, (uint64_t)m->kv_heads),
                                     (int64_t)random_below(80 + i, slice, 2, (uint64_t)m->head_dim)),
                          largest);
        }
    free(gradient);
    close_lesson(&l);
}

/* Moves every learning element at once, along a random direction. */
static void move_all(Lesson *l, double by) {
    const ModelConfig *m = &l->rig.model->cfg;
    Tensor pool = pool_all(l->rig.pool);
    uint64_t n = 0;
    for (int64_t slice = 0; slice < 2 * m->layers; slice++)
        for (int32_t row = 0; row < 75; row++)
            for (int64_t i = 0; i < (int64_t)m->kv_heads * m->head_dim; i++) {
                int64_t at = element_at(l, slice, row, i / m->head_dim, i % m->head_dim).pool;
                rig_set(pool, at, rig_get(pool, at) + by * (double)random_normal(90, 0, n++));
            }
}

/* One number that no element can hide from: the slope along a direction that has a part of every element. */
static void test_gradient_along_a_random_direction(void **state) {
    const double step = 1e-5;
    Lesson l;
    open_lesson(&l, *state);
    loss_of(&l, true);
    double *gradient = take_gradient(&l), slope = 0;
    const ModelConfig *m = &l.rig.model->cfg;
    uint64_t n = 0;
    for (int64_t slice = 0; slice < 2 * m->layers; slice++)
        for (int32_t row = 0; row < 75; row++)
            for (int64_t i = 0; i < (int64_t)m->kv_heads * m->head_dim; i++)
                slope += gradient[element_at(&l, slice, row, i / m->head_dim, i % m->head_dim).grad] *
                         (double)random_normal(90, 0, n++);
    move_all(&l, step);
    double above = loss_of(&l, false).loss;
    move_all(&l, -2 * step);
    double want = SCALE * (above - loss_of(&l, false).loss) / (2 * step);
    if (!(fabs(slope - want) <= 1e-6 * fabs(want)))
        fail_msg("slope %.12g, differences say %.12g", slope, want);
    free(gradient);
    close_lesson(&l);
}

/* The fast backends get their gradient from the reference in f64, within what f32 can hold. */
static void test_gradient_equals_the_reference(void **state) {
    const Case *c = *state;
    Lesson l;
    open_lesson(&l, c);
    LossSums sums = loss_of(&l, true);
    double *got = take_gradient(&l);
    close_lesson(&l);
    open_lesson(&l, &(Case){"", &ops_ref, DT_F64, c->family, 0});
    LossSums want_sums = loss_of(&l, true);
    double *want = take_gradient(&l);
    assert_close(got, want, tensor_count(l.grad.all), fmax(c->epsilon, 1e-12), "gradient");
    assert_close(&sums.loss, &want_sums.loss, 1, fmax(c->epsilon, 1e-12), "loss");
    assert_close(&sums.kl, &want_sums.kl, 1, fmax(c->epsilon, 1e-12), "kl");
    assert_int_equal(sums.rows, want_sums.rows);
    assert_int_equal(sums.agree, want_sums.agree);
    free(got), free(want);
    close_lesson(&l);
}

/* Rows of gradient pages in which no key lies are zero, whatever lies in the pool there. */
static void test_tails_have_no_gradient(void **state) {
    Lesson l;
    open_lesson(&l, *state);
    const ModelConfig *m = &l.rig.model->cfg;
    Tensor pool = pool_all(l.rig.pool);
    int64_t D = m->head_dim, heads = (int64_t)GRAD_PAGES * m->kv_heads;
    for (int64_t slice = 0; slice < 2 * m->layers; slice++)
        for (int64_t i = 6 * D; i < KV_PAGE * D; i++) /* the 65th row and on; A's second page holds six */
            rig_set(tensor_at(tensor_at(tensor_at(pool, slice), l.prefix[A]->page[1]), 0), i, NAN);
    loss_of(&l, true);
    double *g = take_gradient(&l);
    for (int64_t i = 0; i < tensor_count(l.grad.all); i++) {
        int64_t head = i / (KV_PAGE * D), page = head % heads / m->kv_heads, row = i / D % KV_PAGE;
        static const int64_t rows[] = {64, 6, 5};
        if (row >= rows[page])
            assert_true(g[i] == 0);
        else
            assert_true(isfinite(g[i]) && g[i] != 0);
    }
    free(g);
    close_lesson(&l);
}

/* ---- promise 6 ---- */

/* Gradient and sums of talks from .. from+n alone, added to what the gradient pages hold. */
static LossSums lesson_of_some(Lesson *l, int32_t from, int32_t n) {
    int32_t start[TALKS + 1] = {0}, row[ROWS], count = 0, at = 0;
    for (int i = 0; i < TALKS; i++) start[i + 1] = start[i] + l->talk[i].n;
    while (at < l->targets.n && l->row[at] < start[from]) at++;
    while (at + count < l->targets.n && l->row[at + count] < start[from + n]) {
        row[count] = l->row[at + count] - start[from];
        count++;
    }
    assert_true(count > 0);
    Targets t = {count, row, l->first + at, l->id, l->logprob};
    LossSums sums = {0};
    Rig *r = &l->rig;
    rig_run(r, l->talk + from, n);
    assert_ok(distill(r->model, r->acts, &t, SCALE, true, &sums, r->stream));
    assert_ok(backward(r->model, r->batch, r->acts, &l->grad, r->stream));
    return sums;
}

static void test_packed_gradient_is_the_sum(void **state) {
    const Case *c = *state;
    Lesson l;
    open_lesson(&l, c);
    LossSums packed = loss_of(&l, true), apart = {0};
    double *want = take_gradient(&l);
    static const int32_t cuts[] = {0, 1, 3, TALKS};
    for (int i = 0; i < 3; i++) {
        LossSums some = lesson_of_some(&l, cuts[i], cuts[i + 1] - cuts[i]);
        apart.loss += some.loss, apart.kl += some.kl, apart.rows += some.rows, apart.agree += some.agree;
    }
    double *got = take_gradient(&l);
    assert_close(got, want, tensor_count(l.grad.all), c->epsilon, "gradient of three batches");
    assert_close(&apart.loss, &packed.loss, 1, c->epsilon, "loss of three batches");
    assert_close(&apart.kl, &packed.kl, 1, c->epsilon, "kl of three batches");
    assert_int_equal(apart.rows, packed.rows);
    assert_int_equal(apart.agree, packed.agree);
    free(got), free(want);
    close_lesson(&l);
}

/* Promise 9 for the way back, and that nothing of an earlier pass is left: the gradient, twice, has the same
 * bits; added twice without a clearing between it is twice as large. */
static void test_gradient_again(void **state) {
    Lesson l;
    open_lesson(&l, *state);
    int64_t n = tensor_count(l.grad.all);
    LossSums sums = loss_of(&l, true);
    double *want = take_gradient(&l);
    lesson_of_some(&l, 0, 2); /* another batch between them */
    free(take_gradient(&l));
    LossSums again = loss_of(&l, true);
    double *got = take_gradient(&l);
    assert_memory_equal(got, want, sizeof *got * (size_t)n);
    assert_memory_equal(&again, &sums, sizeof sums);
    free(got);
    loss_of(&l, true);
    loss_of(&l, true);
    got = take_gradient(&l);
    for (int64_t i = 0; i < n; i++) want[i] *= 2;
    assert_close(got, want, n, ((const Case *)*state)->epsilon, "gradient added twice");
    free(got), free(want);
    close_lesson(&l);
}

/* Promise 5 for the way back: a sequence that learns nothing leaves the gradient's bits alone whatever it
 * says, where the backend rounds rows by themselves. */
static void test_who_does_not_learn_does_not_count(void **state) {
    const Case *c = *state;
    Lesson l;
    open_lesson(&l, c);
    l.targets.n -= 2; /* the last sequence has none of the others' rows: two of its own were supervised */
    assert_true(l.row[l.targets.n] >= 85 - 4 && l.row[l.targets.n - 1] < 85);
    loss_of(&l, true);
    double *want = take_gradient(&l);
    rig_tokens(&l.rig, l.token[3], 80, 1000);
    loss_of(&l, true);
    double *got = take_gradient(&l);
    assert_memory_equal(got, want, sizeof *got * (size_t)tensor_count(l.grad.all));
    batch_unlearn(l.rig.batch, l.prefix[B]);
    loss_of(&l, true);
    free(got);
    got = take_gradient(&l);
    int64_t page = tensor_count(l.grad.all) / (2 * l.rig.model->cfg.layers) / GRAD_PAGES;
    for (int64_t i = 0; i < tensor_count(l.grad.all); i++)
        assert_true(got[i] == (i / page % GRAD_PAGES == 2 ? 0 : want[i]));
    free(got), free(want);
    close_lesson(&l);
}

/* One sequence in two pieces of one batch: the second piece's rows read the first one's keys, and the
 * gradient that flows back through them must not be lost. */
static void test_gradient_through_an_earlier_piece(void **state) {
    const Case *c = *state;
    Lesson l;
    open_lesson(&l, c);
    Rig *r = &l.rig;
    lesson_of_some(&l, 1, 1);
    double *want = take_gradient(&l);
    lesson_of_some(&l, 0, 1); /* so that no gradient of the same rows is left anywhere */
    free(take_gradient(&l));
    rig_forget(r);
    batch_clear(r->batch);
    Sequence *q = &r->seq[r->seqs++];
    const Talk *t = &l.talk[1];
    bool fits;
    assert_ok(sequence_open(q, t->n, prefix_start(t->prefix, t->prefixes) + t->shift));
    assert_ok(sequence_reserve(q, r->pool, t->n));
    assert_ok(batch_add(r->batch, t->prefix, t->prefixes, q, t->token, 40, &fits));
    assert_ok(batch_add(r->batch, t->prefix, t->prefixes, q, t->token + 40, t->n - 40, &fits));
    int32_t row[ROWS], count = 0, at = 0;
    while (l.row[at] < 12) at++;
    while (at + count < l.targets.n && l.row[at + count] < 82) row[count] = l.row[at + count] - 12, count++;
    Targets targets = {count, row, l.first + at, l.id, l.logprob};
    LossSums sums = {0};
    assert_ok(batch_upload(r->batch, r->stream));
    assert_ok(forward(r->model, r->batch, r->acts, r->stream));
    assert_ok(distill(r->model, r->acts, &targets, SCALE, true, &sums, r->stream));
    assert_ok(backward(r->model, r->batch, r->acts, &l.grad, r->stream));
    double *got = take_gradient(&l);
    assert_close(got, want, tensor_count(l.grad.all), c->epsilon, "gradient in two pieces");
    free(got), free(want);
    close_lesson(&l);
}

/* ---- promise 7 ---- */

/* log softmax of each row, in place. */
static void normalise(double *logits, int32_t rows, int32_t V) {
    for (int32_t i = 0; i < rows; i++) {
        double *row = logits + (int64_t)i * V, most = -INFINITY, sum = 0;
        for (int32_t v = 0; v < V; v++) most = fmax(most, row[v]);
        for (int32_t v = 0; v < V; v++) sum += exp(row[v] - most);
        for (int32_t v = 0; v < V; v++) row[v] -= most + log(sum);
    }
}

/* Every candidate a teacher can have: all of the vocabulary, from log-probabilities [rows,V]. */
typedef struct Dense {
    int32_t *row, *first, *id;
    float *logprob;
    Targets t;
} Dense;

static Dense dense_targets(const double *logp, int32_t rows, int32_t V) {
    Dense d = {malloc(sizeof(int32_t) * (size_t)rows),
               malloc(sizeof(int32_t) * ((size_t)rows + 1)),
               malloc(sizeof(int32_t) * (size_t)(rows * V)),
               malloc(sizeof(float) * (size_t)(rows * V)),
               {0}};
    assert_true(d.row && d.first && d.id && d.logprob);
    for (int32_t i = 0; i <= rows; i++) d.first[i] = i * V;
    for (int32_t i = 0; i < rows; i++) d.row[i] = i;
    for (int32_t j = 0; j < rows * V; j++) {
        d.id[j] = j % V;
        d.logprob[j] = fminf((float)logp[j], 0);
    }
    d.t = (Targets){rows, d.row, d.first, d.id, d.logprob};
    return d;
}

static void free_dense(Dense *d) {
    free(d->row), free(d->first), free(d->id), free(d->logprob);
}

static void test_reported_kl_is_the_dense_kl(void **state) {
    const Case *c = *state;
    Lesson l;
    open_lesson(&l, c);
    Rig *r = &l.rig;
    int32_t V = r->model->cfg.vocab;
    double *student = rig_ask(r, l.talk, TALKS), *teacher = malloc(sizeof *teacher * (size_t)(ROWS * V));
    assert_non_null(teacher);
    for (int32_t i = 0; i < ROWS * V; i++)
        teacher[i] = student[i] * 0.7 + (double)random_normal(100, 0, (uint64_t)i);
    normalise(student, ROWS, V);
    normalise(teacher, ROWS, V);
    Dense d = dense_targets(teacher, ROWS, V);
    double kl = 0, loss = 0;
    int64_t agree = 0;
    for (int32_t i = 0; i < ROWS; i++) {
        int32_t best_student = 0, best_teacher = 0;
        for (int32_t v = 0; v < V; v++) {
            double p = exp((double)d.logprob[i * V + v]), logq = student[i * V + v];
            kl += p * (d.logprob[i * V + v] - logq);
            loss -= p * logq;
            if (logq > student[i * V + best_student]) best_student = v;
            if (d.logprob[i * V + v] > d.logprob[i * V + best_teacher]) best_teacher = v;
        }
        agree += best_student == best_teacher;
    }
    LossSums sums = {0};
    assert_ok(distill(r->model, r->acts, &d.t, 1, false, &sums, r->stream));
    double epsilon = fmax(c->epsilon, 1e-6); /* log-probabilities are f32 */
    assert_close(&sums.kl, &kl, 1, 10 * epsilon, "kl");
    assert_close(&sums.loss, &loss, 1, epsilon, "loss");
    assert_int_equal(sums.rows, ROWS);
    assert_int_equal(sums.agree, agree);
    assert_true(agree > 0 && agree < ROWS);
    free_dense(&d);
    free(student), free(teacher);
    close_lesson(&l);
}

/* At q = p there is nothing to learn: no KL, full agreement, no gradient; also when only a few candidates are
 * kept. With few candidates of another teacher the KL of each row is never negative. */
static void test_kl_is_zero_at_the_teacher_and_never_less(void **state) {
    const Case *c = *state;
    Lesson l;
    open_lesson(&l, c);
    Rig *r = &l.rig;
    int32_t V = r->model->cfg.vocab;
    double *p = rig_ask(r, l.talk, TALKS);
    normalise(p, ROWS, V);
    Dense d = dense_targets(p, ROWS, V);
    LossSums sums = {0};
    assert_ok(distill(r->model, r->acts, &d.t, 1, true, &sums, r->stream));
    assert_true(sums.kl >= 0 && sums.kl < 1e-5 * ROWS);
    assert_int_equal(sums.agree, ROWS);
    assert_ok(backward(r->model, r->batch, r->acts, &l.grad, r->stream));
    double *nothing = take_gradient(&l), largest = 0, most = 0;
    loss_of(&l, true);
    double *something = take_gradient(&l);
    for (int64_t i = 0; i < tensor_count(l.grad.all); i++) {
        most = fmax(most, fabs(nothing[i]));
        largest = fmax(largest, fabs(something[i]) / SCALE);
    }
    assert_true(largest > 0 && most < 1e-5 * largest);
    for (int32_t i = 0; i < ROWS; i++) {
        int32_t first[2] = {i * V + 7, i * V + 12},
                row[1] = {i}; /* five candidates somewhere in the middle */
        LossSums one = {0}, other = {0};
        Targets few = {1, row, l.first + i % l.targets.n, l.id, l.logprob};
        assert_ok(distill(r->model, r->acts, &(Targets){1, row, first, d.id, d.logprob}, 1, false, &one,
                          r->stream));
        assert_true(one.kl >= 0 && one.kl < 1e-5);
        assert_ok(distill(r->model, r->acts, &few, 1, false, &other, r->stream));
        assert_true(other.kl >= 0);
    }
    free(nothing), free(something), free(p);
    free_dense(&d);
    close_lesson(&l);
}

/* Rows without candidates are in nobody's mean. */
static void test_rows_without_a_teacher(void **state) {
    Lesson l;
    open_lesson(&l, *state);
    Rig *r = &l.rig;
    int32_t row[] = {1, 5, 9}, first[] = {0, 2, 2, 3};
    LossSums with = {0}, without = {0};
    rig_run(r, l.talk, TALKS);
    assert_ok(
        distill(r->model, r->acts, &(Targets){3, row, first, l.id, l.logprob}, 1, true, &with, r->stream));
    assert_ok(backward(r->model, r->batch, r->acts, &l.grad, r->stream));
    double *a = take_gradient(&l);
    int32_t row2[] = {1, 9}, first2[] = {0, 2, 3};
    rig_run(r, l.talk, TALKS);
    assert_ok(distill(r->model, r->acts, &(Targets){2, row2, first2, l.id, l.logprob}, 1, true, &without,
                      r->stream));
    assert_ok(backward(r->model, r->batch, r->acts, &l.grad, r->stream));
    double *b = take_gradient(&l);
    assert_int_equal(with.rows, 2);
    assert_close(&with.loss, &without.loss, 1, ((const Case *)*state)->epsilon, "loss");
    assert_close(a, b, tensor_count(l.grad.all), ((const Case *)*state)->epsilon, "gradient");
    free(a), free(b);
    close_lesson(&l);
}

static void test_passes_that_do_not_fit(void **state) {
    (void)state;
    Rig r;
    rig_open(&r, &ops_ref, DT_F32, TINY_LLAMA, false);
    int32_t token[4] = {1, 2, 3, 4}, row[1] = {0}, first[2] = {0, 1}, id[1] = {0};
    float logprob[1] = {-1};
    LossSums sums = {0};
    KvGrad none = {{0}};
    rig_run(&r, &(Talk){NULL, 0, token, 4, 0}, 1);
    Targets t = {1, row, first, id, logprob};
    assert_fails(ST_ARG, distill(r.model, r.acts, &t, 1, true, &sums, r.stream));
    assert_fails(ST_ARG, backward(r.model, r.batch, r.acts, &none, r.stream));
    assert_int_equal(sums.rows, 0);
    rig_close(&r);
}

#define EXACT(f) FIRST_CASES(f, EXACT_CASES)

int main(void) {
    EXACT(test_gradient_equals_differences);
    EXACT(test_gradient_along_a_random_direction);
    ALL_CASES(test_gradient_equals_the_reference);
    ALL_CASES(test_tails_have_no_gradient);
    ALL_CASES(test_packed_gradient_is_the_sum);
    ALL_CASES(test_gradient_again);
    ALL_CASES(test_who_does_not_learn_does_not_count);
    ALL_CASES(test_gradient_through_an_earlier_piece);
    ALL_CASES(test_reported_kl_is_the_dense_kl);
    ALL_CASES(test_kl_is_zero_at_the_teacher_and_never_less);
    ALL_CASES(test_rows_without_a_teacher);
    ONCE(test_passes_that_do_not_fit);
    return RUN_TESTS("backward");
}
