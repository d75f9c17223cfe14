/* test_torch.c -- files of torch.save as strangers may send them: what is well formed gives the tensors that
 * torch would give, and everything else is an error that says what is wrong, whatever lengths, shapes and
 * strides it claims.
 *
 * Two kinds of input: files that torch wrote (tests/golden/torch), damaged in every place; and files that are
 * put together here byte by byte, because torch would not write them. */
#include "tests/zip_bytes.h"

#include "engine/model/torch_file.h"
#include "engine/model/zip.h"
#include "kernels/base/file.h"
#include "kernels/base/tensor.h"

/* ---- pickles: what torch writes, and what it never would ---- */

static void put_text(Buffer *b, const char *text) {
    PUT(b, "X");
    put_number(b, strlen(text), 4);
    put(b, text, strlen(text));
}

static void put_int(Buffer *b, int64_t v) {
    PUT(b, "\x8a\x08");
    put_number(b, (uint64_t)v, 8);
}

/* What a tensor of a file claims to be; two dimensions. */
typedef struct Claim {
    const char *key, *type;
    int64_t elements, offset, dim[2], stride[2];
} Claim;

static void put_pair(Buffer *b, const int64_t v[2]) {
    put_int(b, v[0]);
    put_int(b, v[1]);
    PUT(b, "\x86");
}

static void put_tensor(Buffer *b, const Claim *c) {
    PUT(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(b, "storage");
    PUT(b, "ctorch\n");
    put(b, c->type, strlen(c->type));
    PUT(b, "\n");
    put_text(b, c->key);
    put_text(b, "cpu");
    put_int(b, c->elements);
    PUT(b, "tQ");
    put_int(b, c->offset);
    put_pair(b, c->dim);
    put_pair(b, c->stride);
    PUT(b, "\x89)tR");
}

/* {"x": [a tensor]} */
static void put_pickle(Buffer *b, const Claim *c) {
    PUT(b, "\x80\x02}");
    put_text(b, "x");
    PUT(b, "]");
    put_tensor(b, c);
    PUT(b, "as.");
}

/* A file with storage "0" of twelve bf16 numbers, 0 to 11, and one tensor. */
static void put_file(Buffer *b, const Claim *c, bool zip64) {
    static Buffer pickle;
    uint16_t number[12];
    pickle.n = 0;
    put_pickle(&pickle, c);
    for (int i = 0; i < 12; i++) number[i] = f32_to_bf16((float)i);
    Record r[] = {{"a/data.pkl", pickle.v, pickle.n},
                  {"a/data/0", number, sizeof number},
                  {"a/byteorder", "little", 6}};
    b->n = 0;
    put_zip(b, r, 3, zip64);
}

static const Claim good = {"0", "BFloat16Storage", 12, 0, {3, 4}, {4, 1}};

/* Status of reading the tensor, with its numbers in v if it can be read; *n of them. */
static Status read_tensor(const uint8_t *data, size_t size, float v[16], int64_t *n) {
    TorchFile *f;
    TorchTensor t;
    int32_t tensors;
    TRY(torch_parse(&f, data, size, "file.pt"));
    Status st = torch_tensors(f, "x", &t, 1, &tensors);
    if (!st) {
        uint16_t raw[16];
        assert_int_equal(tensors, 1);
        *n = t.dim[0] * t.dim[1];
        assert_true(*n <= 16);
        torch_copy(raw, &t);
        for (int64_t i = 0; i < *n; i++) v[i] = bf16_to_f32(raw[i]);
    }
    torch_close(f);
    return st;
}

/* ---- well formed ---- */

static void reads(const Claim *c, bool zip64, const float *want, int64_t n) {
    static Buffer b;
    float v[16];
    int64_t got;
    put_file(&b, c, zip64);
    assert_ok(read_tensor(b.v, b.n, v, &got));
    assert_int_equal(got, n);
    assert_memory_equal(v, want, (size_t)n * sizeof *v);
}

static void test_shapes_and_strides(void **state) {
    (void)state;
    for (int zip64 = 0; zip64 < 2; zip64++) {
        reads(&good, zip64, (float[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 12);
        Claim turned = {"0", "BFloat16Storage", 12, 0, {4, 3}, {1, 4}};
        reads(&turned, zip64, (float[]){0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}, 12);
        Claim part = {"0", "BFloat16Storage", 12, 5, {2, 2}, {4, 2}};
        reads(&part, zip64, (float[]){5, 7, 9, 11}, 4);
        /* strides of ones say nothing */
        Claim one = {"0", "BFloat16Storage", 12, 11, {1, 1}, {INT64_MAX, INT64_MAX}};
        reads(&one, zip64, (float[]){11}, 1);
        Claim none = {"0", "BFloat16Storage", 12, 12, {0, 4}, {4, 1}};
        reads(&none, zip64, (float[]){0}, 0);
    }
}

/* ---- claims that the file cannot keep ---- */

static const struct {
    Claim claim;
    Status st;
    const char *says;
} beyond[] = {
    {{"0", "BFloat16Storage", 12, 1, {3, 4}, {4, 1}}, ST_FORMAT, "outside its storage"},
    {{"0", "BFloat16Storage", 12, 0, {4, 4}, {4, 1}}, ST_FORMAT, "outside its storage"},
    {{"0", "BFloat16Storage", 12, 0, {3, 4}, {5, 1}}, ST_FORMAT, "outside its storage"},
    {{"0", "BFloat16Storage", 12, 12, {1, 1}, {1, 1}}, ST_FORMAT, "outside its storage"},
    {{"0", "BFloat16Storage", 12, 13, {0, 1}, {1, 1}}, ST_FORMAT, "element 13"},
    {{"0", "BFloat16Storage", 12, -1, {1, 1}, {1, 1}}, ST_FORMAT, "element -1"},
    /* many of one */
    {{"0", "BFloat16Storage", 12, 0, {13, 1}, {0, 0}}, ST_FORMAT, "outside its storage"},
    {{"0", "BFloat16Storage", 12, 0, {1LL << 40, 1LL << 40}, {0, 0}}, ST_FORMAT, "outside its storage"},
    {{"0", "BFloat16Storage", 12, 0, {2, 2}, {INT64_MAX, 1}}, ST_FORMAT, "outside its storage"},
    /* sums that wrap */
    {{"0", "BFloat16Storage", 12, 0, {3, 1}, {INT64_MAX, 1}}, ST_FORMAT, "outside its storage"},
    {{"0", "BFloat16Storage", 12, 0, {3, 4}, {1LL << 62, 1}}, ST_FORMAT, "outside its storage"},
    {{"0", "BFloat16Storage", 12, 0, {-3, 4}, {4, 1}}, ST_FORMAT, "whole number"},
    {{"0", "BFloat16Storage", 12, 0, {3, 4}, {-4, 1}}, ST_FORMAT, "whole number"},
    {{"0", "BFloat16Storage", 13, 0, {3, 4}, {4, 1}}, ST_FORMAT, "24 bytes"},
    {{"0", "BFloat16Storage", -12, 0, {3, 4}, {4, 1}}, ST_FORMAT, "24 bytes"},
    {{"0", "FloatStorage", 12, 0, {3, 4}, {4, 1}}, ST_FORMAT, "24 bytes"},
    {{"1", "BFloat16Storage", 12, 0, {3, 4}, {4, 1}}, ST_FORMAT, "no record"},
    {{"", "BFloat16Storage", 12, 0, {3, 4}, {4, 1}}, ST_FORMAT, "key of 0 bytes"},
    {{"000000000000000000000000000000", "BFloat16Storage", 12, 0, {3, 4}, {4, 1}}, ST_FORMAT, "30 bytes"},
    {{"0", "QInt8Storage", 12, 0, {3, 4}, {4, 1}}, ST_UNSUPPORTED, "torch.QInt8Storage"},
};

static void test_claims_beyond_the_storage(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof beyond / sizeof beyond[0]; i++) {
        static Buffer b;
        float v[16];
        int64_t n;
        put_file(&b, &beyond[i].claim, false);
        assert_fails(beyond[i].st, read_tensor(b.v, b.n, v, &n));
        assert_says(beyond[i].says);
        assert_says("file.pt");
    }
}

/* ---- other files that torch has written ---- */

static void refused_file(const Record *r, size_t n, Status st, const char *says) {
    static Buffer b;
    TorchFile *f;
    b.n = 0;
    put_zip(&b, r, n, false);
    assert_fails(st, torch_parse(&f, b.v, b.n, "file.pt"));
    assert_says(says);
    assert_null(f);
}

static void test_refused_files(void **state) {
    (void)state;
    TorchFile *f;
    assert_fails(ST_UNSUPPORTED, torch_parse(&f, (const uint8_t *)"\x80\x02\x8a\x0al\xfc", 6, "old.pt"));
    assert_says("before 1.6");
    assert_fails(ST_FORMAT, torch_parse(&f, (const uint8_t *)"", 0, "empty.pt"));
    assert_fails(ST_NOTFOUND, torch_open(&f, "no/such.pt"));
    Record others[] = {{"a", "first", 5}, {"b/c", "second", 6}};
    refused_file(others, 2, ST_FORMAT, "without a data.pkl");
    Record twice[] = {{"a/data.pkl", "", 0}, {"b/data.pkl", "", 0}};
    refused_file(twice, 2, ST_FORMAT, "more than one data.pkl");
    Record big[] = {{"a/data.pkl", "\x80\x02}.", 4}, {"a/byteorder", "big", 3}};
    refused_file(big, 2, ST_UNSUPPORTED, "big-endian");
    Record list[] = {{"a/data.pkl", "\x80\x02].", 4}};
    refused_file(list, 1, ST_FORMAT, "no dictionary");
}

static Status tensors_of(const char *pickle, size_t n) {
    static Buffer b;
    TorchFile *f;
    TorchTensor t[2];
    int32_t count;
    Record r = {"a/data.pkl", pickle, n};
    b.n = 0;
    put_zip(&b, &r, 1, false);
    TRY(torch_parse(&f, b.v, b.n, "file.pt"));
    Status st = torch_tensors(f, "x", t, 2, &count);
    torch_close(f);
    return st;
}

static void test_what_is_no_list_of_tensors(void **state) {
    (void)state;
#define X    "\x80\x02}X\1\0\0\0x"
#define LIST "ctorch.nn.modules.container\nParameterList\n)\x81"
#define HELD "}X\x0b\0\0\0_parameters"
#define P(literal) literal, sizeof(literal) - 1
    static const struct {
        const char *text;
        size_t n;
        Status st;
        const char *says;
    } wrong[] = {
        {P("\x80\x02}."), ST_FORMAT, "has no \"x\""},
        {P(X "K\1s."), ST_UNSUPPORTED, "no list of tensors"},
        {P(X "](K\1es."), ST_UNSUPPORTED, "x[0]: is not a tensor"},
        {P(X "]ctorch._utils\n_rebuild_parameter\n)Ras."), ST_FORMAT,
         "x[0]: is a parameter without a tensor"},
        {P(X "]ctorch._utils\n_rebuild_parameter\nK\1\x85Ras."), ST_UNSUPPORTED, "is not a tensor"},
        {P(X "]ctorch._utils\n_rebuild_tensor_v2\n)Ras."), ST_FORMAT, "not described"},
        {P(X "]ctorch._utils\n_rebuild_tensor_v2\n()QK\0))tRas."), ST_FORMAT, "storage is not described"},
        {P(X LIST "s."), ST_FORMAT, "without parameters"},
        {P(X LIST "]bs."), ST_FORMAT, "without parameters"},
        {P(X LIST HELD "Nsbs."), ST_FORMAT, "without parameters"},
        {P(X LIST HELD "}X\1\0\0\0" "1Nssbs."), ST_FORMAT, "no parameter 0 in its place"},
        {P(X LIST HELD "}X\1\0\0\0" "0Nssbs."), ST_UNSUPPORTED, "is not a tensor"},
        {P(X "c__builtin__\nset\n]\x85Rs."), ST_UNSUPPORTED, "no list of tensors"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        test_refused(i, "a file", tensors_of(wrong[i].text, wrong[i].n), wrong[i].st, wrong[i].says);
    assert_ok(tensors_of(P(X "Ns."))); /* None: nothing was saved */
    assert_ok(tensors_of(P(X ")s."))); /* nor here */
}

/* ---- real files, damaged ---- */

static uint8_t *golden(const char *name, size_t *n) {
    char path[512], *data;
    snprintf(path, sizeof path, CARTRIDGE_SOURCE_DIR "/tests/golden/torch/%s", name);
    assert_ok(file_read(&data, n, path));
    return (uint8_t *)data;
}

/* Reads everything that can be read. */
static Status read_everything(const uint8_t *data, size_t n) {
    static const char *const lists[] = {"trainable_keys", "trainable_values", "frozen_keys", "frozen_values"};
    TorchFile *f;
    Status st = ST_OK;
    TRY(torch_parse(&f, data, n, "golden.pt"));
    for (int i = 0; i < 4 && !st; i++) {
        TorchTensor t[8];
        int32_t tensors;
        st = torch_tensors(f, lists[i], t, 8, &tensors);
        for (int32_t j = 0; !st && j < tensors; j++) {
            int64_t count = 1;
            for (int32_t d = 0; d < t[j].ndim; d++) count *= t[j].dim[d];
            void *copy = malloc((size_t)count * dtype_bytes(t[j].dtype) + 1);
            assert_non_null(copy);
            torch_copy(copy, &t[j]);
            free(copy);
        }
    }
    torch_close(f);
    return st;
}

static void test_truncated_anywhere(void **state) {
    (void)state;
    size_t n;
    uint8_t *data = golden("frozen.pt", &n);
    assert_ok(read_everything(data, n));
    for (size_t keep = 0; keep < n; keep++) {
        uint8_t *part = test_exact(data, keep);
        Status st = read_everything(part, keep);
        if (!st) fail_msg("%zu of %zu bytes were read as a whole file", keep, n);
        free(part);
    }
    free(data);
}

/* Where the pickle lies, and where its CRC-32 stands in the directory. */
static void find_pickle(const uint8_t *data, size_t n, size_t *at, size_t *size, size_t *crc) {
    static const char name[] = "frozen/data.pkl";
    ZipFile z;
    assert_ok(zip_open(&z, data, n, "z"));
    const ZipRecord *r = zip_find(&z, name);
    assert_non_null(r);
    *at = (size_t)(r->data - data), *size = (size_t)r->size;
    *crc = (size_t)((const uint8_t *)r->name - data) - 46 + 16;
    zip_close(&z);
}

/* Every byte of the pickle becomes others, with the right checksum: what the checksum would hide is seen. */
static void test_any_pickle_byte(void **state) {
    (void)state;
    size_t n, at, size, crc;
    uint8_t *data = golden("frozen.pt", &n);
    find_pickle(data, n, &at, &size, &crc);
    int read = 0;
    for (size_t i = 0; i < size; i++) {
        uint8_t was = data[at + i];
        for (uint64_t j = 0; j < 6; j++) {
            data[at + i] = j ? (uint8_t)random_u64(1, i, j) : (uint8_t)(was ^ 1);
            uint32_t sum = crc_of(data + at, size);
            for (int b = 0; b < 4; b++) data[crc + (size_t)b] = (uint8_t)(sum >> 8 * b);
            read += !read_everything(data, n);
        }
        data[at + i] = was;
    }
    /* the mutations reach the pickle, and it is not all the same to it */
    assert_true(read > 0 && read < (int)(6 * size));
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes_and_strides),
        cmocka_unit_test(test_claims_beyond_the_storage),
        cmocka_unit_test(test_refused_files),
        cmocka_unit_test(test_what_is_no_list_of_tensors),
        cmocka_unit_test(test_truncated_anywhere),
        cmocka_unit_test(test_any_pickle_byte),
    };
    return cmocka_run_group_tests_name("torch", tests, NULL, NULL);
}
