/* words.h -- text as a row of words, for comparing what people and models write. */
#ifndef ENGINE_LEARN_WORDS_H
#define ENGINE_LEARN_WORDS_H

#include "engine/text/tokenizer.h"

/* Case folded, each stretch of what is neither letter nor digit one blank, one blank at either end: "Who's
 * there?" becomes " who s there "; no word at all: " ". A comma between two digits goes ("2,340" is "2340").
 * malloc. */
Status words_of(char **out, Bytes text);

/* Whether all of part's words stand in text, one after the other; both from words_of. Never true of " ". */
bool words_contain(const char *text, const char *part);
int32_t words_count(const char *words);

/* Visits each word, without its blanks. */
void words_each(const char *words, void (*visit)(void *user, Bytes word), void *user);

/* Words that say what a text is about: at least three letters and not in a short list of everyday ones, or a
 * number. */
bool word_is_content(Bytes word);
/* Whether text has a name or a number that stands in neither of two texts (from words_of): a word with a
 * capital letter that does not begin a sentence, or with a digit. */
Status words_invent(Bytes text, const char *known, const char *also, bool *yes);
uint64_t word_hash(Bytes word);

#endif
