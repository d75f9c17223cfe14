/* logits.cuh -- rows of logits on the GPU: how they are read, their sums of exponentials, their best tokens.
 *
 * A row is read in groups of four columns on 16-byte boundaries. With an odd V only every fourth row begins
 * at one, so the first group may begin before the row as the last may end behind it:
 *
 *     columns of row 1, V = 9      . 0 1 2 | 3 4 5 6 | 7 8 . .      lead = 1; a dot is nothing that is read
 *
 * PART columns of a row are one block's work, however many rows there are. So many rows fill the chip as one
 * row of a large vocabulary does, and what comes out of a row has the same bits in any company. */
#ifndef KERNELS_LOGITS_CUH
#define KERNELS_LOGITS_CUH

#include <float.h>

#include "kernels/cuda_stream.cuh"

enum {
    PART = 8192,
    PART_THREADS = 256,
    PART_WARPS = PART_THREADS / 32,
    PART_FOURS = PART / 4 / PART_THREADS
};
static const uint32_t EVERY_LANE = 0xFFFFFFFFu;
static const float LOG2_E = 1.44269504f;

/* ---- reading ---- */

struct Logits {
    float *x;
    int32_t rows, V, parts;
};

struct Row {
    float *x;
    int32_t V, lead;
};

static __device__ __forceinline__ Row row_at(const Logits &l, int64_t w) {
    float *x = l.x + w * l.V;
    return Row{x, l.V, (int32_t)((uintptr_t)x / sizeof(float) % 4)};
}

struct Four {
    float x[4];
};

static __device__ __forceinline__ bool in_row(const Row &r, int32_t column) {
    return (uint32_t)column < (uint32_t)r.V;
}

/* Group g of a row; what is not of the row is -inf. */
static __device__ __forceinline__ Four load_four(const Row &r, int32_t g) {
    Four f;
    int32_t column = 4 * g - r.lead;
    if (column >= 0 && column + 4 <= r.V) {
        Vec16 v = load16(r.x + column);
#pragma unroll
        for (int k = 0; k < 4; k++) f.x[k] = __uint_as_float(v.w[k]);
    } else {
#pragma unroll
        for (int k = 0; k < 4; k++) f.x[k] = in_row(r, column + k) ? r.x[column + k] : -INFINITY;
    }
    return f;
}

static __device__ __forceinline__ void store_four(const Row &r, int32_t g, const Four &f) {
    int32_t column = 4 * g - r.lead;
    if (column >= 0 && column + 4 <= r.V) {
        Vec16 v;
#pragma unroll
        for (int k = 0; k < 4; k++) v.w[k] = __float_as_uint(f.x[k]);
        store16(r.x + column, v);
    } else {
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (in_row(r, column + k)) r.x[column + k] = f.x[k];
    }
}

/* N groups of one thread: g, g + THREADS, ..; they are under way together. */
template <int N, int THREADS>
static __device__ __forceinline__ void load_fours(Four (&f)[N], const Row &r, int32_t g) {
#pragma unroll
    for (int i = 0; i < N; i++) f[i] = load_four(r, g + i * THREADS);
}

/* ---- the largest, and the sum of exponentials ---- */

/* Of some columns: sum = sum of e^(x - most). `best` and its id may be of more columns than the sum
 * (distill); INT32_MAX stands for none. */
struct RowSum {
    float most, sum, best;
    int32_t id;
};

static __device__ __forceinline__ RowSum no_columns() {
    return RowSum{-FLT_MAX, 0, -INFINITY, INT32_MAX}; /* -FLT_MAX: a column of -inf adds e^-inf, not NaN */
}

static __device__ __forceinline__ RowSum both(const RowSum &a, const RowSum &b) {
    RowSum r = a;
    r.most = fmaxf(a.most, b.most);
    r.sum = a.sum * ex2((a.most - r.most) * LOG2_E) + b.sum * ex2((b.most - r.most) * LOG2_E);
    if (b.best > a.best || (b.best == a.best && b.id < a.id)) r.best = b.best, r.id = b.id;
    return r;
}

/* Over the lanes of a warp; each gets it. */
static __device__ __forceinline__ RowSum warp_both(RowSum r) {
    for (int bits = 16; bits > 0; bits /= 2) {
        RowSum other = {__shfl_xor_sync(EVERY_LANE, r.most, bits), __shfl_xor_sync(EVERY_LANE, r.sum, bits),
                        __shfl_xor_sync(EVERY_LANE, r.best, bits), __shfl_xor_sync(EVERY_LANE, r.id, bits)};
        r = both(r, other);
    }
    return r;
}

/* Of N groups in registers; their ids rise, so the first of several equal ones stays the best. */
template <int N, int THREADS>
static __device__ __forceinline__ void find_best(RowSum &r, const Four (&f)[N], int32_t column) {
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (f[i].x[k] > r.best) r.best = f[i].x[k], r.id = column + 4 * i * THREADS + k;
}

template <int N> static __device__ __forceinline__ void sum_exponentials(RowSum &r, const Four (&f)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) r.most = fmaxf(r.most, f[i].x[k]);
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) r.sum += ex2((f[i].x[k] - r.most) * LOG2_E);
}

/* Over the block, in thread 0; partial: [PART_WARPS] shared. */
static __device__ __forceinline__ RowSum block_both(RowSum r, RowSum *partial) {
    r = warp_both(r);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = r;
    __syncthreads();
    r = partial[0];
    for (int i = 1; i < PART_WARPS; i++) r = both(r, partial[i]);
    return r;
}

/* Of a whole row from its parts; a warp calls this together and each lane gets it. A row of NaN: token 0. */
static __device__ __forceinline__ RowSum whole_row(const RowSum *part, int32_t parts) {
    RowSum r = no_columns();
    for (int32_t i = threadIdx.x % 32; i < parts; i += 32) r = both(r, part[i]);
    r = warp_both(r);
    if (r.id == INT32_MAX) r.id = 0;
    return r;
}

/* ---- the best ---- */

/* Ranks run from the largest logit down, among equal ones from the lowest id up. */
struct Token {
    float x;
    int32_t id;
};
static __device__ __forceinline__ bool better(Token a, Token b) {
    return a.x > b.x || (a.x == b.x && a.id < b.id);
}
static __device__ __forceinline__ Token before_all() {
    return Token{INFINITY, -1};
}

/* A token as one number, larger for the better. No two are equal, and none is 0. */
typedef uint64_t Key;
static __device__ __forceinline__ Key key_of(Token t) {
    uint32_t bits = __float_as_uint(t.x + 0.0f); /* -0 becomes 0, its equal */
    bits ^= bits >> 31 ? 0xFFFFFFFFu : 0x80000000u;
    return (Key)bits << 32 | (0xFFFFFFFFu - (uint32_t)t.id);
}
static __device__ __forceinline__ Token token_of(Key key) {
    uint32_t bits = (uint32_t)(key >> 32);
    return Token{__uint_as_float(bits ^ (bits >> 31 ? 0x80000000u : 0xFFFFFFFFu)),
                 (int32_t)(0xFFFFFFFFu - (uint32_t)key)};
}

/* The block's list of keys, in shared memory. */
enum { LIST_MAX = 2048 };
struct List {
    Key *key; /* [LIST_MAX] */
    int32_t *count;
};

/* Falling, by bitonic sorting; n is a power of two. The whole block calls this together. Lane l of warp w
 * compares pair 32 w + l in each step, so keys up to 32 apart stay in a warp, and the block need not wait. */
static __device__ __forceinline__ void sort_keys(Key *key, int32_t n) {
    __syncthreads();
    for (int32_t run = 2; run <= n; run *= 2)
        for (int32_t apart = run / 2; apart > 0; apart /= 2) {
            for (int32_t i = threadIdx.x; i < n / 2; i += blockDim.x) {
                int32_t a = 2 * i - (i & (apart - 1)), b = a + apart;
                bool falling = (a & run) == 0;
                if ((key[a] < key[b]) == falling) {
                    Key t = key[a];
                    key[a] = key[b], key[b] = t;
                }
            }
            int32_t next = apart > 1 ? apart / 2 : run;
            if (max(apart, next) > 32)
                __syncthreads();
            else
                __syncwarp();
        }
    __syncthreads();
}

/* Sorts the list and drops what is worse than its `wanted` best. How many are left. */
static __device__ __forceinline__ int32_t keep_best(List l, int32_t wanted) {
    int32_t n = min(*l.count, (int32_t)LIST_MAX), size = 1;
    while (size < n) size *= 2;
    for (int32_t i = n + threadIdx.x; i < size; i += blockDim.x) l.key[i] = 0;
    sort_keys(l.key, size);
    if (threadIdx.x == 0) *l.count = min(n, wanted);
    __syncthreads();
    return min(n, wanted);
}

/* A number that `wanted` of the block's threads reach with theirs, or -inf: the smallest over the warps of
 * the r-th largest of a warp, r the wanted ones of each. Of logits at random not many more than wanted reach
 * it; how many do is a matter of speed alone. shared: [warps] */
static __device__ __forceinline__ float reached_by(float mine, int32_t wanted, float *shared) {
    int32_t warps = (int32_t)blockDim.x / 32, lane = (int32_t)threadIdx.x % 32;
    float most = -INFINITY;
    for (int32_t i = 0; i < wanted; i += warps) {
        most = mine;
        for (int bits = 16; bits > 0; bits /= 2) most = fmaxf(most, __shfl_xor_sync(EVERY_LANE, most, bits));
        uint32_t who = __ballot_sync(EVERY_LANE, mine == most);
        if (lane == __ffs((int)who) - 1) mine = -INFINITY;
    }
    if (lane == 0) shared[threadIdx.x / 32] = most;
    __syncthreads();
    for (int32_t i = 0; i < warps; i++) most = fminf(most, shared[i]);
    __syncthreads(); /* shared is written again by the next call */
    return most;
}

/* Which of the tokens in a thread's groups, the first at `column`, are behind `after` but not behind `floor`:
 * four bits for each group. */
template <int N, int THREADS>
static __device__ __forceinline__ uint32_t tokens_within(const Row &r, const Four (&f)[N], int32_t column,
                                                         Token floor, Token after) {
    uint32_t within = 0;
#pragma unroll
    for (int e = 0; e < 4 * N; e++) {
        Token t = {f[e / 4].x[e % 4], column + e / 4 * 4 * THREADS + e % 4};
        if (in_row(r, t.id) && better(after, t) && !better(floor, t)) within |= 1u << e;
    }
    return within;
}

/* The token of bit e: read once more, from the cache, as registers have no index; few are asked for. */
template <int THREADS>
static __device__ __forceinline__ Token token_at(const Row &r, int32_t column, int32_t e) {
    int32_t id = column + e / 4 * 4 * THREADS + e % 4;
    return Token{r.x[id], id};
}

/* Puts those tokens into the list. When it is full it is cut down to the `wanted` best, whose worst is the
 * new floor. Which thread comes first into a full list is chance, the best of all are not. */
template <int N, int THREADS>
static __device__ __forceinline__ void collect(List l, const Row &r, const Four (&f)[N], int32_t column,
                                               Token &floor, Token after, int32_t wanted) {
    uint32_t within = tokens_within<N, THREADS>(r, f, column, floor, after);
    for (;;) {
        int32_t place = within ? atomicAdd(l.count, __popc(within)) : 0;
        for (; within && place < LIST_MAX; within &= within - 1)
            l.key[place++] = key_of(token_at<THREADS>(r, column, __ffs((int)within) - 1));
        __syncthreads();
        bool full = *l.count > LIST_MAX;
        __syncthreads(); /* count changes again */
        if (!full) return;
        keep_best(l, wanted);
        floor = token_of(l.key[wanted - 1]);
        within &= tokens_within<N, THREADS>(r, f, column, floor, after);
        __syncthreads(); /* the list grows again */
    }
}

/* ---- the host's side ---- */

/* Rows of topk that are under way together: more need not be, and so the scratch is small. A reading of the
 * row finds this many of its best. */
enum { TOPK_ROWS = 1024, TOPK_READING = 32 };

/* What the kernels of one operation leave each other. */
struct DistillRow;
struct LogitsScratch {
    RowSum *sum;     /* [rows, parts] */
    DistillRow *row; /* [rows] */
    Key *best;       /* [TOPK_ROWS, parts, TOPK_READING] */
    Token *last;     /* [TOPK_ROWS] */
};

/* ST_ARG beyond the stream's limits. */
Status logits_open(Logits *out, LogitsScratch *scratch, const char *op, CudaStream *s, Tensor logits);
/* The sums of all parts of all rows. */
Status logits_sums(CudaStream *s, const char *op, const Logits &l, RowSum *sum);

#endif
