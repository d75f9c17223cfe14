/* vocab.h -- inside engine/text: the tokens of a model, as bytes, by id and by bytes.
 *
 * tokenizer.json spells a token's bytes with 256 visible characters (GPT-2's alphabet); here it is bytes again. A
 * spelling with any other character stands for its own UTF-8, and no merge or byte ever leads to it: such tokens have
 * an id and bytes but are not found by bytes. */
#ifndef ENGINE_TEXT_VOCAB_H
#define ENGINE_TEXT_VOCAB_H

#include <cjson/cJSON.h>

#include "engine/text/tokenizer.h"

enum { TOKEN_IDS_MAX = 1 << 22 };

typedef struct Vocab {
    char *text;   /* owned: the bytes of all tokens */
    size_t used;  /* of text */
    Bytes *token; /* owned, by id; p NULL: no such id */
    int32_t size; /* one more than the largest id, of added tokens too */
    int32_t *slot;
    uint32_t mask;
} Vocab;

/* From "vocab" (spelling -> id) and "added_tokens", for which it only makes room. */
Status vocab_read(Vocab *v, const cJSON *map, const cJSON *added, const char *where);
void vocab_close(Vocab *v);

int32_t vocab_find(const Vocab *v, Bytes bytes); /* -1: none */

/* Gives an id the spelling itself as its bytes: added tokens are not written in the alphabet. ST_FORMAT when the
 * vocabulary holds something else under that id. */
Status vocab_put_added(Vocab *v, int32_t id, const char *spelling, const char *where);

/* The bytes that a spelling stands for, at most as many as it has itself; false: it is not in the alphabet, and `to`
 * holds the spelling unchanged. */
bool vocab_unspell(const char *spelling, char *to, size_t *n);

/* A whole number in [0, TOKEN_IDS_MAX). */
bool vocab_id(const cJSON *number, int32_t *id);

#endif
