/* tokenizer.c -- a tokenizer.json of a stranger: what is opened encodes and decodes texts, gives only ids
 * that it has, and in plain mode none that are special. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

static const char *const texts[] = {
    "",
    "a",
    " The quick brown fox's 12345 jumps,\n\n  over\tthe <|im_end|><|endoftext|> dog!  ",
    "na\xc3\xafve \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\xa6\x8a e\xcc\x81 \xc2\xa0\xe2\x80\x83x",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
};

static void check_ids(const Tokenizer *t, const TokenVec *v, EncodeMode mode) {
    for (int32_t i = 0; i < v->n; i++) {
        fuzz_check(v->v[i] >= 0 && v->v[i] < tokenizer_vocab(t));
        fuzz_check(tokenizer_piece(t, v->v[i]).p);
        fuzz_check(mode == ENCODE_SPECIAL || !tokenizer_is_special(t, v->v[i]));
    }
}

static void encode(const Tokenizer *t, const char *text, EncodeMode mode) {
    TokenVec v = {0};
    char *back = NULL;
    if (tokenizer_encode(t, bytes_of(text), mode, &v) == ST_OK) {
        check_ids(t, &v, mode);
        if (tokenizer_decode(t, v.v, v.n, &back) == ST_OK) fuzz_check(utf8_invalid_at(bytes_of(back)) < 0);
    }
    free(back);
    tokens_close(&v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Tokenizer *t;
    if (tokenizer_of_json(&t, (const char *)data, size, "tokenizer.json")) {
        fuzz_check(!t);
        return 0;
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        encode(t, texts[i], ENCODE_PLAIN);
        encode(t, texts[i], ENCODE_SPECIAL);
    }
    fuzz_check(!tokenizer_piece(t, -1).p && !tokenizer_piece(t, tokenizer_vocab(t)).p);
    tokenizer_close(t);
    return 0;
}
