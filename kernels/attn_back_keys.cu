/* attn_back_keys.cu -- dK and dV of pages: keys stay, rows pass by. See attn_back.cu for the whole.
 *
 * A block owns one page of one key head (or a stretch of the walk over its rows, see attn_back.cuh). The
 * page's keys and values lie in shared memory, and every warp has 16 of the 64 keys, with their dK and dV in
 * registers from the first row to the last. Packed rows come by BACK_STEP at a time, their q and dO
 * double-buffered:
 *
 *                       32 rows                     P^T   = 2^(rate S^T - lse)
 *     warp 0   16 keys  S^T  = K q^T                dS^T  = P^T (dP^T - delta)
 *     warp 1   16 keys  dP^T = V dO^T
 *     warp 2   16 keys                              dV += P^T  dO     [16 keys, D] += [16, 32] [32, D]
 *     warp 3   16 keys                              dK += dS^T q
 *
 * With keys as the rows of all four products, what a warp has of P^T and dS^T is already the left operand of
 * the next product; nothing passes through shared memory or from warp to warp. A warp whose keys none of the
 * rows sees sits the step out, and only steps on a border look at single keys and rows.
 *
 * NaN in rows of the page that nobody sees is harmless here: a key meets only its own rows of S^T and dP^T,
 * and those are replaced by zeros. Rows outside the sequence are zeros in shared memory, since dV and dK sum
 * over them. */
#include "kernels/attn_back_tile.cuh"

enum { WARP_KEYS = KV_PAGE / BACK_WARPS };

template <int D> struct KeysShared {
    bf16 k[KV_PAGE * D], v[KV_PAGE * D];
    struct Step {
        bf16 q[BACK_STEP * D], d_o[BACK_STEP * D];
        float2 row[BACK_STEP]; /* lse and delta */
    } step[2];
};

template <int D> struct KeySums { float dk[D / 8][4], dv[D / 8][4]; };

struct KeysWork {
    BackPass pass;
    const BackItem *item;
    const BackVisit *visit;
    float *partial;
    uint32_t *ticket;
    int32_t first, learned; /* item of block 0; items of learned pages come before `learned` */
};

/* ---- the walk over rows ---- */

/* A step: BACK_STEP rows from `row` (even) on, of a visit. Visits are read from memory where they are needed:
 * with two steps at hand there are no registers for them. */
struct RowWalk {
    int32_t visit, row;
};

TILE_FN RowWalk walk_to(const KeysWork &a, int32_t visit, int32_t skip) {
    return RowWalk{visit, (a.visit[visit].row_from & ~1) + skip * BACK_STEP};
}

TILE_FN RowWalk walk_on(const KeysWork &a, RowWalk w) {
    w.row += BACK_STEP;
    return w.row < a.visit[w.visit].row_to ? w : walk_to(a, w.visit + 1, 0);
}

template <int D>
TILE_FN void load_step(typename KeysShared<D>::Step &to, const KeysWork &a, RowWalk w, int32_t g) {
    const BackPass &p = a.pass;
    const BackVisit v = a.visit[w.visit];
    const int chunks = D / CHUNK, thread = (int)threadIdx.x;
#pragma unroll
    for (int i = 0; i < BACK_STEP * chunks / BACK_THREADS; i++) {
        int c = thread + i * BACK_THREADS, r = c / chunks, row = w.row + r;
        bool there = row >= v.row_from && row < v.row_to;
        int64_t from = there ? head_row(p, row, g) * D + c % chunks * CHUNK : 0;
        cp_async16(tile_at<D>(to.q, r, c % chunks), p.q + from, there);
        cp_async16(tile_at<D>(to.d_o, r, c % chunks), p.d_o + from, there);
    }
    if (thread < BACK_STEP / 2) {
        int row = w.row + 2 * thread;
        bool there = row < v.row_to;
        cp_async16(to.row + 2 * thread, p.row + (there ? g * p.packed + row : 0), there);
    }
}

/* ---- one step of one warp ---- */

enum Sight { NONE, SOME, ALL };

/* Whether the warp's keys are seen by the step's rows. */
TILE_FN Sight sight_of(const KeysWork &a, RowWalk w) {
    const BackVisit v = a.visit[w.visit];
    const int32_t group = a.pass.group;
    int first = max(warp_index() * WARP_KEYS, (int)v.key_from);
    int end = min((warp_index() + 1) * WARP_KEYS, (int)v.key_to);
    if (first >= end || w.row + BACK_STEP <= (v.diagonal + first) * group) return NONE;
    bool all = end - first == WARP_KEYS && w.row >= max(v.row_from, (v.diagonal + end - 1) * group) &&
               w.row + BACK_STEP <= v.row_to;
    return all ? ALL : SOME;
}

/* The first row that sees this lane's key l/4 + 8 upper; after every row for a key that nobody sees. */
TILE_FN int32_t first_row(const BackVisit &v, int32_t group, int upper) {
    int key = warp_index() * WARP_KEYS + lane_index() / 4 + 8 * upper;
    return key >= v.key_from && key < v.key_to ? max(v.row_from, (v.diagonal + key) * group) : v.row_to;
}

enum { COLUMNS = BACK_STEP / 8 }; /* of mma tiles in S^T */

/* S^T and dP^T. */
template <int D>
TILE_FN void products(float (&s)[COLUMNS][4], float (&dp)[COLUMNS][4], KeysShared<D> &page,
                      typename KeysShared<D>::Step &step) {
    clear(s);
    clear(dp);
#pragma unroll 2 /* the addresses of all chunks would take more registers than there are */
    for (int k = 0; k < D / 16; k++) {
        uint32_t key[4], value[4], b[4];
        load_a<D>(key, page.k, warp_index() * WARP_KEYS, k);
        load_a<D>(value, page.v, warp_index() * WARP_KEYS, k);
#pragma unroll
        for (int n = 0; n < COLUMNS; n += 2) {
            load_b<D>(b, step.q, 8 * n, k);
            mma_bf16(s[n], key, b[0], b[1]);
            mma_bf16(s[n + 1], key, b[2], b[3]);
            load_b<D>(b, step.d_o, 8 * n, k);
            mma_bf16(dp[n], value, b[0], b[1]);
            mma_bf16(dp[n + 1], value, b[2], b[3]);
        }
    }
}

/* S^T becomes P^T, dP^T becomes dS^T. */
TILE_FN void differentiate(float (&s)[COLUMNS][4], float (&dp)[COLUMNS][4], const float2 *row, float rate) {
#pragma unroll
    for (int n = 0; n < COLUMNS; n++) {
        const Vec16 two = load16(row + 8 * n + lane_index() % 4 * 2);
        const float lse[2] = {__uint_as_float(two.w[0]), __uint_as_float(two.w[2])};
        const float delta[2] = {__uint_as_float(two.w[1]), __uint_as_float(two.w[3])};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[n][i] = ex2(fmaf(s[n][i], rate, -lse[i % 2]));
            dp[n][i] = s[n][i] * (dp[n][i] - delta[i % 2]);
        }
    }
}

/* Zeros where a row does not see a key, whatever was computed there. */
TILE_FN void hide(float (&s)[COLUMNS][4], float (&dp)[COLUMNS][4], const KeysWork &a, RowWalk w) {
    const BackVisit v = a.visit[w.visit];
    const int32_t from[2] = {first_row(v, a.pass.group, 0), first_row(v, a.pass.group, 1)};
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int32_t row = w.row + 8 * n + lane_index() % 4 * 2 + i % 2;
            if (row >= from[i / 2] && row < v.row_to) continue;
            s[n][i] = dp[n][i] = 0.0f;
        }
}

template <int D>
TILE_FN void add_step(KeySums<D> &sum, KeysShared<D> &page, typename KeysShared<D>::Step &step,
                      const KeysWork &a, RowWalk w, Sight sight) {
    float s[COLUMNS][4], dp[COLUMNS][4];
    products<D>(s, dp, page, step);
    differentiate(s, dp, step.row, a.pass.rate);
    if (sight == SOME) hide(s, dp, a, w);
#pragma unroll
    for (int k = 0; k < BACK_STEP / 16; k++) {
        uint32_t share[4], ds[4], b[4];
        pack_a(share, s[2 * k], s[2 * k + 1]);
        pack_a(ds, dp[2 * k], dp[2 * k + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            load_b_transposed<D>(b, step.d_o, 16 * k, n);
            mma_bf16(sum.dv[2 * n], share, b[0], b[1]);
            mma_bf16(sum.dv[2 * n + 1], share, b[2], b[3]);
            load_b_transposed<D>(b, step.q, 16 * k, n);
            mma_bf16(sum.dk[2 * n], ds, b[0], b[1]);
            mma_bf16(sum.dk[2 * n + 1], ds, b[2], b[3]);
        }
    }
}

/* ---- sums of several parts ---- */

/* Sums lie in memory as threads hold them: element i of every thread, then element i + 1. */
template <int D> TILE_FN Vec16 *sums_at(float *partial, int32_t slot, int32_t G, int32_t g) {
    return (Vec16 *)(partial + ((int64_t)slot * G + g) * 2 * KV_PAGE * D) + threadIdx.x;
}

TILE_FN void store_four(Vec16 *to, const float (&x)[4]) {
    store16(to, Vec16{{__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                       __float_as_uint(x[3])}});
}

TILE_FN void add_four(float (&sum)[4], const Vec16 *from) {
    const Vec16 x = load16(from);
#pragma unroll
    for (int i = 0; i < 4; i++) sum[i] += __uint_as_float(x.w[i]);
}

template <int D> TILE_FN void store_sums(Vec16 *to, const KeySums<D> &sum) {
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        store_four(to + 2 * n * BACK_THREADS, sum.dk[n]);
        store_four(to + (2 * n + 1) * BACK_THREADS, sum.dv[n]);
    }
}

template <int D> TILE_FN void add_sums(KeySums<D> &sum, const Vec16 *from) {
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        add_four(sum.dk[n], from + 2 * n * BACK_THREADS);
        add_four(sum.dv[n], from + (2 * n + 1) * BACK_THREADS);
    }
}

/* Leaves this part's sums. The last part to come returns true, with the sums of all parts added in their
 * order. */
template <int D>
TILE_FN bool merge_parts(KeySums<D> &sum, const BackItem &item, float *partial, uint32_t *ticket, int32_t G,
                         int32_t g) {
    SHARED_ARRAY(uint32_t, before, 1);
    store_sums<D>(sums_at<D>(partial, item.slot + item.part, G, g), sum);
    __syncthreads(); /* all threads' sums are written, and released by the next line */
    uint32_t *arrived = ticket + (int64_t)item.slot * G + g;
    if (threadIdx.x == 0) before[0] = add_acquire_release(arrived, 1);
    __syncthreads(); /* everybody may look at `before`, and at the other parts' sums */
    if (before[0] + 1 < (uint32_t)item.parts) return false;
    if (threadIdx.x == 0) *arrived = 0; /* for the next pass */
    clear(sum.dk);
    clear(sum.dv);
    for (int32_t i = 0; i < item.parts; i++) add_sums<D>(sum, sums_at<D>(partial, item.slot + i, G, g));
    return true;
}

/* ---- the kernel ---- */

/* to[16 keys, D] = or += factor * sum. */
template <int D>
TILE_FN void store_gradient(float *to, const float (&sum)[D / 8][4], float factor, bool add) {
    to += (warp_index() * WARP_KEYS + lane_index() / 4) * D + lane_index() % 4 * 2;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int upper = 0; upper < 2; upper++) {
            float2 *at = (float2 *)(to + 8 * upper * D + 8 * n);
            float2 old = add ? *at : make_float2(0.0f, 0.0f);
            *at = make_float2(old.x + factor * sum[n][2 * upper], old.y + factor * sum[n][2 * upper + 1]);
        }
}

/* Adds up what the item's rows give. */
template <int D>
TILE_FN void walk_rows(KeySums<D> &sum, KeysShared<D> &page, const KeysWork &a, const BackItem *item,
                       int32_t g) {
    const int32_t steps = item->steps;
    if (steps == 0) return; /* an own page that nobody sees */
    const int64_t at = ((int64_t)item->page * a.pass.G + g) * KV_PAGE * D;
    tile_load<D, BACK_THREADS>(page.k, a.pass.k + at, 0, KV_PAGE);
    tile_load<D, BACK_THREADS>(page.v, a.pass.v + at, 0, KV_PAGE);
    RowWalk next = walk_to(a, item->visit, item->skip);
    load_step<D>(page.step[0], a, next, g);
    cp_async_commit();
    for (int32_t i = 0; i < steps; i++) {
        cp_async_wait<0>();
        __syncthreads(); /* step i has landed, and nobody reads step i - 1 any more */
        const RowWalk now = next;
        if (i + 1 < steps) {
            next = walk_on(a, now);
            load_step<D>(page.step[(i + 1) % 2], a, next, g);
            cp_async_commit();
        }
        Sight sight = sight_of(a, now);
        if (sight != NONE) add_step<D>(sum, page, page.step[i % 2], a, now, sight);
    }
}

template <int D>
static __global__ void __launch_bounds__(BACK_THREADS, D == 64 ? 3 : 2) attn_back_keys(KeysWork a) {
    DYN_SMEM(smem);
    const BackPass &p = a.pass;
    const int32_t index = a.first + blockIdx.x / p.G, g = blockIdx.x % p.G;
    const BackItem *item = a.item + index;
    KeySums<D> sum;
    clear(sum.dk);
    clear(sum.dv);
    walk_rows<D>(sum, *(KeysShared<D> *)smem, a, item, g);
    if (item->parts > 1 && !merge_parts<D>(sum, *item, a.partial, a.ticket, p.G, g)) return;
    const bool learned = index < a.learned;
    const int64_t to = ((int64_t)item->grad * p.G + g) * KV_PAGE * D;
    store_gradient<D>((learned ? p.dk_learned : p.dk_own) + to, sum.dk, p.scale, learned);
    store_gradient<D>((learned ? p.dv_learned : p.dv_own) + to, sum.dv, 1.0f, learned);
}

Status back_keys_run(CudaStream *s, const BackList *l, const BackPass *pass, int32_t D, int32_t from,
                     int32_t to) {
    if (from == to) return ST_OK;
    const KeysWork work = {*pass, l->item.device, l->visit.device, l->partial, l->ticket, from, l->learned};
    const dim3 grid((unsigned)((to - from) * pass->G)), block(BACK_THREADS);
    if (D == 64)
        TRY_LAUNCH("attn_back", attn_back_keys<64>, grid, block, sizeof(KeysShared<64>), s, work);
    else
        TRY_LAUNCH("attn_back", attn_back_keys<128>, grid, block, sizeof(KeysShared<128>), s, work);
    return ST_OK;
}
