/* working.h -- the rows that learn, in the shape of pages: master, moments, gradient and the best so far.
 *
 * What forward reads is the prefix in the pool: the master rounded to bf16, which is what a file will hold.
 * Rows of the last page beyond the prefix are zero in all of these. */
#ifndef ENGINE_LEARN_WORKING_H
#define ENGINE_LEARN_WORKING_H

#include "engine/memory/prefix.h"
#include "engine/transformer/transformer.h"

typedef struct Working {
    const Ops *ops;
    Stream *s;           /* borrowed */
    const Prefix *prefix; /* borrowed */
    int32_t frozen;
    Tensor master, m, v, g, best; /* [2L,pages,G,KV_PAGE,D] f32 */
    Tensor page, from, to, lr, step; /* [pages] which rows of which page learn, and how fast */
    Tensor sum;          /* [1] f64 */
    float *host_lr;      /* owned; the next lists on their way to the device */
    int32_t *host_step;
    void *block, *block_f32, *block_bf16; /* owned: a page of a layer, in the pool's type, f32 and bf16 */
    void *mem;           /* owned */
} Working;

typedef struct AdamRule { double beta1, beta2, eps; } AdamRule;

/* From the rows that the prefix has now: they are rounded to bf16, in the pool too. digest: of these rows. */
Status working_open(Working *out, const Ops *ops, Prefix *prefix, int32_t frozen, Stream *s, Digest *digest);
size_t working_bytes(const ModelConfig *c, int32_t rows); /* what working_open would take of the device */
void working_close(Working *w); /* fine on a zeroed one */

Status working_norm(Working *w, double *norm); /* of the gradient, learning rows only */
/* One step of Adam, the first with number 1; clears the gradient. */
Status working_update(Working *w, const AdamRule *rule, double lr, int64_t step, double grad_scale);
Status working_forget(Working *w);                  /* clears the gradient */
Status working_show(Working *w, Tensor rows);       /* master or best, rounded, to the pool */
Status working_keep(Working *w);                    /* best = master */

#endif
