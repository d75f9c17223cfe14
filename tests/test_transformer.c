/* test_transformer.c -- what must always hold of the forward pass (the way back: test_backward.c). Each
 * promise is tried on every backend and every family of tiny models. On the reference a row's arithmetic does
 * not depend on its company at all; matrix products of the others may round differently with the number of
 * rows, so each backend states its epsilon, as a fraction of the largest logit. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/memory/cartridge.h"
#include "kernels/base/random.h"
#include "kernels/host.h"
#include "tests/case_tests.h"
#include "tests/count_allocations.h"
#include "tests/rig.h"

typedef struct Case {
    const char *name;
    const Ops *ops;
    DType act;
    TinyFamily family;
    double epsilon; /* between two ways to compute the same row */
} Case;

static Case cases[] = {
    {"ref f64 llama", &ops_ref, DT_F64, TINY_LLAMA, 1e-12},
    {"ref f64 qwen2", &ops_ref, DT_F64, TINY_QWEN2, 1e-12},
    {"ref f64 qwen3", &ops_ref, DT_F64, TINY_QWEN3, 1e-12},
    {"ref f32 llama", &ops_ref, DT_F32, TINY_LLAMA, 1e-5},
    {"cpu llama", &ops_cpu, DT_F32, TINY_LLAMA, 2e-5},
    {"cpu qwen2", &ops_cpu, DT_F32, TINY_QWEN2, 2e-5},
    {"cpu qwen3", &ops_cpu, DT_F32, TINY_QWEN3, 2e-5},
};
enum { CASES = sizeof cases / sizeof cases[0], TEXT = 170, OWN = 20 };

static Case *open_case(Rig *r, void **state, bool training) {
    Case *c = *state;
    rig_open(r, c->ops, c->act, c->family, training);
    return c;
}

static const Prefix *const *list(Prefix *const *p) {
    return (const Prefix *const *)p;
}

/* ---- prefixes are context ---- */

/* Promise 1. Lengths around the page border; 150 also takes several pieces in a batch of 192 rows behind
 * parents. */
static void test_capture_equals_text_in_context(void **state) {
    Rig r;
    Case *c = open_case(&r, state, false);
    static const int32_t lengths[] = {1, 63, 64, 65, 150};
    int32_t token[TEXT], V = r.model->cfg.vocab;
    rig_tokens(&r, token, TEXT, 1);
    for (int i = 0; i < 5; i++) {
        int32_t P = lengths[i];
        double *whole = rig_ask(&r, &(Talk){NULL, 0, token, P + OWN, 0}, 1);
        Prefix *p = rig_capture(&r, NULL, 0, token, P);
        double *behind = rig_ask(&r, &(Talk){list(&p), 1, token + P, OWN, 0}, 1);
        assert_close(behind, whole + (int64_t)P * V, (int64_t)OWN * V, c->epsilon, "logits behind a capture");
        free(whole), free(behind);
        prefix_drop(p);
    }
    rig_close(&r);
}

/* A text longer than a batch is captured in pieces, and a capture behind a capture goes on where that one
 * ends. */
static void test_captures_in_pieces_and_in_chains(void **state) {
    enum { LONG = 2 * RIG_ROWS + 37, CUT = 101 };
    Rig r;
    Case *c = open_case(&r, state, false);
    int32_t token[LONG + OWN];
    rig_tokens(&r, token, LONG + OWN, 2);
    Prefix *whole = rig_capture(&r, NULL, 0, token, LONG), *chain[2];
    chain[0] = rig_capture(&r, NULL, 0, token, CUT);
    chain[1] = rig_capture(&r, list(chain), 1, token + CUT, LONG - CUT);
    assert_int_equal(chain[1]->pos_first, CUT);
    assert_int_equal(chain[1]->pos_end, LONG);
    double *a = rig_ask(&r, &(Talk){list(&whole), 1, token + LONG, OWN, 0}, 1);
    double *b = rig_ask(&r, &(Talk){list(chain), 2, token + LONG, OWN, 0}, 1);
    assert_close(b, a, (int64_t)OWN * r.model->cfg.vocab, c->epsilon, "logits behind two captures");
    free(a), free(b);
    prefix_drop(whole), prefix_drop(chain[0]), prefix_drop(chain[1]);
    rig_close(&r);
}

/* Promise 3, with cuts at, before and behind page borders; and the order of prefixes does not matter. */
static void test_parts_of_a_capture_equal_the_whole(void **state) {
    enum { P = 150 };
    static const int32_t cuts[][2] = {{1, 2}, {63, 64}, {64, 65}, {65, 128}, {100, 149}};
    Rig r;
    Case *c = open_case(&r, state, false);
    int32_t token[P + OWN], V = r.model->cfg.vocab;
    rig_tokens(&r, token, P + OWN, 3);
    Prefix *whole = rig_capture(&r, NULL, 0, token, P);
    double *want = rig_ask(&r, &(Talk){list(&whole), 1, token + P, OWN, 0}, 1);
    for (int i = 0; i < 5; i++) {
        Prefix *part[3];
        assert_ok(prefix_part(&part[0], whole, 0, cuts[i][0]));
        assert_ok(prefix_part(&part[1], whole, cuts[i][0], cuts[i][1] - cuts[i][0]));
        assert_ok(prefix_part(&part[2], whole, cuts[i][1], P - cuts[i][1]));
        Prefix *turned[3] = {part[2], part[0], part[1]};
        double *got = rig_ask(&r, &(Talk){list(part), 3, token + P, OWN, 0}, 1);
        assert_close(got, want, (int64_t)OWN * V, c->epsilon, "logits behind three parts");
        free(got);
        got = rig_ask(&r, &(Talk){list(turned), 3, token + P, OWN, 0}, 1);
        assert_close(got, want, (int64_t)OWN * V, c->epsilon, "logits behind parts in another order");
        free(got);
        for (int j = 0; j < 3; j++) prefix_drop(part[j]);
    }
    free(want);
    prefix_drop(whole);
    rig_close(&r);
}

/* Leaving the first row out is not the same as having it: the part above is not equal because nothing reads
 * it. */
static void test_every_row_of_a_prefix_counts(void **state) {
    Rig r;
    Case *c = open_case(&r, state, false);
    int32_t token[70 + OWN];
    rig_tokens(&r, token, 70 + OWN, 4);
    Prefix *whole = rig_capture(&r, NULL, 0, token, 70), *part;
    double *a = rig_ask(&r, &(Talk){list(&whole), 1, token + 70, OWN, 0}, 1);
    static const int32_t ranges[][2] = {{1, 69}, {0, 69}};
    for (int i = 0; i < 2; i++) {
        assert_ok(prefix_part(&part, whole, ranges[i][0], ranges[i][1]));
        double *b = rig_ask(&r, &(Talk){list(&part), 1, token + 70, OWN, 70 - part->pos_end}, 1), most = 0,
               largest = 0;
        for (int64_t j = 0; j < (int64_t)OWN * r.model->cfg.vocab; j++) {
            most = fmax(most, fabs(a[j] - b[j]));
            largest = fmax(largest, fabs(a[j]));
        }
        assert_true(most > 10 * c->epsilon * largest);
        free(b);
        prefix_drop(part);
    }
    free(a);
    prefix_drop(whole);
    rig_close(&r);
}

/* Only distances between positions matter to a sequence without prefixes. Angles are f32 products, so even in
 * f64 the shift shows in the seventh digit. */
static void test_positions_are_relative(void **state) {
    Rig r;
    Case *c = open_case(&r, state, false);
    int32_t token[OWN], V = r.model->cfg.vocab;
    rig_tokens(&r, token, OWN, 5);
    double *a = rig_ask(&r, &(Talk){NULL, 0, token, OWN, 0}, 1);
    double *b = rig_ask(&r, &(Talk){NULL, 0, token, OWN, 37}, 1);
    assert_close(b, a, (int64_t)OWN * V, fmax(c->epsilon, 1e-5), "logits of a shifted sequence");
    Prefix *p = rig_capture(&r, NULL, 0, token, OWN);
    double *near = rig_ask(&r, &(Talk){list(&p), 1, token, OWN, 0}, 1);
    double *far = rig_ask(&r, &(Talk){list(&p), 1, token, OWN, 37}, 1);
    double most = 0;
    for (int64_t i = 0; i < (int64_t)OWN * V; i++) most = fmax(most, fabs(near[i] - far[i]));
    assert_true(most > 1e-3); /* further from the prefix is another thing */
    free(a), free(b), free(near), free(far);
    prefix_drop(p);
    rig_close(&r);
}

/* A prefill in one go, in two pieces of one batch, and token by token: the same logits. */
static void test_decode_equals_prefill(void **state) {
    enum { N = 70, CUT = 40 };
    Rig r;
    Case *c = open_case(&r, state, false);
    int32_t token[N], V = r.model->cfg.vocab;
    rig_tokens(&r, token, N, 6);
    double *whole = rig_ask(&r, &(Talk){NULL, 0, token, N, 0}, 1);
    rig_forget(&r);
    Sequence *q = &r.seq[0];
    r.seqs = 1;
    bool fits;
    assert_ok(sequence_open(q, N, 0));
    assert_ok(sequence_reserve(q, r.pool, N));
    batch_clear(r.batch);
    assert_ok(batch_add(r.batch, NULL, 0, q, token, 10, &fits));
    assert_ok(batch_add(r.batch, NULL, 0, q, token + 10, CUT - 10, &fits));
    for (int32_t at = 0, n = CUT; at < N; at += n, n = 1) {
        if (at) {
            batch_clear(r.batch);
            assert_ok(batch_add(r.batch, NULL, 0, q, token + at, 1, &fits));
        }
        assert_ok(batch_upload(r.batch, r.stream));
        assert_ok(forward(r.model, r.batch, r.acts, r.stream));
        double *got = rig_logits(&r, 0, n);
        assert_close(got, whole + (int64_t)at * V, (int64_t)n * V, c->epsilon,
                     at ? "decoded" : "in two pieces");
        free(got);
    }
    free(whole);
    rig_close(&r);
}

/* Training keeps what serving overwrites, and computes the same bits. */
static void test_training_and_serving_agree(void **state) {
    Rig r;
    Case *c = open_case(&r, state, false);
    int32_t token[TEXT];
    rig_tokens(&r, token, TEXT, 7);
    Talk talk = {NULL, 0, token, TEXT, 0};
    double *serving = rig_ask(&r, &talk, 1);
    rig_close(&r);
    rig_open(&r, c->ops, c->act, c->family, true);
    double *training = rig_ask(&r, &talk, 1);
    assert_memory_equal(training, serving, sizeof(double) * TEXT * (size_t)r.model->cfg.vocab);
    free(serving), free(training);
    rig_close(&r);
}

/* ---- promise 2 ---- */

static void temporary_file(char path[64]) {
    snprintf(path, 64, "test_transformer.%d.cartridge", (int)getpid());
}

/* A cartridge file made of `p`, opened again. */
static Cartridge *through_a_file(Rig *r, Prefix *p) {
    const ModelConfig *m = &r->model->cfg;
    CartridgeInfo info = {.layers = m->layers,
                          .kv_heads = m->kv_heads,
                          .head_dim = m->head_dim,
                          .model = r->model->fingerprint,
                          .rope_theta = m->rope_theta};
    char path[64];
    temporary_file(path);
    Cartridge *made, *opened;
    assert_ok(cartridge_new(&made, &info, p));
    assert_ok(cartridge_save(made, r->stream, path));
    cartridge_close(made);
    assert_ok(cartridge_open(&opened, path, r->model, NULL, NULL, r->pool, r->stream));
    unlink(path);
    return opened;
}

/* With keys and values in the file's own type nothing may differ; where the pool is finer, the file's
 * rounding shows, and nothing else: the same rounding done to the capture gives the same bits. */
static void test_untrained_cartridge_equals_prefill(void **state) {
    enum { P = 100 };
    Rig r;
    open_case(&r, state, false);
    int32_t token[P + OWN];
    size_t logits = sizeof(double) * OWN * (size_t)r.model->cfg.vocab;
    rig_tokens(&r, token, P + OWN, 8);
    Prefix *p = rig_capture(&r, NULL, 0, token, P);
    Cartridge *c = through_a_file(&r, p);
    assert_int_equal(c->prefix->rows, P);
    Tensor all = pool_all(r.pool);
    Tensor block = tensor_shape(all, all.dim[0], all.dim[1], tensor_count(all) / all.dim[0] / all.dim[1]);
    for (int64_t l = 0; l < block.dim[0]; l++)
        for (int32_t i = 0; i < p->pages; i++)
            for (int64_t j = 0; j < block.dim[2]; j++) {
                Tensor page = tensor_at(tensor_at(block, l), p->page[i]);
                rig_set(page, j, bf16_to_f32(f32_to_bf16((float)rig_get(page, j))));
            }
    double *a = rig_ask(&r, &(Talk){list(&p), 1, token + P, OWN, 0}, 1);
    double *b = rig_ask(&r, (&(Talk){list(&c->prefix), 1, token + P, OWN, 0}), 1);
    assert_memory_equal(a, b, logits);
    free(a), free(b);
    cartridge_close(c);
    prefix_drop(p);
    rig_close(&r);
}

static void test_untrained_cartridge_equals_prefill_in_bf16(void **state) {
    (void)state;
    Rig r;
    rig_open(&r, &ops_ref, DT_BF16, TINY_LLAMA, false);
    int32_t token[80 + OWN];
    rig_tokens(&r, token, 80 + OWN, 9);
    Prefix *p = rig_capture(&r, NULL, 0, token, 80);
    Cartridge *c = through_a_file(&r, p);
    double *a = rig_ask(&r, &(Talk){list(&p), 1, token + 80, OWN, 0}, 1);
    double *b = rig_ask(&r, (&(Talk){list(&c->prefix), 1, token + 80, OWN, 0}), 1);
    assert_memory_equal(a, b, sizeof(double) * OWN * (size_t)r.model->cfg.vocab);
    free(a), free(b);
    cartridge_close(c);
    prefix_drop(p);
    rig_close(&r);
}

/* ---- company: promises 5 and 9 ---- */

/* Three sequences of 9, 30 and 1 rows over three prefixes; the second is the only reader of the third prefix.
 */
typedef struct Party {
    Prefix *prefix[3];
    int32_t token[3][32];
    Prefix *second[2], *third[2];
    Talk talk[3];
} Party;

static void open_party(Rig *r, Party *p) {
    static const int32_t rows[] = {70, 5, 64};
    for (int i = 0; i < 3; i++) {
        p->prefix[i] = rig_random_prefix(r, rows[i], 20 + (uint64_t)i);
        rig_tokens(r, p->token[i], 32, 30 + (uint64_t)i);
    }
    p->second[0] = p->prefix[2], p->second[1] = p->prefix[0];
    p->third[0] = p->prefix[0], p->third[1] = p->prefix[1];
    p->talk[0] = (Talk){list(&p->prefix[0]), 1, p->token[0], 9, 0};
    p->talk[1] = (Talk){list(p->second), 2, p->token[1], 30, 3};
    p->talk[2] = (Talk){list(p->third), 2, p->token[2], 1, 0};
}

static void close_party(Party *p) {
    for (int i = 0; i < 3; i++) prefix_drop(p->prefix[i]);
}

/* Rows of the first and third sequence have the same bits in both, those of the second differ or do not. */
static void compare_party(const Rig *r, const double *a, const double *b, bool second_differs) {
    size_t V = (size_t)r->model->cfg.vocab;
    assert_memory_equal(a, b, sizeof(double) * 9 * V);
    assert_memory_equal(a + 39 * V, b + 39 * V, sizeof(double) * V);
    assert_int_equal(memcmp(a + 9 * V, b + 9 * V, sizeof(double) * 30 * V) != 0, second_differs);
}

static void fill_page(Rig *r, int32_t page, int32_t from, int32_t to, double v) {
    Tensor all = pool_all(r->pool);
    int64_t G = all.dim[2], D = all.dim[4];
    for (int64_t l = 0; l < all.dim[0]; l++)
        for (int64_t g = 0; g < G; g++)
            for (int64_t i = (int64_t)from * D; i < to * D; i++)
                rig_set(tensor_at(tensor_at(tensor_at(all, l), page), g), i, v);
}

static void test_neighbours_change_nothing(void **state) {
    Rig r;
    Party p;
    open_case(&r, state, false);
    open_party(&r, &p);
    double *want = rig_ask(&r, p.talk, 3);

    double *same = rig_ask(&r, p.talk, 3); /* promise 9: the same batch, the same bits */
    compare_party(&r, want, same, false);
    free(same);

    rig_tokens(&r, p.token[1], 32, 99); /* other words in the second sequence */
    double *other = rig_ask(&r, p.talk, 3);
    compare_party(&r, want, other, true);
    free(other);
    rig_tokens(&r, p.token[1], 32, 31);

    fill_page(&r, p.prefix[2]->page[0], 3, 4, 0.5); /* another row in the prefix that only the second reads */
    other = rig_ask(&r, p.talk, 3);
    compare_party(&r, want, other, true);
    free(other);
    free(want);
    close_party(&p);
    rig_close(&r);
}

/* NaN in everything that nobody should read: free pages, a prefix in no list, the tails of last pages. */
static void test_nobody_reads_what_is_not_theirs(void **state) {
    Rig r;
    Party p;
    open_case(&r, state, false);
    open_party(&r, &p);
    double *want = rig_ask(&r, p.talk, 3);
    rig_forget(&r);
    Prefix *unused = rig_random_prefix(&r, 64, 40);
    bool used[RIG_PAGES] = {false};
    for (int i = 0; i < 3; i++)
        for (int32_t j = 0; j < p.prefix[i]->pages; j++) used[p.prefix[i]->page[j]] = true;
    for (int32_t page = 0; page < RIG_PAGES; page++)
        if (!used[page]) fill_page(&r, page, 0, KV_PAGE, NAN);
    fill_page(&r, p.prefix[0]->page[1], 6, KV_PAGE, NAN);
    fill_page(&r, p.prefix[1]->page[0], 5, KV_PAGE, NAN);
    double *got = rig_ask(&r, p.talk, 3);
    compare_party(&r, want, got, false);
    free(want), free(got);
    prefix_drop(unused);
    close_party(&p);
    rig_close(&r);
}

/* Promise 9: alone, or in another place of the batch, a sequence's logits agree within epsilon. */
static void test_company_shows_in_rounding_only(void **state) {
    Rig r;
    Party p;
    Case *c = open_case(&r, state, false);
    open_party(&r, &p);
    int64_t V = r.model->cfg.vocab;
    double *want = rig_ask(&r, p.talk, 3);
    static const int32_t first[] = {0, 9, 39}, moved_first[] = {31, 1, 0};
    Talk moved[3] = {p.talk[2], p.talk[1], p.talk[0]};
    double *turned = rig_ask(&r, moved, 3);
    for (int i = 0; i < 3; i++) {
        double *alone = rig_ask(&r, &p.talk[i], 1);
        int64_t n = p.talk[i].n * V;
        assert_close(alone, want + first[i] * V, n, c->epsilon, "alone");
        assert_close(turned + moved_first[i] * V, want + first[i] * V, n, c->epsilon, "in another order");
        free(alone);
    }
    free(want), free(turned);
    close_party(&p);
    rig_close(&r);
}

/* ---- limits, memory ---- */

static void test_a_full_batch_adds_nothing(void **state) {
    (void)state;
    Rig r;
    rig_open(&r, &ops_ref, DT_F32, TINY_LLAMA, false);
    int32_t token[RIG_ROWS];
    rig_tokens(&r, token, RIG_ROWS, 1);
    Sequence q;
    bool fits;
    assert_ok(sequence_open(&q, 2 * RIG_ROWS, 0));
    assert_ok(sequence_reserve(&q, r.pool, 2 * RIG_ROWS));
    batch_clear(r.batch);
    assert_ok(batch_add(r.batch, NULL, 0, &q, token, RIG_ROWS - 1, &fits));
    assert_true(fits);
    Batch before = *r.batch;
    assert_ok(batch_add(r.batch, NULL, 0, &q, token, 2, &fits));
    assert_false(fits);
    assert_memory_equal(&before, r.batch, sizeof before);
    assert_int_equal(q.length, RIG_ROWS - 1);
    assert_int_equal(q.pos, RIG_ROWS - 1);
    assert_fails(ST_ARG,
                 batch_add(r.batch, NULL, 0, &q, token, 2 * RIG_ROWS, &fits)); /* no pages for so many */
    assert_fails(ST_ARG, sequence_reserve(&q, r.pool, 3 * RIG_ROWS));
    int32_t free_pages = pool_free(r.pool);
    Sequence big;
    assert_ok(sequence_open(&big, 100 * KV_PAGE, 0));
    assert_fails(ST_FULL, sequence_reserve(&big, r.pool, (free_pages + 1) * KV_PAGE));
    assert_int_equal(pool_free(r.pool), free_pages);
    sequence_close(&big, r.pool);
    sequence_close(&q, r.pool);
    batch_clear(r.batch);
    assert_fails(ST_ARG, batch_upload(r.batch, r.stream));
    rig_close(&r);
}

/* Each of the four limits by itself keeps the third sequence of one prefix and two tokens out. */
static void test_each_limit_of_a_batch(void **state) {
    (void)state;
    static const BatchLimits limits[] = {{5, 6, 12, 12}, {12, 2, 12, 12}, {12, 6, 5, 12}, {12, 6, 12, 5}};
    Rig r;
    rig_open(&r, &ops_ref, DT_F32, TINY_LLAMA, false);
    Prefix *p = rig_random_prefix(&r, 5, 1);
    int32_t token[2] = {1, 2};
    for (int i = 0; i < 4; i++) {
        Batch *b;
        Sequence q[3];
        bool fits;
        assert_ok(batch_open(&b, r.model, r.pool, &limits[i], false));
        for (int j = 0; j < 3; j++) {
            assert_ok(sequence_open(&q[j], 2, 5));
            assert_ok(sequence_reserve(&q[j], r.pool, 2));
            assert_ok(batch_add(b, list(&p), 1, &q[j], token, 2, &fits));
            assert_int_equal(fits, j < 2);
        }
        assert_int_equal(b->S, 2);
        for (int j = 0; j < 3; j++) sequence_close(&q[j], r.pool);
        batch_close(b);
    }
    prefix_drop(p);
    rig_close(&r);
}

static void test_captures_that_cannot_be(void **state) {
    (void)state;
    Rig r;
    rig_open(&r, &ops_ref, DT_F32, TINY_LLAMA, false);
    int32_t token[4] = {1, 2, 3, 4};
    Prefix *p;
    assert_fails(ST_ARG, capture(&p, &r.tools, NULL, 0, token, 0));
    assert_fails(ST_NOSPACE, capture(&p, &r.tools, NULL, 0, token, 2049));
    assert_says("2049");
    assert_says("2048");
    assert_null(p);
    Prefix *all;
    assert_ok(prefix_new(&all, r.pool, (RIG_PAGES - 1) * KV_PAGE, -2000)); /* the pool is as good as full */
    int32_t more[100] = {0};
    assert_fails(ST_FULL, capture(&p, &r.tools, NULL, 0, more, 100));
    assert_null(p);
    prefix_drop(all);
    rig_close(&r);
}

/* An identity says everything that decides a capture's rows. */
static void test_identity_of_a_capture(void **state) {
    (void)state;
    Rig r, other;
    rig_open(&r, &ops_ref, DT_F32, TINY_LLAMA, false);
    rig_open(&other, &ops_ref, DT_F32, TINY_QWEN2, false);
    int32_t token[12];
    rig_tokens(&other, token, 12, 1);
    Prefix *a = rig_capture(&r, NULL, 0, token, 4), *b = rig_capture(&r, NULL, 0, token + 4, 4);
    Prefix further = *a; /* the same rows, but what follows starts later */
    further.pos_end += 5;
    Prefix *ab[] = {a, b}, *ba[] = {b, a}, *aa[] = {a, a}, *moved = &further;
    Digest d[] = {
        capture_identity(r.model, NULL, 0, token, 12),
        capture_identity(r.model, NULL, 0, token, 11),
        capture_identity(r.model, NULL, 0, token + 1, 11),
        capture_identity(other.model, NULL, 0, token, 12),
        capture_identity(r.model, list(&a), 1, token, 12),
        capture_identity(r.model, list(&b), 1, token, 12),
        capture_identity(r.model, list(ab), 2, token, 12),
        capture_identity(r.model, list(ba), 2, token, 12),
        capture_identity(r.model, list(aa), 2, token, 12),
        capture_identity(r.model, list(&moved), 1, token, 12),
    };
    int n = sizeof d / sizeof d[0];
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) assert_false(digest_equal(d[i], d[j]));
    Prefix *again = rig_capture(&r, NULL, 0, token, 4);
    assert_true(digest_equal(again->identity, a->identity));
    assert_true(digest_equal(again->identity, capture_identity(r.model, NULL, 0, token, 4)));
    prefix_drop(again), prefix_drop(a), prefix_drop(b);
    rig_close(&r);
    rig_close(&other);
}

/* Everything a tiny transformer opens, in order; stops at the first failure and closes what it had. */
static Status open_all(const Ops *ops, const Model *m, bool training) {
    const ModelConfig *c = &m->cfg;
    Status st = ST_OK;
    PagePool *pool = NULL;
    Batch *batch = NULL;
    Acts *acts = NULL;
    Stream *s = NULL;
    TRY_TO(done, pool_open(&pool, c, ops, ops->act, 4));
    TRY_TO(done, ops->stream_open(&s, &(StreamLimits){8, 192, c->vocab}));
    TRY_TO(done, batch_open(&batch, m, pool, &(BatchLimits){8, 2, 4, 8}, training));
    TRY_TO(
        done,
        acts_open(
            &acts, m,
            &(ActsLimits){
                .rows = 8, .logits = 2, .candidates = 3, .seqs = 2, .training = training, .act = ops->act}));
done:
    acts_close(acts);
    batch_close(batch);
    ops->stream_close(s);
    pool_close(pool);
    return st;
}

static void test_opening_without_memory_leaks_nothing(void **state) {
    Case *c = *state;
    ModelConfig cfg = tiny_config(c->family);
    Model *m;
    assert_ok(tiny_model_open(&m, &cfg, c->ops, 1));
    int64_t live = host_mem_live();
    for (int training = 0; training < 2; training++) {
        int64_t opens = host_mem_opens();
        assert_ok(open_all(c->ops, m, training));
        opens = host_mem_opens() - opens;
        assert_true(opens >= 4);
        for (int64_t n = 1; n <= opens; n++) {
            host_mem_fail_at(n);
            assert_fails(ST_NOMEM, open_all(c->ops, m, training));
            assert_int_equal(host_mem_live(), live);
        }
        host_mem_fail_at(0);
    }
    tiny_model_close(m);
}

static void test_a_pass_allocates_nothing(void **state) {
    Case *c = *state;
    for (int training = 0; training < 2; training++) {
        Rig r;
        Party p;
        rig_open(&r, c->ops, c->act, c->family, training);
        open_party(&r, &p);
        int32_t row[2] = {0, 20}, first[] = {0, 2, 3}, id[] = {1, 2, 3};
        float logprob[] = {-0.5f, -1.5f, -0.1f};
        Targets t = {2, row, first, id, logprob};
        LossSums sums = {0};
        Tensor logits;
        ModelConfig *m = &r.model->cfg;
        KvGrad g = {tensor_of(NULL, c->act, 2 * m->layers, 2, m->kv_heads, KV_PAGE, m->head_dim)};
        g.all.data = &g; /* any address, to count */
        g.all.data = calloc(1, tensor_bytes(g.all));
        rig_run(&r, p.talk, 3);
        if (training) batch_learn(r.batch, p.prefix[0], 0);
        int64_t before = allocations_so_far();
        assert_ok(batch_upload(r.batch, r.stream));
        assert_ok(forward(r.model, r.batch, r.acts, r.stream));
        if (training) {
            assert_ok(distill(r.model, r.acts, &t, 1, true, &sums, r.stream));
            assert_ok(backward(r.model, r.batch, r.acts, &g, r.stream));
        } else {
            assert_ok(forward_logits(r.model, r.acts, row, 2, &logits, r.stream));
        }
        assert_int_equal(allocations_so_far(), before);
        free(g.all.data);
        close_party(&p);
        rig_close(&r);
    }
}

int main(void) {
    ALL_CASES(test_capture_equals_text_in_context);
    ALL_CASES(test_captures_in_pieces_and_in_chains);
    ALL_CASES(test_parts_of_a_capture_equal_the_whole);
    ALL_CASES(test_every_row_of_a_prefix_counts);
    ALL_CASES(test_positions_are_relative);
    ALL_CASES(test_decode_equals_prefill);
    ALL_CASES(test_training_and_serving_agree);
    ALL_CASES(test_untrained_cartridge_equals_prefill);
    ONCE(test_untrained_cartridge_equals_prefill_in_bf16);
    ALL_CASES(test_neighbours_change_nothing);
    ALL_CASES(test_nobody_reads_what_is_not_theirs);
    ALL_CASES(test_company_shows_in_rounding_only);
    ONCE(test_a_full_batch_adds_nothing);
    ONCE(test_each_limit_of_a_batch);
    ONCE(test_captures_that_cannot_be);
    ONCE(test_identity_of_a_capture);
    ALL_CASES(test_opening_without_memory_leaks_nothing);
    ALL_CASES(test_a_pass_allocates_nothing);
    return RUN_TESTS("transformer");
}
