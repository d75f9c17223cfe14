/* attn_plan.h -- the reference's plan: a checked copy of the layout, and nothing worked out from it. */
#ifndef KERNELS_ATTN_PLAN_H
#define KERNELS_ATTN_PLAN_H

#include "kernels/reference.h"

typedef struct RefPlan {
    AttnLimits limits;
    AttnLayout layout; /* its pointers lead into `block` */
    void *block;       /* owned */
} RefPlan;

static inline const RefPlan *ref_plan(const AttnPlan *p) {
    return (const RefPlan *)(const void *)p;
}

/* Keys of a segment that row i of n sees: all of a prefix, its own up to itself. */
static inline int32_t visible_keys(const AttnLayout *l, int32_t s, int32_t segment, int32_t i) {
    int32_t length = l->segment[segment].length, n = l->row[s + 1] - l->row[s];
    return segment + 1 == l->seg[s + 1] ? length - n + i + 1 : length;
}

/* The element of k or v where key j of a segment begins, for head g. */
static inline int64_t key_index(const AttnLayout *l, Segment seg, int32_t j, Tensor k, int64_t g) {
    int32_t row = seg.from + j;
    int64_t page = l->page[seg.first + row / KV_PAGE];
    return ((page * k.dim[1] + g) * KV_PAGE + row % KV_PAGE) * k.dim[3];
}

#endif
