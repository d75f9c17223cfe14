/* test_memory.c -- pages and prefixes: random operations against a model too dumb to be wrong, and rows that
 * must come back as they were put. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/memory/prefix.h"
#include "kernels/base/random.h"
#include "kernels/host.h"
#include "tests/tiny_model.h"

static PagePool *new_pool(DType type, int32_t pages) {
    ModelConfig c = tiny_config(TINY_LLAMA);
    PagePool *p;
    assert_ok(pool_open(&p, &c, &ops_ref, type, pages));
    return p;
}

/* ---- pages ---- */

enum { PAGES = 13, STEPS = 4000, LISTS = 40 };

/* What is out: lists of pages, each with one hold. */
typedef struct Held {
    int32_t page[PAGES], n;
} Held;

static int32_t held_pages(const Held *list, int32_t lists) {
    bool held[PAGES] = {false};
    int32_t n = 0;
    for (int32_t i = 0; i < lists; i++)
        for (int32_t j = 0; j < list[i].n; j++) {
            n += !held[list[i].page[j]];
            held[list[i].page[j]] = true;
        }
    return n;
}

static bool is_held(const Held *list, int32_t lists, int32_t page) {
    for (int32_t i = 0; i < lists; i++)
        for (int32_t j = 0; j < list[i].n; j++)
            if (list[i].page[j] == page) return true;
    return false;
}

/* Pages are taken from the lowest number up, and only if all are there. */
static void take(PagePool *p, Held *list, int32_t *lists, int32_t n) {
    Held *h = &list[*lists];
    int32_t free_pages = PAGES - held_pages(list, *lists);
    if (n > free_pages) {
        assert_fails(ST_FULL, pool_take(p, n, h->page));
        return;
    }
    assert_ok(pool_take(p, n, h->page));
    h->n = n;
    for (int32_t i = 0, page = 0; i < n; i++, page++) {
        while (is_held(list, *lists, page)) page++;
        assert_int_equal(h->page[i], page);
    }
    (*lists)++;
}

/* Takes, shares and drops at random; the pool must count as the lists do. */
static void test_pool_counts_holders(void **state) {
    (void)state;
    PagePool *p = new_pool(DT_F32, PAGES);
    Held list[LISTS];
    int32_t lists = 0;
    for (uint64_t step = 0; step < STEPS; step++) {
        uint64_t what = random_below(1, 0, step, 3),
                 which = lists ? random_below(1, 1, step, (uint64_t)lists) : 0;
        if (what == 0 && lists < LISTS) {
            take(p, list, &lists, (int32_t)random_below(1, 2, step, 6));
        } else if (what == 1 && lists && lists < LISTS) {
            list[lists] = list[which];
            pool_hold(p, list[lists].page, list[lists].n);
            lists++;
        } else if (what == 2 && lists) {
            pool_drop(p, list[which].page, list[which].n);
            list[which] = list[--lists];
        }
        pool_check(p);
        assert_int_equal(pool_free(p), PAGES - held_pages(list, lists));
    }
    while (lists) pool_drop(p, list[lists - 1].page, list[lists - 1].n), lists--;
    assert_int_equal(pool_free(p), PAGES);
    pool_close(p);
}

static void test_a_full_pool_says_what_is_free(void **state) {
    (void)state;
    PagePool *p = new_pool(DT_F32, 3);
    int32_t page[4];
    assert_ok(pool_take(p, 1, page));
    assert_fails(ST_FULL, pool_take(p, 3, page + 1));
    assert_says("3 pages");
    assert_says("2 of 3");
    assert_int_equal(pool_free(p), 2);
    pool_drop(p, page, 1);
    pool_close(p);
}

/* Keys and values of all layers are slices of one block, in the order that files and gradients use too. */
static void test_layers_are_slices_of_one_block(void **state) {
    (void)state;
    ModelConfig c = tiny_config(TINY_QWEN2);
    int64_t before = host_mem_opens();
    PagePool *p;
    assert_ok(pool_open(&p, &c, &ops_ref, DT_BF16, 5));
    assert_int_equal(host_mem_opens() - before, 1);
    assert_true(tensor_is(pool_all(p), DT_BF16, 2 * c.layers, 5, c.kv_heads, KV_PAGE, c.head_dim));
    for (int32_t l = 0; l < c.layers; l++) {
        assert_true(tensor_is(pool_keys(p, l), DT_BF16, 5, c.kv_heads, KV_PAGE, c.head_dim));
        assert_ptr_equal(pool_keys(p, l).data, tensor_at(pool_all(p), 2 * l).data);
        assert_ptr_equal(pool_values(p, l).data, tensor_at(pool_all(p), 2 * l + 1).data);
    }
    pool_close(p);
}

static void test_pool_without_memory(void **state) {
    (void)state;
    ModelConfig c = tiny_config(TINY_LLAMA);
    int64_t before = host_mem_live();
    PagePool *p;
    host_mem_fail_at(1);
    assert_fails(ST_NOMEM, pool_open(&p, &c, &ops_ref, DT_F32, 4));
    assert_null(p);
    assert_int_equal(host_mem_live(), before);
    assert_fails(ST_ARG, pool_open(&p, &c, &ops_ref, DT_F32, 0));
    assert_null(p);
}

/* ---- prefixes ---- */

static const int32_t row_counts[] = {1, 2, 63, 64, 65, 127, 128, 129, 200};
enum { ROW_COUNTS = sizeof row_counts / sizeof row_counts[0] };

static Tensor host_rows(DType type, int32_t rows) {
    ModelConfig c = tiny_config(TINY_LLAMA);
    Tensor t = tensor_of(&t, type, c.kv_heads, rows, c.head_dim);
    t.data = calloc(1, tensor_bytes(t));
    assert_non_null(t.data);
    return t;
}

/* Values that bf16 holds exactly, so that every type must give them back. */
static Tensor random_rows(int32_t rows, uint64_t stream) {
    Tensor t = host_rows(DT_F32, rows);
    for (int64_t i = 0; i < tensor_count(t); i++)
        ((float *)t.data)[i] = bf16_to_f32(f32_to_bf16(random_normal(7, stream, (uint64_t)i)));
    return t;
}

static void poison(PagePool *p) {
    Tensor all = pool_all(p);
    for (int64_t i = 0; i < tensor_count(all); i++) {
        if (all.dtype == DT_F32)
            ((float *)all.data)[i] = NAN;
        else if (all.dtype == DT_F64)
            ((double *)all.data)[i] = NAN;
        else
            ((uint16_t *)all.data)[i] = 0x7fc0;
    }
}

static int64_t numbers(PagePool *p) {
    Tensor all = pool_all(p), one = host_rows(DT_F32, 1);
    int64_t n = 0;
    for (int64_t i = 0; i < tensor_count(all); i++) {
        tensor_convert(one, 0, all, i, 1);
        n += !isnan(((float *)one.data)[0]);
    }
    free(one.data);
    return n;
}

/* Rows written to a poisoned pool come back, and exactly as many elements were written as rows have: no row
 * of another page, no tail of a last one. */
static void check_round_trip(DType type, int32_t rows) {
    PagePool *pool = new_pool(type, 9);
    Prefix *hole, *p;
    assert_ok(prefix_new(&hole, pool, 70, 0)); /* so that pages do not start at 0 */
    assert_ok(prefix_new(&p, pool, rows, 5));
    assert_int_equal(p->pages, (rows + 63) / 64);
    assert_int_equal(p->pos_end, 5 + rows);
    poison(pool);
    Tensor key = random_rows(rows, 1), value = random_rows(rows, 2);
    Tensor k = host_rows(DT_F32, rows), v = host_rows(DT_F32, rows);
    assert_ok(prefix_write(p, NULL, 1, key, value));
    assert_ok(prefix_read(p, NULL, 1, k, v));
    assert_memory_equal(k.data, key.data, tensor_bytes(key));
    assert_memory_equal(v.data, value.data, tensor_bytes(value));
    assert_int_equal(numbers(pool), 2 * tensor_count(key));
    free(key.data), free(value.data), free(k.data), free(v.data);
    prefix_drop(p);
    prefix_drop(hole);
    pool_close(pool);
}

static void test_rows_come_back(void **state) {
    (void)state;
    static const DType types[] = {DT_F32, DT_F64, DT_BF16};
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < ROW_COUNTS; i++) check_round_trip(types[t], row_counts[i]);
}

/* A part is the same rows, wherever it is cut, and a part of a part too. */
static void check_part(const Prefix *whole, const Tensor *key, int32_t first, int32_t count) {
    ModelConfig c = tiny_config(TINY_LLAMA);
    Prefix *outer, *part;
    int32_t outer_first = first / 2;
    assert_ok(prefix_part(&outer, whole, outer_first, prefix_visible(whole) - outer_first));
    assert_ok(prefix_part(&part, outer, first - outer_first, count));
    assert_int_equal(prefix_visible(part), count);
    assert_int_equal(part->pos_first, whole->pos_first + first);
    assert_int_equal(part->pos_end, whole->pos_first + first + count);
    assert_true(part->from < KV_PAGE && part->pages == (part->rows + KV_PAGE - 1) / KV_PAGE);
    Tensor k = host_rows(DT_F32, count), v = host_rows(DT_F32, count);
    assert_ok(prefix_read(part, NULL, 0, k, v));
    size_t row = (size_t)c.head_dim * sizeof(float);
    for (int32_t g = 0; g < c.kv_heads; g++)
        assert_memory_equal((char *)k.data + (size_t)(g * count) * row,
                            (char *)key->data + (size_t)(g * whole->rows + first) * row, (size_t)count * row);
    free(k.data), free(v.data);
    prefix_drop(outer);
    pool_check(whole->pool);
    prefix_drop(part);
}

static void test_parts_are_the_same_rows(void **state) {
    (void)state;
    enum { ROWS = 200 };
    PagePool *pool = new_pool(DT_F32, 6);
    Prefix *whole;
    assert_ok(prefix_new(&whole, pool, ROWS, 11));
    Tensor key = random_rows(ROWS, 1), value = random_rows(ROWS, 2);
    assert_ok(prefix_write(whole, NULL, 0, key, value));
    int32_t free_pages = pool_free(pool);
    static const int32_t firsts[] = {0, 1, 63, 64, 65, 127, 128, 199};
    for (size_t i = 0; i < sizeof firsts / sizeof firsts[0]; i++) {
        int32_t left = ROWS - firsts[i];
        check_part(whole, &key, firsts[i], left);
        check_part(whole, &key, firsts[i], 1);
        if (left > 60) check_part(whole, &key, firsts[i], left - 60);
    }
    assert_int_equal(pool_free(pool), free_pages); /* parts share, they copy nothing */
    Prefix *none;
    assert_fails(ST_ARG, prefix_part(&none, whole, 150, 51));
    assert_null(none);
    assert_fails(ST_ARG, prefix_part(&none, whole, 0, 0));
    free(key.data), free(value.data);
    prefix_drop(whole);
    pool_close(pool);
}

/* Pages live as long as anybody holds them, in whatever order the holders go. */
static void test_a_part_outlives_the_whole(void **state) {
    (void)state;
    PagePool *pool = new_pool(DT_F32, 4);
    Prefix *whole, *part;
    assert_ok(prefix_new(&whole, pool, 150, 0));
    assert_ok(prefix_part(&part, whole, 70, 40)); /* of three pages it needs the second */
    assert_int_equal(part->pages, 1);
    prefix_hold(whole);
    prefix_drop(whole);
    assert_int_equal(pool_free(pool), 1);
    prefix_drop(whole);
    assert_int_equal(pool_free(pool), 3);
    pool_check(pool);
    prefix_drop(part);
    assert_int_equal(pool_free(pool), 4);
    prefix_drop(NULL);
    pool_close(pool);
}

/* Parts of one prefix are different things: a cache that goes by identity must not take one for the other. */
static void test_parts_have_identities(void **state) {
    (void)state;
    PagePool *pool = new_pool(DT_F32, 4);
    Prefix *whole, *part[4];
    assert_ok(prefix_new(&whole, pool, 150, 0));
    whole->identity = sha256_of("whole", 5);
    assert_ok(prefix_part(&part[0], whole, 0, 75));
    assert_ok(prefix_part(&part[1], whole, 75, 75));
    assert_ok(prefix_part(&part[2], whole, 0, 74));
    assert_ok(prefix_part(&part[3], whole, 0, 75));
    assert_true(digest_equal(part[0]->identity, part[3]->identity));
    for (int i = 0; i < 3; i++) {
        assert_false(digest_equal(part[i]->identity, whole->identity));
        for (int j = 0; j < i; j++) assert_false(digest_equal(part[i]->identity, part[j]->identity));
    }
    for (int i = 0; i < 4; i++) prefix_drop(part[i]);
    prefix_drop(whole);
    pool_close(pool);
}

static void test_own_tokens_start_behind_their_prefixes(void **state) {
    (void)state;
    PagePool *pool = new_pool(DT_F32, 8);
    Prefix *a, *b, *far;
    assert_ok(prefix_new(&a, pool, 100, 0));
    assert_ok(prefix_new(&b, pool, 30, 0));
    assert_ok(prefix_new(&far, pool, 10, 500));
    assert_int_equal(prefix_start(NULL, 0), 0);
    assert_int_equal(prefix_start((const Prefix *[]){a}, 1), 100);
    assert_int_equal(prefix_start((const Prefix *[]){a, b}, 2),
                     130); /* both numbered from 0: the sum decides */
    assert_int_equal(prefix_start((const Prefix *[]){a, far, b}, 3), 510); /* the largest end decides */
    b->from = 4;                                                           /* rows left out do not count */
    assert_int_equal(prefix_start((const Prefix *[]){a, b}, 2), 126);
    prefix_drop(a);
    prefix_drop(b);
    prefix_drop(far);
    pool_close(pool);
}

static void test_a_prefix_that_does_not_fit_takes_nothing(void **state) {
    (void)state;
    PagePool *pool = new_pool(DT_F32, 2);
    Prefix *p;
    assert_fails(ST_FULL, prefix_new(&p, pool, 129, 0));
    assert_null(p);
    assert_int_equal(pool_free(pool), 2);
    assert_fails(ST_ARG, prefix_new(&p, pool, 0, 0));
    assert_ok(prefix_new(&p, pool, 128, 0));
    Tensor wrong = host_rows(DT_F32, 127);
    assert_fails(ST_ARG, prefix_read(p, NULL, 0, wrong, wrong));
    assert_says("128");
    free(wrong.data);
    prefix_drop(p);
    pool_close(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool_counts_holders),
        cmocka_unit_test(test_a_full_pool_says_what_is_free),
        cmocka_unit_test(test_layers_are_slices_of_one_block),
        cmocka_unit_test(test_pool_without_memory),
        cmocka_unit_test(test_rows_come_back),
        cmocka_unit_test(test_parts_are_the_same_rows),
        cmocka_unit_test(test_a_part_outlives_the_whole),
        cmocka_unit_test(test_parts_have_identities),
        cmocka_unit_test(test_own_tokens_start_behind_their_prefixes),
        cmocka_unit_test(test_a_prefix_that_does_not_fit_takes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
