/* ops_rig.h -- runs single operations of any table, on a device or not: tensors whose memory the table
 * opened, values from a seed, outputs as doubles.
 *
 * Every tensor starts as NaN and has NaN behind its end, so an output that was not written, an input that was
 * read too far and an "overwritten" output that was added to all show; what was written behind the end is
 * found at the close. */
#ifndef TESTS_OPS_RIG_H
#define TESTS_OPS_RIG_H

#include "kernels/ops.h"
#include "tests/test.h"

/* Every operation on tensors, the number of its tensors, which of them may be absent (bits), and which
 * dimensions of which tensors only that tensor knows (pairs of bits: first dimension, last one), so that no
 * check can miss them. */
#define OPS_RIG_OPERATIONS(X)                                                                                \
    X(gather, GatherArgs, 3, 0, OPS_RIG_FIRST(1))                                                            \
    X(scatter, ScatterArgs, 3, 0, OPS_RIG_FIRST(0))                                                          \
    X(norm, NormArgs, 4, 1 << 1, 0)                                                                          \
    X(norm_back, NormBackArgs, 5, 0, 0)                                                                      \
    X(linear, LinearArgs, 5, 1 << 3 | 1 << 4, 0)                                                             \
    X(linear_back, LinearBackArgs, 3, 0, 0)                                                                  \
    X(heads, HeadsArgs, 11, 0, 0)                                                                            \
    X(heads_back, HeadsBackArgs, 13, 0, 0)                                                                   \
    X(swiglu, SwigluArgs, 3, 0, 0)                                                                           \
    X(swiglu_back, SwigluBackArgs, 5, 0, 0)                                                                  \
    X(attn, AttnArgs, 5, 1 << 1, 0)                                                                          \
    X(attn_back, AttnBackArgs, 11, 1 << 0, 0)                                                                \
    X(distill, DistillArgs, 7, 7, OPS_RIG_LAST(3))                                                           \
    X(topk, TopkArgs, 3, 0, OPS_RIG_LAST(2))                                                                 \
    X(sample, SampleArgs, 9, 1 << 1, OPS_RIG_LAST(2))                                                        \
    X(adam, AdamArgs, 10, 0, 0)                                                                              \
    X(squared_norm, SquaredNormArgs, 4, 0, OPS_RIG_FIRST(1) | OPS_RIG_LAST(1))
#define OPS_RIG_FIRST(tensor) (1u << 2 * (tensor))
#define OPS_RIG_LAST(tensor)  (2u << 2 * (tensor))

/* How near an output has to come: equal; as near as f32 computes; as near as the activations' type can say
 * it. */
typedef enum Nearness { SAME, FINE, COARSE } Nearness;

typedef struct Output {
    const char *name;
    Nearness nearness;
    int64_t n;
    double *x;
} Output;

enum { OPS_RIG_BLOCKS = 64, OPS_RIG_OUTPUTS = 24 };

typedef struct OpsRig {
    const Ops *ops;
    DType act;  /* of activations, keys and values */
    DType real; /* of gradients, statistics and logits: f64 beside f64, else f32 */
    DType grid; /* all float inputs are rounded to it: runs in several types see the same values */
    bool spoil; /* run each operation with every argument spoiled first: it must refuse and write nothing */
    Stream *stream;
    struct {
        void *data;
        size_t bytes;
    } block[OPS_RIG_BLOCKS];
    int32_t blocks;
    Output out[OPS_RIG_OUTPUTS];
    int32_t outs;
} OpsRig;

void ops_rig_open(OpsRig *r, const Ops *ops, DType act, DType grid);
void ops_rig_close(OpsRig *r); /* with its tensors and outputs */

/* ---- tensors, by type and shape: BLANK(r, DT_F32, rows, width) ---- */
#define BLANK(r, type, ...) ops_rig_blank((r), (type), TENSOR_SHAPE(__VA_ARGS__))
#define NORMAL(r, type, seed, scale, ...)                                                                    \
    ops_rig_normal((r), (type), (seed), (scale), TENSOR_SHAPE(__VA_ARGS__))
#define FLOATS(r, type, values, ...) ops_rig_floats((r), (type), (values), TENSOR_SHAPE(__VA_ARGS__))
#define WHOLE(r, values, ...)        ops_rig_whole((r), (values), TENSOR_SHAPE(__VA_ARGS__))
#define BELOW(r, bound, seed, ...)   ops_rig_below((r), (bound), (seed), TENSOR_SHAPE(__VA_ARGS__))
Tensor ops_rig_blank(OpsRig *r, DType type, int32_t ndim, const int64_t *dim);
Tensor ops_rig_normal(OpsRig *r, DType type, uint64_t seed, double scale, int32_t ndim, const int64_t *dim);
Tensor ops_rig_floats(OpsRig *r, DType type, const double *values, int32_t ndim, const int64_t *dim);
Tensor ops_rig_whole(OpsRig *r, const int32_t *values, int32_t ndim, const int64_t *dim);
/* Whole numbers from 0 to bound-1. */
Tensor ops_rig_below(OpsRig *r, int32_t bound, uint64_t seed, int32_t ndim, const int64_t *dim);

double *ops_rig_read(OpsRig *r, Tensor t); /* as doubles; free() them */
/* Keeps what is in t as an output of the case. */
void ops_rig_take(OpsRig *r, const char *name, Nearness near, Tensor t);

/* ---- operations, which must succeed: ops_rig_norm(r, (NormArgs){y, rstd, x, w, eps}) ---- */
#define X(op, Args, tensors, absent, free_dims) void ops_rig_##op(OpsRig *r, Args a);
OPS_RIG_OPERATIONS(X)
#undef X

#endif
