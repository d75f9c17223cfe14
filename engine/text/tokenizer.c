/* tokenizer.c -- tokenizer.json as a whole. Text goes through these stages, each a file of its own:
 *
 *   added.c      tokens that are looked for in the text as it is are cut out,
 *   normalize.c  the rest is normalised, then tokens that are looked for in normalised text are cut out,
 *   split.c      the rest is cut into pieces,
 *   bpe.c        each piece becomes tokens.
 *
 * The post-processor only adds tokens around a whole text, which this reader never does, and "truncation" and
 * "padding" are settings of whoever wrote the file: these are not followed. */
#include "engine/text/tokenizer.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/added.h"
#include "engine/text/bpe.h"
#include "engine/text/normalize.h"
#include "engine/text/split.h"
#include "engine/text/vocab.h"
#include "kernels/base/json.h"

struct Tokenizer {
    Vocab vocab;
    Bpe *bpe;
    AddedSet raw, normalized;
    Splitter *splitter;
    bool nfc;
    bool *special; /* by id */
    Digest digest;
};

Bytes bytes_of(const char *text) {
    return (Bytes){text, strlen(text)};
}

/* ---- lists of ids ---- */

static Status make_room(TokenVec *t, int32_t n) {
    NEED(n <= INT32_MAX / 8 - t->n, ST_NOMEM, "a list of %d tokens cannot grow by %d", t->n, n);
    if (t->n + n <= t->cap) return ST_OK;
    int32_t cap = 2 * (t->n + n);
    int32_t *v = realloc(t->v, (size_t)cap * sizeof *v);
    NEED(v, ST_NOMEM, "no memory for %d tokens", cap);
    t->v = v;
    t->cap = cap;
    return ST_OK;
}

Status tokens_push(TokenVec *t, int32_t id) {
    TRY(make_room(t, 1));
    t->v[t->n++] = id;
    return ST_OK;
}

Status tokens_append(TokenVec *t, const int32_t *id, int32_t n) {
    if (n == 0) return ST_OK;
    TRY(make_room(t, n));
    memcpy(t->v + t->n, id, (size_t)n * sizeof *id);
    t->n += n;
    return ST_OK;
}

void tokens_close(TokenVec *t) {
    free(t->v);
    *t = (TokenVec){0};
}

/* ---- reading ---- */

/* Only ByteLevel, alone or as the only one in a Sequence. */
static Status check_decoder(const cJSON *o, const char *where) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, "decoders");
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, "type"));
    if (type && !strcmp(type, "Sequence") && cJSON_GetArraySize(list) == 1) return check_decoder(list->child, where);
    NEED(type && !strcmp(type, "ByteLevel"), ST_UNSUPPORTED, "%s: the decoder is %.40s; known is ByteLevel", where,
         type ? type : "missing");
    return ST_OK;
}

static Status check_post_processor(const cJSON *o, const char *where) {
    if (!o || cJSON_IsNull(o)) return ST_OK;
    const char *type;
    TRY(json_string(o, "type", &type, where));
    NEED(!strcmp(type, "ByteLevel") || !strcmp(type, "TemplateProcessing") || !strcmp(type, "Sequence"), ST_UNSUPPORTED,
         "%s: post_processor \"%.40s\" is not known; known are ByteLevel, TemplateProcessing and Sequence", where, type);
    return ST_OK;
}

static Status check_model(const cJSON *model, const char *where) {
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(model, "type");
    NEED(cJSON_IsObject(model), ST_FORMAT, "%s: \"model\" is missing or not an object", where);
    if (!type) return ST_OK; /* files of the first years do not say it; what has no merges fails on that */
    NEED(cJSON_IsString(type), ST_FORMAT, "%s: the model's \"type\" is not a string", where);
    NEED(!strcmp(type->valuestring, "BPE"), ST_UNSUPPORTED, "%s: the model is \"%.40s\"; known is BPE", where,
         type->valuestring);
    return ST_OK;
}

static Status read_pre_tokenizer(Tokenizer *t, const cJSON *root, const char *where) {
    bool byte_level;
    TRY(splitter_open(&t->splitter, cJSON_GetObjectItemCaseSensitive(root, "pre_tokenizer"), where, &byte_level));
    NEED(byte_level, ST_UNSUPPORTED, "%s: no pre-tokenizer is ByteLevel; known is byte-level BPE only", where);
    return ST_OK;
}

static Status mark_special(Tokenizer *t, const char *where) {
    t->special = calloc((size_t)t->vocab.size + 1, sizeof *t->special);
    NEED(t->special, ST_NOMEM, "%s: no memory for its special tokens", where);
    for (int32_t i = 0; i < t->raw.n; i++) t->special[t->raw.token[i].id] = t->raw.token[i].special;
    for (int32_t i = 0; i < t->normalized.n; i++) t->special[t->normalized.token[i].id] = t->normalized.token[i].special;
    return ST_OK;
}

static Status read_root(Tokenizer *t, const cJSON *root, const char *where) {
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(root, "model");
    const cJSON *added = cJSON_GetObjectItemCaseSensitive(root, "added_tokens");
    NEED(cJSON_IsObject(root), ST_FORMAT, "%s: is not a JSON object", where);
    TRY(check_model(model, where));
    TRY(normalizer_read(&t->nfc, cJSON_GetObjectItemCaseSensitive(root, "normalizer"), where));
    TRY(read_pre_tokenizer(t, root, where));
    TRY(check_decoder(cJSON_GetObjectItemCaseSensitive(root, "decoder"), where));
    TRY(check_post_processor(cJSON_GetObjectItemCaseSensitive(root, "post_processor"), where));
    TRY(vocab_read(&t->vocab, cJSON_GetObjectItemCaseSensitive(model, "vocab"), added, where));
    TRY(bpe_open(&t->bpe, model, &t->vocab, where));
    TRY(added_read(&t->raw, added, false, t->nfc, &t->vocab, where));
    TRY(added_read(&t->normalized, added, true, t->nfc, &t->vocab, where));
    return mark_special(t, where);
}

Status tokenizer_of_json(Tokenizer **out, const char *text, size_t size, const char *where) {
    *out = NULL;
    Status st = ST_OK;
    cJSON *root = NULL;
    Tokenizer *t = calloc(1, sizeof *t);
    NEED_TO(done, t, ST_NOMEM, "%s: no memory to read it", where);
    int64_t bad = utf8_invalid_at((Bytes){text, size});
    NEED_TO(done, bad < 0, ST_FORMAT, "%s: not UTF-8 at byte %lld of %zu", where, (long long)bad, size);
    TRY_TO(done, json_parse(&root, text, size, where));
    TRY_TO(done, read_root(t, root, where));
    t->digest = sha256_of(text, size);
    *out = t;
    t = NULL;
done:
    cJSON_Delete(root);
    tokenizer_close(t);
    return st;
}

Status tokenizer_open(Tokenizer **out, const char *folder) {
    *out = NULL;
    char path[PATH_MAX];
    FileMap m;
    TRY(file_join(path, sizeof path, folder, "tokenizer.json"));
    TRY(file_map(&m, path));
    Status st = tokenizer_of_json(out, m.data ? (const char *)m.data : "", m.size, path);
    file_unmap(&m);
    return st;
}

void tokenizer_close(Tokenizer *t) {
    if (!t) return;
    added_close(&t->raw);
    added_close(&t->normalized);
    splitter_close(t->splitter);
    bpe_close(t->bpe);
    vocab_close(&t->vocab);
    free(t->special);
    free(t);
}

/* ---- encoding ---- */

typedef struct Encoding { const Tokenizer *t; bool plain; BpeWork work; TokenVec *out; } Encoding;

static Status on_piece(void *user, Bytes piece) {
    Encoding *e = user;
    return bpe_encode(e->t->bpe, &e->work, piece, e->out);
}

static Status on_token(void *user, int32_t id) {
    return tokens_push(((Encoding *)user)->out, id);
}

static Status on_normalized_text(void *user, Bytes text) {
    return splitter_run(((Encoding *)user)->t->splitter, text, on_piece, user);
}

static Status on_text(void *user, Bytes text) {
    Encoding *e = user;
    Bytes normal;
    char *owned;
    TRY(normalize(&normal, &owned, e->t->nfc, text));
    Status st = added_cut(&e->t->normalized, normal, e->plain, &(AddedVisit){on_normalized_text, on_token, e});
    free(owned);
    return st;
}

Status tokenizer_encode(const Tokenizer *t, Bytes text, EncodeMode mode, TokenVec *out) {
    int64_t bad = utf8_invalid_at(text);
    NEED(bad < 0, ST_FORMAT, "the text is not UTF-8 at byte %lld of %zu", (long long)bad, text.n);
    int32_t before = out->n;
    Encoding e = {.t = t, .plain = mode == ENCODE_PLAIN, .out = out};
    Status st = added_cut(&t->raw, text, e.plain, &(AddedVisit){on_text, on_token, &e});
    bpe_work_close(&e.work);
    if (st) out->n = before;
    return st;
}

/* ---- decoding ---- */

Bytes tokenizer_piece(const Tokenizer *t, int32_t id) {
    return id >= 0 && id < t->vocab.size ? t->vocab.token[id] : (Bytes){NULL, 0};
}

bool tokenizer_is_special(const Tokenizer *t, int32_t id) {
    return id >= 0 && id < t->vocab.size && t->special[id];
}

static int32_t find_in(const AddedSet *a, Bytes spelling) {
    for (int32_t i = 0; i < a->n; i++) {
        const AddedToken *t = &a->token[i];
        if (t->text.n == spelling.n && !memcmp(t->text.p, spelling.p, spelling.n)) return t->id;
    }
    return -1;
}

int32_t tokenizer_find(const Tokenizer *t, const char *spelling) {
    int32_t id = find_in(&t->raw, bytes_of(spelling));
    return id >= 0 ? id : find_in(&t->normalized, bytes_of(spelling));
}

int32_t tokenizer_vocab(const Tokenizer *t) {
    return t->vocab.size;
}

Digest tokenizer_digest(const Tokenizer *t) {
    return t->digest;
}

/* Each byte may become a character of three. */
static size_t decoded_size(const Tokenizer *t, const int32_t *id, int32_t n) {
    size_t bytes = 0;
    for (int32_t i = 0; i < n; i++) bytes += tokenizer_piece(t, id[i]).n;
    return 3 * (bytes + 4) + 1;
}

Status tokenizer_decode(const Tokenizer *t, const int32_t *id, int32_t n, char **out) {
    size_t used = 0;
    Utf8Stream stream = {.n = 0};
    char *text = malloc(decoded_size(t, id, n));
    *out = text;
    NEED(text, ST_NOMEM, "no memory to decode %d tokens", n);
    for (int32_t i = 0; i < n; i++)
        if (!tokenizer_is_special(t, id[i])) used += utf8_push(&stream, tokenizer_piece(t, id[i]), text + used);
    utf8_flush(&stream, text + used);
    return ST_OK;
}
