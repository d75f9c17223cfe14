/* ops.h -- every operation the engine may ask of a backend, and what each one promises.
 *
 * A backend is one constant table of functions. ops_ref is the definition: plain loops that compute in double and
 * round once at the store; the others must agree with it, and tests/test_ops.c walks the list.
 *
 * Letters used for sizes, here and everywhere:
 *   T rows (tokens) in the batch   S sequences       C model width     F feed-forward width
 *   H query heads                  G key/value heads D head size       V vocabulary
 *   L layers                       P prefix rows     W wanted rows     K candidates kept per row
 *
 * Unless a comment says otherwise: outputs come first, may not alias inputs, and are overwritten; "+=" marks the
 * ones that accumulate. Activations are of one type (the table's `act`; ops_ref takes f32, f64 and bf16), weights
 * bf16 (ops_ref: any), ids and positions i32. An absent tensor (data NULL) is an output nobody wants or an input
 * that does not apply, where the comment allows it. A shape or type that breaks a contract is ST_ARG, a legal one
 * that the backend has no kernel for is ST_UNSUPPORTED, and nothing has been written in either case. No operation
 * allocates: what they need beside their arguments was planned by stream_open and plan_open. Same arguments, same
 * bits: no operation depends on timing, and on the CPU none depends on the number of threads.
 *
 * Only cartridges learn, so there is no gradient of a weight anywhere. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include "kernels/base/tensor.h"

typedef struct Stream Stream; /* work queued on one Stream runs in call order; also owns scratch memory */

/* ---- rows ------------------------------------------------------------------------------------------------ */

/* y[t] = table[id[t]].    y: [T,C]   table: [N,C] (any float type)   id: [T] in [0,N) */
typedef struct GatherArgs { Tensor y, table, id; } GatherArgs;

/* y[id[t]] = x[t]; other rows of y stay.    y: [N,C]   x: [T,C]   id: [T] in [0,N), all different */
typedef struct ScatterArgs { Tensor y, x, id; } ScatterArgs;

/* y = w * x * rstd, rstd = 1 / sqrt(mean(x^2) + eps) over the last dimension.
 *   y, x: [..,C] (may alias)   w: [C]   rstd: [rows] f32 (f64 for f64), absent unless a backward pass follows
 * Rows are all dimensions but the last, so a norm over heads (qk-norm) is the same operation on [T,H,D].
 * Zhang & Sennrich 2019, arXiv:1910.07467. */
typedef struct NormArgs { Tensor y, rstd, x, w; float eps; } NormArgs;

/* dx (+)= d(norm)/dx . dy.    dx, dy, x: [..,C]   w: [C]   rstd: [rows] from the forward call.
 * dx and dy may alias when not accumulating. */
typedef struct NormBackArgs { Tensor dx, dy, x, w, rstd; bool accumulate; } NormBackArgs;

/* y = residual + x w^T + b.    y: [T,O]   x: [T,I]   w: [O,I]   b: [O] or absent
 *   residual: [T,O] of y's type, or absent; may alias y */
typedef struct LinearArgs { Tensor y, x, w, b, residual; } LinearArgs;

/* dx (+)= dy w.    dx: [T,I]   dy: [T,O]   w: [O,I] */
typedef struct LinearBackArgs { Tensor dx, dy, w; bool accumulate; } LinearBackArgs;

/* y = silu(gate) * up.    all [T,F] */
typedef struct SwigluArgs { Tensor y, gate, up; } SwigluArgs;
/* dgate, dup may alias gate, up: an element is read before it is written. */
typedef struct SwigluBackArgs { Tensor dgate, dup, dy, gate, up; } SwigluBackArgs;

/* ---- heads: between the projections and attention --------------------------------------------------------- */

enum { KV_PAGE = 64 }; /* keys in a page */

/* Finishes the projections of a layer. A head of q or k goes through a norm over its D elements (the qk-norm of
 * models that have one; see NormArgs) and is rotated: the pairs (i, i + D/2) by the angle pos[t] * freq[i], an f32
 * product, as the checkpoints were trained with. Then row t of k and v is put where slot[t] = page * KV_PAGE + offset
 * says, or nowhere when it is -1. Rounded once.
 *   q: [T,H,D]   k_pool, v_pool: [pages,G,KV_PAGE,D] (any float type); rows that no slot names stay
 *   q_raw: [T,H,D] (may alias q)   k_raw, v: [T,G,D]   w_q, w_k: [D], or both absent: no norm
 *   pos, slot: [T]   freq: [D/2] f32, radians per position
 * Su et al. 2021, arXiv:2104.09864, in the half-split pairing of Llama and Qwen. */
typedef struct HeadsArgs {
    Tensor q, k_pool, v_pool, q_raw, k_raw, v, w_q, w_k, pos, slot, freq;
    float eps;
} HeadsArgs;

/* The way back: gradients leave their pages, are rotated by the opposite angle and go through the norms.
 *   dq_raw: [T,H,D]   dk_raw, dv: [T,G,D], zero where the slot is -1
 *   dq: [T,H,D]   dk_pool, dv_pool: [n,G,KV_PAGE,D], and slot counts in their pages
 *   q_raw, k_raw: of the forward call, absent or not looked at without w_q, w_k */
typedef struct HeadsBackArgs {
    Tensor dq_raw, dk_raw, dv, dq, dk_pool, dv_pool, q_raw, k_raw, w_q, w_k, pos, slot, freq;
    float eps;
} HeadsBackArgs;

/* ---- attention ------------------------------------------------------------------------------------------- */

/* A stretch of keys in pages: keys from .. from+length, counted from the first row of page[first]. */
typedef struct Segment { int32_t first, from, length; } Segment;

/* Who sees which keys, for one batch; host memory, read only during attn_plan.
 *
 * Sequence s owns rows row[s] .. row[s+1] and reads segments seg[s] .. seg[s+1]. The last of them is its own: causal
 * and aligned at its end, so with n rows, row i sees its keys up to from + length - n + i. All others are prefixes,
 * seen whole. The same pages may stand in many segments; they are read for all of their rows together.
 *
 * Rows of a page outside of from .. from+length may hold anything, NaN too, and never matter. */
typedef struct AttnLayout {
    int32_t T, S;
    const int32_t *row;         /* [S+1], row[0] = 0, row[S] = T, no empty sequence */
    const int32_t *seg;         /* [S+1] */
    const Segment *segment;     /* [seg[S]]; length >= 1, the own one at least as long as the sequence has rows */
    const int32_t *page;        /* [entries] page numbers, indexed by Segment.first */
    int32_t entries, pages;     /* length of page; pages in the pool */
    const int32_t *own_grad;    /* [pages] page of dk_own that belongs to a pool page, or -1; NULL: all -1 */
    const int32_t *learned_grad; /* [pages] the same for dk_learned; no page has both */
} AttnLayout;

/* What depends only on lengths and sharing, worked out once per batch and used by all layers. How a page range is
 * split depends on its own length only, never on the batch: a row's result has the same bits in any company. */
typedef struct AttnPlan AttnPlan;
typedef struct AttnLimits {
    int32_t rows, seqs, segments, entries, pages; /* the largest batch and the pool */
    int32_t heads, kv_heads, head_dim;
    DType act;
    bool backward;
} AttnLimits;

/* o = softmax over all keys of all segments of (scale q k^T) v;  lse = log sum exp(scale q k^T), natural log.
 *   o, q: [T,H,D]   lse: [T,H] f32 (f64 for f64)   k, v: [pages,G,KV_PAGE,D]
 * H/G is any whole number; D is 32, 64, 96, 128 or 256. A row that sees no key: o = 0, lse = -inf.
 * Dao 2023, arXiv:2307.08691; shared prefixes: Juravsky et al. 2024, arXiv:2402.05099. */
typedef struct AttnArgs { Tensor o, lse, q, k, v; const AttnPlan *plan; float scale; } AttnArgs;

/* Gradients of attn. With the merged lse, P = exp(scale q k^T - lse) is each segment's share already, so segments
 * go backward independently: dV += P^T dO, dS = P (dO V^T - delta), dQ = scale dS K, dK += scale dS^T Q, with
 * delta = rowsum(dO o).
 *   dq =                        [T,H,D] f32 (f64 for f64)
 *   dk_own, dv_own =            [n,G,KV_PAGE,D] f32: pages the layout's own_grad names; rows no key lies in: zero
 *   dk_learned, dv_learned +=   [m,G,KV_PAGE,D] f32: pages that learned_grad names
 *   d_o, o, q: [T,H,D]   lse: [T,H]
 * Each of dq, the own pair and the learned pair may be absent and is then not computed. */
typedef struct AttnBackArgs {
    Tensor dq, dk_own, dv_own, dk_learned, dv_learned;
    Tensor d_o, o, lse, q, k, v;
    const AttnPlan *plan;
    float scale;
} AttnBackArgs;

/* ---- logits ---------------------------------------------------------------------------------------------- */

/* Loss against the teacher's kept candidates, its reports and its gradient, in one pass. For row w with candidates
 * j in first[w] .. first[w+1], p_j = exp(logprob[j]), M = sum p_j, q = softmax(logits[w]), Q = sum q(id_j):
 *   loss[w] = -sum_j p_j log q(id_j)                                    M is not renormalised
 *   kl[w]   =  sum_j p_j log(p_j / q(id_j)) + (1-M) log((1-M)/(1-Q))    the tail as one bucket: >= 0, 0 at q = p
 *              (which is empty where all V tokens are candidates)
 *   best[w] =  argmax of the row, the lowest id on ties
 *   logits[w] <- scale * (M q - sum_j p_j e(id_j))                      only when `gradient`
 * A row without candidates: loss 0, kl 0, gradient 0.
 *   logits: [W,V] f32   loss, kl: [W] f32 or absent   best: [W] i32 or absent
 *   first: [W+1] i32   id: [N] i32, different within a row   logprob: [N] f32, natural log, <= 0
 * The caller chooses scale: 1 / (supervised rows of the whole step) makes the gradient one of nats per token.
 * Eyuboglu et al. 2025, arXiv:2506.06266. */
typedef struct DistillArgs {
    Tensor loss, kl, best, logits, first, id, logprob;
    float scale;
    bool gradient;
} DistillArgs;

/* The K best of each row with their natural log-probabilities under softmax(logits), falling, ties by lower id.
 *   id: [W,K] i32   logprob: [W,K] f32   logits: [W,V] f32, K <= V */
typedef struct TopkArgs { Tensor id, logprob, logits; } TopkArgs;

/* One token out of each row. With temperature 0: the argmax, lowest id on ties. Else logits are divided by it;
 * of the K' = top_k best (0: all), the fewest that reach top_p of the probability (of those), and of these the ones
 * with at least min_p times the best one's probability stay; the draw is argmax of logit + Gumbel noise, where the
 * noise of token v is a function of (seed, counter, v): it does not depend on the other rows.
 *   id: [W] i32   logprob: [W] f32 or absent: the raw log-probability (temperature 1, before any filter)
 *   logits: [W,V] f32   temperature, top_p, min_p: [W] f32   top_k, counter: [W] i32   seed: [W,2] i32 (low, high) */
typedef struct SampleArgs {
    Tensor id, logprob, logits, temperature, top_p, min_p, top_k, counter, seed;
} SampleArgs;

/* ---- learning -------------------------------------------------------------------------------------------- */

/* One Adam step on everything that learns, in the shape of pages; the new values go, rounded to `keep`, into the
 * pool that forward reads; the gradient is cleared. Only rows from[i] .. to[i] of page i learn: frozen rows and the
 * tail of a last page are left alone everywhere (their gradient is cleared too).
 *   p, g, m, v: [2L,n,G,KV_PAGE,D] f32 (f64 in tests), updated   pool: [2L,pages,G,KV_PAGE,D]
 *   page, from, to: [n] i32   lr: [n] f32   step: [n] i32, 1 for the first update of that page's cartridge
 *   update: m = b1 m + (1-b1) g', v = b2 v + (1-b2) g'^2, p -= lr * mhat / (sqrt(vhat) + eps), g' = grad_scale * g
 * Kingma & Ba 2014, arXiv:1412.6980. */
typedef struct AdamArgs {
    Tensor p, g, m, v, pool, page, from, to, lr, step;
    float beta1, beta2, eps, grad_scale;
    DType keep; /* DT_BF16 or DT_F32 */
} AdamArgs;

/* sum[0] = sum of squares of the learning rows, f64, added in an order that depends on the shape only.
 *   sum: [1] f64   g, from, to: as in AdamArgs */
typedef struct SquaredNormArgs { Tensor sum, g, from, to; } SquaredNormArgs;

/* ---- the table ------------------------------------------------------------------------------------------- */

/* What a Stream must have scratch for: the largest T or W; the largest I or O of a linear, the head apart; V. */
typedef struct StreamLimits { int32_t rows, width, vocab; } StreamLimits;

/* A pass whose operations were noted once, to be started by one call. */
typedef struct Recording Recording;

/* Every operation that is described above, by name and arguments. */
#define OPERATIONS(X)                                                                                        \
    X(gather, GatherArgs)                                                                                    \
    X(scatter, ScatterArgs)                                                                                  \
    X(norm, NormArgs)                                                                                        \
    X(norm_back, NormBackArgs)                                                                               \
    X(linear, LinearArgs)                                                                                    \
    X(linear_back, LinearBackArgs)                                                                           \
    X(heads, HeadsArgs)                                                                                      \
    X(heads_back, HeadsBackArgs)                                                                             \
    X(swiglu, SwigluArgs)                                                                                    \
    X(swiglu_back, SwigluBackArgs)                                                                           \
    X(attn, AttnArgs)                                                                                        \
    X(attn_back, AttnBackArgs)                                                                               \
    X(distill, DistillArgs)                                                                                  \
    X(topk, TopkArgs)                                                                                        \
    X(sample, SampleArgs)                                                                                    \
    X(adam, AdamArgs)                                                                                        \
    X(squared_norm, SquaredNormArgs)

typedef struct Ops {
    const char *name; /* "ref", "cpu", "cuda", "simt" */
    DType act;        /* the type of activations and keys/values this backend is made for */

    Status (*mem_open)(void **out, size_t bytes); /* 256-byte aligned; ST_NOMEM names the bytes asked and free */
    void (*mem_close)(void *mem);
    /* Says of a block, before it is written, that it will be used from end to end. NULL where nothing follows. */
    void (*mem_filled)(void *mem, size_t bytes);
    Status (*stream_open)(Stream **out, const StreamLimits *limits);
    void (*stream_close)(Stream *s);
    Status (*plan_open)(AttnPlan **out, const AttnLimits *limits);
    void (*plan_close)(AttnPlan *plan);

    Status (*copy)(Stream *, void *to, const void *from, size_t bytes); /* host or device on either side */
    Status (*zero)(Stream *, Tensor t);
    Status (*sync)(Stream *); /* waits; reports ST_DEVICE with the operation's name for anything that failed before */

    Status (*attn_plan)(Stream *, AttnPlan *plan, const AttnLayout *layout); /* ST_ARG beyond its limits */
#define X(op, Args) Status (*op)(Stream *, const Args *);
    OPERATIONS(X)
#undef X

    /* Between record and record_end operations are noted, not done; replay does them, with the arguments that they had
     * and what then lies in the memory that these name. A recorded pass may be replayed for every plan of the same T for
     * which plan_records. All NULL in backends where starting an operation costs nothing. */
    bool (*plan_records)(const AttnPlan *plan);
    Status (*record)(Stream *);
    Status (*record_end)(Stream *, Recording **out); /* NULL after a failure */
    Status (*replay)(Stream *, Recording *);
    void (*recording_close)(Recording *);
} Ops;

extern const Ops ops_ref;
extern const Ops ops_cpu;

#endif
