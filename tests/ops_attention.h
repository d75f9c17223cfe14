/* ops_attention.h -- batches for tests of attention: prefixes, sequences behind them, their pages and values.
 *
 * Page numbers are scattered, and every row of a page that no segment covers is NaN. Prefixes 1 and 3 learn,
 * 2 is only read; the gradients of all own pages are wanted. */
#ifndef TESTS_OPS_ATTENTION_H
#define TESTS_OPS_ATTENTION_H

#include "tests/ops_rig.h"

enum {
    ATTN_PREFIXES = 3,
    ATTN_SEQS = 5,
    ATTN_READS = 6,
    ATTN_SEGMENTS = ATTN_SEQS * (ATTN_READS + 1),
    ATTN_ENTRIES = 48
};

/* Rows from .. from+length of a prefix (1..ATTN_PREFIXES; 0: no more); length 0: up to its end. */
typedef struct AttnRead {
    int32_t prefix, from, length;
} AttnRead;

typedef struct AttnSeq {
    int32_t rows, keys; /* keys 0: as many as rows; more: earlier ones are in the pages already */
    int32_t from;       /* of its own segment */
    AttnRead read[ATTN_READS];
    int32_t with; /* its own pages are those of sequence with-1, of which it is a later piece */
} AttnSeq;

typedef struct AttnShape {
    const char *name;
    int32_t G, group, D;
    int32_t prefix[ATTN_PREFIXES]; /* rows */
    AttnSeq seq[ATTN_SEQS];        /* until one has no rows */
    double sharpness;              /* queries are that much larger; 0: 1 */
} AttnShape;

typedef struct Attention {
    const AttnShape *shape;
    AttnLayout layout;
    AttnPlan *plan;
    float scale;
    int32_t own_pages, learned_pages;
    Tensor q, d_o, k, v;
    int32_t row[ATTN_SEQS + 1], seg[ATTN_SEQS + 1], page[ATTN_ENTRIES];
    int32_t own_grad[ATTN_ENTRIES], learned_grad[ATTN_ENTRIES];
    Segment segment[ATTN_SEGMENTS];
} Attention;

void attention_open(Attention *at, OpsRig *r, const AttnShape *shape);
void attention_close(Attention *at, OpsRig *r); /* the plan; tensors are the rig's */

/* o and lse of the batch. */
void attention_forward(const Attention *at, OpsRig *r, Tensor *o, Tensor *lse);

#endif
