/* pickle.h -- a Python pickle read as data: what it would build, and nothing is built.
 *
 * A pickle is a program for a small stack machine; two of its instructions import what they name and call it,
 * which is why strangers' pickles must not be loaded. This reader has no import and no call: a name becomes a
 * node that says the name, a call one that says what would have been called with what. Only the instructions
 * that torch.save writes (protocol 2) are known, and only names that the caller lists; anything else is an
 * error that gives the instruction or the name.
 *
 * Every byte makes at most one node, so memory is bounded by the size of the pickle, which itself is bounded;
 * nothing recurses, and lists may contain themselves without harm. */
#ifndef ENGINE_MODEL_PICKLE_H
#define ENGINE_MODEL_PICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

typedef enum PickleKind {
    PICKLE_NONE,
    PICKLE_BOOL,   /* number */
    PICKLE_INT,    /* number */
    PICKLE_TEXT,   /* text: UTF-8 by its own word, not terminated */
    PICKLE_NAME,   /* number: which of the caller's names */
    PICKLE_TUPLE,  /* items */
    PICKLE_LIST,   /* items */
    PICKLE_DICT,   /* items: key, value, key, value ... in the order in which they were set */
    PICKLE_STORED, /* to: the tuple by which a persistent_load would find something outside */
    PICKLE_CALL,   /* to: a NAME, with: a TUPLE, items: as of a DICT (an OrderedDict is a call) */
    PICKLE_OBJECT, /* to: a NAME, with: a TUPLE, state: what BUILD gave it, -1: nothing */
} PickleKind;

typedef struct PickleNode {
    PickleKind kind;
    int32_t first, last, items; /* cells; -1: none */
    int32_t to, with, state;    /* nodes */
    int64_t number;             /* of a TEXT: its bytes */
    const char *text;
} PickleNode;

typedef struct PickleCell {
    int32_t node, next; /* next: -1 at the end */
} PickleCell;

typedef struct Pickle {
    PickleNode *node;
    PickleCell *cell;
    int32_t root;
} Pickle;

enum { PICKLE_BYTES_MAX = 1 << 20 };

/* `data` must outlive the Pickle: texts point into it. names: [n], "module name" as pickles write it, the
 * program's own. `where` is for messages. ST_FORMAT, ST_UNSUPPORTED, ST_NOMEM. */
Status pickle_open(Pickle *out, const uint8_t *data, size_t size, const char *const *names, int32_t n,
                   const char *where);
void pickle_close(Pickle *p); /* fine on a zeroed one, and twice */

/* Item i of a container; -1: none such. Walks: for short ones. */
int32_t pickle_item(const Pickle *p, int32_t node, int32_t i);
/* The value of a key of a DICT or CALL, the last one if it stands there twice, as Python would have it; -1:
 * none. */
int32_t pickle_value(const Pickle *p, int32_t node, const char *key);
bool pickle_is_text(const Pickle *p, int32_t node, const char *text);

#endif
