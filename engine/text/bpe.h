/* bpe.h -- inside engine/text: byte-pair merges over one piece of text. */
#ifndef ENGINE_TEXT_BPE_H
#define ENGINE_TEXT_BPE_H

#include <cjson/cJSON.h>

#include "engine/text/tokenizer.h"

/* Token bytes are real bytes here: the printable stand-ins that tokenizer.json uses for bytes are undone on reading. */
typedef struct Bpe Bpe;
Status bpe_open(Bpe **out, const cJSON *model, const char *where); /* the "model" value of tokenizer.json */
void bpe_close(Bpe *b);
Status bpe_encode(Bpe *b, Bytes piece, TokenVec *out);
Bytes bpe_bytes(const Bpe *b, int32_t id); /* {NULL,0}: no such id */
int32_t bpe_size(const Bpe *b);            /* one more than the largest id */

#endif
