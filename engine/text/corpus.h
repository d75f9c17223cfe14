/* corpus.h -- the text a cartridge is to hold, and chunks of it.
 *
 * A corpus is one UTF-8 file or a folder of them (read recursively, in byte order of their paths; only regular files;
 * hidden ones and ones that are not text are an error unless they are hidden). A chunk is a stretch of one document
 * on the borders that the rule names. */
#ifndef ENGINE_TEXT_CORPUS_H
#define ENGINE_TEXT_CORPUS_H

#include "engine/text/tokenizer.h"

typedef struct Corpus Corpus;
Status corpus_open(Corpus **out, const char *path); /* ST_NOTFOUND, ST_FORMAT (not UTF-8: file and offset; empty) */
void corpus_close(Corpus *c);
Status corpus_of_text(Corpus **out, Bytes text, const char *name); /* copies; for generated corpora and tests */
Bytes corpus_text(const Corpus *c);     /* all documents joined by a blank line */
Digest corpus_digest(const Corpus *c);  /* SHA-256 of the texts and where each ends; names do not count */
int32_t corpus_documents(const Corpus *c);

/* How chunks are cut. CHUNK_TOKENS: any window of low..high tokens, moved to line ends where one is near;
 * CHUNK_PARAGRAPHS: whole paragraphs (blank-line separated) and CHUNK_LINES: whole lines (records), as many
 * neighbours as fit a length drawn from low..high tokens, at least one. A piece longer than `high` is cut at the
 * last border below it (sentence, line, word). Never across two documents. */
typedef enum ChunkBorder { CHUNK_TOKENS, CHUNK_PARAGRAPHS, CHUNK_LINES } ChunkBorder;
typedef struct ChunkRule { ChunkBorder border; int32_t low, high; } ChunkRule; /* tokens */

/* A plan of all pieces with their token counts, made once; chunks are then drawn from it. ST_ARG when the corpus has
 * fewer tokens than rule.low (message: both numbers and what to lower). */
typedef struct Chunks Chunks; /* borrows corpus and tokenizer */
Status chunks_open(Chunks **out, const Corpus *c, const Tokenizer *t, ChunkRule rule);
void chunks_close(Chunks *c);
int64_t chunks_tokens(const Chunks *c); /* tokens of the whole corpus */

/* The n-th chunk of seed: a function of its arguments only. Starts are spread evenly over the corpus, so that a small
 * number of chunks leaves no gap, and a round visits every piece before any comes twice. Never empty. */
Bytes chunks_draw(const Chunks *c, uint64_t seed, uint64_t n);

/* The sentences of a text (ends at . ! ? followed by blank, at line ends; at least `shortest` bytes). Calls
 * visit(user, sentence) in order and returns how many there were. */
int32_t text_sentences(Bytes text, size_t shortest, void (*visit)(void *user, Bytes sentence), void *user);

#endif
