/* added.h -- inside engine/text: tokens that are found in text before anything else happens to it. */
#ifndef ENGINE_TEXT_ADDED_H
#define ENGINE_TEXT_ADDED_H

#include <cjson/cJSON.h>

#include "engine/text/tokenizer.h"
#include "engine/text/vocab.h"

typedef struct AddedToken {
    Bytes text; /* owned by the set */
    int32_t id;
    bool special, lstrip, rstrip, normalized;
} AddedToken;

/* Sorted by first byte and, among equals, longest first; first[c] to first[c + 1] are those that begin with c. */
typedef struct AddedSet { AddedToken *token; int32_t n, first[257]; } AddedSet;

/* The tokens of "added_tokens" that are looked for in raw text (normalized false) or in normalised text (true), where
 * their own spelling is normalised too. Puts them into the vocabulary. */
Status added_read(AddedSet *a, const cJSON *list, bool normalized, bool nfc, Vocab *v, const char *where);
void added_close(AddedSet *a);

/* Calls text for each stretch between tokens and token for each one found, in order: the leftmost, of equals the
 * longest. With `plain`, special tokens are found but stay text (as the reference library does it: another token
 * inside the spelling of a special one is then not found either). */
typedef struct AddedVisit {
    Status (*text)(void *user, Bytes text);
    Status (*token)(void *user, int32_t id);
    void *user;
} AddedVisit;
Status added_cut(const AddedSet *a, Bytes text, bool plain, const AddedVisit *visit);

#endif
