/* test_init.c -- what a cartridge begins as: rows of a text, as many as were asked for, which are its
 * prefill; random ones of the right size; another cartridge's. */
#include "tests/test.h"

#include "engine/learn/init.h"
#include "tests/demo_model.h"
#include "tests/scratch.h"

static const char facts[] = "Ada drinks tea. Ben speaks Greek. Ada plays oboe. Ben drinks cocoa.";

static Prefix *of_facts; /* what they are to the model */

static int set_up(void **state) {
    static Demo w;
    scratch_open();
    SchedulerLimits limits = {.rows = 16, .seqs = 3, .queue = 2, .topk = 4, .prefixes = 2};
    demo_open(&w, &ops_ref, 12, &limits);
    of_facts = demo_capture(&w, facts);
    *state = &w;
    return 0;
}

static int tear_down(void **state) {
    prefix_drop(of_facts);
    demo_close(*state);
    scratch_close();
    return 0;
}

static void rows_of(Demo *w, const Prefix *p, int32_t layer, float *out) {
    CaptureTools t;
    scheduler_capture_tools(w->s, &t);
    int64_t n = (int64_t)w->m->cfg.kv_heads * prefix_visible(p) * w->m->cfg.head_dim;
    Tensor key = tensor_of(out, DT_F32, w->m->cfg.kv_heads, prefix_visible(p), w->m->cfg.head_dim);
    Tensor value = tensor_of(out + n, DT_F32, w->m->cfg.kv_heads, prefix_visible(p), w->m->cfg.head_dim);
    assert_ok(prefix_read(p, t.stream, layer, key, value));
}

static void init_with(Demo *w, InitOptions o, Cartridge **c) {
    CaptureTools t;
    scheduler_capture_tools(w->s, &t);
    o.frozen = 1;
    assert_ok(cartridge_init(c, &t, w->chat, &o));
    char digest[65];
    digest_hex(tokenizer_digest(w->t), digest);
    assert_ok(cartridge_fits(&(*c)->info, w->m, digest, chat_family(w->chat)));
    assert_int_equal((*c)->info.rows, (*c)->prefix->rows);
}

/* The first rows of the capture of a text are the capture of its first tokens. */
static void test_a_start_from_text_is_its_prefill(void **state) {
    Demo *w = *state;
    Cartridge *c;
    enum { ROWS = 9 };
    init_with(w, (InitOptions){.kind = INIT_FIRST, .rows = ROWS, .text = bytes_of(facts)}, &c);
    const ModelConfig *cfg = &w->m->cfg;
    int64_t all = prefix_visible(of_facts), G = cfg->kv_heads, D = cfg->head_dim;
    float *cut = calloc((size_t)(2 * G * ROWS * D), sizeof *cut),
          *full = calloc((size_t)(2 * G * all * D), sizeof *full);
    for (int32_t l = 0; l < cfg->layers; l++) {
        rows_of(w, c->prefix, l, cut);
        rows_of(w, of_facts, l, full);
        for (int64_t g = 0; g < 2 * G; g++)
            for (int64_t i = 0; i < ROWS * D; i++)
                assert_float_equal(cut[g * ROWS * D + i], full[g * all * D + i], 1e-4);
    }
    assert_string_equal(c->info.init, "first");
    free(cut);
    free(full);
    cartridge_close(c);
}

static void test_random_starts(void **state) {
    Demo *w = *state;
    Cartridge *text, *vectors, *again;
    enum { ROWS = 70 };
    init_with(w, (InitOptions){.kind = INIT_RANDOM_TEXT, .rows = ROWS, .seed = 3}, &text);
    init_with(w, (InitOptions){.kind = INIT_RANDOM_VECTORS, .rows = ROWS, .seed = 3}, &vectors);
    init_with(w, (InitOptions){.kind = INIT_RANDOM_VECTORS, .rows = ROWS, .seed = 3}, &again);
    int64_t G = w->m->cfg.kv_heads, D = w->m->cfg.head_dim, n = 2 * G * ROWS * D;
    float *a = calloc((size_t)n, sizeof *a), *b = calloc((size_t)n, sizeof *b),
          *c = calloc((size_t)n, sizeof *c);
    rows_of(w, text->prefix, 1, a);
    rows_of(w, vectors->prefix, 1, b);
    rows_of(w, again->prefix, 1, c);
    assert_memory_equal(b, c, (size_t)n * sizeof *b);
    for (int half = 0; half < 2; half++) { /* keys, values */
        double real = 0, drawn = 0;
        for (int64_t i = half * n / 2; i < (half + 1) * n / 2; i++) {
            bool first = i / D % ROWS == 0;
            if (first) assert_true(a[i] == b[i]);
            real += first ? 0 : (double)a[i] * (double)a[i];
            drawn += first ? 0 : (double)b[i] * (double)b[i];
        }
        assert_true(fabs(drawn / real - 1) < 0.1);
    }
    assert_true(fabsf(a[D] - b[D]) > 1e-6f);
    free(a);
    free(b);
    free(c);
    cartridge_close(text);
    cartridge_close(vectors);
    cartridge_close(again);
}

static void test_a_start_from_a_cartridge(void **state) {
    Demo *w = *state;
    CaptureTools t;
    Cartridge *c, *next;
    const char *file = scratch_path("a.cartridge");
    scheduler_capture_tools(w->s, &t);
    init_with(w, (InitOptions){.kind = INIT_TEXT, .rows = 0, .text = bytes_of(facts)}, &c);
    assert_int_equal(c->info.rows, of_facts->rows);
    assert_ok(cartridge_save(c, t.stream, file));
    init_with(w, (InitOptions){.kind = INIT_CARTRIDGE, .path = file}, &next);
    assert_int_equal(next->info.rows, c->info.rows);
    assert_int_equal(strlen(next->info.init), 64);
    assert_true(next->prefix->page[0] != c->prefix->page[0]);
    cartridge_close(next);
    InitOptions o = {.kind = INIT_CARTRIDGE, .path = file, .rows = 5, .frozen = 1};
    assert_fails(ST_ARG, cartridge_init(&next, &t, w->chat, &o));
    assert_says("5 were asked for");
    o = (InitOptions){.kind = INIT_FIRST, .text = bytes_of(facts), .rows = 4000};
    assert_fails(ST_ARG, cartridge_init(&next, &t, w->chat, &o));
    o = (InitOptions){.kind = INIT_FIRST, .text = bytes_of(facts), .rows = 4, .frozen = 5};
    assert_fails(ST_ARG, cartridge_init(&next, &t, w->chat, &o));
    assert_null(next);
    cartridge_close(c);
    scratch_remove("a.cartridge");
    pool_check(w->pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_start_from_text_is_its_prefill),
        cmocka_unit_test(test_random_starts),
        cmocka_unit_test(test_a_start_from_a_cartridge),
    };
    return cmocka_run_group_tests_name("init", tests, set_up, tear_down);
}
