/* pack.h -- a micro-batch of whole conversations with their targets.
 *
 * Nothing is cut and nothing padded: conversations are added as they come until one does not fit. Their own
 * pages are taken from the pool once and used again by every pack. */
#ifndef ENGINE_LEARN_PACK_H
#define ENGINE_LEARN_PACK_H

#include "engine/learn/dataset.h"
#include "engine/transformer/transformer.h"

typedef struct PackLimits {
    int32_t rows, seqs;
    int32_t candidates;   /* of one supervised row at most */
    int32_t prefix_pages; /* of the prefix that all sequences usually stand behind */
} PackLimits;

typedef struct Pack {
    Batch *batch;      /* owned */
    PagePool *pool;    /* borrowed */
    int32_t *page;     /* owned, [pages] held */
    int32_t pages, used;
    int32_t *row, *first, *id; /* owned lists of the targets */
    float *logprob;
    int32_t targets;
} Pack;

int32_t pack_pages(const PackLimits *limits); /* of the pool */
BatchLimits pack_batch(const PackLimits *limits, int32_t pool_pages); /* the batch that it opens */
/* ST_FULL gives the pages wanted. Sequences may also stand behind any other prefix of the pool, as many as
 * fit. */
Status pack_open(Pack *out, const Model *m, PagePool *pool, const PackLimits *limits);
void pack_close(Pack *p); /* fine on a zeroed one */

void pack_clear(Pack *p);
/* The conversation behind a prefix (NULL: none), its first token `shift` positions later than it must. When
 * it does not fit, nothing is added. */
Status pack_add(Pack *p, const Prefix *prefix, const Conversation *c, int32_t shift, bool *fits);
Targets pack_targets(const Pack *p);

#endif
