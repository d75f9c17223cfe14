/* tokenizer.h -- bytes to token ids and back: byte-level BPE as a Hugging Face tokenizer.json describes it.
 *
 * What the file asks for and this reader does not know (a pre-tokenizer, a normaliser, a model type) is an error
 * that names it, never a guess: a wrong split trains and answers badly without any other sign. */
#ifndef ENGINE_TEXT_TOKENIZER_H
#define ENGINE_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/file.h"
#include "kernels/base/status.h"

typedef struct Bytes { const char *p; size_t n; } Bytes;
Bytes bytes_of(const char *text); /* of a NUL-ended string */

/* A growing list of ids: zero it to start, tokens_close frees and zeroes it. */
typedef struct TokenVec { int32_t *v; int32_t n, cap; } TokenVec;
Status tokens_push(TokenVec *t, int32_t id);
Status tokens_append(TokenVec *t, const int32_t *id, int32_t n);
void tokens_close(TokenVec *t);

typedef struct Tokenizer Tokenizer;
Status tokenizer_open(Tokenizer **out, const char *folder); /* reads folder/tokenizer.json */
/* The same from memory; `where` names the source in messages. */
Status tokenizer_of_json(Tokenizer **out, const char *text, size_t size, const char *where);
void tokenizer_close(Tokenizer *t);

/* Appends the ids of text. ENCODE_PLAIN treats the spelling of a special token as ordinary text (documents and
 * user messages must not be able to forge a turn); ENCODE_SPECIAL finds special tokens, as HF does by default.
 * Added tokens that are not special are found in both. No begin-of-text token is added. A byte for which the
 * vocabulary has no token becomes unk_token or, where there is none, nothing, as in HF. ST_FORMAT when text is not
 * UTF-8, with the offset; `out` is then as it was. */
typedef enum EncodeMode { ENCODE_PLAIN, ENCODE_SPECIAL } EncodeMode;
Status tokenizer_encode(const Tokenizer *t, Bytes text, EncodeMode mode, TokenVec *out);

/* The bytes of one token; may end inside a UTF-8 character. Special tokens: their spelling. {NULL,0}: no such id. */
Bytes tokenizer_piece(const Tokenizer *t, int32_t id);
bool tokenizer_is_special(const Tokenizer *t, int32_t id);
int32_t tokenizer_find(const Tokenizer *t, const char *spelling); /* an added token by its spelling; -1: none */
int32_t tokenizer_vocab(const Tokenizer *t);                      /* one more than the largest id */
Digest tokenizer_digest(const Tokenizer *t);                      /* SHA-256 of tokenizer.json */

/* All of the ids as text from malloc, NUL-ended, special tokens left out. What is no UTF-8 becomes U+FFFD, one for
 * each longest stretch that begins like a character. Ids that are no token (a model may have more rows than its
 * tokenizer has tokens) give nothing, as in HF. */
Status tokenizer_decode(const Tokenizer *t, const int32_t *id, int32_t n, char **out);

/* Text as it is generated: characters come out whole. utf8_push writes what became complete to out (NUL-ended, at
 * most 3 * (piece.n + 4) bytes and the NUL: the caller has room) and keeps the rest; utf8_flush ends the stream,
 * an incomplete character becomes U+FFFD. */
typedef struct Utf8Stream { uint8_t held[4]; int32_t n; } Utf8Stream;
size_t utf8_push(Utf8Stream *s, Bytes piece, char *out);
size_t utf8_flush(Utf8Stream *s, char *out);

/* The offset of the first byte that is not UTF-8, or -1. */
int64_t utf8_invalid_at(Bytes text);

#endif
