/* normalize.h -- inside engine/text: the normaliser of tokenizer.json: none, or Unicode's NFC. */
#ifndef ENGINE_TEXT_NORMALIZE_H
#define ENGINE_TEXT_NORMALIZE_H

#include <cjson/cJSON.h>

#include "engine/text/tokenizer.h"

/* From the "normalizer" value (may be null). */
Status normalizer_read(bool *nfc, const cJSON *o, const char *where);

/* *out is text itself, or composed text in *owned (free it; NULL when text was left as it is). */
Status normalize(Bytes *out, char **owned, bool nfc, Bytes text);

#endif
