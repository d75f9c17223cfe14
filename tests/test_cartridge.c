/* test_cartridge.c -- the cartridge file: what is written comes back to the last bit, what does not fit is
 * named, and no damage to a file or a disk goes unnoticed or costs the last good one. */
#include "tests/test.h"

#include "engine/memory/cartridge.h"
#include "tests/scratch.h"
#include "tests/tiny_model.h"

enum { ROWS = 70, PAGES = 8 };

#define FILE_NAME "a.cartridge"

/* A model, a pool, a file in the scratch folder, and a cartridge of random rows. */
typedef struct Shelf {
    Model *model;
    PagePool *pool;
    char path[512]; /* of the file */
    Cartridge *c;
} Shelf;

static CartridgeInfo full_info(const Model *m) {
    return (CartridgeInfo){
        .layers = m->cfg.layers,
        .kv_heads = m->cfg.kv_heads,
        .head_dim = m->cfg.head_dim,
        .frozen = 1,
        .model = (char *)(uintptr_t)m->fingerprint,
        .tokenizer = "0123456789abcdef",
        .template_family = "chatml",
        .rope_theta = m->cfg.rope_theta,
        .name = "h\xc3\xa4"
                "fen \"quoted\" \\ \n\t",
        .note = "",
        .corpus = "feed",
        .corpus_tokens = 123456789012,
        .init = "first",
        .steps = 400,
        .conversations = 1600,
        .supervised_tokens = 99999,
        .learning_rate = 0.1,
        .loss_first = 2.3456789012345678,
        .loss_last = 1.0 / 3,
        .kl_heldout = NAN,
        .seed = UINT64_MAX,
    };
}

static Tensor rows_tensor(const Shelf *s, DType type, int32_t rows) {
    Tensor t = tensor_of(&t, type, s->model->cfg.kv_heads, rows, s->model->cfg.head_dim);
    t.data = calloc(1, tensor_bytes(t));
    assert_non_null(t.data);
    return t;
}

/* Keys (0) or values (1) of a layer; not exact in bf16, so that the file has to round. */
static Tensor random_rows(const Shelf *s, int32_t layer, int kind) {
    Tensor t = rows_tensor(s, DT_F32, ROWS);
    for (int64_t i = 0; i < tensor_count(t); i++)
        ((float *)t.data)[i] = random_normal(3, (uint64_t)(2 * layer + kind), (uint64_t)i);
    return t;
}

static void open_shelf(Shelf *s, TinyFamily family) {
    *s = (Shelf){0};
    ModelConfig cfg = tiny_config(family);
    assert_ok(tiny_model_open(&s->model, &cfg, &ops_ref, 1));
    assert_ok(pool_open(&s->pool, &cfg, &ops_ref, DT_F32, PAGES));
    scratch_open();
    snprintf(s->path, sizeof s->path, "%s", scratch_path(FILE_NAME));
    Prefix *p;
    assert_ok(prefix_new(&p, s->pool, ROWS, 3));
    for (int32_t l = 0; l < cfg.layers; l++) {
        Tensor key = random_rows(s, l, 0), value = random_rows(s, l, 1);
        assert_ok(prefix_write(p, NULL, l, key, value));
        free(key.data), free(value.data);
    }
    CartridgeInfo info = full_info(s->model);
    assert_ok(cartridge_new(&s->c, &info, p));
    prefix_drop(p);
}

static void close_shelf(Shelf *s) {
    cartridge_close(s->c);
    assert_int_equal(pool_free(s->pool), PAGES);
    pool_close(s->pool);
    tiny_model_close(s->model);
    scratch_remove(FILE_NAME);
    assert_int_equal(scratch_files(), 0); /* no temporary file is left */
    scratch_close();
}

static Status open_again(Shelf *s, Cartridge **out) {
    return cartridge_open(out, s->path, s->model, "0123456789abcdef", "chatml", s->pool, NULL);
}

static void same_double(double a, double b) {
    assert_memory_equal(&a, &b, sizeof a);
}

static void same_text(const char *a, const char *b) {
    assert_int_equal(!a, !b);
    if (a) assert_string_equal(a, b);
}

static void same_info(const CartridgeInfo *a, const CartridgeInfo *b) {
    assert_int_equal(a->layers, b->layers);
    assert_int_equal(a->kv_heads, b->kv_heads);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->frozen, b->frozen);
    same_text(a->model, b->model), same_text(a->tokenizer, b->tokenizer);
    same_text(a->template_family, b->template_family);
    same_text(a->name, b->name), same_text(a->note, b->note);
    same_text(a->corpus, b->corpus), same_text(a->init, b->init);
    same_double(a->rope_theta, b->rope_theta), same_double(a->rope_factor, b->rope_factor);
    assert_int_equal(a->corpus_tokens, b->corpus_tokens);
    assert_int_equal(a->steps, b->steps);
    assert_int_equal(a->conversations, b->conversations);
    assert_int_equal(a->supervised_tokens, b->supervised_tokens);
    same_double(a->learning_rate, b->learning_rate), same_double(a->loss_first, b->loss_first);
    same_double(a->loss_last, b->loss_last), same_double(a->kl_heldout, b->kl_heldout);
    assert_true(a->seed == b->seed);
}

/* ---- there and back ---- */

static void test_everything_comes_back(void **state) {
    (void)state;
    for (int family = 0; family < TINY_FAMILIES; family++) {
        Shelf s;
        open_shelf(&s, (TinyFamily)family);
        assert_ok(cartridge_save(s.c, NULL, s.path));
        Cartridge *c;
        assert_ok(open_again(&s, &c));
        same_info(&c->info, &s.c->info);
        assert_int_equal(c->info.version, CARTRIDGE_VERSION);
        assert_int_equal(c->info.rows, ROWS);
        assert_int_equal(c->prefix->rows, ROWS);
        assert_int_equal(c->prefix->pos_first, 3);
        assert_int_equal(c->prefix->pos_end, 3 + ROWS);
        Tensor key = rows_tensor(&s, DT_BF16, ROWS), value = rows_tensor(&s, DT_BF16, ROWS),
               rounded = rows_tensor(&s, DT_BF16, ROWS);
        for (int32_t l = 0; l < s.model->cfg.layers; l++) {
            assert_ok(prefix_read(c->prefix, NULL, l, key, value));
            for (int kind = 0; kind < 2; kind++) {
                Tensor want = random_rows(&s, l, kind);
                tensor_convert(rounded, 0, want, 0, tensor_count(want));
                assert_memory_equal((kind ? value : key).data, rounded.data, tensor_bytes(rounded));
                free(want.data);
            }
        }
        free(key.data), free(value.data), free(rounded.data);
        CartridgeInfo info;
        assert_ok(cartridge_info_read(&info, s.path));
        same_info(&info, &s.c->info);
        cartridge_info_close(&info);
        cartridge_close(c);
        close_shelf(&s);
    }
}

/* Fifteen digits are not enough for about every second double, and JSON libraries like to stop there. */
static void test_doubles_keep_all_their_digits(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, TINY_LLAMA);
    for (uint64_t i = 0; i < 50; i++) {
        double *field[] = {&s.c->info.learning_rate, &s.c->info.loss_first, &s.c->info.loss_last,
                           &s.c->info.kl_heldout};
        for (uint64_t j = 0; j < 4; j++)
            *field[j] = ldexp((double)random_u64(9, j, i), (int)random_below(9, j + 4, i, 200) - 164);
        s.c->info.seed = random_u64(9, 8, i);
        assert_ok(cartridge_save(s.c, NULL, s.path));
        CartridgeInfo info;
        assert_ok(cartridge_info_read(&info, s.path));
        same_info(&info, &s.c->info);
        cartridge_info_close(&info);
    }
    close_shelf(&s);
}

/* The same cartridge gives the same bytes; one that was saved, opened and saved again too. */
static void test_files_are_reproducible(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, TINY_QWEN2);
    size_t n, n_again;
    assert_ok(cartridge_save(s.c, NULL, s.path));
    char *data = scratch_read(FILE_NAME, &n);
    Cartridge *c;
    assert_ok(open_again(&s, &c));
    assert_ok(cartridge_save(c, NULL, s.path));
    char *again = scratch_read(FILE_NAME, &n_again);
    assert_int_equal(n, n_again);
    assert_memory_equal(data, again, n);
    Digest d = sha256_of(data, n);
    assert_true(digest_equal(c->prefix->identity, d));
    free(data), free(again);
    cartridge_close(c);
    close_shelf(&s);
}

/* Any stretch of rows can be a cartridge: the file has the rows that are seen, at their own positions. */
static void test_a_part_becomes_a_whole(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, TINY_LLAMA);
    Prefix *part;
    Cartridge *c, *opened;
    assert_ok(prefix_part(&part, s.c->prefix, 60, 8));
    assert_ok(cartridge_new(&c, &s.c->info, part));
    assert_ok(cartridge_save(c, NULL, s.path));
    assert_ok(open_again(&s, &opened));
    assert_int_equal(opened->prefix->rows, 8);
    assert_int_equal(opened->prefix->from, 0);
    assert_int_equal(opened->prefix->pos_first, 63);
    Tensor k[2] = {rows_tensor(&s, DT_BF16, 8), rows_tensor(&s, DT_BF16, 8)}, v = rows_tensor(&s, DT_BF16, 8);
    assert_ok(prefix_read(part, NULL, 1, k[0], v));
    assert_ok(prefix_read(opened->prefix, NULL, 1, k[1], v));
    assert_memory_equal(k[0].data, k[1].data, tensor_bytes(v));
    free(k[0].data), free(k[1].data), free(v.data);
    cartridge_close(opened);
    cartridge_close(c);
    prefix_drop(part);
    close_shelf(&s);
}

static void test_a_copy_is_its_own(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, TINY_LLAMA);
    CartridgeInfo copy;
    assert_ok(cartridge_info_copy(&copy, &s.c->info));
    same_info(&copy, &s.c->info);
    assert_ptr_not_equal(copy.name, s.c->info.name);
    copy.name[0] = 'H';
    assert_int_equal(s.c->info.name[0], 'h');
    cartridge_info_close(&copy);
    assert_null(copy.name);
    cartridge_info_close(&copy); /* twice is fine */
    cartridge_close(NULL);
    close_shelf(&s);
}

/* ---- what does not fit ---- */

/* The file for this model, tokenizer and template: the first difference is in the message. */
static void refuse_file(const Shelf *s, const Model *m, const char *tokenizer, const char *template,
                        const char *says) {
    Cartridge *c;
    assert_fails(ST_MISMATCH, cartridge_open(&c, s->path, m, tokenizer, template, s->pool, NULL));
    assert_null(c);
    assert_says(says);
    assert_says(s->path);
}

static void test_the_first_difference_is_named(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, TINY_LLAMA);
    assert_ok(cartridge_save(s.c, NULL, s.path));
    Model other[6] = {*s.model, *s.model, *s.model, *s.model, *s.model, *s.model};
    other[0].cfg.layers++;
    other[1].cfg.kv_heads++;
    other[2].cfg.head_dim++;
    other[3].cfg.rope_theta = 10000.5;
    other[4].cfg.rope_factor = 8;
    other[5].fingerprint[0] ^= 1;
    static const char *const says[6] = {"layers",     "kv_heads",    "head_dim",
                                        "rope_theta", "rope_factor", "model is"};
    for (int i = 0; i < 6; i++) {
        refuse_file(&s, &other[i], NULL, NULL, says[i]);
        if (i == 3) assert_says("10000.5");
    }
    refuse_file(&s, s.model, "another", NULL, "tokenizer");
    assert_says("another");
    refuse_file(&s, s.model, NULL, "llama3", "template");
    assert_says("chatml");
    Cartridge *c; /* what the caller does not state is not checked */
    assert_ok(cartridge_open(&c, s.path, s.model, NULL, NULL, s.pool, NULL));
    cartridge_close(c);
    close_shelf(&s);
}

static void test_no_room_for_the_rows(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, TINY_LLAMA);
    assert_ok(cartridge_save(s.c, NULL, s.path));
    Prefix *rest;
    Cartridge *c;
    assert_ok(prefix_new(&rest, s.pool, (PAGES - 3) * KV_PAGE, 0)); /* one page is left, two are needed */
    assert_fails(ST_FULL, open_again(&s, &c));
    assert_null(c);
    assert_int_equal(pool_free(s.pool), 1);
    prefix_drop(rest);
    close_shelf(&s);
}

/* ---- files that are not cartridges ---- */

/* A sealed file with this metadata and one layer's tensors of `rows` rows: written right, but with wrong
 * words. */
static void write_forged(const Shelf *s, const char *json, int32_t rows) {
    Tensor t = rows_tensor(s, DT_BF16, rows);
    SafeEntry e[] = {{"layer.0.key", t}, {"layer.0.value", t}, {"layer.1.key", t}, {"layer.1.value", t}};
    assert_ok(safe_write(s->path, e, 4, &(SafeMeta){"cartridge", json}, 1, true));
    free(t.data);
}

/* The metadata of a good file, with `from` replaced by `to`. */
static char *metadata_with(const Shelf *s, const char *from, const char *to) {
    SafeFile *f;
    assert_ok(safe_open(&f, s->path));
    char *text = test_replaced(safe_meta(f, "cartridge"), from, to);
    safe_close(f);
    return text;
}

/* What becomes of a piece of the metadata, and what is said then. */
static const struct {
    const char *from, *to;
    Status st;
    const char *says;
} forged[] = {
    {"\"version\":1", "\"version\":2", ST_UNSUPPORTED, "2"},
    {"\"version\":1,", "", ST_FORMAT, "version"},
    {"\"rows\":70", "\"rows\":0", ST_FORMAT, "0 rows"},
    {"\"rows\":70", "\"rows\":71", ST_FORMAT, "layer.0.key"},
    {"\"rows\":70", "\"rows\":1.5", ST_FORMAT, "rows"},
    {"\"rows\":70", "\"rows\":-1", ST_FORMAT, "rows"},
    {"\"rows\":70", "\"rows\":\"70\"", ST_FORMAT, "rows"},
    {"\"frozen\":1", "\"frozen\":71", ST_FORMAT, "71 frozen"},
    {"\"pos_first\":3,\"pos_end\":73", "\"pos_first\":2147483600,\"pos_end\":2147483647", ST_FORMAT,
     "2147483600"},
    {"\"pos_end\":73", "\"pos_end\":3", ST_FORMAT, "positions"},
    {"\"seed\":\"18446744073709551615\"", "\"seed\":\"-1\"", ST_FORMAT, "seed"},
    {"\"seed\":\"18446744073709551615\"", "\"seed\":\"99999999999999999999\"", ST_FORMAT, "seed"},
    {"\"model\":\"", "\"model\":7,\"m\":\"", ST_FORMAT, "model"},
    {"{", "", ST_FORMAT, ""},
    {"{", "[{", ST_FORMAT, ""},
};

static void test_forged_metadata(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, TINY_LLAMA);
    for (size_t i = 0; i < sizeof forged / sizeof forged[0]; i++) {
        assert_ok(cartridge_save(s.c, NULL, s.path));
        char *json = metadata_with(&s, forged[i].from, forged[i].to);
        write_forged(&s, json, ROWS);
        free(json);
        Cartridge *c;
        assert_fails(forged[i].st, open_again(&s, &c));
        assert_null(c);
        assert_says(s.path);
        assert_says(forged[i].says);
        assert_int_equal(pool_free(s.pool), PAGES - 2);
    }
    close_shelf(&s);
}

static void test_other_safetensors_files(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, TINY_LLAMA);
    Tensor t = rows_tensor(&s, DT_BF16, 1);
    SafeEntry e = {"layer.0.key", t};
    Cartridge *c;
    assert_fails(ST_NOTFOUND, open_again(&s, &c));
    assert_ok(safe_write(s.path, &e, 1, NULL, 0, false));
    assert_fails(ST_FORMAT, open_again(&s, &c));
    assert_says("not a cartridge");
    assert_ok(cartridge_save(s.c, NULL, s.path));
    char *json = metadata_with(&s, "{", "{"); /* unchanged, but in a file without a seal */
    assert_ok(safe_write(s.path, &e, 1, &(SafeMeta){"cartridge", json}, 1, false));
    assert_fails(ST_FORMAT, open_again(&s, &c));
    assert_ok(safe_write(s.path, &e, 1, &(SafeMeta){"cartridge", json}, 1, true));
    assert_fails(ST_FORMAT, open_again(&s, &c)); /* sealed, but tensors are missing */
    free(json), free(t.data);
    close_shelf(&s);
}

/* ---- damage ---- */

static size_t header_end(const char *data) {
    uint64_t n;
    memcpy(&n, data, sizeof n);
    return 8 + (size_t)n;
}

/* Promise 11. Every byte of the header, and of the rows one in every few, so that each place of a word is
 * met. */
static void test_any_flipped_byte_is_noticed(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, TINY_QWEN3);
    assert_ok(cartridge_save(s.c, NULL, s.path));
    size_t n;
    char *data = scratch_read(FILE_NAME, &n);
    size_t header = header_end(data);
    assert_true(n > 8192 && header < n && data[header - 1] == ' ' && data[8] == '{');
    for (size_t at = 0; at < n; at += at < header ? 1 : 37) {
        Cartridge *c;
        scratch_put_byte(FILE_NAME, at, (char)(data[at] ^ (1 << (at % 8))));
        Status st = open_again(&s, &c);
        if (st == ST_OK) fail_msg("byte %zu flipped, and nobody noticed", at);
        assert_null(c);
        scratch_put_byte(FILE_NAME, at, data[at]);
    }
    Cartridge *c;
    assert_ok(open_again(&s, &c));
    cartridge_close(c);
    free(data);
    close_shelf(&s);
}

static void test_any_truncation_is_noticed(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, TINY_LLAMA);
    assert_ok(cartridge_save(s.c, NULL, s.path));
    size_t n;
    char *data = scratch_read(FILE_NAME, &n);
    for (size_t size = n; size-- > 0;) {
        Cartridge *c;
        assert_int_equal(truncate(s.path, (off_t)size), 0);
        Status st = open_again(&s, &c);
        if (st == ST_OK) fail_msg("cut to %zu of %zu bytes, and nobody noticed", size, n);
        assert_null(c);
    }
    scratch_put(FILE_NAME, data, n + 1); /* and one byte too many: the zero behind what was read */
    Cartridge *c;
    assert_fails(ST_FORMAT, open_again(&s, &c));
    free(data);
    close_shelf(&s);
}

/* A disk that is full after n bytes, for many n: an error, the last good file, and no other file beside it.
 */
static void test_a_full_disk_keeps_the_last_good_file(void **state) {
    (void)state;
    Shelf s;
    open_shelf(&s, TINY_LLAMA);
    assert_ok(cartridge_save(s.c, NULL, s.path));
    size_t n, n_now;
    char *good = scratch_read(FILE_NAME, &n);
    s.c->info.steps++;
    for (size_t bytes = 0; bytes < n; bytes += bytes < 100 || bytes > n - 100 ? 9 : 409) {
        file_fail_after((int64_t)bytes);
        Status st = cartridge_save(s.c, NULL, s.path);
        file_fail_after(-1);
        assert_int_equal(st, ST_NOSPACE);
        char *now = scratch_read(FILE_NAME, &n_now);
        assert_int_equal(n_now, n);
        assert_memory_equal(now, good, n);
        free(now);
        assert_int_equal(scratch_files(), 1);
    }
    assert_ok(cartridge_save(s.c, NULL, s.path));
    CartridgeInfo info;
    assert_ok(cartridge_info_read(&info, s.path));
    assert_int_equal(info.steps, 401);
    cartridge_info_close(&info);
    free(good);
    close_shelf(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_comes_back),
        cmocka_unit_test(test_doubles_keep_all_their_digits),
        cmocka_unit_test(test_files_are_reproducible),
        cmocka_unit_test(test_a_part_becomes_a_whole),
        cmocka_unit_test(test_a_copy_is_its_own),
        cmocka_unit_test(test_the_first_difference_is_named),
        cmocka_unit_test(test_no_room_for_the_rows),
        cmocka_unit_test(test_forged_metadata),
        cmocka_unit_test(test_other_safetensors_files),
        cmocka_unit_test(test_any_flipped_byte_is_noticed),
        cmocka_unit_test(test_any_truncation_is_noticed),
        cmocka_unit_test(test_a_full_disk_keeps_the_last_good_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
