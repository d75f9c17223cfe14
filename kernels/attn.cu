/* attn.cu -- attention on CUDA. Contract: AttnArgs in ops.h; reference: attn.c.
 *
 *   attn_plain     a warp per row and head, one key after another      any head size, f32 or bf16; stays
 *   prefill_tile   tensor cores, tiles of rows (attn_prefill.cu)       head sizes 64 and 128, bf16, scale > 0
 *   decode_items   tensor cores, shared pages once (attn_decode.cu)    the same, for sequences of few rows
 *
 * Floor of prefill: 4 D flops per query, head and visible key; of decode: each visible key and value once. */
#include "kernels/attn_plan.cuh"
#include "kernels/attn_tile.cuh"

enum { PLAIN_WARPS = 4 };

struct PlainAttention {
    const int32_t *row, *seg, *page, *sequence;
    const Segment *segment;
    void *o;
    float *lse; /* or NULL */
    const void *q, *k, *v;
    int32_t rows, heads, kv_heads;
    float rate; /* scale * log2(e): softmax is in base 2 */
};

TILE_FN float warp_sum(float x) {
    for (int bits = WARP / 2; bits; bits /= 2) x += __shfl_xor_sync(~0u, x, bits);
    return x;
}

/* One row of one head and its running softmax: lane l has the elements l + 32 i of q and of o. */
template <int PARTS> struct PlainRow { float q[PARTS], o[PARTS], largest, sum; };

/* Takes in one key: everything so far shrinks by what the largest score grew. */
template <class X, int PARTS> TILE_FN void see_key(PlainRow<PARTS> &r, const X *k, const X *v, float rate) {
    float score = 0.0f;
#pragma unroll
    for (int i = 0; i < PARTS; i++) score += r.q[i] * (float)k[lane_index() + i * WARP];
    score = warp_sum(score) * rate;
    float largest = fmaxf(r.largest, score), shrink = ex2(r.largest - largest), share = ex2(score - largest);
    r.largest = largest;
    r.sum = r.sum * shrink + share;
#pragma unroll
    for (int i = 0; i < PARTS; i++) r.o[i] = r.o[i] * shrink + share * (float)v[lane_index() + i * WARP];
}

/* Keys that row t sees of segment i, its sequence being s. */
TILE_FN int32_t plain_keys(const PlainAttention &p, int32_t s, int32_t i, int32_t t) {
    bool own = i + 1 == p.seg[s + 1];
    return own ? p.segment[i].length - (p.row[s + 1] - 1 - t) : p.segment[i].length;
}

template <class X, int PARTS>
__global__ void __launch_bounds__(PLAIN_WARPS *WARP) attn_plain(PlainAttention p) {
    const int D = PARTS * WARP;
    int64_t th = (int64_t)blockIdx.x * PLAIN_WARPS + warp_index();
    if (th >= (int64_t)p.rows * p.heads) return;
    int32_t t = (int32_t)(th / p.heads), g = (int32_t)(th % p.heads) / (p.heads / p.kv_heads),
            s = p.sequence[t];
    PlainRow<PARTS> r = {{}, {}, -INFINITY, 0.0f};
#pragma unroll
    for (int i = 0; i < PARTS; i++) r.q[i] = (float)((const X *)p.q)[th * D + lane_index() + i * WARP];
    for (int32_t i = p.seg[s]; i < p.seg[s + 1]; i++) {
        Segment segment = p.segment[i];
        int32_t keys = plain_keys(p, s, i, t);
#pragma unroll 1
        for (int32_t j = segment.from; j < segment.from + keys; j++) {
            int64_t page = p.page[segment.first + j / KV_PAGE];
            int64_t at = ((page * p.kv_heads + g) * KV_PAGE + j % KV_PAGE) * D;
            see_key(r, (const X *)p.k + at, (const X *)p.v + at, p.rate);
        }
    }
    float part = r.sum > 0.0f ? 1.0f / r.sum : 0.0f;
#pragma unroll
    for (int i = 0; i < PARTS; i++) ((X *)p.o)[th * D + lane_index() + i * WARP] = (X)(r.o[i] * part);
    if (p.lse && lane_index() == 0) p.lse[th] = r.sum > 0.0f ? (r.largest + log2f(r.sum)) * LN_2 : -INFINITY;
}

template <class X> static Status launch_plain(CudaStream *s, const PlainAttention &p, int32_t head_dim) {
    uint32_t blocks = (uint32_t)blocks_for((int64_t)p.rows * p.heads, PLAIN_WARPS);
    const int threads = PLAIN_WARPS * WARP;
    auto kernel = head_dim == 32    ? attn_plain<X, 1>
                  : head_dim == 64  ? attn_plain<X, 2>
                  : head_dim == 96  ? attn_plain<X, 3>
                  : head_dim == 128 ? attn_plain<X, 4>
                                    : attn_plain<X, 8>;
    TRY_LAUNCH("attn", kernel, blocks, threads, 0, s, p);
    return ST_OK;
}

static Status plain_run(CudaStream *s, const CudaPlan *plan, const AttnArgs *a) {
    const LayoutArrays *l = &plan->layout;
    PlainAttention p = {l->row.device,
                        l->seg.device,
                        l->page.device,
                        l->sequence.device,
                        l->segment.device,
                        a->o.data,
                        (float *)a->lse.data,
                        a->q.data,
                        a->k.data,
                        a->v.data,
                        plan->T,
                        plan->limits.heads,
                        plan->limits.kv_heads,
                        a->scale * LOG2_E};
    WITH_FLOAT(a->q, X, { return launch_plain<X>(s, p, plan->limits.head_dim); });
}

/* Everything is of one type, and the head size is one of those in ops.h. */
static Status attn_supported(const AttnArgs *a, const AttnLimits *m) {
    int32_t D = m->head_dim;
    NEED(D == 32 || D == 64 || D == 96 || D == 128 || D == 256, ST_UNSUPPORTED,
         "attn: head size %d; there are kernels for 32, 64, 96, 128 and 256", D);
    TRY(cuda_float("attn", "q", a->q));
    TRY(cuda_type("attn", "o", a->o, a->q.dtype));
    TRY(cuda_type("attn", "k", a->k, a->q.dtype));
    TRY(cuda_type("attn", "v", a->v, a->q.dtype));
    return cuda_type("attn", "lse", a->lse, DT_F32);
}

/* On tensor cores a row's maximum is taken before the scale, so the scale must not turn it into a minimum. */
static bool attn_has_tiles(const AttnArgs *a, const AttnLimits *m) {
    return head_has_tiles(m->head_dim) && a->q.dtype == DT_BF16 && a->scale > 0;
}

Status attn_cuda(Stream *stream, const AttnArgs *a) {
    CudaStream *s = cuda_stream(stream);
    const CudaPlan *plan = cuda_plan(a->plan);
    TRY(attn_check(a, &plan->limits, plan->T));
    TRY(attn_supported(a, &plan->limits));
    TRY(cuda_begin(s, "attn"));
    if (!attn_has_tiles(a, &plan->limits)) return plain_run(s, plan, a);
    if (plan->prefill.items) TRY(prefill_run(s, plan, a));
    if (plan->decode.items) TRY(decode_run(s, plan, a));
    return ST_OK;
}
