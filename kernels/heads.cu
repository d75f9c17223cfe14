/* heads.cu -- from the projections to attention and back: norm over each head, rotation by position, and keys
 * and values in and out of pages, all in one reading and one writing.
 *
 * A block takes one token after the other. The token's angles are worked out once, in shared memory, and
 * serve all of its heads: those of q, then k, then v, are shared out among rows of lanes. A lane holds eight
 * elements of the first half of a head and their partners in the second, which is what a rotation mixes, so
 * nothing moves between lanes but the sum of the norm:
 *
 *   a head of 128      0        8              56      64       72             120
 *                   [  lane 0 | lane 1 | ... | lane 7 ][ lane 0 | lane 1 | ... | lane 7 ]
 *                      low                               high
 *
 * The weights of the norms are the same for all tokens: a lane reads its part of them once and keeps it. */
#include "kernels/vectors.cuh"

enum { HALF_MAX = 128, RESIDENT_THREADS = 640 /* to start for each multiprocessor */ };

/* What both directions know. */
struct HeadsShape {
    const int32_t *pos, *slot;
    const float *freq;
    int32_t T, H, G, half;
    float eps;
};

/* ---- angles ---- */

struct Turn {
    float cosine, sine;
};
/* What the threads of a block share; number k of a lane's eight pairs lies at [k][lane], so that no two lanes
 * want the same bank. Angles of two tokens: those of the one before may still be in use. */
struct Turns {
    float cosine[HALF_MAX], sine[HALF_MAX];
};
struct Shared {
    Turns turns[2];
    float freq[HALF_MAX];
};

/* Sine and cosine of any angle that a position has: at 131072 that is some 20000 turns. It is taken back to a
 * quarter turn by Cody and Waite's method, x - n pi/2 with pi/2 as a sum of three floats. With fused
 * multiply-adds the first difference is exact up to angles of some 2^20, since both sides are multiples of
 * 2^-23 and the result is below 1. (The toolkit's sinf does the same for small angles; for large ones it goes
 * through local memory.) Polynomials of Cephes. */
static __device__ __forceinline__ Turn turn_of(float x) {
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    float n = fmaf(x, 0.636619772f, round) - round;
    float r = fmaf(-n, 0x1.921fb6p+0f, x);
    r = fmaf(-n, -0x1.777a5cp-25f, r);
    r = fmaf(-n, -0x1.ee59dap-50f, r);
    float z = r * r;
    float s = fmaf(fmaf(fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f), z * r, r);
    float c = fmaf(fmaf(fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f),
                   z * z, fmaf(-0.5f, z, 1.0f));
    int quarter = (int)n;
    float cosine = quarter & 1 ? s : c, sine = quarter & 1 ? c : s;
    return Turn{(quarter + 1) & 2 ? -cosine : cosine, quarter & 2 ? -sine : sine};
}

/* Each thread makes the angles of certain places, the same ones for every token, and keeps their frequencies.
 */
static __device__ __forceinline__ int32_t first_place() {
    return (int32_t)(threadIdx.y * blockDim.x + threadIdx.x);
}
static __device__ __forceinline__ void load_frequencies(Shared *shared, const HeadsShape &s) {
    const int32_t lanes = (int32_t)blockDim.x, threads = lanes * (int32_t)blockDim.y;
    for (int32_t p = first_place(); p < 8 * lanes; p += threads) {
        int32_t i = p % lanes * 8 + p / lanes;
        shared->freq[p] = i < s.half ? s.freq[i] : 0;
    }
}

/* The angles of token t, for the whole block. Who fills a token's place for the next but one has passed the
 * barrier that everybody reaches after having used it. */
static __device__ __forceinline__ const Turns *turns_of(Shared *shared, const HeadsShape &s, int32_t t,
                                                        int32_t round) {
    Turns *turns = &shared->turns[round % 2];
    const int32_t lanes = (int32_t)blockDim.x, threads = lanes * (int32_t)blockDim.y;
    for (int32_t p = first_place(); p < 8 * lanes; p += threads) {
        Turn turn = turn_of((float)s.pos[t] * shared->freq[p]); /* an f32 product: see ops.h */
        turns->cosine[p] = turn.cosine, turns->sine[p] = turn.sine;
    }
    __syncthreads();
    return turns;
}

/* ---- eight pairs of a head ---- */

struct Pairs {
    float low[8], high[8];
};

/* The number of this lane's first pair in its head. */
static __device__ __forceinline__ int32_t first_pair() {
    return 8 * (int32_t)threadIdx.x;
}

/* Starts loading this lane's pairs of a row of heads; the first n of them exist, the others become zero. */
static __device__ __forceinline__ void fetch_pairs(Pairs &p, Floats t, int64_t row, const HeadsShape &s,
                                                   int32_t n) {
    int64_t first = row * 2 * s.half + first_pair();
    fetch8(p.low, t, first, n);
    fetch8(p.high, t, first + s.half, n);
}

static __device__ __forceinline__ void widen_pairs(Pairs &p, Floats t) {
    widen8(p.low, t);
    widen8(p.high, t);
}

static __device__ __forceinline__ void store_pairs(Floats t, int64_t row, const HeadsShape &s, int32_t n,
                                                   const Pairs &p) {
    int64_t first = row * 2 * s.half + first_pair();
    store8(t, first, n, p.low);
    store8(t, first + s.half, n, p.high);
}

/* sign -1 turns back. */
static __device__ __forceinline__ void rotate(Pairs &p, const Turns *turns, int32_t n, float sign) {
#pragma unroll
    for (int k = 0; k < 8; k++) {
        if (k >= n) continue;
        int place = k * (int)blockDim.x + (int)threadIdx.x;
        float c = turns->cosine[place], s = sign * turns->sine[place], low = p.low[k];
        p.low[k] = low * c - p.high[k] * s;
        p.high[k] = p.high[k] * c + low * s;
    }
}

/* Sum of a * b over the head, for all of its lanes; the whole warp calls this together. */
static __device__ __forceinline__ float dot_head(const Pairs &a, const Pairs &b) {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < 8; k++) sum += a.low[k] * b.low[k] + a.high[k] * b.high[k];
    for (int offset = 1; offset < (int)blockDim.x; offset *= 2)
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
    return sum;
}

/* ---- heads of a token ---- */

enum Kind { QUERY, KEY, VALUE, NO_HEAD };

struct Head {
    Kind kind;
    int64_t row;      /* of [T*H] or [T*G] */
    int64_t page_row; /* of [pages*G*KV_PAGE], -1 where there is no slot */
};

static __device__ __forceinline__ Head head_of(const HeadsShape &s, int32_t t, int32_t slot, int32_t h) {
    if (h < s.H) return Head{QUERY, (int64_t)t * s.H + h, -1};
    int32_t g = (h - s.H) % s.G;
    int64_t page_row = slot < 0 ? -1 : ((int64_t)(slot / KV_PAGE) * s.G + g) * KV_PAGE + slot % KV_PAGE;
    Kind kind = h < s.H + s.G ? KEY : h < s.H + 2 * s.G ? VALUE : NO_HEAD;
    return Head{kind, (int64_t)t * s.G + g, page_row};
}

static __device__ __forceinline__ Floats of_kind(Kind kind, Floats q, Floats k, Floats v) {
    return kind == QUERY ? q : kind == KEY ? k : v;
}

/* This lane's part of the weights of both norms, zero where there is none. */
struct Norms {
    Pairs q, k;
    bool any;
};

static __device__ __forceinline__ Norms load_norms(Floats w_q, Floats w_k, const HeadsShape &s) {
    Norms w;
    w.any = w_q.data;
    fetch_pairs(w.q, w_q, 0, s, w.any ? s.half - first_pair() : 0);
    fetch_pairs(w.k, w_k, 0, s, w.any ? s.half - first_pair() : 0);
    widen_pairs(w.q, w_q);
    widen_pairs(w.k, w_k);
    return w;
}

/* p *= by * w; values are left alone. */
static __device__ __forceinline__ void scale(Pairs &p, Kind kind, const Norms &w, float by) {
    if (kind == VALUE) return;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        p.low[k] *= by * (kind == QUERY ? w.q.low[k] : w.k.low[k]);
        p.high[k] *= by * (kind == QUERY ? w.q.high[k] : w.k.high[k]);
    }
}

static __device__ __forceinline__ float rstd_of(const Pairs &x, const HeadsShape &s) {
    return rsqrtf(dot_head(x, x) / (float)(2 * s.half) + s.eps);
}

/* ---- forward ---- */

struct HeadsTask {
    HeadsShape s;
    Floats q, k_pool, v_pool, q_raw, k_raw, v, w_q, w_k;
};

static __device__ __forceinline__ void do_head(const HeadsTask &a, Head h, const Norms &w,
                                               const Turns *turns) {
    const Floats from = of_kind(h.kind, a.q_raw, a.k_raw, a.v), to = of_kind(h.kind, a.q, a.k_pool, a.v_pool);
    const int64_t to_row = h.kind == QUERY ? h.row : h.page_row;
    const bool wanted = h.kind != NO_HEAD && to_row >= 0; /* what goes nowhere is not even read */
    const int32_t n = wanted ? a.s.half - first_pair() : 0;
    Pairs x;
    fetch_pairs(x, from, h.row, a.s, n);
    widen_pairs(x, from);
    if (w.any) scale(x, h.kind, w, rstd_of(x, a.s));
    if (h.kind != VALUE) rotate(x, turns, n, 1);
    store_pairs(to, to_row, a.s, n, x);
}

/* ---- back ---- */

struct HeadsBackTask {
    HeadsShape s;
    Floats dq_raw, dk_raw, dv, dq, dk_pool, dv_pool, q_raw, k_raw, w_q, w_k;
};

/* With g = w d and xhat = x rstd, d becomes rstd (g - xhat mean(g xhat)). The whole warp calls this together;
 * values have no norm, their x is zero and their d stays. */
static __device__ __forceinline__ void norm_back(Pairs &d, const Pairs &x, Kind kind, const Norms &w,
                                                 const HeadsShape &s) {
    float rstd = rstd_of(x, s);
    scale(d, kind, w, rstd);
    float sum = dot_head(d, x), pull = kind == VALUE ? 0.0f : sum / (float)(2 * s.half) * rstd * rstd;
#pragma unroll
    for (int k = 0; k < 8; k++) d.low[k] -= x.low[k] * pull, d.high[k] -= x.high[k] * pull;
}

static __device__ __forceinline__ void do_head(const HeadsBackTask &a, Head h, const Norms &w,
                                               const Turns *turns) {
    const Floats from = of_kind(h.kind, a.dq, a.dk_pool, a.dv_pool),
                 to = of_kind(h.kind, a.dq_raw, a.dk_raw, a.dv);
    const Floats raw = of_kind(h.kind, a.q_raw, a.k_raw, a.k_raw);
    const int64_t from_row = h.kind == QUERY ? h.row : h.page_row;
    const int32_t n = h.kind == NO_HEAD ? 0 : a.s.half - first_pair();
    Pairs d, x;
    fetch_pairs(d, from, from_row, a.s, from_row < 0 ? 0 : n); /* no slot: zeros */
    fetch_pairs(x, raw, h.row, a.s, w.any && h.kind != VALUE ? n : 0);
    widen_pairs(d, from);
    widen_pairs(x, raw);
    if (h.kind != VALUE) rotate(d, turns, n, -1);
    if (w.any) norm_back(d, x, h.kind, w, a.s);
    store_pairs(to, h.row, a.s, n, d);
}

/* ---- the kernel of both directions ---- */

template <class Task> static __global__ void __launch_bounds__(ROW_THREADS) heads_kernel(Task a) {
    SHARED_ARRAY(Shared, shared, 1);
    const int32_t heads = a.s.H + 2 * a.s.G;
    const Norms w = load_norms(a.w_q, a.w_k, a.s);
    load_frequencies(shared, a.s);
    for (int32_t t = (int32_t)blockIdx.x, round = 0; t < a.s.T; t += (int32_t)gridDim.x, round++) {
        const Turns *turns = turns_of(shared, a.s, t, round);
        const int32_t slot = a.s.slot[t];
        for (int32_t first = 0; first < heads; first += (int32_t)blockDim.y)
            do_head(a, head_of(a.s, t, slot, first + (int32_t)threadIdx.y), w, turns);
    }
}

/* ---- the operations ---- */

static Status shape_of(const char *op, Tensor q, Tensor v, Tensor pos, Tensor slot, Tensor freq, float eps,
                       HeadsShape *out) {
    *out = HeadsShape{
        (const int32_t *)pos.data, (const int32_t *)slot.data, (const float *)freq.data, (int32_t)q.dim[0],
        (int32_t)q.dim[1],         (int32_t)v.dim[1],          (int32_t)q.dim[2] / 2,    eps};
    NEED(out->half <= HALF_MAX, ST_UNSUPPORTED, "%s: head size %d, at most %d", op, 2 * out->half,
         2 * HALF_MAX);
    return ST_OK;
}

/* As many rows of lanes as share a token's heads evenly among the fewest rounds; whole warps. */
static dim3 block_of(const HeadsShape &s) {
    unsigned lanes = row_block(s.half).x, heads = (unsigned)(s.H + 2 * s.G), in_warp = 32 / lanes;
    unsigned rounds = (heads * lanes + ROW_THREADS - 1) / ROW_THREADS, rows = (heads + rounds - 1) / rounds;
    return dim3(lanes, (rows + in_warp - 1) / in_warp * in_warp);
}

static dim3 grid_of(const CudaStream *s, int32_t T, dim3 block) {
    unsigned most = (unsigned)s->processors * (RESIDENT_THREADS / (block.x * block.y));
    return dim3((unsigned)T < most ? (unsigned)T : most);
}

Status heads_cuda(Stream *stream, const HeadsArgs *a) {
    CudaStream *s = cuda_stream(stream);
    HeadsTask t = {};
    TRY(heads_check(a));
    TRY(shape_of("heads", a->q, a->v, a->pos, a->slot, a->freq, a->eps, &t.s));
    FLOATS_OF(t.q, "heads", a->q, t.s.half);
    FLOATS_OF(t.k_pool, "heads", a->k_pool, t.s.half);
    FLOATS_OF(t.v_pool, "heads", a->v_pool, t.s.half);
    FLOATS_OF(t.q_raw, "heads", a->q_raw, t.s.half);
    FLOATS_OF(t.k_raw, "heads", a->k_raw, t.s.half);
    FLOATS_OF(t.v, "heads", a->v, t.s.half);
    FLOATS_OF(t.w_q, "heads", a->w_q, t.s.half);
    FLOATS_OF(t.w_k, "heads", a->w_k, t.s.half);
    dim3 block = block_of(t.s);
    TRY(cuda_begin(s, "heads"));
    TRY_LAUNCH("heads", heads_kernel<HeadsTask>, grid_of(s, t.s.T, block), block, 0, s, t);
    return ST_OK;
}

Status heads_back_cuda(Stream *stream, const HeadsBackArgs *a) {
    CudaStream *s = cuda_stream(stream);
    HeadsBackTask t = {};
    TRY(heads_back_check(a));
    TRY(shape_of("heads_back", a->dq, a->dv, a->pos, a->slot, a->freq, a->eps, &t.s));
    FLOATS_OF(t.dq_raw, "heads_back", a->dq_raw, t.s.half);
    FLOATS_OF(t.dk_raw, "heads_back", a->dk_raw, t.s.half);
    FLOATS_OF(t.dv, "heads_back", a->dv, t.s.half);
    FLOATS_OF(t.dq, "heads_back", a->dq, t.s.half);
    FLOATS_OF(t.dk_pool, "heads_back", a->dk_pool, t.s.half);
    FLOATS_OF(t.dv_pool, "heads_back", a->dv_pool, t.s.half);
    FLOATS_OF(t.q_raw, "heads_back", a->q_raw, t.s.half);
    FLOATS_OF(t.k_raw, "heads_back", a->k_raw, t.s.half);
    FLOATS_OF(t.w_q, "heads_back", a->w_q, t.s.half);
    FLOATS_OF(t.w_k, "heads_back", a->w_k, t.s.half);
    dim3 block = block_of(t.s);
    TRY(cuda_begin(s, "heads_back"));
    TRY_LAUNCH("heads_back", heads_kernel<HeadsBackTask>, grid_of(s, t.s.T, block), block, 0, s, t);
    return ST_OK;
}
