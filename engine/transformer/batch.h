/* batch.h -- the ragged rows of one forward pass; one type for serving, self-study and training.
 *
 * T rows belong to S sequences; rows of a sequence are adjacent and in order. Each sequence reads a list of prefixes
 * and then its own tokens. A batch is filled on the host, then uploaded once; all layers read it. */
#ifndef ENGINE_TRANSFORMER_BATCH_H
#define ENGINE_TRANSFORMER_BATCH_H

#include "engine/memory/prefix.h"

/* The own tokens of one sequence: pages taken as it grows. */
typedef struct Sequence {
    int32_t *page, pages, pages_max; /* owned list; pages held in the pool */
    int32_t length;                  /* keys stored so far */
    int32_t pos;                     /* position of the next token */
} Sequence;

Status sequence_open(Sequence *q, int32_t rows_max, int32_t pos_first);         /* room for the page list only */
Status sequence_reserve(Sequence *q, PagePool *pool, int32_t rows);             /* pages for that many rows in all; ST_FULL changes nothing */
void sequence_close(Sequence *q, PagePool *pool);                               /* drops the pages; fine on a zeroed one */

typedef struct BatchLimits { int32_t rows, seqs, segments, entries; } BatchLimits;

/* Host lists first, then their device copies (one block, one upload). */
typedef struct Batch {
    BatchLimits max;
    int32_t T, S, segments, entries;
    int32_t *token, *pos, *slot; /* [T] host */
    int32_t *grad_slot;          /* [T] the same place in the pages of own gradients; training only */
    int32_t *row, *seg;          /* [S+1] host */
    Segment *segment;            /* host */
    int32_t *page;               /* [entries] host */
    int32_t *own_grad, *learned_grad; /* [pages in the pool] host; NULL unless opened for training */
    int32_t own_grads;           /* gradient pages of own tokens handed out so far */
    Tensor d_token, d_pos, d_slot, d_grad_slot; /* [T] i32 on the device, after batch_upload */
    AttnPlan *plan;              /* owned */
    PagePool *pool;              /* borrowed */
    const Ops *ops;
    void *host, *device;         /* owned blocks */
} Batch;

/* What batch_open would take of the device, and what it would plan attention for. */
size_t batch_bytes(const BatchLimits *max);
AttnLimits batch_plan_limits(const Model *m, int32_t pool_pages, DType kv, const BatchLimits *max, bool training);
Status batch_open(Batch **out, const Model *m, PagePool *pool, const BatchLimits *max, bool training);
void batch_close(Batch *b);
void batch_clear(Batch *b); /* learned_grad stays: it belongs to the prefixes that learn */

/* Adds n tokens of a sequence behind these prefixes. Reserves nothing: q must have pages for length + n rows. Advances
 * q->length and q->pos. *fits is false, and nothing is added, when the batch is full. In training the sequence's
 * pages get gradient pages. */
Status batch_add(Batch *b, const Prefix *const *prefix, int32_t prefixes, Sequence *q, const int32_t *token,
                 int32_t n, bool *fits);

/* Names the gradient pages of a prefix that learns: first_grad, first_grad + 1, ... */
void batch_learn(Batch *b, const Prefix *p, int32_t first_grad);
void batch_unlearn(Batch *b, const Prefix *p);

Status batch_upload(Batch *b, Stream *s); /* lists to the device and attn_plan */

#endif
