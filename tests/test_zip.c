/* test_zip.c -- the zip files of strangers: records are found by their names, and whatever a header claims
 * that the file does not hold, that is compressed or that stands twice, is an error that says what is wrong.
 */
#include "tests/zip_bytes.h"

#include "engine/model/zip.h"

static const Record two[] = {{"a", "first", 5}, {"b/c", "second", 6}};

static void test_records(void **state) {
    (void)state;
    for (int zip64 = 0; zip64 < 2; zip64++) {
        static Buffer b;
        ZipFile z;
        b.n = 0;
        put_zip(&b, two, 2, zip64);
        assert_ok(zip_open(&z, b.v, b.n, "z"));
        const ZipRecord *r = zip_find(&z, "b/c");
        assert_non_null(r);
        assert_int_equal(r->size, 6);
        assert_memory_equal(r->data, "second", 6);
        assert_non_null(zip_find(&z, "a"));
        assert_null(zip_find(&z, "b"));
        assert_null(zip_find(&z, "b/cd"));
        zip_close(&z);
        zip_close(&z);
    }
}

/* Where the parts of a file of those two records lie. */
enum {
    LOCAL = 30 + 3,
    FIRST = LOCAL + 1 + 5,
    SECOND = LOCAL + 3 + 6,
    ENTRY = FIRST + SECOND,
    NEXT = ENTRY + 47,
    END = NEXT + 49,
};

/* Bytes that become `value`, and what is said then. */
static const struct {
    size_t at;
    uint64_t value;
    int bytes;
    Status st;
    const char *says;
} wrong[] = {
    {0, 0, 1, ST_FORMAT, "not where the directory says"},
    {26, 2, 2, ST_FORMAT, "not where the directory says"},
    {30, 'x', 1, ST_FORMAT, "not where the directory says"},
    {28, 0xffff, 2, ST_FORMAT, "not where the directory says"},
    {LOCAL + 1, 'F', 1, ST_FORMAT, "CRC-32"},
    {28, 2, 2, ST_FORMAT, "CRC-32"},
    {ENTRY, 0, 1, ST_FORMAT, "ends early"},
    {ENTRY + 8, 1, 2, ST_UNSUPPORTED, "encrypted"},
    {ENTRY + 10, 8, 2, ST_UNSUPPORTED, "compressed (method 8)"},
    {ENTRY + 16, 0, 4, ST_FORMAT, "CRC-32"},
    {ENTRY + 20, 6, 4, ST_UNSUPPORTED, "compressed"},
    {ENTRY + 20, 0x0006000000060000, 8, ST_FORMAT, "should have"},
    {ENTRY + 20, UINT64_MAX, 8, ST_FORMAT, "64-bit numbers"},
    {ENTRY + 28, 0, 2, ST_FORMAT, "name has 0 bytes"},
    {ENTRY + 28, 0xffff, 2, ST_FORMAT, "ends early"},
    {ENTRY + 30, 1, 2, ST_FORMAT, "ends early"}, /* then the next entry is not one */
    {ENTRY + 42, 1, 4, ST_FORMAT, "not where the directory says"},
    {ENTRY + 42, 0xfffffff0, 4, ST_FORMAT, "should begin"},
    {ENTRY + 46, 7, 1, ST_FORMAT, "byte 0x07"},
    {END, 0, 1, ST_FORMAT, "truncated"},
    {END + 4, 1, 2, ST_UNSUPPORTED, "split"},
    {END + 10, 3, 2, ST_FORMAT, "3 records"},
    {END + 10, 0xffff, 2, ST_FORMAT, "zip64 end is missing"},
    {END + 12, 1000, 4, ST_FORMAT, "its directory should be"},
    {END + 12, 60, 4, ST_FORMAT, "2 records"},
    {END + 16, 0xfffffff0, 4, ST_FORMAT, "its directory should be"},
    {END + 16, ENTRY + 1, 4, ST_FORMAT, "ends early"},
    {END + 20, 1, 2, ST_FORMAT, "truncated"},
};

static void test_refused_zips(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        static Buffer b;
        ZipFile z;
        b.n = 0;
        put_zip(&b, two, 2, false);
        assert_int_equal(b.n, END + 22);
        for (int j = 0; j < wrong[i].bytes; j++)
            b.v[wrong[i].at + (size_t)j] = (uint8_t)(wrong[i].value >> 8 * j);
        test_refused(i, "a zip", zip_open(&z, b.v, b.n, "z"), wrong[i].st, wrong[i].says);
        assert_null(z.record);
    }
}

static void test_names_and_sizes_that_repeat(void **state) {
    (void)state;
    static Buffer b;
    ZipFile z;
    Record twice[] = {{"a", "first", 5}, {"a", "other", 5}};
    b.n = 0;
    put_zip(&b, twice, 2, false);
    assert_fails(ST_FORMAT, zip_open(&z, b.v, b.n, "z"));
    assert_says("\"a\" twice");
    /* Entries that all mean the same large record: work out of nothing. */
    static uint8_t zeros[4000];
    Record large = {"large", zeros, sizeof zeros};
    b.n = 0;
    put_local(&b, &large);
    size_t at = b.n;
    for (int i = 0; i < 3; i++) put_entry(&b, &large, 0, false);
    size_t bytes = b.n - at;
    PUT(&b, "PK\5\6\0\0\0\0\3\0\3\0");
    put_number(&b, bytes, 4);
    put_number(&b, at, 4);
    put_number(&b, 0, 2);
    assert_fails(ST_FORMAT, zip_open(&z, b.v, b.n, "z"));
    assert_says("larger than the file");
}

static void test_zip64_that_lies(void **state) {
    (void)state;
    static Buffer b;
    ZipFile z;
    b.n = 0;
    put_zip(&b, two, 2, true);
    size_t whole = b.n, end64 = whole - 22 - 20 - 56;
    for (size_t at = end64; at < whole; at++)
        for (int bit = 0; bit < 8; bit++) {
            b.v[at] ^= (uint8_t)(1 << bit);
            Status st = zip_open(&z, b.v, whole, "z");
            if (!st) zip_close(&z); /* versions and disks of a zip64 end say nothing */
            b.v[at] ^= (uint8_t)(1 << bit);
        }
    for (size_t at = end64 + 32; at < end64 + 56; at++) { /* counts, sizes and offsets do */
        b.v[at] ^= 0x80;
        assert_fails(ST_FORMAT, zip_open(&z, b.v, whole, "z"));
        b.v[at] ^= 0x80;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_refused_zips),
        cmocka_unit_test(test_names_and_sizes_that_repeat),
        cmocka_unit_test(test_zip64_that_lies),
    };
    return cmocka_run_group_tests_name("zip", tests, NULL, NULL);
}
