/* test_compose.c -- several cartridges in one file: the same logits as the list of them, bit for bit where
 * a backend adds up key by key, within rounding where a backend cuts the keys into other pieces;
 * and a file that says what was done. */
#include "tests/rig.h"

#include "engine/memory/compose.h"
#include "tests/scratch.h"

enum { PARTS = 3, TOKENS = 9 };
static const int32_t part_rows[PARTS] = {70, 33, 64}; /* over a page, within one, exactly one */

/* A model, three cartridges of random rows, as files and opened again. */
typedef struct Shelf {
    Rig r;
    Cartridge *part[PARTS];
    CartridgeData data[PARTS];
    const Prefix *prefix[PARTS];
    int32_t token[TOKENS];
} Shelf;

static const char *part_path(int32_t i) {
    char name[16];
    snprintf(name, sizeof name, "part%d", i);
    return scratch_path(name);
}

static Cartridge *open_file(Shelf *s, const char *path) {
    Cartridge *c;
    assert_ok(cartridge_open(&c, path, s->r.model, "0123", "chatml", s->r.pool, s->r.stream));
    return c;
}

/* Positions from `first`: a cartridge need not begin at 0. */
static void make_part(Shelf *s, int32_t i, int32_t first) {
    Prefix *p = rig_random_prefix(&s->r, part_rows[i], 40 + (uint64_t)i);
    p->pos_first = first, p->pos_end = first + part_rows[i];
    CartridgeInfo info = cartridge_info_for(s->r.model, "0123", "chatml");
    info.frozen = 1 + i;
    info.steps = 10 * (i + 1), info.conversations = 100, info.supervised_tokens = 1000;
    info.corpus_tokens = 500 + i;
    info.loss_last = 1.5, info.seed = 7;
    Cartridge *c;
    assert_ok(cartridge_new(&c, &info, p));
    prefix_drop(p);
    assert_ok(cartridge_save(c, s->r.stream, part_path(i)));
    cartridge_close(c);
    s->part[i] = open_file(s, part_path(i));
    s->prefix[i] = s->part[i]->prefix;
    assert_ok(cartridge_data_read(&s->data[i], part_path(i)));
}

static void open_shelf(Shelf *s, const Ops *ops, DType act, TinyFamily family) {
    *s = (Shelf){0};
    scratch_open();
    rig_open(&s->r, ops, act, family, false);
    for (int32_t i = 0; i < PARTS; i++) make_part(s, i, 0);
    rig_tokens(&s->r, s->token, TOKENS, 5);
}

static void close_shelf(Shelf *s) {
    for (int32_t i = 0; i < PARTS; i++) {
        cartridge_close(s->part[i]);
        cartridge_data_close(&s->data[i]);
    }
    rig_close(&s->r);
    scratch_close();
}

/* Composes, writes, opens again. */
static Cartridge *composed(Shelf *s, const CartridgeData *part, int32_t n, Sinks sinks) {
    CartridgeData whole;
    assert_ok(cartridge_compose(&whole, part, n, sinks));
    assert_ok(cartridge_data_write(&whole, scratch_path("whole")));
    cartridge_data_close(&whole);
    return open_file(s, scratch_path("whole"));
}

static double *ask(Shelf *s, const Prefix *const *prefix, int32_t n) {
    return rig_ask(&s->r, &(Talk){prefix, n, s->token, TOKENS, 0}, 1);
}

/* epsilon 0: to the last bit. */
static void same_logits(Shelf *s, const Prefix *const *a, int32_t an, const Prefix *const *b, int32_t bn,
                        double epsilon) {
    double *x = ask(s, a, an), *y = ask(s, b, bn);
    assert_close(x, y, (int64_t)TOKENS * s->r.model->cfg.vocab, epsilon, "composed against the list");
    free(x), free(y);
}

static double difference(Shelf *s, const Prefix *const *a, int32_t an, const Prefix *const *b, int32_t bn) {
    double *x = ask(s, a, an), *y = ask(s, b, bn), largest = 0;
    for (int64_t i = 0; i < (int64_t)TOKENS * s->r.model->cfg.vocab; i++)
        largest = fmax(largest, fabs(x[i] - y[i]));
    free(x), free(y);
    return largest;
}

/* ---- the same logits ---- */

/* How a backend adds up: the reference key by key, whatever lies between; the CPU's kernels piece by piece,
 * and a piece ends where a part ends. */
static const struct {
    const Ops *ops;
    DType act;
    double epsilon;
} backends[] = {{&ops_ref, DT_F64, 0}, {&ops_ref, DT_F32, 0}, {&ops_cpu, DT_F32, 2e-6}};
enum { BACKENDS = sizeof backends / sizeof backends[0] };

static void test_whole_equals_the_list(void **state) {
    (void)state;
    for (int b = 0; b < BACKENDS; b++)
        for (int family = 0; family < TINY_FAMILIES; family++) {
            Shelf s;
            open_shelf(&s, backends[b].ops, backends[b].act, (TinyFamily)family);
            Cartridge *c = composed(&s, s.data, PARTS, SINKS_ALL);
            const Prefix *whole = c->prefix;
            assert_int_equal(prefix_visible(whole), 70 + 33 + 64);
            assert_int_equal(whole->pos_end, prefix_start(s.prefix, PARTS));
            same_logits(&s, &whole, 1, s.prefix, PARTS, backends[b].epsilon);
            cartridge_close(c);
            close_shelf(&s);
        }
}

/* Without the other sinks it equals the list of parts that leave them out; not the list of whole ones. */
static void test_without_sinks(void **state) {
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        Shelf s;
        open_shelf(&s, backends[b].ops, backends[b].act, TINY_LLAMA);
        Cartridge *c = composed(&s, s.data, PARTS, SINKS_FIRST);
        Prefix *cut[2];
        for (int32_t i = 0; i < 2; i++) {
            int32_t frozen = 2 + i;
            assert_ok(prefix_part(&cut[i], s.prefix[1 + i], frozen, part_rows[1 + i] - frozen));
        }
        const Prefix *list[] = {s.prefix[0], cut[0], cut[1]}, *whole = c->prefix;
        assert_int_equal(prefix_visible(whole), 70 + 31 + 61);
        assert_int_equal(prefix_start(&whole, 1), 70 + 31 + 61);
        same_logits(&s, &whole, 1, list, PARTS, backends[b].epsilon);
        assert_true(difference(&s, &whole, 1, s.prefix, PARTS) > 1e-3);
        prefix_drop(cut[0]), prefix_drop(cut[1]);
        cartridge_close(c);
        close_shelf(&s);
    }
}

/* The order of the parts is the order of the rows. Attention itself does not mind it, so logits cannot tell;
 * rows can. */
static void test_order_is_kept(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, &ops_ref, DT_F64, TINY_QWEN2);
    CartridgeData whole;
    assert_ok(cartridge_compose(&whole, s.data, PARTS, SINKS_ALL));
    int64_t G = whole.rows.dim[1], D = whole.rows.dim[3];
    for (int64_t slice = 0; slice < whole.rows.dim[0]; slice++)
        for (int64_t g = 0; g < G; g++)
            for (int64_t i = 0, at = 0; i < PARTS; at += part_rows[i++]) {
                const uint16_t *got = tensor_at(tensor_at(whole.rows, slice), g).data;
                const uint16_t *want = tensor_at(tensor_at(s.data[i].rows, slice), g).data;
                assert_memory_equal(got + at * D, want, (size_t)(part_rows[i] * D) * sizeof *want);
            }
    cartridge_data_close(&whole);
    close_shelf(&s);
}

/* A part that ends far out decides where the rest starts, composed or not; and a composed cartridge beside
 * another one counts as its parts do. */
static void test_positions(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, &ops_ref, DT_F64, TINY_LLAMA);
    cartridge_close(s.part[1]);
    cartridge_data_close(&s.data[1]);
    make_part(&s, 1, 300);
    Cartridge *c = composed(&s, s.data, 2, SINKS_ALL);
    const Prefix *whole = c->prefix, *beside[] = {c->prefix, s.prefix[2]};
    assert_int_equal(whole->pos_end, 333);
    assert_int_equal(prefix_start(&whole, 1), 333);
    same_logits(&s, &whole, 1, s.prefix, 2, 0);
    same_logits(&s, beside, 2, s.prefix, PARTS, 0);
    cartridge_close(c);
    close_shelf(&s);
}

/* ---- what the file says ---- */

static void test_what_was_done_is_said(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, &ops_ref, DT_F64, TINY_LLAMA);
    Cartridge *c = composed(&s, s.data, PARTS, SINKS_FIRST);
    const CartridgeInfo *i = &c->info;
    char hex[65], want[256];
    size_t used = 0;
    static const char *const range[PARTS] = {"0-70", "2-33", "3-64"};
    for (int32_t p = 0; p < PARTS; p++) {
        digest_hex(s.part[p]->prefix->identity, hex); /* of the part's file */
        used += (size_t)snprintf(want + used, sizeof want - used, "%s%s:%s", p ? " " : "", hex, range[p]);
    }
    assert_string_equal(i->parts, want);
    assert_string_equal(i->init, "composed");
    assert_non_null(strstr(i->note, "3 cartridges"));
    assert_non_null(strstr(i->note, "5 rows left out"));
    assert_int_equal(i->frozen, 1);
    assert_int_equal(i->steps, 60);
    assert_int_equal(i->conversations, 300);
    assert_int_equal(i->supervised_tokens, 3000);
    assert_int_equal(i->corpus_tokens, 1503);
    assert_true(isnan(i->loss_last) && i->seed == 0);
    assert_string_equal(i->model, s.r.model->fingerprint);
    cartridge_close(c);
    close_shelf(&s);
}

static void test_the_same_parts_give_the_same_file(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, &ops_ref, DT_F64, TINY_LLAMA);
    Digest d[2];
    for (int i = 0; i < 2; i++) {
        Cartridge *c = composed(&s, s.data, PARTS, SINKS_FIRST);
        d[i] = c->prefix->identity;
        cartridge_close(c);
    }
    assert_true(digest_equal(d[0], d[1]));
    close_shelf(&s);
}

/* Joined one after the other or all at once: the same rows, and no sink lost twice. */
static void test_composed_again(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, &ops_ref, DT_F64, TINY_LLAMA);
    for (int sinks = SINKS_FIRST; sinks <= SINKS_ALL; sinks++) {
        CartridgeData left[2] = {0}, once, twice;
        assert_ok(cartridge_compose(&left[0], s.data, 2, (Sinks)sinks));
        left[1] = s.data[2]; /* borrowed */
        assert_ok(cartridge_compose(&twice, left, 2, (Sinks)sinks));
        assert_ok(cartridge_compose(&once, s.data, PARTS, (Sinks)sinks));
        assert_int_equal(once.info.rows, twice.info.rows);
        assert_int_equal(once.info.pos_end, twice.info.pos_end);
        assert_memory_equal(once.rows.data, twice.rows.data, tensor_bytes(once.rows));
        cartridge_data_close(&left[0]);
        cartridge_data_close(&once);
        cartridge_data_close(&twice);
    }
    close_shelf(&s);
}

/* Where the first has no sink, that of the second is no duplicate. */
static void test_no_sink_in_the_first(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, &ops_ref, DT_F64, TINY_LLAMA);
    CartridgeData whole;
    s.data[0].info.frozen = 0;
    assert_int_equal(compose_left_out(s.data, 1, SINKS_FIRST), 0);
    assert_ok(cartridge_compose(&whole, s.data, PARTS, SINKS_FIRST));
    assert_int_equal(whole.info.rows, 70 + 33 + 64);
    cartridge_data_close(&whole);
    close_shelf(&s);
}

/* ---- what does not fit ---- */

static void refuses(Shelf *s, const char *field) {
    CartridgeData whole;
    assert_fails(ST_MISMATCH, cartridge_compose(&whole, s->data, PARTS, SINKS_ALL));
    assert_says(field);
    assert_says("cartridge 3");
    assert_null(whole.rows.data);
}

static void test_the_first_difference_is_named(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, &ops_ref, DT_F64, TINY_LLAMA);
    CartridgeInfo *i = &s.data[2].info, was = *i;
    char other[] = "another";
    i->layers++, refuses(&s, "layers"), *i = was;
    i->kv_heads++, refuses(&s, "kv_heads"), *i = was;
    i->head_dim++, refuses(&s, "head_dim"), *i = was;
    i->rope_theta *= 2, refuses(&s, "rope_theta"), *i = was;
    i->rope_factor = 8, refuses(&s, "rope_factor"), *i = was;
    i->model = other, refuses(&s, "model is"), *i = was;
    i->tokenizer = NULL, refuses(&s, "not stated"), *i = was;
    i->template_family = other, refuses(&s, "template"), *i = was;
    CartridgeData whole;
    assert_fails(ST_ARG, cartridge_compose(&whole, s.data, 1, SINKS_ALL));
    i->frozen = i->rows;
    assert_fails(ST_ARG, cartridge_compose(&whole, s.data, PARTS, SINKS_FIRST));
    assert_says("nothing is left");
    *i = was;
    close_shelf(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_equals_the_list),
        cmocka_unit_test(test_without_sinks),
        cmocka_unit_test(test_order_is_kept),
        cmocka_unit_test(test_positions),
        cmocka_unit_test(test_what_was_done_is_said),
        cmocka_unit_test(test_the_same_parts_give_the_same_file),
        cmocka_unit_test(test_composed_again),
        cmocka_unit_test(test_no_sink_in_the_first),
        cmocka_unit_test(test_the_first_difference_is_named),
    };
    return cmocka_run_group_tests_name("compose", tests, NULL, NULL);
}
