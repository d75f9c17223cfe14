/* prefix.h -- keys and values that somebody else computed: a capture (prefilled) or a cartridge (trained).
 *
 * This one idea carries the design. Attention, sharing, positions and memory accounting know only prefixes, so
 * self-study reads each chunk once for all its conversations, full-context serving shares the document, and a
 * cartridge with zero training steps is the prefill of its text: the same code, each testing the others.
 *
 * A prefix of P rows holds ceil(P / KV_PAGE) pages; P is arbitrary, the last page partly filled and never appended
 * to. Its keys are stored as attention reads them, already rotated, and never rotated again. */
#ifndef ENGINE_MEMORY_PREFIX_H
#define ENGINE_MEMORY_PREFIX_H

#include "engine/memory/pages.h"

typedef struct Prefix {
    PagePool *pool;       /* borrowed */
    int32_t *page, pages; /* owned, held in the pool */
    int32_t rows;         /* P */
    int32_t from;         /* rows left out at the front, 0 unless a duplicate sink is skipped */
    int32_t pos_first, pos_end; /* the position of its first row; the one after its last */
    Digest identity;      /* of a capture: model, ordered parents, first position, tokens; of a cartridge: its file;
                           * of a part: its parent and its rows */
    int32_t holders;      /* prefix_hold / prefix_drop; freed at 0 */
} Prefix;

/* Pages for `rows` rows, contents undefined, one holder. ST_FULL. */
Status prefix_new(Prefix **out, PagePool *pool, int32_t rows, int32_t pos_first);
/* A prefix out of pages that a sequence has just filled; takes a hold of its own on them. */
Status prefix_of_pages(Prefix **out, PagePool *pool, const int32_t *page, int32_t rows, int32_t pos_first);
/* Rows first .. first+count of p, sharing its pages; `first` may be any row. Positions follow. */
Status prefix_part(Prefix **out, const Prefix *p, int32_t first, int32_t count);
Prefix *prefix_hold(Prefix *p);
void prefix_drop(Prefix *p); /* fine on NULL */

/* Visible rows: rows - from. */
int32_t prefix_visible(const Prefix *p);
/* Where a sequence's own tokens start behind these prefixes: the larger of the sum of visible rows and the largest
 * pos_end. 0 without any. */
int32_t prefix_start(const Prefix *const *p, int32_t n);

/* Host copies in file layout: layer's keys and values [G,P,D], converted to or from `type`. For files and tests. */
Status prefix_read(const Prefix *p, Stream *s, int32_t layer, Tensor key, Tensor value);
Status prefix_write(Prefix *p, Stream *s, int32_t layer, Tensor key, Tensor value);

#endif
