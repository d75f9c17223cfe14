/* init.c -- a cartridge to start training from.
 *
 * Every start but another cartridge is a capture: of the corpus, of a text, or of random words. Random
 * vectors take the place of a capture's rows but the first, the attention sink, which only a real prefill
 * makes; they have the capture's mean square, layer by layer, so that attention neither drowns in them nor
 * overlooks them. */
#include "engine/learn/init.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/random.h"

enum { WORD_STREAM = 21, VECTOR_STREAM = 22 };

static const char *const kind_name[] = {"first", "text", "random-text", "random-vectors", NULL};

/* Plain nouns, each one or two tokens for the usual vocabularies. */
static const char *const nouns[] = {
    "apple",  "bridge",  "candle",   "desert", "engine",  "forest", "garden",  "hammer", "island",
    "jacket", "kettle",  "ladder",   "market", "needle",  "orange", "pencil",  "quilt",  "river",
    "saddle", "table",   "umbrella", "valley", "window",  "yard",   "basket",  "castle", "dollar",
    "eagle",  "feather", "glass",    "harbor", "iron",    "jungle", "kitchen", "lemon",  "mirror",
    "number", "ocean",   "paper",    "queen",  "rabbit",  "silver", "thunder", "uncle",  "violin",
    "winter", "bottle",  "corner",   "doctor", "evening", "finger", "ground",  "honey",  "insect"};

enum { NOUNS = sizeof nouns / sizeof *nouns };

/* Enough words for rows tokens: no word is less than one. */
static Status random_words(char **out, int32_t rows, uint64_t seed) {
    size_t cap = (size_t)rows * 16 + 1, used = 0;
    char *text = malloc(cap);
    NEED(text, ST_NOMEM, "out of memory: %d random words", rows);
    for (int32_t i = 0; i < rows; i++) {
        const char *word = nouns[random_below(seed, WORD_STREAM, (uint64_t)i, NOUNS)];
        size_t n = strlen(word);
        if (i) text[used++] = ' ';
        memcpy(text + used, word, n);
        used += n;
    }
    text[used] = 0;
    *out = text;
    return ST_OK;
}

static Status capture_text(Prefix **out, const CaptureTools *tools, const Chat *chat, Bytes text,
                           int32_t rows) {
    TokenVec t = {0};
    Status st = chat_prefix(chat, text, rows, &t);
    if (!st) st = capture(out, tools, NULL, 0, t.v, t.n);
    tokens_close(&t);
    return st;
}

static Status capture_words(Prefix **out, const CaptureTools *tools, const Chat *chat, const InitOptions *o) {
    char *text = NULL;
    TRY(random_words(&text, o->rows, o->seed));
    Status st = capture_text(out, tools, chat, bytes_of(text), o->rows);
    free(text);
    return st;
}

/* ---- random vectors ---- */

/* Rows 1 .. P of [G,P,D] become normal numbers with the mean square that they had. */
static void randomise(Tensor t, uint64_t seed, uint64_t stream) {
    int64_t G = t.dim[0], P = t.dim[1], D = t.dim[2];
    double sum = 0;
    float *x = t.data;
    if (P < 2) return;
    for (int64_t i = 0; i < G * P * D; i++) sum += i / D % P ? (double)x[i] * (double)x[i] : 0;
    float deviation = (float)sqrt(sum / (double)(G * (P - 1) * D));
    for (int64_t i = 0; i < G * P * D; i++)
        if (i / D % P) x[i] = deviation * random_normal(seed, stream, (uint64_t)i);
}

static Status randomise_prefix(Prefix *p, const CaptureTools *tools, uint64_t seed) {
    const ModelConfig *c = &tools->model->cfg;
    int64_t rows = prefix_visible(p), n = rows * c->kv_heads * c->head_dim;
    float *block = malloc(2 * (size_t)n * sizeof *block);
    NEED(block, ST_NOMEM, "out of memory: %lld rows of one layer", (long long)rows);
    Tensor key = tensor_of(block, DT_F32, c->kv_heads, rows, c->head_dim);
    Tensor value = tensor_of(block + n, DT_F32, c->kv_heads, rows, c->head_dim);
    Status st = ST_OK;
    for (int32_t l = 0; l < c->layers && !st; l++) {
        st = prefix_read(p, tools->stream, l, key, value);
        randomise(key, seed, VECTOR_STREAM + 2 * (uint64_t)l);
        randomise(value, seed, VECTOR_STREAM + 2 * (uint64_t)l + 1);
        if (!st) st = prefix_write(p, tools->stream, l, key, value);
    }
    free(block);
    return st;
}

static Status capture_vectors(Prefix **out, const CaptureTools *tools, const Chat *chat,
                              const InitOptions *o) {
    TRY(capture_words(out, tools, chat, o));
    Status st = randomise_prefix(*out, tools, o->seed);
    if (st) {
        prefix_drop(*out);
        *out = NULL;
    }
    return st;
}

/* ---- another cartridge ---- */

static Status open_other(Prefix **out, const CaptureTools *tools, const Chat *chat, const InitOptions *o,
                         char init[65]) {
    char tokenizer[65];
    Cartridge *c;
    digest_hex(tokenizer_digest(chat_tokenizer(chat)), tokenizer);
    TRY(cartridge_open(&c, o->path, tools->model, tokenizer, chat_family(chat), tools->pool, tools->stream));
    Status st = ST_OK;
    NEED_TO(done, o->rows == 0 || o->rows == c->prefix->rows, ST_ARG,
            "%s has %d rows, %d were asked for; a start from a cartridge keeps its rows", o->path,
            c->prefix->rows, o->rows);
    digest_hex(c->prefix->identity, init);
    *out = prefix_hold(c->prefix);
done:
    cartridge_close(c);
    return st;
}

/* ---- the whole ---- */

static Status make_prefix(Prefix **out, const CaptureTools *tools, const Chat *chat, const InitOptions *o,
                          char init[65]) {
    *out = NULL;
    if (o->kind == INIT_CARTRIDGE) return open_other(out, tools, chat, o, init);
    strcpy(init, kind_name[o->kind]);
    NEED(o->rows >= 1 || o->kind == INIT_TEXT, ST_ARG, "a cartridge of %d rows: at least 1", o->rows);
    if (o->kind == INIT_RANDOM_TEXT) return capture_words(out, tools, chat, o);
    if (o->kind == INIT_RANDOM_VECTORS) return capture_vectors(out, tools, chat, o);
    return capture_text(out, tools, chat, o->text, o->rows);
}

Status cartridge_init(Cartridge **out, const CaptureTools *tools, const Chat *chat, const InitOptions *o) {
    *out = NULL;
    char init[65], tokenizer[65];
    Prefix *p = NULL;
    Status st = ST_OK;
    TRY_TO(done, make_prefix(&p, tools, chat, o, init));
    NEED_TO(done, o->frozen >= 0 && o->frozen <= p->rows, ST_ARG, "%d frozen rows of %d: 0 to all", o->frozen,
            p->rows);
    digest_hex(tokenizer_digest(chat_tokenizer(chat)), tokenizer);
    CartridgeInfo info = cartridge_info_for(tools->model, tokenizer, chat_family(chat));
    info.rows = prefix_visible(p), info.frozen = o->frozen;
    info.pos_first = p->pos_first, info.pos_end = p->pos_end;
    info.init = init;
    TRY_TO(done, cartridge_new(out, &info, p));
done:
    prefix_drop(p);
    return st;
}
