/* test_safetensors.c -- what we write comes back as it was; of what others write, a clear error or a valid
 * parse; of our sealed files, every truncation and every flipped byte is noticed. Damage is tried at every
 * place of a small file, under the address sanitizer in the dev build. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/model/safetensors.h"
#include "kernels/base/random.h"
#include "tests/scratch.h"

/* ---- round trips ---- */

static const float ones[6] = {1, -2, 3.5f, 0, 1e30f, -0.0f};
static const double deep[2] = {1.0 / 3, -7};
static const uint16_t half[4] = {0x3c00, 0xfc00, 1, 0x8000};
static const int32_t ids[3] = {0, -1, 1 << 30};

static void *at(const void *p) {
    return (void *)(uintptr_t)p;
}

/* One tensor of each type, with no dimension, with none of an element, with five. */
static int32_t some_entries(SafeEntry *e) {
    e[0] = (SafeEntry){"f32", tensor_of(at(ones), DT_F32, 2, 3)};
    e[1] = (SafeEntry){"f64", tensor_of(at(deep), DT_F64, 1, 1, 2, 1, 1)};
    e[2] = (SafeEntry){"a \"name\" \\ with ünicode", tensor_of(at(half), DT_F16, 4)};
    e[3] = (SafeEntry){"bf16", tensor_of(at(half), DT_BF16, 2, 2)};
    e[4] = (SafeEntry){"empty", tensor_of(at(ones), DT_F32, 3, 0)};
    e[5] = (SafeEntry){"scalar", tensor_view(at(ids), DT_I32, 0, NULL)};
    e[6] = (SafeEntry){"i32", tensor_of(at(ids), DT_I32, 3)};
    return 7;
}

static const SafeMeta meta[] = {{"format", "pt"},
                                {"zeros", "0000000000000000000000000000000000000000000000000000"
                                          "000000000000000000000000000"},
                                {"line", "one\ntwo"}};

static void write_some(const char *path, bool sealed) {
    SafeEntry e[8];
    int32_t n = some_entries(e);
    /* f64 right after 24 bytes of f32 is aligned; the rest falls as it falls */
    assert_ok(safe_write(path, e, n, meta, 3, sealed));
}

static void check_some(const SafeFile *f) {
    SafeEntry e[8];
    int32_t n = some_entries(e);
    assert_int_equal(safe_count(f), n);
    for (int32_t i = 0; i < n; i++) {
        Tensor t;
        assert_string_equal(safe_name(f, i), e[i].name);
        assert_ok(safe_find(f, e[i].name, &t));
        assert_true(tensor_matches(t, e[i].t.dtype, e[i].t.ndim, e[i].t.dim));
        assert_memory_equal(t.data, e[i].t.data, tensor_bytes(t));
    }
    for (int i = 0; i < 3; i++) assert_string_equal(safe_meta(f, meta[i].key), meta[i].value);
}

static void test_what_was_written_is_read(void **state) {
    (void)state;
    for (int sealed = 0; sealed < 2; sealed++) {
        SafeFile *f;
        Tensor t;
        write_some(scratch_path("some"), sealed);
        assert_ok(safe_open(&f, scratch_path("some")));
        assert_string_equal(safe_path(f), scratch_path("some"));
        check_some(f);
        assert_ok(safe_find(f, "f32", &t));
        assert_int_equal((uintptr_t)t.data % 4096, 0);
        assert_false(safe_has(f, "f3") || safe_has(f, "__metadata__"));
        assert_fails(ST_FORMAT, safe_find(f, "gone", &t));
        assert_says("\"gone\"");
        assert_null(safe_meta(f, "gone"));
        if (sealed) assert_ok(safe_verify(f));
        else assert_fails(ST_FORMAT, safe_verify(f));
        safe_close(f);
    }
    safe_close(NULL);
}

static void test_digest_is_of_the_whole_file(void **state) {
    (void)state;
    SafeFile *f;
    char *bytes;
    size_t size;
    write_some(scratch_path("some"), true);
    assert_ok(safe_open(&f, scratch_path("some")));
    assert_ok(file_read(&bytes, &size, scratch_path("some")));
    assert_true(digest_equal(safe_digest(f), sha256_of(bytes, size)));
    free(bytes);
    safe_close(f);
}

/* A file by the library that defines the format. */
static void test_a_foreign_file(void **state) {
    (void)state;
    SafeFile *f;
    Tensor t;
    assert_ok(safe_open(&f, CARTRIDGE_SOURCE_DIR "/tests/golden/llama/golden.safetensors"));
    assert_ok(safe_find(f, "layer.1.key", &t));
    assert_true(tensor_is(t, DT_BF16, 2, 70, 32));
    assert_ok(safe_find(f, "loss", &t));
    assert_true(tensor_is(t, DT_F64, 1));
    assert_non_null(safe_meta(f, "made_by"));
    assert_fails(ST_FORMAT, safe_verify(f));
    assert_says("no seal");
    safe_close(f);
}

/* ---- damage ---- */

static Status open_and_verify(const char *path) {
    SafeFile *f;
    TRY(safe_open(&f, path));
    Status st = safe_verify(f);
    safe_close(f);
    return st;
}

static void test_every_flipped_byte_of_a_sealed_file_is_noticed(void **state) {
    (void)state;
    char *bytes;
    size_t size;
    write_some(scratch_path("some"), true);
    assert_ok(file_read(&bytes, &size, scratch_path("some")));
    assert_ok(open_and_verify(scratch_path("some")));
    for (size_t i = 0; i < size; i++) {
        char flip = (char)(1 << random_below(1, 0, i, 8));
        bytes[i] ^= flip;
        scratch_put("flipped", bytes, size);
        bytes[i] ^= flip;
        if (open_and_verify(scratch_path("flipped")) != ST_OK) continue;
        fail_msg("byte %zu of %zu flipped by %d, and nobody noticed", i, size, flip);
    }
    free(bytes);
}

/* With a seal and without: that a file is whole, it must show by its header alone. */
static void truncate_everywhere(bool sealed) {
    char *bytes;
    size_t size;
    SafeFile *f;
    write_some(scratch_path("some"), sealed);
    assert_ok(file_read(&bytes, &size, scratch_path("some")));
    for (size_t n = 0; n < size; n++) {
        scratch_put("short", bytes, n);
        assert_fails(ST_FORMAT, safe_open(&f, scratch_path("short")));
        assert_null(f);
        assert_says(scratch_path("short"));
    }
    bytes[size] = 0; /* where file_read put its NUL */
    scratch_put("long", bytes, size + 1);
    assert_fails(ST_FORMAT, safe_open(&f, scratch_path("long")));
    free(bytes);
}

static void test_every_truncation_is_an_error(void **state) {
    (void)state;
    truncate_everywhere(false);
    truncate_everywhere(true);
}

/* ---- hostile headers ---- */

/* The header with blanks up to a multiple of 8, then zeros as data. */
static void put_file(const char *name, const char *header, size_t n, size_t data) {
    size_t padded = (n + 7) / 8 * 8;
    char *bytes = calloc(1, 8 + padded + data);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (char)(padded >> 8 * i);
    memset(bytes + 8, ' ', padded);
    memcpy(bytes + 8, header, n);
    scratch_put(name, bytes, 8 + padded + data);
    free(bytes);
}

#define ONE(fields) "{\"t\":{" fields "}}"
#define F32_8 "\"dtype\":\"F32\",\"shape\":[2],"
#define RANGE(r) "\"data_offsets\":" r

typedef struct Hostile { const char *header; size_t data; Status status; const char *says; } Hostile;
static const Hostile hostile[] = {
    {"", 0, ST_FORMAT, "JSON"},
    {"{", 0, ST_FORMAT, "JSON"},
    {"[]", 0, ST_FORMAT, "not a JSON object"},
    {"{} x", 0, ST_FORMAT, "behind the JSON"},
    {"{\"t\":1}", 0, ST_FORMAT, "\"t\" is not an object"},
    {"{\"__metadata__\":[]}", 0, ST_FORMAT, "__metadata__"},
    {"{\"__metadata__\":{\"a\":1}}", 0, ST_FORMAT, "\"a\""},
    {ONE("\"shape\":[2]," RANGE("[0,8]")), 8, ST_FORMAT, "dtype"},
    {ONE("\"dtype\":\"F9\",\"shape\":[2]," RANGE("[0,8]")), 8, ST_UNSUPPORTED, "F9"},
    {ONE("\"dtype\":\"F32\"," RANGE("[0,8]")), 8, ST_FORMAT, "shape"},
    {ONE("\"dtype\":\"F32\",\"shape\":2," RANGE("[0,8]")), 8, ST_FORMAT, "shape"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,2]," RANGE("[0,8]")), 8, ST_FORMAT, "dimensions"},
    {ONE("\"dtype\":\"F32\",\"shape\":[-2]," RANGE("[0,8]")), 8, ST_FORMAT, "whole number"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1.5]," RANGE("[0,6]")), 8, ST_FORMAT, "whole number"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1e999]," RANGE("[0,6]")), 8, ST_FORMAT, "whole number"},
    {ONE("\"dtype\":\"F32\",\"shape\":[\"2\"]," RANGE("[0,8]")), 8, ST_FORMAT, "whole number"},
    {ONE("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4]," RANGE("[0,0]")), 0, ST_FORMAT, "memory"},
    {ONE("\"dtype\":\"F32\",\"shape\":[2147483648,2147483648,2]," RANGE("[0,8]")), 8, ST_FORMAT, "memory"},
    {ONE("\"dtype\":\"F32\",\"shape\":[2]"), 8, ST_FORMAT, "data_offsets"},
    {ONE(F32_8 RANGE("[0]")), 8, ST_FORMAT, "data_offsets"},
    {ONE(F32_8 RANGE("[0,8,8]")), 8, ST_FORMAT, "data_offsets"},
    {ONE(F32_8 RANGE("[8,0]")), 8, ST_FORMAT, "data_offsets"},
    {ONE(F32_8 RANGE("[-8,0]")), 8, ST_FORMAT, "data_offsets"},
    {ONE(F32_8 RANGE("[0.5,8.5]")), 9, ST_FORMAT, "data_offsets"},
    {ONE(F32_8 RANGE("[0,1e300]")), 8, ST_FORMAT, "data_offsets"},
    {ONE(F32_8 RANGE("[0,\"8\"]")), 8, ST_FORMAT, "data_offsets"},
    {ONE(F32_8 RANGE("[0,9]")), 8, ST_FORMAT, "truncated"},
    {ONE(F32_8 RANGE("[0,4]")), 8, ST_FORMAT, "wants 8"},
    {ONE(F32_8 RANGE("[8,16]")), 16, ST_FORMAT, "begins at byte 8"},
    {ONE(F32_8 RANGE("[0,8]")), 9, ST_FORMAT, "9 bytes of data"},
    {"{\"h\":{\"dtype\":\"F16\",\"shape\":[1]," RANGE("[0,2]") "},\"t\":{" F32_8 RANGE("[2,10]") "}}", 10,
     ST_FORMAT, "aligned"},
    {"{\"t\":{" F32_8 RANGE("[0,8]") "},\"u\":{" F32_8 RANGE("[4,12]") "}}", 12, ST_FORMAT,
     "begins at byte 4"},
    {"{\"t\":{" F32_8 RANGE("[0,8]") "},\"u\":{" F32_8 RANGE("[12,20]") "}}", 20, ST_FORMAT,
     "begins at byte 12"},
    {"{\"t\":{" F32_8 RANGE("[0,8]") "},\"t\":{" F32_8 RANGE("[8,16]") "}}", 16, ST_FORMAT, "twice"},
};

static void test_hostile_headers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        const Hostile *h = &hostile[i];
        SafeFile *f;
        put_file("hostile", h->header, strlen(h->header), h->data);
        test_refused(i, h->header, safe_open(&f, scratch_path("hostile")), h->status, h->says);
        assert_null(f);
    }
}

/* The same header, right: so that the errors above are about what they say. */
static void test_the_plain_header_is_fine(void **state) {
    (void)state;
    static const char header[] = ONE(F32_8 RANGE("[0,8]"));
    SafeFile *f;
    put_file("plain", header, strlen(header), 8);
    assert_ok(safe_open(&f, scratch_path("plain")));
    safe_close(f);
}

static void test_hostile_lengths(void **state) {
    (void)state;
    static const uint64_t lengths[] = {3, 9, 1u << 31, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
    SafeFile *f;
    for (int i = 0; i < 6; i++) {
        char bytes[10] = "........{}";
        for (int j = 0; j < 8; j++) bytes[j] = (char)(lengths[i] >> 8 * j);
        scratch_put("length", bytes, sizeof bytes);
        assert_fails(ST_FORMAT, safe_open(&f, scratch_path("length")));
        assert_says("header of");
    }
    assert_fails(ST_NOTFOUND, safe_open(&f, scratch_path("gone")));
    assert_fails(ST_NOTFOUND, safe_open(&f, scratch_folder()));
}

/* Brackets that open and never close must not eat the stack. */
static void test_deep_nesting(void **state) {
    (void)state;
    enum { DEPTH = 1 << 20 };
    char *header = malloc(DEPTH);
    SafeFile *f;
    assert_non_null(header);
    memset(header, '[', DEPTH);
    put_file("deep", header, DEPTH, 0);
    assert_fails(ST_FORMAT, safe_open(&f, scratch_path("deep")));
    assert_says("nested");
    free(header);
}

/* Every byte that the file's tensors claim can be read, and they claim no more than it has. */
static uint64_t read_all(const SafeFile *f, size_t size) {
    uint64_t sum = 0, bytes = 0;
    for (int32_t i = 0; i < safe_count(f); i++) {
        Tensor t;
        assert_ok(safe_find(f, safe_name(f, i), &t));
        bytes += tensor_bytes(t);
        for (size_t j = 0; j < tensor_bytes(t); j++) sum += ((const uint8_t *)t.data)[j];
    }
    assert_true(bytes <= size);
    return sum;
}

static const char likely[] = "0123456789{}[]\":,-.eE\\ ";
static const char whole_header[] = "{\"t\":{" F32_8 RANGE("[0,8]") "},"
                                   "\"u\":{\"dtype\":\"BF16\",\"shape\":[2,2]," RANGE("[8,16]") "},"
                                   "\"__metadata__\":{\"a\":\"b\"}}";
enum { WHOLE_DATA = 16 };

/* 1 if a file of these bytes opens, and then all that it claims is there. */
static int opens(const char *bytes, size_t size) {
    SafeFile *f;
    scratch_put("foreign", bytes, size);
    if (safe_open(&f, scratch_path("foreign"))) return 0;
    read_all(f, size);
    safe_close(f);
    return 1;
}

/* Promise 11, of a file without a seal: each bit of its length and header turned over, each byte replaced by
 * each that means something there. */
static void test_every_header_byte_is_an_error_or_a_valid_parse(void **state) {
    (void)state;
    char *bytes;
    size_t size;
    int opened = 0, tried = 0;
    put_file("plain", whole_header, sizeof whole_header - 1, WHOLE_DATA);
    assert_ok(file_read(&bytes, &size, scratch_path("plain")));
    assert_int_equal(opens(bytes, size), 1);
    for (size_t i = 0; i < size - WHOLE_DATA; i++) {
        char was = bytes[i];
        for (int bit = 0; bit < 8; bit++, tried++) {
            bytes[i] = (char)(was ^ 1 << bit);
            opened += opens(bytes, size);
        }
        for (const char *c = likely; *c; c++, tried++) {
            bytes[i] = *c;
            opened += opens(bytes, size);
        }
        bytes[i] = was;
    }
    assert_in_range(opened, 10, tried / 2);
    free(bytes);
}

/* Bytes of the header replaced at random, one to three of them, mostly by bytes that mean something there. */
static void test_random_damage_is_an_error_or_a_valid_parse(void **state) {
    (void)state;
    enum { TRIES = 3000 };
    int opened = 0;
    for (uint64_t i = 0; i < TRIES; i++) {
        char damaged[sizeof whole_header];
        memcpy(damaged, whole_header, sizeof whole_header);
        for (uint64_t j = 0; j <= random_below(2, i, 0, 3); j++) {
            uint64_t where = random_below(2, i, 3 * j + 1, sizeof whole_header - 1);
            damaged[where] = likely[random_below(2, i, 3 * j + 2, sizeof likely - 1)];
        }
        SafeFile *f;
        put_file("damaged", damaged, sizeof whole_header - 1, WHOLE_DATA);
        if (safe_open(&f, scratch_path("damaged"))) continue;
        read_all(f, sizeof whole_header + WHOLE_DATA);
        opened++;
        safe_close(f);
    }
    assert_in_range(opened, 10, TRIES / 2); /* some of the damage falls on names and blanks */
}

/* ---- writing that fails ---- */

/* Large enough that some writes fail while entries are still being put, not only at the end. */
static void test_a_full_disk_leaves_the_old_file(void **state) {
    (void)state;
    enum { LARGE = 1 << 18, ROOM = 4096 + 4 * LARGE };
    float *large = calloc(LARGE, sizeof *large);
    SafeEntry e[2] = {{"large", tensor_of(large, DT_F32, LARGE)}, {"f32", tensor_of(at(ones), DT_F32, 6)}};
    SafeFile *f;
    write_some(scratch_path("kept"), true);
    int files = scratch_files();
    for (int64_t room = 0; room < ROOM + 24; room += room < 16 || room > ROOM ? 1 : ROOM / 20) {
        file_fail_after(room);
        assert_fails(ST_NOSPACE, safe_write(scratch_path("kept"), e, 2, NULL, 0, true));
        file_fail_after(-1);
        assert_int_equal(scratch_files(), files);
        assert_ok(safe_open(&f, scratch_path("kept")));
        assert_ok(safe_verify(f));
        check_some(f);
        safe_close(f);
    }
    assert_ok(safe_write(scratch_path("kept"), e, 2, NULL, 0, true));
    assert_ok(safe_open(&f, scratch_path("kept")));
    assert_int_equal(safe_count(f), 2);
    safe_close(f);
    free(large);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_written_is_read),
        cmocka_unit_test(test_digest_is_of_the_whole_file),
        cmocka_unit_test(test_a_foreign_file),
        cmocka_unit_test(test_every_flipped_byte_of_a_sealed_file_is_noticed),
        cmocka_unit_test(test_every_truncation_is_an_error),
        cmocka_unit_test(test_hostile_headers),
        cmocka_unit_test(test_the_plain_header_is_fine),
        cmocka_unit_test(test_hostile_lengths),
        cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_every_header_byte_is_an_error_or_a_valid_parse),
        cmocka_unit_test(test_random_damage_is_an_error_or_a_valid_parse),
        cmocka_unit_test(test_a_full_disk_leaves_the_old_file),
    };
    scratch_open();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    scratch_close();
    return failed;
}
