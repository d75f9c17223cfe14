/* test_base.c -- what everything else stands on: messages, arenas, tensors, numbers, files, hashes, JSON. */
#include "tests/test.h"

#include <pthread.h>

#include "kernels/base/arena.h"
#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "kernels/base/random.h"
#include "kernels/base/tensor.h"
#include "tests/scratch.h"

/* ---- status ---- */

static Status fails_with(int value) {
    NEED(value == 3, ST_ARG, "value is %d, wanted 3", value);
    return ST_OK;
}

static Status cleans_up(int value, bool *cleaned) {
    Status st = ST_OK;
    TRY_TO(done, fails_with(value));
    NEED_TO(done, value != 3, ST_MISMATCH, "three is refused here");
done:
    *cleaned = true;
    return st;
}

static void test_status_says_what_happened(void **state) {
    (void)state;
    assert_ok(fails_with(3));
    assert_fails(ST_ARG, fails_with(5));
    assert_says("value is 5, wanted 3");
    assert_says("test_base.c:");
    status_prefix(ST_ARG, "step %d", 7);
    assert_int_equal(strncmp(status_message(), "step 7: value is 5", 18), 0);
}

static void test_status_cleans_up(void **state) {
    (void)state;
    bool cleaned = false;
    assert_fails(ST_MISMATCH, cleans_up(3, &cleaned));
    assert_true(cleaned);
    cleaned = false;
    assert_fails(ST_ARG, cleans_up(4, &cleaned));
    assert_true(cleaned);
}

/* A message that quotes the one before it, and one longer than the buffer. */
static void test_status_long_and_nested(void **state) {
    (void)state;
    fails_with(9);
    status_fail(ST_IO, "file.c", 1, "because %s", status_message());
    assert_says("because value is 9");
    char text[4000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    status_fail(ST_IO, "file.c", 1, "%s", text);
    assert_int_equal(strlen(status_message()), 1023);
    status_prefix(ST_IO, "%s", text);
    assert_true(strlen(status_message()) <= 1023);
    status_prefix(ST_IO, "short");
    assert_int_equal(strncmp(status_message(), "short: xxx", 10), 0);
}

static void *fail_elsewhere(void *unused) {
    (void)unused;
    fails_with(11);
    return NULL;
}

static void test_status_is_per_thread(void **state) {
    (void)state;
    fails_with(10);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    pthread_join(thread, NULL);
    assert_says("value is 10");
}

static void test_status_has_words_for_each_code(void **state) {
    (void)state;
    for (int i = 0; i <= ST_DIVERGED; i++)
        for (int j = 0; j < i; j++) assert_string_not_equal(status_text((Status)i), status_text((Status)j));
    assert_string_equal(status_text((Status)999), "unknown status");
}

/* ---- arena ---- */

static void test_arena_counts_what_it_places(void **state) {
    (void)state;
    static _Alignas(ARENA_ALIGN) char block[4096];
    static const size_t sizes[] = {1, 255, 256, 0, 257, 1000};
    Arena count, place;
    arena_init(&count, NULL, 0);
    for (size_t i = 0; i < 6; i++) assert_non_null(arena_take(&count, sizes[i]));
    arena_init(&place, block, count.used);
    char *end = block;
    for (size_t i = 0; i < 6; i++) {
        char *p = arena_take(&place, sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % ARENA_ALIGN, 0);
        assert_true(p >= end);
        end = p + sizes[i];
    }
    assert_int_equal(place.used, count.used);
    assert_null(arena_take(&place, 1));
}

static void test_arena_refuses_overflow(void **state) {
    (void)state;
    Arena a;
    arena_init(&a, NULL, 0);
    assert_non_null(arena_take(&a, 100));
    assert_null(arena_take(&a, SIZE_MAX - 10));
    assert_non_null(arena_take(&a, 100));
}

/* ---- tensor ---- */

static void test_tensor_views(void **state) {
    (void)state;
    float x[24];
    Tensor t = tensor_of(x, DT_F32, 4, 3, 2);
    assert_int_equal(tensor_count(t), 24);
    assert_int_equal(tensor_bytes(t), 96);
    Tensor rows = tensor_rows(t, 1, 2);
    assert_ptr_equal(rows.data, x + 6);
    assert_true(tensor_is(rows, DT_F32, 2, 3, 2));
    Tensor at = tensor_at(t, 3);
    assert_ptr_equal(at.data, x + 18);
    assert_true(tensor_is(at, DT_F32, 3, 2));
    assert_true(tensor_is(tensor_shape(t, 6, 4), DT_F32, -1, 4));
    assert_false(tensor_is(t, DT_F32, 4, 3));
    assert_false(tensor_is(t, DT_BF16, 4, 3, 2));
    assert_false(tensor_is((Tensor){0}, DT_F32, -1));
    assert_int_equal(tensor_count((Tensor){0}), 0);
    char text[64];
    tensor_print(t, text, sizeof text);
    assert_string_equal(text, "f32[4,3,2]");
    tensor_print((Tensor){0}, text, sizeof text);
    assert_string_equal(text, "absent");
    tensor_print(t, text, 6);
    assert_string_equal(text, "f32[4");
}

static void test_tensor_that_does_not_fit(void **state) {
    (void)state;
    char block[1024];
    Arena a;
    arena_init(&a, block, sizeof block);
    Tensor t;
    assert_fails(ST_NOMEM, tensor_take(&t, &a, DT_F64, 200));
    assert_says("f64[200]");
}

/* Every bf16 comes back from f32 unchanged; every f32 goes to the nearest bf16, ties to the even one. */
static void test_bf16_rounding(void **state) {
    (void)state;
    for (uint32_t u = 0; u < 0x10000; u++) {
        float f = bf16_to_f32((uint16_t)u);
        if (isnan(f)) assert_true(isnan(bf16_to_f32(f32_to_bf16(f))));
        else assert_int_equal(f32_to_bf16(f), u);
    }
    for (uint32_t u = 0x0000; u < 0x7f7f; u++) {
        float low = bf16_to_f32((uint16_t)u), high = bf16_to_f32((uint16_t)(u + 1)),
              middle = low + (high - low) / 2;
        assert_int_equal(f32_to_bf16(middle), u % 2 ? u + 1 : u);
        assert_int_equal(f32_to_bf16(nextafterf(middle, high)), u + 1);
        assert_int_equal(f32_to_bf16(-nextafterf(middle, low)), u | 0x8000u);
    }
    assert_int_equal(f32_to_bf16(3.4e38f), 0x7f80); /* beyond the largest: infinity */
}

/* Each of the 65536 halves against its definition. */
static void test_f16_values(void **state) {
    (void)state;
    for (uint32_t u = 0; u < 0x10000; u++) {
        int exponent = (int)(u >> 10 & 31), mantissa = (int)(u & 1023);
        float got = f16_to_f32((uint16_t)u);
        if (exponent == 31 && mantissa) {
            assert_true(isnan(got));
            continue;
        }
        double want = exponent == 31  ? INFINITY
                      : exponent == 0 ? ldexp(mantissa, -24)
                                      : ldexp(1024 + mantissa, exponent - 25);
        if (got != (float)(u & 0x8000 ? -want : want) || (signbit(got) != 0) != (u >> 15 != 0))
            fail_msg("f16 %04x is %.9g, wanted %.9g", u, (double)got, want);
    }
}

static void test_tensor_convert(void **state) {
    (void)state;
    float x[6] = {1, -2.5f, 3.14159265f, 1e-30f, 65504, 0.1f};
    double d[6];
    uint16_t b[6];
    float back[6];
    Tensor tx = tensor_of(x, DT_F32, 6), td = tensor_of(d, DT_F64, 6), tb = tensor_of(b, DT_BF16, 6);
    tensor_convert(td, 0, tx, 0, 6);
    tensor_convert(tb, 0, td, 0, 6);
    tensor_convert(tensor_of(back, DT_F32, 6), 0, tb, 0, 6);
    for (int i = 0; i < 6; i++) {
        assert_within(d[i], x[i], 0);
        assert_int_equal(b[i], f32_to_bf16(x[i]));
        assert_within(back[i], x[i], fabs((double)x[i]) / 256);
    }
    tensor_convert(tx, 1, tx, 0, 5); /* the same type, overlapping */
    assert_within(x[5], 65504, 0);
    assert_within(x[1], 1, 0);
}

/* ---- random ---- */

/* The published vectors of Philox 4x32-10: counter and key all zero, and all ones. */
static void test_random_is_philox(void **state) {
    (void)state;
    static const uint32_t zero[4] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
    static const uint32_t ones[4] = {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu};
    Random4 a = random_block(0, 0, 0), b = random_block(UINT64_MAX, UINT64_MAX, UINT64_MAX);
    assert_memory_equal(a.v, zero, sizeof zero);
    assert_memory_equal(b.v, ones, sizeof ones);
}

static void test_random_moments(void **state) {
    (void)state;
    enum { N = 20000 };
    double sum = 0, square = 0, unit = 0;
    for (uint64_t i = 0; i < N; i++) {
        double x = random_normal(1, 2, i);
        sum += x, square += x * x;
        unit += random_unit((uint32_t)random_u64(1, 3, i));
        assert_true(random_below(1, 4, i, 7) < 7);
    }
    assert_within(sum / N, 0, 0.03);
    assert_within(square / N, 1, 0.04);
    assert_within(unit / N, 0.5, 0.01);
    assert_true(random_unit(0) > 0 && random_unit(UINT32_MAX) < 1);
}

/* ---- files ---- */

static Status write_file(const char *name, const void *data, size_t bytes) {
    Writer *w;
    TRY(writer_open(&w, scratch_path(name)));
    Status st = writer_put(w, data, bytes);
    if (st) {
        writer_abandon(&w);
        return st;
    }
    return writer_finish(&w);
}

static void assert_file_is(const char *name, const void *data, size_t bytes) {
    FileMap m;
    assert_ok(file_map(&m, scratch_path(name)));
    assert_int_equal(m.size, bytes);
    if (bytes) assert_memory_equal(m.data, data, bytes);
    file_unmap(&m);
    file_unmap(&m);
}

static void test_file_round_trip(void **state) {
    (void)state;
    enum { N = 200000 }; /* several buffers long */
    uint8_t *data = malloc(N);
    for (int i = 0; i < N; i++) data[i] = (uint8_t)random_u64(5, 0, (uint64_t)i);
    Writer *w;
    assert_ok(writer_open(&w, scratch_path("big")));
    for (int at = 0, step = 1; at < N; at += step, step = step * 3 % 70001 + 1) {
        if (step > N - at) step = N - at;
        assert_ok(writer_put(w, data + at, (size_t)step));
    }
    assert_false(file_exists(scratch_path("big")));
    assert_ok(writer_finish(&w));
    assert_null(w);
    assert_file_is("big", data, N);
    assert_ok(write_file("empty", "", 0));
    assert_file_is("empty", "", 0);
    char *text;
    size_t size;
    assert_ok(file_read(&text, &size, scratch_path("big")));
    assert_int_equal(size, N);
    assert_memory_equal(text, data, N);
    assert_int_equal(text[N], 0);
    free(text);
    free(data);
}

/* A disk that fills at byte n, for every n: the old file stays, and nothing else is left in the folder. */
static void test_file_full_disk_keeps_the_old(void **state) {
    (void)state;
    enum { N = 150000 };
    static char fresh[N];
    memset(fresh, 'n', sizeof fresh);
    assert_ok(write_file("kept", "old", 3));
    int entries = scratch_files();
    static const int at[] = {0, 1, 65535, 65536, 65537, 131072, 149999};
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        file_fail_after(at[i]);
        assert_fails(ST_NOSPACE, write_file("kept", fresh, N));
        file_fail_after(-1);
        assert_says("kept");
        assert_file_is("kept", "old", 3);
        assert_int_equal(scratch_files(), entries);
    }
    file_fail_after(N);
    assert_ok(write_file("kept", fresh, N));
    file_fail_after(-1);
    assert_file_is("kept", fresh, N);
}

static void test_file_abandoned_leaves_no_trace(void **state) {
    (void)state;
    int entries = scratch_files();
    Writer *w;
    assert_ok(writer_open(&w, scratch_path("never")));
    assert_ok(writer_put(w, "x", 1));
    writer_abandon(&w);
    writer_abandon(&w);
    assert_int_equal(scratch_files(), entries);
}

static void test_file_that_is_not_there(void **state) {
    (void)state;
    FileMap m;
    char *text;
    size_t size;
    assert_fails(ST_NOTFOUND, file_map(&m, scratch_path("nothing")));
    assert_says("nothing");
    assert_says("No such file");
    assert_fails(ST_NOTFOUND, file_map(&m, scratch_folder()));
    assert_says("not a regular file");
    assert_fails(ST_NOTFOUND, file_read(&text, &size, scratch_path("nothing")));
    assert_null(text);
    Writer *w;
    assert_fails(ST_IO, writer_open(&w, scratch_path("no/such/folder")));
    assert_null(w);
    assert_true(file_is_folder(scratch_folder()));
    assert_false(file_is_folder(scratch_path("kept")));
}

static void test_file_join(void **state) {
    (void)state;
    char path[8];
    assert_ok(file_join(path, sizeof path, "ab/", "c.d"));
    assert_string_equal(path, "ab/c.d");
    assert_ok(file_join(path, sizeof path, "ab", "c.d"));
    assert_string_equal(path, "ab/c.d");
    assert_ok(file_join(path, sizeof path, "", "c.d"));
    assert_string_equal(path, "c.d");
    assert_fails(ST_ARG, file_join(path, sizeof path, "abc", "defg"));
}

/* ---- hashes ---- */

static void assert_digest(Digest d, const char *want) {
    char hex[65];
    digest_hex(d, hex);
    assert_string_equal(hex, want);
}

/* FIPS 180-4's examples, and a long message fed in odd pieces. */
static void test_sha256_vectors(void **state) {
    (void)state;
    assert_digest(sha256_of("", 0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_digest(sha256_of("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    enum { N = 1000000 };
    char *a = malloc(N);
    memset(a, 'a', N);
    Sha256 *h;
    assert_ok(sha256_open(&h));
    for (int at = 0, step = 0; at < N; at += step, step = (step * 7 + 1) % 5003) {
        if (step > N - at) step = N - at;
        sha256_add(h, a + at, (size_t)step);
    }
    Digest d = sha256_finish(&h);
    assert_null(h);
    assert_digest(d, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    assert_true(digest_equal(d, sha256_of(a, N)));
    a[N - 1] = 'b';
    assert_false(digest_equal(d, sha256_of(a, N)));
    free(a);
}

/* ---- JSON ---- */

static cJSON *parsed(const char *text) {
    cJSON *o;
    assert_ok(json_parse(&o, text, strlen(text), "test.json"));
    return o;
}

static void test_json_getters(void **state) {
    (void)state;
    cJSON *o = parsed(" {\"n\": 12, \"x\": 1.5, \"s\": \"text\", \"b\": true, \"z\": null, \"N\": 13} \n");
    int64_t n = -1;
    double x = 0;
    const char *s = NULL;
    bool b = false;
    assert_ok(json_integer(o, "n", 0, 20, &n, "t"));
    assert_int_equal(n, 12);
    assert_ok(json_number(o, "x", &x, "t"));
    assert_within(x, 1.5, 0);
    assert_ok(json_string(o, "s", &s, "t"));
    assert_string_equal(s, "text");
    assert_ok(json_bool_or(o, "b", &b, "t"));
    assert_true(b);
    assert_ok(json_integer_or(o, "absent", 0, 20, &n, "t"));
    assert_ok(json_integer_or(o, "z", 0, 20, &n, "t"));
    assert_int_equal(n, 12);
    assert_fails(ST_FORMAT, json_integer(o, "absent", 0, 20, &n, "t"));
    assert_says("t: \"absent\" is missing");
    assert_fails(ST_FORMAT, json_integer(o, "x", 0, 20, &n, "t"));
    assert_says("not a whole number");
    assert_fails(ST_FORMAT, json_integer(o, "n", 0, 11, &n, "t"));
    assert_says("not within 0 to 11");
    assert_fails(ST_FORMAT, json_integer(o, "s", 0, 11, &n, "t"));
    assert_fails(ST_FORMAT, json_string(o, "n", &s, "t"));
    assert_fails(ST_FORMAT, json_bool_or(o, "n", &b, "t"));
    assert_fails(ST_FORMAT, json_number_or(o, "b", &x, "t"));
    cJSON_Delete(o);
}

static void test_json_numbers_that_lose_digits(void **state) {
    (void)state;
    int64_t n;
    static const char *const bad[] = {"{\"n\":9007199254740993000}", "{\"n\":1e400}", "{\"n\":-1e19}"};
    for (int i = 0; i < 3; i++) {
        cJSON *o = parsed(bad[i]);
        assert_fails(ST_FORMAT, json_integer(o, "n", INT64_MIN, INT64_MAX, &n, "t"));
        cJSON_Delete(o);
    }
}

static void test_json_errors_name_the_place(void **state) {
    (void)state;
    cJSON *o;
    static const char *const bad[] = {"",           "{",           "{\"a\":}", "[1,2",
                                      "{\"a\":1}}", "{\"a\":1} x", "tru",      "\"open"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_fails(ST_FORMAT, json_parse(&o, bad[i], strlen(bad[i]), "name.json"));
        assert_null(o);
        assert_says("name.json");
        assert_says("byte");
    }
    assert_fails(ST_FORMAT, json_parse(&o, "{\"a\":1} \0 ", 10, "name.json"));
}

/* Every prefix of a text is an error or a value, never a crash; the parser never reads behind the end. */
static void test_json_truncated(void **state) {
    (void)state;
    const char *text = "{\"a\\u00e9\\ud83d\\ude00\": [1.5e3, {\"b\": \"\\\\\\\"\"}, null, false]}";
    for (size_t n = 0; n <= strlen(text); n++) {
        char *exact = test_exact(text, n);
        cJSON *o;
        Status st = json_parse(&o, exact, n, "t");
        assert_int_equal(st, n == strlen(text) ? ST_OK : ST_FORMAT);
        cJSON_Delete(o);
        free(exact);
    }
}

static void test_json_depth(void **state) {
    (void)state;
    char text[1000];
    cJSON *o;
    for (int depth = 200; depth <= 201; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        assert_int_equal(json_parse(&o, text, 2 * (size_t)depth, "t"), depth == 200 ? ST_OK : ST_FORMAT);
        cJSON_Delete(o);
    }
    o = parsed("\"[[[[\\\"[[[\"");
    cJSON_Delete(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_says_what_happened),
        cmocka_unit_test(test_status_cleans_up),
        cmocka_unit_test(test_status_long_and_nested),
        cmocka_unit_test(test_status_is_per_thread),
        cmocka_unit_test(test_status_has_words_for_each_code),
        cmocka_unit_test(test_arena_counts_what_it_places),
        cmocka_unit_test(test_arena_refuses_overflow),
        cmocka_unit_test(test_tensor_views),
        cmocka_unit_test(test_tensor_that_does_not_fit),
        cmocka_unit_test(test_bf16_rounding),
        cmocka_unit_test(test_f16_values),
        cmocka_unit_test(test_tensor_convert),
        cmocka_unit_test(test_random_is_philox),
        cmocka_unit_test(test_random_moments),
        cmocka_unit_test(test_file_round_trip),
        cmocka_unit_test(test_file_full_disk_keeps_the_old),
        cmocka_unit_test(test_file_abandoned_leaves_no_trace),
        cmocka_unit_test(test_file_that_is_not_there),
        cmocka_unit_test(test_file_join),
        cmocka_unit_test(test_sha256_vectors),
        cmocka_unit_test(test_json_getters),
        cmocka_unit_test(test_json_numbers_that_lose_digits),
        cmocka_unit_test(test_json_errors_name_the_place),
        cmocka_unit_test(test_json_truncated),
        cmocka_unit_test(test_json_depth),
    };
    return cmocka_run_group_tests(tests, scratch_set_up, scratch_tear_down);
}
