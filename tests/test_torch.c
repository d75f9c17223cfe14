/* test_torch.c -- files of torch.save as strangers may send them: what is well formed gives the tensors that
 * torch would give, and everything else is an error that says what is wrong, whatever lengths, shapes and
 * strides it claims.
 *
 * Two kinds of input: files that torch wrote (tests/golden/torch), damaged in every place; and files that are
 * put together here byte by byte, because torch would not write them. */
#include "tests/test.h"

#include "engine/model/pickle.h"
#include "engine/model/torch_file.h"
#include "engine/model/zip.h"
#include "kernels/base/file.h"
#include "kernels/base/tensor.h"

/* ---- writing what torch writes, and what it never would ---- */

typedef struct Buffer {
    uint8_t v[1 << 14];
    size_t n;
} Buffer;

static void put(Buffer *b, const void *data, size_t n) {
    assert_true(b->n + n <= sizeof b->v);
    memcpy(b->v + b->n, data, n);
    b->n += n;
}

static void put_number(Buffer *b, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) put(b, &(uint8_t){(uint8_t)(v >> 8 * i)}, 1);
}

#define PUT(b, literal) put((b), (literal), sizeof(literal) - 1)

static uint32_t crc_of(const uint8_t *p, size_t n) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

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

typedef struct Record {
    const char *name;
    const void *data;
    size_t size;
} Record;

static void put_local(Buffer *b, const Record *r) {
    PUT(b, "PK\3\4\0\0\0\0\0\0\0\0\0\0");
    put_number(b, crc_of(r->data, r->size), 4);
    put_number(b, r->size, 4);
    put_number(b, r->size, 4);
    put_number(b, strlen(r->name), 2);
    put_number(b, 3, 2); /* padding, as torch aligns its data */
    put(b, r->name, strlen(r->name));
    PUT(b, "pad");
    put(b, r->data, r->size);
}

/* zip64: every number that has a place there stands there, behind another extra field. */
static void put_entry(Buffer *b, const Record *r, size_t local, bool zip64) {
    PUT(b, "PK\1\2\0\0\0\0\0\0\0\0\0\0\0\0");
    put_number(b, crc_of(r->data, r->size), 4);
    put_number(b, zip64 ? UINT32_MAX : r->size, 4);
    put_number(b, zip64 ? UINT32_MAX : r->size, 4);
    put_number(b, strlen(r->name), 2);
    put_number(b, zip64 ? 6 + 28 : 0, 2);
    PUT(b, "\0\0\0\0\0\0\0\0\0\0");
    put_number(b, zip64 ? UINT32_MAX : local, 4);
    put(b, r->name, strlen(r->name));
    if (!zip64) return;
    PUT(b, "\x55\x54\2\0ab\1\0\x18\0");
    put_number(b, r->size, 8);
    put_number(b, r->size, 8);
    put_number(b, local, 8);
}

static void put_zip64_end(Buffer *b, uint64_t records, uint64_t at, uint64_t bytes) {
    uint64_t end = b->n;
    PUT(b, "PK\6\6\x2c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    put_number(b, records, 8);
    put_number(b, records, 8);
    put_number(b, bytes, 8);
    put_number(b, at, 8);
    PUT(b, "PK\6\7\0\0\0\0");
    put_number(b, end, 8);
    put_number(b, 1, 4);
}

static void put_zip(Buffer *b, const Record *r, size_t records, bool zip64) {
    size_t local[8];
    assert_true(records <= 8);
    for (size_t i = 0; i < records; i++) {
        local[i] = b->n;
        put_local(b, &r[i]);
    }
    size_t at = b->n;
    for (size_t i = 0; i < records; i++) put_entry(b, &r[i], local[i], zip64);
    size_t bytes = b->n - at;
    if (zip64) put_zip64_end(b, records, at, bytes);
    PUT(b, "PK\5\6\0\0\0\0");
    put_number(b, zip64 ? 0xffff : records, 2);
    put_number(b, zip64 ? 0xffff : records, 2);
    put_number(b, zip64 ? UINT32_MAX : bytes, 4);
    put_number(b, zip64 ? UINT32_MAX : at, 4);
    put_number(b, 0, 2);
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
        Claim one = {"0",    "BFloat16Storage",     12, 11,
                     {1, 1}, {INT64_MAX, INT64_MAX}}; /* strides of ones say nothing */
        reads(&one, zip64, (float[]){11}, 1);
        Claim none = {"0", "BFloat16Storage", 12, 12, {0, 4}, {4, 1}};
        reads(&none, zip64, (float[]){0}, 0);
    }
}

/* ---- claims that the file cannot keep ---- */

static void test_claims_beyond_the_storage(void **state) {
    (void)state;
    static const struct {
        Claim claim;
        Status st;
        const char *says;
    } wrong[] = {
        {{"0", "BFloat16Storage", 12, 1, {3, 4}, {4, 1}}, ST_FORMAT, "outside its storage"},
        {{"0", "BFloat16Storage", 12, 0, {4, 4}, {4, 1}}, ST_FORMAT, "outside its storage"},
        {{"0", "BFloat16Storage", 12, 0, {3, 4}, {5, 1}}, ST_FORMAT, "outside its storage"},
        {{"0", "BFloat16Storage", 12, 12, {1, 1}, {1, 1}}, ST_FORMAT, "outside its storage"},
        {{"0", "BFloat16Storage", 12, 13, {0, 1}, {1, 1}}, ST_FORMAT, "element 13"},
        {{"0", "BFloat16Storage", 12, -1, {1, 1}, {1, 1}}, ST_FORMAT, "element -1"},
        {{"0", "BFloat16Storage", 12, 0, {13, 1}, {0, 0}},
         ST_FORMAT,
         "outside its storage"}, /* many of one */
        {{"0", "BFloat16Storage", 12, 0, {1LL << 40, 1LL << 40}, {0, 0}}, ST_FORMAT, "outside its storage"},
        {{"0", "BFloat16Storage", 12, 0, {2, 2}, {INT64_MAX, 1}}, ST_FORMAT, "outside its storage"},
        {{"0", "BFloat16Storage", 12, 0, {3, 1}, {INT64_MAX, 1}},
         ST_FORMAT,
         "outside its storage"}, /* sums that wrap */
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
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        static Buffer b;
        float v[16];
        int64_t n;
        put_file(&b, &wrong[i].claim, false);
        assert_fails(wrong[i].st, read_tensor(b.v, b.n, v, &n));
        assert_says(wrong[i].says);
        assert_says("file.pt");
    }
}

/* ---- the machine that takes notes ---- */

static const char *const names[] = {"collections OrderedDict", "module Class"};

static Status take_notes(Pickle *p, const void *data, size_t n) {
    return pickle_open(p, data, n, names, 2, "p");
}

static void test_values(void **state) {
    (void)state;
    static const char text[] =
        "\x80\x02(K\xffM\xff\xffJ\xff\xff\xff\xff\x8a\x00\x8a\x02\x00\x80\x8a\x08\1\2\3\4\5\6\7\x08"
        "N\x88\x89X\2\0\0\0hi)]}t.";
    static const int64_t number[] = {255, 65535, -1, 0, -32768, 0x0807060504030201};
    Pickle p;
    assert_ok(take_notes(&p, text, sizeof text - 1));
    assert_int_equal(p.node[p.root].kind, PICKLE_TUPLE);
    assert_int_equal(p.node[p.root].items, 13);
    for (int32_t i = 0; i < 6; i++) assert_true(p.node[pickle_item(&p, p.root, i)].number == number[i]);
    static const PickleKind kind[] = {PICKLE_NONE,  PICKLE_BOOL, PICKLE_BOOL, PICKLE_TEXT,
                                      PICKLE_TUPLE, PICKLE_LIST, PICKLE_DICT};
    for (int32_t i = 0; i < 7; i++) assert_int_equal(p.node[pickle_item(&p, p.root, 6 + i)].kind, kind[i]);
    assert_true(pickle_is_text(&p, pickle_item(&p, p.root, 9), "hi"));
    assert_int_equal(pickle_item(&p, p.root, 13), -1);
    pickle_close(&p);
    pickle_close(&p); /* twice is fine */
}

/* Calls and objects are written down; a dictionary's later value counts; a list may hold itself. */
static void test_notes(void **state) {
    (void)state;
    static const char text[] =
        "\x80\x02}q\0(X\1\0\0\0acmodule\nClass\nq\1)\x81N\x62X\1\0\0\0bccollections\nOrderedDict\n)R"
        "X\1\0\0\0k]q\2h\2asX\1\0\0\0ah\1u.";
    Pickle p;
    assert_ok(take_notes(&p, text, sizeof text - 1));
    const PickleNode *a = &p.node[pickle_value(&p, p.root, "a")], *b = &p.node[pickle_value(&p, p.root, "b")];
    assert_int_equal(a->kind, PICKLE_NAME);
    assert_int_equal(a->number, 1);
    assert_int_equal(b->kind, PICKLE_CALL);
    assert_int_equal(p.node[b->to].number, 0);
    int32_t list = pickle_value(&p, (int32_t)(b - p.node), "k");
    assert_int_equal(pickle_item(&p, list, 0), list);
    const PickleNode *object = &p.node[pickle_item(&p, p.root, 1)];
    assert_int_equal(object->kind, PICKLE_OBJECT);
    assert_int_equal(p.node[object->state].kind, PICKLE_NONE);
    assert_int_equal(pickle_value(&p, p.root, "c"), -1);
    pickle_close(&p);
}

static void test_refused_pickles(void **state) {
    (void)state;
#define P(literal) literal, sizeof(literal) - 1
    static const struct {
        const char *text;
        size_t n;
        Status st;
        const char *says;
    } wrong[] = {
        {P(""), ST_FORMAT, "does not begin"},
        {P("(dp0"), ST_FORMAT, "does not begin"},
        {P("\x80"), ST_FORMAT, "does not begin"},
        {P("\x80\x04\x95"), ST_UNSUPPORTED, "protocol 4"},
        {P("\x80\x02"), ST_FORMAT, "byte 2"},
        {P("\x80\x02N"), ST_FORMAT, "byte 3"},
        {P("\x80\x02N.N"), ST_FORMAT, "byte 4 of 5"},
        {P("\x80\x02NN."), ST_FORMAT, "1 things left"},
        {P("\x80\x02(N."), ST_FORMAT, "1 things left"},
        {P("\x80\x02."), ST_FORMAT, "empty stack"},
        {P("\x80\x02(."), ST_FORMAT, "empty stack"},
        {P("\x80\x02X\xff\xff\xff\xff"
           "abc"),
         ST_FORMAT, "byte 2"},
        {P("\x80\x02X\1\0"), ST_FORMAT, "byte 2"},
        {P("\x80\x02\x8a\x09"
           "123456789."),
         ST_UNSUPPORTED, "number of 9 bytes"},
        {P("\x80\x02q\0N."), ST_FORMAT, "empty stack"},
        {P("\x80\x02(q\0N."), ST_FORMAT, "empty stack"},
        {P("\x80\x02Nq\1."), ST_UNSUPPORTED, "from 0 to 1"},
        {P("\x80\x02Nq\0Nq\0\x86."), ST_UNSUPPORTED, "from 1 to 0"},
        {P("\x80\x02Nr\xff\xff\xff\xff."), ST_UNSUPPORTED, "4294967295"},
        {P("\x80\x02h\0."), ST_FORMAT, "place 0 of a memo of 0"},
        {P("\x80\x02Nq\0j\xff\xff\xff\xff."), ST_FORMAT, "place 4294967295"},
        {P("\x80\x02t."), ST_FORMAT, "no mark"},
        {P("\x80\x02Nu."), ST_FORMAT, "no mark"},
        {P("\x80\x02\x85."), ST_FORMAT, "empty stack"},
        {P("\x80\x02N\x86."), ST_FORMAT, "empty stack"},
        {P("\x80\x02N(\x86."), ST_FORMAT, "empty stack"},
        {P("\x80\x02NN\x87."), ST_FORMAT, "empty stack"},
        {P("\x80\x02(e."), ST_FORMAT, "empty stack"},
        {P("\x80\x02((e."), ST_FORMAT, "empty stack"},
        {P("\x80\x02](s."), ST_FORMAT, "empty stack"},
        {P("\x80\x02N(Ne."), ST_FORMAT, "wants a list"},
        {P("\x80\x02]NNs."), ST_FORMAT, "wants a dict"},
        {P("\x80\x02}(Nu."), ST_FORMAT, "without a value"},
        {P("\x80\x02](a."), ST_FORMAT, "mark into a container"},
        {P("\x80\x02NR."), ST_FORMAT, "tuple of arguments"},
        {P("\x80\x02N)R."), ST_FORMAT, "name of a class"},
        {P("\x80\x02N)\x81."), ST_FORMAT, "name of a class"},
        {P("\x80\x02NNb."), ST_FORMAT, "object to give a state"},
        {P("\x80\x02"
           "cmodule\nClass\n)\x81NbNb."),
         ST_FORMAT, "state twice"},
        {P("\x80\x02NQ."), ST_FORMAT, "names a storage"},
        {P("\x80\x02"
           "cos\nsystem\n(X\1\0\0\0xtR."),
         ST_UNSUPPORTED, "os.system"},
        {P("\x80\x02"
           "cmodule\nClas\n."),
         ST_UNSUPPORTED, "module.Clas,"},
        {P("\x80\x02"
           "cmodule\nClass2\n."),
         ST_UNSUPPORTED, "module.Class2,"},
        {P("\x80\x02"
           "cmod\nule Class\n."),
         ST_FORMAT, "byte 0x20"},
        {P("\x80\x02"
           "cmodule Class\n\n."),
         ST_FORMAT, "byte 0x20"},
        {P("\x80\x02"
           "cmodule"),
         ST_FORMAT, "no end"},
        {P("\x80\x02"
           "c\x1b[2J\nx\n."),
         ST_FORMAT, "byte 0x1b"},
        {P("\x80\x02"
           "iposix\nsystem\n."),
         ST_UNSUPPORTED, "0x69"},                       /* INST: import and call in one */
        {P("\x80\x02N2."), ST_UNSUPPORTED, "0x32"},     /* DUP */
        {P("\x80\x02\x93."), ST_UNSUPPORTED, "0x93"},   /* STACK_GLOBAL */
        {P("\x80\x02\x82\1."), ST_UNSUPPORTED, "0x82"}, /* EXT1 */
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        Pickle p;
        uint8_t *exact = malloc(wrong[i].n + 1); /* so that a sanitizer sees a byte too many */
        assert_non_null(exact);
        memcpy(exact, wrong[i].text, wrong[i].n);
        exact = realloc(exact, wrong[i].n ? wrong[i].n : 1);
        Status st = take_notes(&p, exact, wrong[i].n);
        if (st != wrong[i].st || !strstr(status_message(), wrong[i].says))
            fail_msg("pickle %zu gave %s: %s; wanted \"%s\"", i, status_text(st), status_message(),
                     wrong[i].says);
        assert_null(p.node);
        free(exact);
    }
    uint8_t *large = calloc(1, PICKLE_BYTES_MAX + 1);
    Pickle p;
    assert_fails(ST_UNSUPPORTED, take_notes(&p, large, PICKLE_BYTES_MAX + 1));
    free(large);
}

/* A pickle may be all marks, or all of anything else that is one byte: the places for notes must do. */
static void test_places_never_run_out(void **state) {
    (void)state;
    static const char once[] = "(NNN]})\x88\x89";
    enum { MANY = 5000 };
    for (const char *c = once; *c; c++) {
        uint8_t text[MANY];
        memset(text, *c, sizeof text);
        text[0] = 0x80, text[1] = 2;
        Pickle p;
        assert_fails(ST_FORMAT, take_notes(&p, text, sizeof text));
    }
    uint8_t text[MANY] = {0x80, 2, ']'};
    for (int i = 3; i < MANY - 2; i += 2) text[i] = 'N', text[i + 1] = 'a';
    text[MANY - 1] = '.';
    text[MANY - 2] = text[MANY - 3] = 'N', text[MANY - 2] = 'a';
    Pickle p;
    assert_ok(take_notes(&p, text, sizeof text));
    assert_int_equal(p.node[p.root].items, (MANY - 4) / 2);
    pickle_close(&p);
}

/* ---- zip files ---- */

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

static void test_refused_zips(void **state) {
    (void)state;
    enum {
        LOCAL = 30 + 3,
        FIRST = LOCAL + 1 + 5,
        SECOND = LOCAL + 3 + 6,
        ENTRY = FIRST + SECOND,
        NEXT = ENTRY + 47
    };
    enum { END = NEXT + 49 };
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
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        static Buffer b;
        ZipFile z;
        b.n = 0;
        put_zip(&b, two, 2, false);
        assert_int_equal(b.n, END + 22);
        for (int j = 0; j < wrong[i].bytes; j++)
            b.v[wrong[i].at + (size_t)j] = (uint8_t)(wrong[i].value >> 8 * j);
        Status st = zip_open(&z, b.v, b.n, "z");
        if (st != wrong[i].st || !strstr(status_message(), wrong[i].says))
            fail_msg("zip %zu gave %s: %s; wanted \"%s\"", i, status_text(st), status_message(),
                     wrong[i].says);
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
    refused_file(two, 2, ST_FORMAT, "without a data.pkl");
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
        {P(X LIST "}X\x0b\0\0\0_parametersNsbs."), ST_FORMAT, "without parameters"},
        {P(X LIST "}X\x0b\0\0\0_parameters}X\1\0\0\0"
                  "1Nssbs."),
         ST_FORMAT, "no parameter 0 in its place"},
        {P(X LIST "}X\x0b\0\0\0_parameters}X\1\0\0\0"
                  "0Nssbs."),
         ST_UNSUPPORTED, "is not a tensor"},
        {P(X "c__builtin__\nset\n]\x85Rs."), ST_UNSUPPORTED, "no list of tensors"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        Status st = tensors_of(wrong[i].text, wrong[i].n);
        if (st != wrong[i].st || !strstr(status_message(), wrong[i].says))
            fail_msg("file %zu gave %s: %s; wanted \"%s\"", i, status_text(st), status_message(),
                     wrong[i].says);
    }
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
        uint8_t *part = malloc(keep + 1); /* its own block, so that a sanitizer sees a byte too many */
        assert_non_null(part);
        memcpy(part, data, keep);
        part = realloc(part, keep ? keep : 1);
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
    assert_true(read > 0 &&
                read <
                    (int)(6 * size)); /* the mutations reach the pickle, and it is not all the same to it */
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes_and_strides),
        cmocka_unit_test(test_claims_beyond_the_storage),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_notes),
        cmocka_unit_test(test_refused_pickles),
        cmocka_unit_test(test_places_never_run_out),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_refused_zips),
        cmocka_unit_test(test_names_and_sizes_that_repeat),
        cmocka_unit_test(test_zip64_that_lies),
        cmocka_unit_test(test_refused_files),
        cmocka_unit_test(test_what_is_no_list_of_tensors),
        cmocka_unit_test(test_truncated_anywhere),
        cmocka_unit_test(test_any_pickle_byte),
    };
    return cmocka_run_group_tests_name("torch", tests, NULL, NULL);
}
