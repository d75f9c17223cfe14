/* bpe.h -- inside engine/text: the merges of byte-pair encoding. */
#ifndef ENGINE_TEXT_BPE_H
#define ENGINE_TEXT_BPE_H

#include <cjson/cJSON.h>

#include "engine/text/tokenizer.h"
#include "engine/text/vocab.h"

typedef struct Bpe Bpe; /* borrows its Vocab */
Status bpe_open(Bpe **out, const cJSON *model, const Vocab *v, const char *where);
void bpe_close(Bpe *b);

/* Room that encoding reuses from piece to piece: zero it to start. */
typedef struct BpeWork { struct Symbol *symbol; struct Candidate *heap; size_t room, heap_n; } BpeWork;
void bpe_work_close(BpeWork *w);

/* Appends the ids of one piece of text. */
Status bpe_encode(const Bpe *b, BpeWork *w, Bytes piece, TokenVec *out);

#endif
