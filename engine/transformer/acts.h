/* acts.h -- inside the transformer: what a pass writes, and where. */
#ifndef ENGINE_TRANSFORMER_ACTS_H
#define ENGINE_TRANSFORMER_ACTS_H

#include "engine/transformer/transformer.h"

struct Acts {
    ActsLimits max;
    const Ops *ops;
    int32_t T; /* rows of the last forward */

    LayerActs *layer; /* [L]; when serving all of them are the same memory */
    Tensor hidden;    /* [T,C] output of the last layer */
    /* used by one layer after the other, forward */
    Tensor normed;    /* [T,C] */
    Tensor k_raw, v;  /* [T,G,D] on their way to the pages */
    Tensor h;         /* [T,F] */
    /* head */
    Tensor rows, first, id, logprob; /* i32 and f32 lists of one chunk, on the device */
    Tensor picked, picked_normed;    /* [n,C] */
    Tensor picked_rstd;              /* [n] */
    Tensor logits;                   /* [n,V] f32 (f64 for f64) */
    Tensor loss, kl, best;           /* [n] */
    /* backward; absent when serving */
    Tensor d_x;              /* [T,C] gradient of the residual stream, updated from layer to layer */
    Tensor d_normed;         /* [T,C] */
    Tensor d_h, d_o;         /* [T,F] [T,H,D] */
    Tensor dq;               /* [T,H,D] f32 (f64) */
    Tensor dk_own, dv_own;   /* [own pages,G,KV_PAGE,D] f32 (f64) */
    Tensor dq_raw;           /* [T,H,D] where d_o was: attention is done with it */
    Tensor dk_raw, dv;       /* [T,G,D] */
    Tensor d_picked;         /* [n,C] */
    /* host side of one chunk of the loss */
    float *host_loss, *host_kl;
    double *host_loss64, *host_kl64;
    int32_t *host_best, *host_first;
    void *mem, *host; /* owned */
};

/* The first T rows of everything, for a batch that is smaller than the largest. */
Tensor first_rows(Tensor t, int64_t rows);
LayerActs layer_rows(const LayerActs *l, int64_t T);
/* [T,heads*D] of a [T,heads,D]: what a matrix product sees. */
Tensor flat(Tensor t);

#endif
