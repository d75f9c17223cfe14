/* recorded.h -- forward passes of decoding, recorded once per number of rows and then started by one call.
 *
 * Only backends that gain by it record (ops.h); elsewhere, and for batches with longer pieces, this is forward. */
#ifndef ENGINE_TRANSFORMER_RECORDED_H
#define ENGINE_TRANSFORMER_RECORDED_H

#include "engine/transformer/transformer.h"

typedef struct Recorded Recorded;

/* For passes of at most `rows` rows. */
Status recorded_open(Recorded **out, const Model *m, int32_t rows);
void recorded_close(Recorded *r); /* fine on NULL */

/* forward, with the same results. The batch, the activations and the stream must be the same ones in every call: a
 * recording knows where they lie. */
Status recorded_forward(Recorded *r, const Batch *b, Acts *a, Stream *s);

#endif
