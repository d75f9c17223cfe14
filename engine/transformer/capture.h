/* capture.h -- tokens to a prefix, by prefilling them.
 *
 * A capture behind other prefixes is valid only behind the same ones: its identity is the hash of model, ordered
 * parents, first position and tokens. */
#ifndef ENGINE_TRANSFORMER_CAPTURE_H
#define ENGINE_TRANSFORMER_CAPTURE_H

#include "engine/transformer/transformer.h"

/* What a capture needs to run: borrowed. */
typedef struct CaptureTools { const Model *model; PagePool *pool; Batch *batch; Acts *acts; Stream *stream; } CaptureTools;

/* Prefills n tokens behind the parents in pieces that fit the batch, and keeps the keys and values. ST_FULL, ST_ARG
 * (n < 1), ST_NOSPACE (beyond the model's context: both numbers). */
Status capture(Prefix **out, const CaptureTools *tools, const Prefix *const *parent, int32_t parents,
               const int32_t *token, int32_t n);
Digest capture_identity(const Model *m, const Prefix *const *parent, int32_t parents, const int32_t *token, int32_t n);

#endif
