/* split.h -- inside engine/text: the pre-tokenizer, which cuts text into pieces that merges never cross.
 *
 * A chain of stages as tokenizer.json lists them; each stage cuts the pieces of the one before. Patterns run in PCRE2.
 * They were written for Oniguruma, whose \s knows one character less than PCRE2's and one more class: \s becomes
 * \p{White_Space}, and then both agree on every code point. */
#ifndef ENGINE_TEXT_SPLIT_H
#define ENGINE_TEXT_SPLIT_H

#include <cjson/cJSON.h>

#include "engine/text/tokenizer.h"

typedef struct Splitter Splitter;

/* From the "pre_tokenizer" value (may be null). *byte_level says whether a ByteLevel stage is among them. */
Status splitter_open(Splitter **out, const cJSON *o, const char *where, bool *byte_level);
void splitter_close(Splitter *s);

/* Calls visit for each piece of text, in order; an error ends it. The text is valid UTF-8. */
typedef Status (*PieceFn)(void *user, Bytes piece);
Status splitter_run(const Splitter *s, Bytes text, PieceFn visit, void *user);

#endif
