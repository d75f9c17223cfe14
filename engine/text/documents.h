/* documents.h -- inside engine/text: what a corpus is made of. */
#ifndef ENGINE_TEXT_DOCUMENTS_H
#define ENGINE_TEXT_DOCUMENTS_H

#include "engine/text/corpus.h"

typedef struct Document { char *name; Bytes text; } Document; /* owned */

struct Corpus {
    Document *document;
    int32_t documents;
    Bytes all; /* owned: all of them, joined */
    Digest digest;
};

#endif
