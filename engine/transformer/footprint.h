/* footprint.h -- what forward passes take from a device, by kind, told before anything is opened.
 *
 * Whoever opens batches and activations (scheduler, trainer) says here what it would ask for, from the same limits, so
 * that a plan for a machine that one does not have and the memory of the one that runs cannot drift apart. Of the model
 * only its sizes and ops->act are read. */
#ifndef ENGINE_TRANSFORMER_FOOTPRINT_H
#define ENGINE_TRANSFORMER_FOOTPRINT_H

#include "engine/transformer/transformer.h"

typedef struct Footprint {
    size_t activations; /* acts_open, but for the logits */
    size_t logits;      /* of one chunk: where vocabularies are large the largest thing of all */
    size_t lists;       /* of the batch and of the sampler */
    size_t learning;    /* master, moments, gradient, best rows; training only */
    StreamLimits stream; /* what scratch is opened for: its bytes are the backend's affair */
    AttnLimits plan;
} Footprint;

/* Of one batch with its activations. */
void footprint_pass(Footprint *out, const Model *m, int32_t pool_pages, const BatchLimits *batch,
                    const ActsLimits *acts);

#endif
