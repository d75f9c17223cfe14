/* transformer.h -- tokens -> layers -> logits or loss, and the way back to the cartridge.
 *
 * forward.c and backward.c are the textbook: read them first. Everything a pass writes was planned by acts_open for
 * the largest batch; a pass allocates nothing. Training keeps each layer's inputs (nothing is recomputed: on a CPU
 * arithmetic is dearer than memory, and micro-batches bound the memory); serving keeps one layer's worth. */
#ifndef ENGINE_TRANSFORMER_TRANSFORMER_H
#define ENGINE_TRANSFORMER_TRANSFORMER_H

#include "engine/transformer/batch.h"

/* What one layer leaves behind for the way back; in serving all layers share one of these. */
typedef struct LayerActs {
    Tensor x;              /* [T,C] input of the layer */
    Tensor rstd_attn;      /* [T] */
    Tensor q_raw, k_raw;   /* [T,H,D] [T,G,D] projected. Only training with qk-norm needs them later; else q_raw is
                              q and all layers share k_raw */
    Tensor q;              /* [T,H,D] normed and rotated */
    Tensor o, lse;         /* [T,H,D] [T,H] */
    Tensor x_mid;          /* [T,C] after attention */
    Tensor rstd_ffn;       /* [T] */
    Tensor gate, up;       /* [T,F] */
} LayerActs;

typedef struct ActsLimits {
    int32_t rows;    /* T */
    int32_t logits;  /* rows of logits at a time: those wanted when serving, the chunk of the loss when training */
    int32_t candidates; /* teacher candidates per supervised row at most, training only */
    int32_t seqs;    /* sequences of a batch, training only: they bound the pages of own gradients */
    bool training;
    DType act;       /* ops->act, or DT_F64 with ops_ref for finite differences */
} ActsLimits;

typedef struct Acts Acts;
Status acts_open(Acts **out, const Model *m, const ActsLimits *limits);
void acts_close(Acts *a);
size_t acts_bytes(const Model *m, const ActsLimits *limits); /* what acts_open would take */
LayerActs *acts_layer(Acts *a, int32_t layer);               /* for golden tests; valid after a training forward */
Tensor acts_hidden(const Acts *a);                           /* [T,C] output of the last layer, before the final norm */

/* Runs all layers over the uploaded batch; keys and values go to the pool, the result is acts_hidden. */
Status forward(const Model *m, const Batch *b, Acts *a, Stream *s);

/* Logits of some rows of the last forward: row[i] in [0,T), n <= limits.logits. logits: [n,V] f32, borrowed until
 * the next call. */
Status forward_logits(const Model *m, Acts *a, const int32_t *row, int32_t n, Tensor *logits, Stream *s);

/* The teacher's word on some rows of a batch, host memory. Rows rise. */
typedef struct Targets {
    int32_t n;              /* W */
    const int32_t *row;     /* [W] */
    const int32_t *first;   /* [W+1] */
    const int32_t *id;      /* [first[W]] */
    const float *logprob;
} Targets;

typedef struct LossSums { double loss, kl; int64_t rows, agree; } LossSums; /* agree: best student id = best teacher id */

/* Loss over the supervised rows in chunks of limits.logits; only they meet the vocabulary. Adds to *sums. With
 * `gradient` also leaves d loss / d hidden (times scale) in acts for backward. Chunks are added in row order. */
Status distill(const Model *m, Acts *a, const Targets *t, float scale, bool gradient, LossSums *sums, Stream *s);

/* d loss / d cartridge rows, the only gradient that is kept. */
typedef struct KvGrad {
    Tensor all; /* [2L,n,G,KV_PAGE,D] f32: slice 2l keys, 2l+1 values of layer l; accumulates over micro-batches */
} KvGrad;

/* After forward and distill of the same batch: g += gradient of the pages that batch_learn named. */
Status backward(const Model *m, const Batch *b, Acts *a, KvGrad *g, Stream *s);

#endif
