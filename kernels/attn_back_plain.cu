/* attn_back_plain.cu -- gradients of attention for any head size: what attn_back.c states, run by blocks
 * of threads.
 *
 *     P = exp(scale q.k - lse)   dS = P (dO.v - dO.o)   dq += scale dS k   dk += scale dS q   dv += P dO
 *
 * A block owns one row of a result: dq of one (token, head), or dk and dv of one key. It takes the pairs that
 * this row is a sum over by KV_PAGE at a time. First a thread is a pair and puts P and dS into shared memory,
 * then a thread is an element of the head and adds the pairs up in their order:
 *
 *     thread        0    1    2   ..  63                     0      1      2    ..  D-1
 *                 P,dS P,dS P,dS    P,dS    then     sum of dS[i] * the other side's element, over i
 *
 * Every value is read again for every pair: this is what the tiled kernels (attn_back.cu) are compared with,
 * and what head sizes without tiles run on. */
#include "kernels/attn_plan.cuh"

#define PLAIN_FN static __device__ __forceinline__

enum { PAIRS = KV_PAGE, HEAD_MAX = 256, PER_THREAD = HEAD_MAX / PAIRS };

struct Plain {
    const void *q, *k, *v, *o, *d_o; /* all of one type */
    const float *lse;
    float *dq, *dk, *dv; /* dk, dv: of the pages that grad names */
    const int32_t *grad; /* [pages] */
    const int32_t *row, *seg, *page, *sequence;
    const Segment *segment;
    int32_t S, H, G, D;
    float scale;
    bool accumulate;
};

struct Pair {
    float p, ds;
};

/* The same order for every pair of vectors: of a row that sees one key only, o is v, and dO.v - dO.o is zero
 * to the last bit. */
template <class X> PLAIN_FN float dot_of(const X *a, const X *b, int32_t D) {
    float sum = 0;
    for (int32_t d = 0; d < D; d++) sum = fmaf((float)a[d], (float)b[d], sum);
    return sum;
}

/* row: of q, o and d_o, counted in heads; key: of k and v, counted in keys. */
template <class X> PLAIN_FN Pair pair_of(const Plain &a, int64_t row, int64_t key) {
    const X *d_o = (const X *)a.d_o + row * a.D;
    float score = dot_of((const X *)a.q + row * a.D, (const X *)a.k + key * a.D, a.D);
    float p = expf(a.scale * score - a.lse[row]);
    return Pair{
        p, p * (dot_of(d_o, (const X *)a.v + key * a.D, a.D) - dot_of(d_o, (const X *)a.o + row * a.D, a.D))};
}

/* Keys of segment i that token t of sequence s sees: all of a prefix, its own up to itself. */
PLAIN_FN int32_t keys_seen(const Plain &a, int32_t s, int32_t i, int32_t t) {
    int32_t later = i + 1 == a.seg[s + 1] ? a.row[s + 1] - 1 - t : 0;
    return a.segment[i].length - later;
}

/* Key j of segment i, head g. */
PLAIN_FN int64_t key_of(const Plain &a, int32_t i, int32_t j, int32_t g) {
    int32_t at = a.segment[i].from + j;
    return ((int64_t)a.page[a.segment[i].first + at / KV_PAGE] * a.G + g) * KV_PAGE + at % KV_PAGE;
}

/* ---- dq: a block is a (token, head) ---- */

template <class X> static __global__ void __launch_bounds__(PAIRS) attn_back_plain_dq(Plain a) {
    SHARED_ARRAY(float, ds, PAIRS);
    const int32_t t = blockIdx.x / a.H, h = blockIdx.x % a.H, g = h / (a.H / a.G), s = a.sequence[t];
    const int32_t thread = threadIdx.x;
    float sum[PER_THREAD] = {};
    for (int32_t i = a.seg[s]; i < a.seg[s + 1]; i++) {
        const int32_t keys = keys_seen(a, s, i, t);
        for (int32_t first = 0; first < keys; first += PAIRS) {
            if (first + thread < keys)
                ds[thread] = pair_of<X>(a, blockIdx.x, key_of(a, i, first + thread, g)).ds;
            __syncthreads();
            for (int32_t j = 0; j < min(keys - first, (int32_t)PAIRS); j++) {
                const X *key = (const X *)a.k + key_of(a, i, first + j, g) * a.D;
#pragma unroll
                for (int n = 0; n < PER_THREAD; n++)
                    if (thread + n * PAIRS < a.D)
                        sum[n] = fmaf(ds[j], (float)key[thread + n * PAIRS], sum[n]);
            }
            __syncthreads();
        }
    }
#pragma unroll
    for (int n = 0; n < PER_THREAD; n++)
        if (thread + n * PAIRS < a.D) a.dq[(int64_t)blockIdx.x * a.D + thread + n * PAIRS] = a.scale * sum[n];
}

/* ---- dk, dv: a block is a key ---- */

struct PlainSums {
    float dk[PER_THREAD], dv[PER_THREAD];
};

/* Adds what rows t0*H.. give to the key: all heads of its group of the tokens t0 .. t1. `pairs`: shared
 * memory. */
template <class X>
PLAIN_FN void add_rows(const Plain &a, PlainSums &sum, Pair *pairs, int32_t t0, int32_t t1, int32_t g,
                       int64_t key) {
    const int32_t group = a.H / a.G, rows = (t1 - t0) * group, thread = threadIdx.x;
    for (int32_t first = 0; first < rows; first += PAIRS) {
        int32_t mine = first + thread;
        if (mine < rows)
            pairs[thread] = pair_of<X>(a, (int64_t)(t0 + mine / group) * a.H + g * group + mine % group, key);
        __syncthreads();
        for (int32_t i = 0; i < min(rows - first, (int32_t)PAIRS); i++) {
            int64_t row = (int64_t)(t0 + (first + i) / group) * a.H + g * group + (first + i) % group;
#pragma unroll
            for (int n = 0; n < PER_THREAD; n++)
                if (thread + n * PAIRS < a.D) {
                    int64_t at = row * a.D + thread + n * PAIRS;
                    sum.dk[n] = fmaf(pairs[i].ds, (float)((const X *)a.q)[at], sum.dk[n]);
                    sum.dv[n] = fmaf(pairs[i].p, (float)((const X *)a.d_o)[at], sum.dv[n]);
                }
        }
        __syncthreads();
    }
}

/* Where row `offset` of page entry e stands among the keys of segment i. */
PLAIN_FN int32_t place_in(const Plain &a, int32_t i, int32_t e, int32_t offset) {
    return (e - a.segment[i].first) * KV_PAGE + offset - a.segment[i].from;
}

/* The first token of sequence s that sees key j of segment i. */
PLAIN_FN int32_t first_token(const Plain &a, int32_t s, int32_t i, int32_t j) {
    int32_t later = a.segment[i].length - 1 - j;
    return i + 1 == a.seg[s + 1] ? max(a.row[s], a.row[s + 1] - 1 - later) : a.row[s];
}

template <class X> static __global__ void __launch_bounds__(PAIRS) attn_back_plain_dkdv(Plain a) {
    SHARED_ARRAY(Pair, pairs, PAIRS);
    const int32_t page = blockIdx.x, g = blockIdx.y / KV_PAGE, offset = blockIdx.y % KV_PAGE,
                  thread = threadIdx.x;
    if (a.grad[page] < 0) return;
    const int64_t key = ((int64_t)page * a.G + g) * KV_PAGE + offset;
    PlainSums sum = {};
    for (int32_t s = 0; s < a.S; s++)
        for (int32_t i = a.seg[s]; i < a.seg[s + 1]; i++) {
            const Segment seg = a.segment[i];
            for (int32_t e = seg.first; e <= seg.first + (seg.from + seg.length - 1) / KV_PAGE; e++) {
                int32_t j = place_in(a, i, e, offset);
                if (a.page[e] != page || j < 0 || j >= seg.length) continue;
                add_rows<X>(a, sum, pairs, first_token(a, s, i, j), a.row[s + 1], g, key);
            }
        }
    const int64_t to = (((int64_t)a.grad[page] * a.G + g) * KV_PAGE + offset) * a.D + thread;
#pragma unroll
    for (int n = 0; n < PER_THREAD; n++)
        if (thread + n * PAIRS < a.D) {
            float *dk = a.dk + to + n * PAIRS, *dv = a.dv + to + n * PAIRS;
            *dk = a.scale * sum.dk[n] + (a.accumulate ? *dk : 0.0f);
            *dv = sum.dv[n] + (a.accumulate ? *dv : 0.0f);
        }
}

/* ---- the host's side ---- */

static Plain plain_of(const CudaPlan *p, const AttnBackArgs *a) {
    const LayoutArrays *l = &p->layout;
    Plain to = {};
    to.q = a->q.data, to.k = a->k.data, to.v = a->v.data, to.o = a->o.data, to.d_o = a->d_o.data;
    to.lse = (const float *)a->lse.data, to.dq = (float *)a->dq.data;
    to.row = l->row.device, to.seg = l->seg.device, to.page = l->page.device,
    to.sequence = l->sequence.device;
    to.segment = l->segment.device;
    to.S = p->S, to.H = p->limits.heads, to.G = p->limits.kv_heads, to.D = p->limits.head_dim;
    to.scale = a->scale;
    return to;
}

static Status page_gradients(CudaStream *s, const CudaPlan *p, const AttnBackArgs *a, Plain to, Tensor dk,
                             Tensor dv, const int32_t *grad, bool accumulate) {
    if (!dk.data) return ST_OK;
    to.dk = (float *)dk.data, to.dv = (float *)dv.data, to.grad = grad, to.accumulate = accumulate;
    const dim3 grid((unsigned)p->pages, (unsigned)(to.G * KV_PAGE));
    WITH_FLOAT(a->q, X, { TRY_LAUNCH("attn_back", attn_back_plain_dkdv<X>, grid, dim3(PAIRS), 0, s, to); });
    return ST_OK;
}

Status back_plain_run(CudaStream *s, const CudaPlan *p, const AttnBackArgs *a) {
    NEED(p->limits.head_dim <= HEAD_MAX, ST_UNSUPPORTED,
         "attn_back: head size %d, at most %d (ref takes larger ones)", p->limits.head_dim, HEAD_MAX);
    const Plain to = plain_of(p, a);
    if (a->dq.data) {
        const dim3 grid((unsigned)(p->T * to.H));
        WITH_FLOAT(a->q, X, { TRY_LAUNCH("attn_back", attn_back_plain_dq<X>, grid, dim3(PAIRS), 0, s, to); });
    }
    TRY(page_gradients(s, p, a, to, a->dk_own, a->dv_own, p->layout.own_grad.device, false));
    return page_gradients(s, p, a, to, a->dk_learned, a->dv_learned, p->layout.learned_grad.device, true);
}
