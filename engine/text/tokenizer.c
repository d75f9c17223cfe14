/* tokenizer.c -- the pipeline of tokenizer.json: added tokens are cut out, the rest is normalised, cut into pieces and
 * merged.
 *
 * Encoding uses work space inside the tokenizer, so one tokenizer serves one thread at a time. */
#include "engine/text/tokenizer.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/text/bpe.h"
#include "engine/text/split.h"
#include "engine/text/utf8.h"
#include "kernels/base/json.h"

typedef struct Added { char *text; size_t n; int32_t id; bool special, lstrip, rstrip, word; } Added;

struct Tokenizer {
    Bpe *bpe;
    Splitter *splitter;
    bool nfc;
    Added *added; /* [addeds], longest first, so that the first match is the longest */
    int32_t addeds, vocab;
    Digest digest;
};

/* ---- lists of ids ---- */

Bytes bytes_of(const char *text) {
    return (Bytes){text, strlen(text)};
}

static Status tokens_reserve(TokenVec *t, int32_t more) {
    if (t->n + more <= t->cap) return ST_OK;
    int32_t cap = t->cap * 2 > t->n + more ? t->cap * 2 : t->n + more + 16;
    int32_t *v = realloc(t->v, sizeof *v * (size_t)cap);
    NEED(v, ST_NOMEM, "no memory for %d tokens", cap);
    t->v = v, t->cap = cap;
    return ST_OK;
}

Status tokens_push(TokenVec *t, int32_t id) {
    TRY(tokens_reserve(t, 1));
    t->v[t->n++] = id;
    return ST_OK;
}

Status tokens_append(TokenVec *t, const int32_t *id, int32_t n) {
    TRY(tokens_reserve(t, n));
    if (n) memcpy(t->v + t->n, id, sizeof *id * (size_t)n);
    t->n += n;
    return ST_OK;
}

void tokens_close(TokenVec *t) {
    free(t->v);
    *t = (TokenVec){0};
}

/* ---- reading ---- */

static Status read_normalizer(Tokenizer *t, const cJSON *o, const char *where, int depth) {
    if (!o || cJSON_IsNull(o)) return ST_OK;
    const char *type;
    TRY(json_string(o, "type", &type, where));
    if (!strcmp(type, "NFC")) {
        t->nfc = true;
        return ST_OK;
    }
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, "normalizers"), *e;
    NEED(!strcmp(type, "Sequence") && cJSON_IsArray(list) && depth < 4, ST_UNSUPPORTED,
         "%s: normalizer \"%.40s\" is not known; known are NFC and Sequence", where, type);
    cJSON_ArrayForEach(e, list) TRY(read_normalizer(t, e, where, depth + 1));
    return ST_OK;
}

static Status check_decoder(const cJSON *o, const char *where) {
    if (!o || cJSON_IsNull(o)) return ST_OK;
    const char *type;
    TRY(json_string(o, "type", &type, where));
    NEED(!strcmp(type, "ByteLevel"), ST_UNSUPPORTED, "%s: decoder \"%.40s\"; known is ByteLevel", where, type);
    return ST_OK;
}

static Status read_added_token(Added *a, const cJSON *o, const char *where) {
    const char *text;
    int64_t id;
    bool normalized = false;
    TRY(json_integer(o, "id", 0, INT_MAX - 1, &id, where));
    TRY(json_string(o, "content", &text, where));
    TRY(json_bool_or(o, "special", &a->special, where));
    TRY(json_bool_or(o, "lstrip", &a->lstrip, where));
    TRY(json_bool_or(o, "rstrip", &a->rstrip, where));
    TRY(json_bool_or(o, "single_word", &a->word, where));
    TRY(json_bool_or(o, "normalized", &normalized, where)); /* matters only where NFC changes the spelling itself */
    NEED(*text, ST_FORMAT, "%s: the added token %lld is empty", where, (long long)id);
    NEED(!a->word, ST_UNSUPPORTED, "%s: the added token \"%.40s\" is single_word, which is not implemented", where, text);
    a->id = (int32_t)id;
    a->n = strlen(text);
    a->text = strdup(text);
    NEED(a->text, ST_NOMEM, "%s: no memory for an added token", where);
    return ST_OK;
}

static int longest_first(const void *pa, const void *pb) {
    const Added *a = pa, *b = pb;
    if (a->n != b->n) return a->n > b->n ? -1 : 1;
    return strcmp(a->text, b->text);
}

static Status read_added(Tokenizer *t, const cJSON *o, const char *where) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, "added_tokens"), *e;
    if (!list || cJSON_IsNull(list)) return ST_OK;
    NEED(cJSON_IsArray(list), ST_FORMAT, "%s: added_tokens is not a list", where);
    t->added = calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof *t->added);
    NEED(t->added, ST_NOMEM, "%s: no memory for its added tokens", where);
    cJSON_ArrayForEach(e, list) {
        Added *a = &t->added[t->addeds++];
        TRY(read_added_token(a, e, where));
        if (a->id >= t->vocab) t->vocab = a->id + 1;
    }
    qsort(t->added, (size_t)t->addeds, sizeof *t->added, longest_first);
    return ST_OK;
}

static Status read_all(Tokenizer *t, const cJSON *o, const char *where) {
    bool byte_level;
    NEED(cJSON_IsObject(o), ST_FORMAT, "%s: is not a JSON object", where);
    TRY(bpe_open(&t->bpe, cJSON_GetObjectItemCaseSensitive(o, "model"), where));
    t->vocab = bpe_size(t->bpe);
    TRY(read_normalizer(t, cJSON_GetObjectItemCaseSensitive(o, "normalizer"), where, 0));
    TRY(splitter_open(&t->splitter, cJSON_GetObjectItemCaseSensitive(o, "pre_tokenizer"), where, &byte_level));
    NEED(byte_level, ST_UNSUPPORTED, "%s: no ByteLevel pre-tokenizer; only byte-level BPE is known", where);
    TRY(check_decoder(cJSON_GetObjectItemCaseSensitive(o, "decoder"), where));
    return read_added(t, o, where);
}

Status tokenizer_of_json(Tokenizer **out, const char *text, size_t size, const char *where) {
    *out = NULL;
    Status st = ST_OK;
    cJSON *o = NULL;
    Tokenizer *t = calloc(1, sizeof *t);
    NEED(t, ST_NOMEM, "%s: no memory to read it", where);
    TRY_TO(failed, json_parse(&o, text, size, where));
    TRY_TO(failed, read_all(t, o, where));
    t->digest = sha256_of(text, size);
    *out = t;
    t = NULL;
failed:
    cJSON_Delete(o);
    tokenizer_close(t);
    return st;
}

Status tokenizer_open(Tokenizer **out, const char *folder) {
    *out = NULL;
    char path[PATH_MAX], *text;
    size_t size;
    TRY(file_join(path, sizeof path, folder, "tokenizer.json"));
    TRY(file_read(&text, &size, path));
    Status st = tokenizer_of_json(out, text, size, path);
    free(text);
    return st;
}

void tokenizer_close(Tokenizer *t) {
    if (!t) return;
    for (int32_t i = 0; i < t->addeds; i++) free(t->added[i].text);
    free(t->added);
    splitter_close(t->splitter);
    bpe_close(t->bpe);
    free(t);
}

/* ---- encoding ---- */

typedef struct Encoding { const Tokenizer *t; TokenVec *out; } Encoding;

static Status encode_piece(void *user, Bytes piece) {
    Encoding *e = user;
    return bpe_encode(e->t->bpe, piece, e->out);
}

static Status encode_ordinary(const Tokenizer *t, Bytes text, TokenVec *out) {
    Encoding e = {t, out};
    if (!text.n) return ST_OK;
    if (!t->nfc) return splitter_run(t->splitter, text, encode_piece, &e);
    utf8proc_uint8_t *nfc = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text.p, (utf8proc_ssize_t)text.n, &nfc,
                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    NEED(n >= 0, ST_NOMEM, "no memory to normalise a text of %zu bytes", text.n);
    Status st = splitter_run(t->splitter, (Bytes){(const char *)nfc, (size_t)n}, encode_piece, &e);
    free(nfc);
    return st;
}

/* The added token that begins at p, or NULL. */
static const Added *added_at(const Tokenizer *t, const char *p, size_t left, EncodeMode mode) {
    for (int32_t i = 0; i < t->addeds; i++) {
        const Added *a = &t->added[i];
        if (a->special && mode == ENCODE_PLAIN) continue;
        if (a->n <= left && !memcmp(a->text, p, a->n)) return a;
    }
    return NULL;
}

static bool blank(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static Status encode_until(const Tokenizer *t, const char *text, size_t from, size_t to, const Added *a, TokenVec *out) {
    while (a->lstrip && to > from && blank(text[to - 1])) to--;
    TRY(encode_ordinary(t, (Bytes){text + from, to - from}, out));
    return tokens_push(out, a->id);
}

Status tokenizer_encode(const Tokenizer *t, Bytes text, EncodeMode mode, TokenVec *out) {
    int64_t bad = utf8_invalid_at(text);
    NEED(bad < 0, ST_FORMAT, "text that is not UTF-8 at byte %lld of %zu", (long long)bad, text.n);
    size_t from = 0;
    for (size_t i = 0; i < text.n;) {
        const Added *a = added_at(t, text.p + i, text.n - i, mode);
        if (!a) {
            i++;
            continue;
        }
        TRY(encode_until(t, text.p, from, i, a, out));
        i += a->n;
        while (a->rstrip && i < text.n && blank(text.p[i])) i++;
        from = i;
    }
    return encode_ordinary(t, (Bytes){text.p + from, text.n - from}, out);
}

/* ---- single tokens ---- */

static const Added *added_of(const Tokenizer *t, int32_t id) {
    for (int32_t i = 0; i < t->addeds; i++)
        if (t->added[i].id == id) return &t->added[i];
    return NULL;
}

Bytes tokenizer_piece(const Tokenizer *t, int32_t id) {
    const Added *a = added_of(t, id);
    return a ? (Bytes){a->text, a->n} : bpe_bytes(t->bpe, id);
}

bool tokenizer_is_special(const Tokenizer *t, int32_t id) {
    const Added *a = added_of(t, id);
    return a && a->special;
}

int32_t tokenizer_find(const Tokenizer *t, const char *spelling) {
    for (int32_t i = 0; i < t->addeds; i++)
        if (!strcmp(t->added[i].text, spelling)) return t->added[i].id;
    return -1;
}

int32_t tokenizer_vocab(const Tokenizer *t) {
    return t->vocab;
}

Digest tokenizer_digest(const Tokenizer *t) {
    return t->digest;
}

static size_t decoded_size(const Tokenizer *t, const int32_t *id, int32_t n) {
    size_t most = 16;
    for (int32_t i = 0; i < n; i++) most += 3 * tokenizer_piece(t, id[i]).n;
    return most;
}

Status tokenizer_decode(const Tokenizer *t, const int32_t *id, int32_t n, char **out) {
    char *text = malloc(decoded_size(t, id, n));
    NEED(text, ST_NOMEM, "no memory for the text of %d tokens", n);
    Utf8Stream s = {.n = 0};
    size_t used = 0;
    for (int32_t i = 0; i < n; i++)
        if (!tokenizer_is_special(t, id[i])) used += utf8_push(&s, tokenizer_piece(t, id[i]), text + used);
    utf8_flush(&s, text + used);
    *out = text;
    return ST_OK;
}
