/* test_tokenizer.c -- token ids equal those of Hugging Face's library on hostile text, text comes back, and
 * what a tokenizer cannot do is an error that names it. Golden files: tests/golden/make_tokenizer.py. */
#include "tests/test.h"

#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "kernels/base/json.h"

#define GOLDEN CARTRIDGE_SOURCE_DIR "/tests/golden/tokenizer/"
#define DEMO   CARTRIDGE_SOURCE_DIR "/tools/demo/model"
#define SMOLLM CARTRIDGE_SOURCE_DIR "/models/smollm2-135m-instruct"

/* ---- real tokenizers ---- */

static void load_json_tokenizer(Tokenizer **t, const char *family) {
    char path[512], *text;
    size_t size;
    snprintf(path, sizeof path, GOLDEN "%s.json", family);
    assert_ok(file_read(&text, &size, path));
    assert_ok(tokenizer_of_json(t, text, size, path));
    free(text);
}

static void check_ids(const char *family, const char *text, const TokenVec *got, const cJSON *want) {
    bool same = got->n == cJSON_GetArraySize(want);
    for (int32_t i = 0; same && i < got->n; i++) same = got->v[i] == cJSON_GetArrayItem(want, i)->valueint;
    if (same) return;
    char *w = cJSON_PrintUnformatted(want);
    print_error("%s: \"%.60s\" wanted %.200s, got %d ids:", family, text, w, got->n);
    for (int32_t i = 0; i < got->n; i++) print_error(" %d", got->v[i]);
    free(w);
    fail_msg("other ids than Hugging Face's");
}

/* cJSON ends strings at a NUL, so the one golden text with a NUL inside is compared up to what JSON gives
 * back. */
static void check_line(const Tokenizer *t, const char *family, const cJSON *o) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(o, "text"));
    TokenVec got = {0};
    assert_ok(tokenizer_encode(t, bytes_of(text), ENCODE_SPECIAL, &got));
    check_ids(family, text, &got, cJSON_GetObjectItem(o, "ids"));
    tokens_close(&got);
}

static int run_golden(const Tokenizer *t, const char *family) {
    char *all;
    size_t size;
    int lines = 0;
    assert_ok(file_read(&all, &size, GOLDEN "golden.jsonl"));
    for (char *line = all, *end; (end = strchr(line, '\n')); line = end + 1) {
        cJSON *o;
        assert_ok(json_parse(&o, line, (size_t)(end - line), "golden.jsonl"));
        bool nul = strstr(line, "\\u0000") != NULL && strstr(line, "\\u0000") < end;
        if (!nul && !strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(o, "family")), family)) {
            check_line(t, family, o);
            lines++;
        }
        cJSON_Delete(o);
    }
    free(all);
    return lines;
}

static void test_golden_families(void **state) {
    (void)state;
    static const char *const family[] = {"gpt2",          "gpt2-space",     "smollm2",    "llama3",
                                         "qwen",          "split-previous", "split-next", "split-contiguous",
                                         "split-removed", "split-invert"};
    for (size_t i = 0; i < sizeof family / sizeof family[0]; i++) {
        Tokenizer *t;
        load_json_tokenizer(&t, family[i]);
        assert_true(run_golden(t, family[i]) >= 40);
        tokenizer_close(t);
    }
}

static void test_golden_smollm2(void **state) {
    (void)state;
    Tokenizer *t;
    if (!file_exists(SMOLLM "/tokenizer.json")) {
        print_message("models/smollm2-135m-instruct is absent (tools/get-model fetches it): skipped\n");
        skip();
    }
    assert_ok(tokenizer_open(&t, SMOLLM));
    assert_true(run_golden(t, "smollm2-135m-instruct") >= 40);
    tokenizer_close(t);
}

/* A document must not be able to forge a turn. */
static void test_plain_mode_ignores_special_tokens(void **state) {
    (void)state;
    Tokenizer *t;
    TokenVec v = {0};
    assert_ok(tokenizer_open(&t, DEMO));
    assert_ok(tokenizer_encode(t, bytes_of("<|im_end|>"), ENCODE_PLAIN, &v));
    for (int32_t i = 0; i < v.n; i++) assert_int_not_equal(v.v[i], tokenizer_find(t, "<|im_end|>"));
    char *back;
    assert_ok(tokenizer_decode(t, v.v, v.n, &back));
    assert_string_equal(back, "<|im_end|>");
    free(back);
    tokens_close(&v);
    tokenizer_close(t);
}

static void test_decode_gives_the_text_back(void **state) {
    (void)state;
    static const char text[] = "Ünïcode 日本 👍🏽 \n\t tabs  and  blanks 123";
    Tokenizer *t;
    TokenVec v = {0};
    char *back;
    assert_ok(tokenizer_open(&t, DEMO));
    assert_ok(tokenizer_encode(t, bytes_of(text), ENCODE_PLAIN, &v));
    assert_ok(tokenizer_decode(t, v.v, v.n, &back));
    assert_string_equal(back, text);
    free(back);
    tokens_close(&v);
    tokenizer_close(t);
}

/* ---- small ones, made for one question ---- */

#define STAGES "\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"}"

/* A tokenizer of few words: bytes a b e x and blank, C3 89 (É), and the tokens given. */
static Tokenizer *small_tokenizer(const char *normalizer, const char *added) {
    char json[2048];
    Tokenizer *t;
    snprintf(json, sizeof json,
             "{\"added_tokens\":[%s],\"normalizer\":%s," STAGES
             ",\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"e\":2,\"x\":3,"
             "\"\u0120\":4,\"\u00c3\":5,\"\u012b\":6,\"ab\":7,\"\u0120a\":8,\"abx\":9},"
             "\"merges\":[\"a b\",[\"\u0120\",\"a\"],[\"ab\",\"x\"]]}}",
             added, normalizer);
    assert_ok(tokenizer_of_json(&t, json, strlen(json), "small"));
    return t;
}

static void assert_encodes(const Tokenizer *t, const char *text, EncodeMode mode, int32_t n,
                           const int32_t *want) {
    TokenVec v = {0};
    assert_ok(tokenizer_encode(t, bytes_of(text), mode, &v));
    if (v.n != n || memcmp(v.v, want, sizeof *want * (size_t)n)) {
        print_error("\"%s\":", text);
        for (int32_t i = 0; i < v.n; i++) print_error(" %d", v.v[i]);
        fail_msg("wanted %d ids beginning with %d", n, n ? want[0] : -1);
    }
    tokens_close(&v);
}
#define ENCODES(t, text, mode, ...)                                                                          \
    assert_encodes(t, text, mode, sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t),                        \
                   (int32_t[]){__VA_ARGS__})

/* A real vocabulary may lack bytes: these give nothing, as in Hugging Face's library; or its unk_token. */
static void test_bytes_without_a_token(void **state) {
    (void)state;
    Tokenizer *t = small_tokenizer("null", "");
    ENCODES(t, "azbxe", ENCODE_PLAIN, 4, 9, 2); /* ByteLevel puts a blank in front by default; z is lost */
    tokenizer_close(t);
    static const char unknown[] =
        "{" STAGES ",\"model\":{\"vocab\":{\"a\":0,\"?\":1,\"\u0120\":2},\"merges\":[],\"unk_token\":\"?\"}}";
    assert_ok(tokenizer_of_json(&t, unknown, strlen(unknown), "unknown"));
    ENCODES(t, "az", ENCODE_PLAIN, 2, 0, 1);
    tokenizer_close(t);
}

/* Llama 3: a piece that is a token is that token, though no merges lead to it. */
static void test_ignore_merges(void **state) {
    (void)state;
    static const char *const flag[] = {"false", "true"};
    Tokenizer *t;
    char json[512];
    for (int i = 0; i < 2; i++) {
        snprintf(json, sizeof json,
                 "{" STAGES ",\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"\u0120\":2,\"\u0120ab\":3,\"ab\":4},"
                 "\"merges\":[\"a b\"],\"ignore_merges\":%s}}",
                 flag[i]);
        assert_ok(tokenizer_of_json(&t, json, strlen(json), "whole"));
        if (i)
            ENCODES(t, "ab abb", ENCODE_PLAIN, 3, 2, 4, 1);
        else
            ENCODES(t, "ab abb", ENCODE_PLAIN, 2, 4, 2, 4, 1);
        tokenizer_close(t);
    }
}

/* The longest of those that begin at a place; blanks of every kind go with lstrip and rstrip. */
static void test_added_tokens(void **state) {
    (void)state;
    Tokenizer *t = small_tokenizer("null", "{\"id\":20,\"content\":\"<a>\"},{\"id\":21,\"content\":\"<a>b\"},"
                                           "{\"id\":22,\"content\":\"<s>\",\"lstrip\":true,\"rstrip\":true},"
                                           "{\"id\":23,\"content\":\"<c>\",\"special\":true}");
    ENCODES(t, "<a>b<a>", ENCODE_PLAIN, 21, 20);
    ENCODES(t, "<s>\u3000\u00a0<s> \t\u2003<a>", ENCODE_PLAIN, 22, 22, 20);
    ENCODES(t, "<c><a>", ENCODE_SPECIAL, 23, 20);
    ENCODES(t, "a<c>", ENCODE_PLAIN, 8); /* < and > have no token here */
    assert_true(tokenizer_is_special(t, 23) && !tokenizer_is_special(t, 20) && !tokenizer_is_special(t, -1));
    assert_int_equal(tokenizer_vocab(t), 24);
    assert_int_equal(tokenizer_find(t, "<a>b"), 21);
    assert_int_equal(tokenizer_find(t, "ab"), -1);
    assert_null(tokenizer_piece(t, 12).p);
    assert_null(tokenizer_piece(t, 24).p);
    tokenizer_close(t);
}

/* "normalized" tokens are found in composed text, written either way; others only as they are spelled. */
static void test_normalized_added_tokens(void **state) {
    (void)state;
    Tokenizer *t =
        small_tokenizer("{\"type\":\"NFC\"}", "{\"id\":20,\"content\":\"\u00c9\",\"normalized\":true},"
                                              "{\"id\":21,\"content\":\"a\u0301\",\"normalized\":false}");
    ENCODES(t, "\u00c9E\u0301", ENCODE_PLAIN, 20, 20);
    ENCODES(t, "a\u0301", ENCODE_PLAIN, 21);
    tokenizer_close(t);
}

/* A failure adds nothing; decoding passes over ids that are no token. */
static void test_what_is_no_token(void **state) {
    (void)state;
    Tokenizer *t = small_tokenizer("null", "");
    TokenVec v = {0};
    char *text;
    assert_ok(tokens_push(&v, 1));
    assert_fails(ST_FORMAT, tokenizer_encode(t, bytes_of("ab\xFF"), ENCODE_PLAIN, &v));
    assert_int_equal(v.n, 1);
    assert_ok(tokens_push(&v, 4711));
    assert_ok(tokens_push(&v, 7));
    assert_ok(tokenizer_decode(t, v.v, v.n, &text));
    assert_string_equal(text, "bab");
    free(text);
    tokens_close(&v);
    tokenizer_close(t);
}

/* ---- long and broken text ---- */

/* One piece of a megabyte, and one of blanks: time that grows with the square would be minutes. */
static void test_pieces_without_borders(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    Tokenizer *t;
    char *text = malloc(N + 1);
    load_json_tokenizer(&t, "llama3");
    for (int kind = 0; kind < 2; kind++) {
        TokenVec v = {0};
        char *back;
        memset(text, kind ? ' ' : 'a', N);
        text[N] = 0;
        assert_ok(tokenizer_encode(t, (Bytes){text, N}, ENCODE_PLAIN, &v));
        assert_ok(tokenizer_decode(t, v.v, v.n, &back));
        assert_string_equal(back, text);
        free(back);
        tokens_close(&v);
    }
    free(text);
    tokenizer_close(t);
}

/* Byte by byte, characters come out whole and nothing is lost. */
static void test_streams_of_utf8(void **state) {
    (void)state;
    static const char text[] = "aé日👍z", broken[] = "a\xE6\x97"
                                                    "b\xFF";
    Utf8Stream s = {.n = 0};
    char out[64] = "", piece[16];
    for (const char *p = text; *p; p++) {
        size_t n = utf8_push(&s, (Bytes){p, 1}, piece);
        assert_int_equal(utf8_invalid_at((Bytes){piece, n}), -1);
        strcat(out, piece);
    }
    assert_string_equal(out, text);
    out[0] = '\0';
    for (const char *p = broken; *p; p++) {
        utf8_push(&s, (Bytes){p, 1}, piece);
        strcat(out, piece);
    }
    utf8_flush(&s, piece);
    strcat(out, piece);
    assert_int_equal(utf8_invalid_at(bytes_of(out)), -1);
    assert_string_equal(out, "a\uFFFDb\uFFFD");
}

static void test_text_that_is_not_utf8(void **state) {
    (void)state;
    Tokenizer *t;
    TokenVec v = {0};
    assert_ok(tokenizer_open(&t, DEMO));
    assert_fails(ST_FORMAT, tokenizer_encode(t, bytes_of("abc\xC3("), ENCODE_PLAIN, &v));
    assert_says("byte 3");
    assert_int_equal(utf8_invalid_at(bytes_of("\xC0\x80")), 0);         /* overlong */
    assert_int_equal(utf8_invalid_at(bytes_of("a\xED\xA0\x80")), 1);    /* a surrogate */
    assert_int_equal(utf8_invalid_at(bytes_of("\xF4\x90\x80\x80")), 0); /* beyond U+10FFFF */
    tokens_close(&v);
    tokenizer_close(t);
}

/* ---- files that are damaged or say something unknown ---- */

/* Cut anywhere, a tokenizer is an error and not a crash or a leak. */
static void test_truncated_tokenizer(void **state) {
    (void)state;
    char *text;
    size_t size;
    Tokenizer *t;
    assert_ok(file_read(&text, &size, GOLDEN "smollm2.json"));
    for (size_t n = 0; n < size; n += 37) assert_fails(ST_FORMAT, tokenizer_of_json(&t, text, n, "cut.json"));
    free(text);
}

/* A byte that changed gives an error or another valid tokenizer, which then encodes; never a crash. */
static void test_damaged_tokenizer(void **state) {
    (void)state;
    const Bytes sentence = bytes_of("The ferry doesn't sail <|im_end|> 1998");
    char *text;
    size_t size;
    assert_ok(file_read(&text, &size, GOLDEN "llama3.json"));
    for (size_t n = 0; n < size; n += 41) {
        Tokenizer *t = NULL;
        TokenVec v = {0};
        char kept = text[n];
        text[n] ^= (char)(1 << n % 8);
        Status st = tokenizer_of_json(&t, text, size, "damaged.json");
        if (st && !strstr(status_message(), "damaged.json")) fail_msg("byte %zu: %s", n, status_message());
        if (!st) assert_ok(tokenizer_encode(t, sentence, ENCODE_SPECIAL, &v));
        tokens_close(&v);
        tokenizer_close(t);
        text[n] = kept;
    }
    free(text);
}

static void refuse_tokenizer(const char *json, Status code, const char *says) {
    Tokenizer *t;
    assert_fails(code, tokenizer_of_json(&t, json, strlen(json), "bad.json"));
    assert_says(says);
    assert_says("bad.json");
}

static void refuse_model(const char *members, Status code, const char *says) {
    char json[512];
    snprintf(json, sizeof json, "{" STAGES ",\"model\":{%s}}", members);
    refuse_tokenizer(json, code, says);
}

static void test_unknown_settings_are_named(void **state) {
    (void)state;
    refuse_tokenizer("[]", ST_FORMAT, "not a JSON object");
    refuse_tokenizer("{}", ST_FORMAT, "model");
    refuse_tokenizer("{\"model\":\"\xC3(\"}", ST_FORMAT, "not UTF-8 at byte 10");
    refuse_tokenizer("{\"model\":{\"type\":\"Unigram\"}}", ST_UNSUPPORTED, "Unigram");
    refuse_tokenizer("{\"model\":{\"type\":7}}", ST_FORMAT, "type");
    refuse_model("\"merges\":[]", ST_FORMAT, "vocab");
    refuse_model("\"vocab\":{\"a\":0}", ST_FORMAT, "merges");
    refuse_model("\"vocab\":{\"a\":-1},\"merges\":[]", ST_FORMAT, "\"a\"");
    refuse_model("\"vocab\":{\"a\":1e12},\"merges\":[]", ST_FORMAT, "\"a\"");
    refuse_model("\"vocab\":{\"a\":0.5},\"merges\":[]", ST_FORMAT, "\"a\"");
    refuse_model("\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]", ST_FORMAT, "id 0");
    refuse_model("\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]", ST_FORMAT, "twice");
    refuse_model("\"vocab\":{\"a\":0},\"merges\":[\"a b\"]", ST_FORMAT, "merge 0");
    refuse_model("\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\",\"a\"]", ST_FORMAT, "merge 1");
    refuse_model("\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[[\"a\",\"a\"],[\"a\",\"a\",\"a\"]]", ST_FORMAT,
                 "merge 1");
    refuse_model("\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a a\"]", ST_FORMAT, "merge 0");
    refuse_model("\"vocab\":{\"a\":0},\"merges\":[7]", ST_FORMAT, "merge 0");
    refuse_model("\"vocab\":{},\"merges\":[],\"byte_fallback\":true", ST_UNSUPPORTED, "byte_fallback");
    refuse_model("\"vocab\":{},\"merges\":[],\"fuse_unk\":true", ST_UNSUPPORTED, "fuse_unk");
    refuse_model("\"vocab\":{},\"merges\":[],\"dropout\":0.1", ST_UNSUPPORTED, "dropout");
    refuse_model("\"vocab\":{},\"merges\":[],\"end_of_word_suffix\":\"</w>\"", ST_UNSUPPORTED,
                 "end_of_word_suffix");
    refuse_model("\"vocab\":{},\"merges\":[],\"continuing_subword_prefix\":\"##\"", ST_UNSUPPORTED,
                 "continuing_subword_prefix");
}

/* A stage that nobody knows must not be skipped: what each says when its value becomes this. */
static const struct {
    const char *key, *value, *says;
} stages[] = {
    {"normalizer", "{\"type\":\"Lowercase\"}", "Lowercase"},
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"}]}", "NFKC"},
    {"normalizer", "{\"type\":\"Sequence\"}", "Sequence"},
    {"pre_tokenizer", "{\"type\":\"Whitespace\"}", "Whitespace"},
    {"pre_tokenizer", "{\"type\":\"Digits\"}", "ByteLevel"},
    {"pre_tokenizer", "null", "ByteLevel"},
    {"pre_tokenizer",
     "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}]}",
     "behind ByteLevel"},
    {"pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}",
     "cannot be used"},
    {"pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Odd\"}", "Odd"},
    {"pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[^\\\\w]\"},\"behavior\":\"Isolated\"}",
     "\\w"},
    {"pre_tokenizer", "{\"type\":\"Split\",\"pattern\":7,\"behavior\":\"Isolated\"}", "neither"},
    {"decoder", "{\"type\":\"WordPiece\"}", "WordPiece"},
    {"decoder", "null", "missing"},
    {"post_processor", "{\"type\":\"BertProcessing\"}", "BertProcessing"},
    {"added_tokens", "7", "added_tokens"},
    {"added_tokens", "[{\"id\":1}]", "content"},
    {"added_tokens", "[{\"id\":5000,\"content\":\"\"}]", "empty"},
    {"added_tokens", "[{\"id\":5000,\"content\":\"x\",\"single_word\":true}]", "single_word"},
    {"added_tokens", "[{\"id\":1,\"content\":\"<x>\"}]", "something else"},
    {"added_tokens", "[{\"id\":5000,\"content\":\"!\"}]", "the vocabulary says"},
    {"added_tokens", "[{\"id\":5000,\"content\":\"<x>\"},{\"id\":5000,\"content\":\"<x>\"}]", "twice"},
    {"added_tokens", "[{\"id\":3000000000,\"content\":\"<x>\"}]", "\"id\""},
};

static void test_unknown_stages_are_named(void **state) {
    (void)state;
    cJSON *o;
    assert_ok(json_load(&o, GOLDEN "gpt2.json"));
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++) {
        cJSON *copy = cJSON_Duplicate(o, true);
        cJSON *value = cJSON_Parse(stages[i].value);
        assert_non_null(value);
        cJSON_ReplaceItemInObjectCaseSensitive(copy, stages[i].key, value);
        char *text = cJSON_PrintUnformatted(copy);
        Tokenizer *t = NULL;
        Status st = tokenizer_of_json(&t, text, strlen(text), "bad.json");
        if (st != ST_UNSUPPORTED && st != ST_FORMAT)
            fail_msg("%s %s gave %s", stages[i].key, stages[i].value, status_text(st));
        assert_says(stages[i].says);
        free(text);
        cJSON_Delete(copy);
    }
    cJSON_Delete(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_families),
        cmocka_unit_test(test_golden_smollm2),
        cmocka_unit_test(test_plain_mode_ignores_special_tokens),
        cmocka_unit_test(test_decode_gives_the_text_back),
        cmocka_unit_test(test_bytes_without_a_token),
        cmocka_unit_test(test_ignore_merges),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_normalized_added_tokens),
        cmocka_unit_test(test_what_is_no_token),
        cmocka_unit_test(test_pieces_without_borders),
        cmocka_unit_test(test_streams_of_utf8),
        cmocka_unit_test(test_text_that_is_not_utf8),
        cmocka_unit_test(test_truncated_tokenizer),
        cmocka_unit_test(test_damaged_tokenizer),
        cmocka_unit_test(test_unknown_settings_are_named),
        cmocka_unit_test(test_unknown_stages_are_named),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
