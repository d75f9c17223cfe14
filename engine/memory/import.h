/* import.h -- what reading cartridges of other programs has in common: their numbers become bf16, and how
 * many of them did not survive that unchanged is counted, so that nobody loses precision without having been
 * told. */
#ifndef ENGINE_MEMORY_IMPORT_H
#define ENGINE_MEMORY_IMPORT_H

#include "engine/memory/cartridge.h"

typedef struct Rounding {
    int64_t values;  /* all that were read */
    int64_t rounded; /* those that bf16 cannot hold exactly */
    double largest;  /* largest change, relative to the value */
} Rounding;

/* to[i .. i+n) = from[j .. j+n), host memory: `to` bf16, `from` any float type. Adds to *r. ST_FORMAT: a
 * number that is none, or that no bf16 can be near; `where` names it in messages. */
Status import_values(Tensor to, int64_t i, Tensor from, int64_t j, int64_t n, Rounding *r, const char *where);

/* The description of a cartridge from elsewhere: `of` (cartridge_info_for) with this many rows at positions 0
 * .. rows, and a note that says from where and how it was rounded. Copies. */
Status import_info(CartridgeInfo *out, const CartridgeInfo *of, int64_t rows, int64_t frozen,
                   const char *init);
Status import_note(CartridgeInfo *info, const char *from, const Rounding *r);

#endif
