/* attn_back_queries.cu -- dQ of rows: rows stay, pages pass by. See attn_back.cu for the whole.
 *
 * A block owns BACK_ROWS packed rows of one sequence and one key head, each warp 16 of them: q, dO and dQ in
 * registers. The pages of the sequence's segments come one at a time, keys and values double-buffered in
 * shared memory:
 *
 *                       32 keys of a page           S  = q K^T       P  = 2^(rate S - lse)
 *     warp 0   16 rows  two strips of them,         dP = dO V^T      dS = P (dP - delta)
 *     ..                one after the other
 *     warp 3   16 rows                              dQ += dS K       [16 rows, D] += [16, 32] [32, D]
 *
 * S and dP are computed here a second time, after attn_back_keys.cu: two products more than the five there
 * are, but dQ is then a sum in one block's registers, in an order that is always the same, and one write.
 * Strips that no row of a warp sees are left out; only strips on a border look at single keys.
 *
 * Rows of a page outside of its segment are zeros in shared memory: there may be NaN, and dQ sums over keys.
 */
#include "kernels/attn_back_tile.cuh"

enum { WARP_ROWS = BACK_ROWS / BACK_WARPS, STRIP = 32, COLUMNS = STRIP / 8 };

template <int D> struct QueriesShared {
    struct Page {
        bf16 k[KV_PAGE * D], v[KV_PAGE * D];
    } page[2];
};

struct QueriesWork {
    BackPass pass;
    const BackTile *tile;
    const int32_t *row, *seg, *page; /* the layout */
    const Segment *segment;
};

/* ---- the walk over pages ---- */

/* Entry e of segment i. Keys up to `end`, counted like those of entry 0 from 0, are seen by some row of the
 * tile. */
struct PageWalk {
    int32_t i, e, end;
    Segment seg;
    bool own;
};

/* `later`: tokens of the sequence behind the tile's last one. */
TILE_FN void walk_to(PageWalk &w, const QueriesWork &a, int32_t i, int32_t segments, int32_t later) {
    w.i = i;
    if (i == segments) return;
    w.seg = a.segment[i];
    w.own = i + 1 == segments;
    w.e = w.seg.from / KV_PAGE;
    w.end = w.seg.from + w.seg.length - (w.own ? later : 0);
}

TILE_FN void walk_on(PageWalk &w, const QueriesWork &a, int32_t segments, int32_t later) {
    w.e++;
    if (w.e * KV_PAGE >= w.end) walk_to(w, a, w.i + 1, segments, later);
}

template <int D>
TILE_FN void load_page(typename QueriesShared<D>::Page &to, const QueriesWork &a, const PageWalk &w,
                       int32_t g) {
    const int64_t at = ((int64_t)a.page[w.seg.first + w.e] * a.pass.G + g) * KV_PAGE * D;
    const int from = w.seg.from - w.e * KV_PAGE, end = w.end - w.e * KV_PAGE;
    tile_load<D, BACK_THREADS>(to.k, a.pass.k + at, from, end);
    tile_load<D, BACK_THREADS>(to.v, a.pass.v + at, from, end);
}

/* ---- a warp's rows ---- */

template <int D> struct Rows {
    uint32_t q[D / 16][4], d_o[D / 16][4];
    float dq[D / 8][4];
    float lse[2], delta[2]; /* of rows l/4 and l/4 + 8 */
    int32_t later[2];       /* tokens of the sequence behind those rows' */
    /* ... behind the warp's last row and its first; fewest > most: the warp has no rows. */
    int32_t fewest, most;
};

template <int D> TILE_FN void load_rows(Rows<D> &r, const QueriesWork &a, const BackTile &tile, int32_t g) {
    const BackPass &p = a.pass;
    const int32_t first = tile.row + warp_index() * WARP_ROWS, last_token = a.row[tile.sequence + 1] - 1;
    const int32_t end = (last_token + 1) * p.group;
    const bf16 *q[2] = {}, *d_o[2] = {};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int32_t row = first + lane_index() / 4 + 8 * i;
        r.lse[i] = INFINITY; /* a row that is not there: P = 0 */
        r.delta[i] = 0.0f;
        r.later[i] = last_token - row / p.group;
        if (row >= end) continue;
        const float2 statistics = p.row[g * p.packed + row];
        r.lse[i] = statistics.x, r.delta[i] = statistics.y;
        q[i] = p.q + head_row(p, row, g) * D, d_o[i] = p.d_o + head_row(p, row, g) * D;
    }
    r.most = last_token - first / p.group;
    r.fewest = first < end ? last_token - (min(first + WARP_ROWS, end) - 1) / p.group : r.most + 1;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        load_a_rows(r.q[k], q[0], q[1], k);
        load_a_rows(r.d_o[k], d_o[0], d_o[1], k);
    }
    clear(r.dq);
}

template <int D>
TILE_FN void store_rows(const Rows<D> &r, const QueriesWork &a, const BackTile &tile, int32_t g) {
    const BackPass &p = a.pass;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int32_t row = tile.row + warp_index() * WARP_ROWS + lane_index() / 4 + 8 * i;
        if (row >= a.row[tile.sequence + 1] * p.group) continue;
        float *to = p.dq + head_row(p, row, g) * D + lane_index() % 4 * 2;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            *(float2 *)(to + 8 * n) = make_float2(p.scale * r.dq[n][2 * i], p.scale * r.dq[n][2 * i + 1]);
    }
}

/* ---- one strip ---- */

/* S and dP of the strip's keys, which begin at row `key` of the page. */
template <int D>
TILE_FN void products(float (&s)[COLUMNS][4], float (&dp)[COLUMNS][4], const Rows<D> &r,
                      typename QueriesShared<D>::Page &page, int key) {
    clear(s);
    clear(dp);
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
        for (int n = 0; n < COLUMNS; n += 2) {
            uint32_t b[4];
            load_b<D>(b, page.k, key + 8 * n, k);
            mma_bf16(s[n], r.q[k], b[0], b[1]);
            mma_bf16(s[n + 1], r.q[k], b[2], b[3]);
            load_b<D>(b, page.v, key + 8 * n, k);
            mma_bf16(dp[n], r.d_o[k], b[0], b[1]);
            mma_bf16(dp[n + 1], r.d_o[k], b[2], b[3]);
        }
}

/* dP becomes dS. */
template <int D>
TILE_FN void differentiate(float (&dp)[COLUMNS][4], const float (&s)[COLUMNS][4], const Rows<D> &r,
                           float rate) {
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            dp[n][i] = ex2(fmaf(s[n][i], rate, -r.lse[i / 2])) * (dp[n][i] - r.delta[i / 2]);
}

/* Zeros where a row does not see a key; `key` is the strip's first, counted like w.end. */
template <int D>
TILE_FN void hide(float (&ds)[COLUMNS][4], const Rows<D> &r, const PageWalk &w, int32_t key) {
    const int32_t all = w.seg.from + w.seg.length;
    const int32_t end[2] = {all - (w.own ? r.later[0] : 0), all - (w.own ? r.later[1] : 0)};
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int32_t at = key + 8 * n + lane_index() % 4 * 2 + i % 2;
            if (at < w.seg.from || at >= end[i / 2]) ds[n][i] = 0.0f;
        }
}

/* dQ += dS K for the strip that begins at row `key` of the page. */
template <int D>
TILE_FN void add_strip(Rows<D> &r, typename QueriesShared<D>::Page &page, float rate, const PageWalk &w,
                       int key, bool border) {
    float s[COLUMNS][4], dp[COLUMNS][4];
    products<D>(s, dp, r, page, key);
    differentiate<D>(dp, s, r, rate);
    if (border) hide<D>(dp, r, w, w.e * KV_PAGE + key);
#pragma unroll
    for (int k = 0; k < STRIP / 16; k++) {
        uint32_t ds[4], b[4];
        pack_a(ds, dp[2 * k], dp[2 * k + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            load_b_transposed<D>(b, page.k, key + 16 * k, n);
            mma_bf16(r.dq[2 * n], ds, b[0], b[1]);
            mma_bf16(r.dq[2 * n + 1], ds, b[2], b[3]);
        }
    }
}

template <int D>
TILE_FN void add_page(Rows<D> &r, typename QueriesShared<D>::Page &page, float rate, const PageWalk &w) {
    if (r.fewest > r.most) return;
    const int32_t end = w.seg.from + w.seg.length;
    const int32_t every = end - (w.own ? r.most : 0),
                  some = end - (w.own ? r.fewest : 0); /* row of the warp sees */
#pragma unroll 1
    for (int strip = 0; strip < KV_PAGE; strip += STRIP) {
        const int32_t key = w.e * KV_PAGE + strip;
        if (key >= some || key + STRIP <= w.seg.from) continue;
        add_strip<D>(r, page, rate, w, strip, key < w.seg.from || key + STRIP > every);
    }
}

/* ---- the kernel ---- */

template <int D> static __global__ void __launch_bounds__(BACK_THREADS, 2) attn_back_queries(QueriesWork a) {
    DYN_SMEM(smem);
    QueriesShared<D> &shared = *(QueriesShared<D> *)smem;
    const BackTile tile = a.tile[blockIdx.x / a.pass.G];
    const int32_t g = blockIdx.x % a.pass.G, segments = a.seg[tile.sequence + 1],
                  end = a.row[tile.sequence + 1];
    const int32_t later = end - 1 - (min(tile.row + BACK_ROWS, end * a.pass.group) - 1) / a.pass.group;
    PageWalk now, next;
    Rows<D> rows;
    walk_to(next, a, a.seg[tile.sequence], segments, later);
    load_page<D>(shared.page[0], a, next, g);
    cp_async_commit();
    load_rows<D>(rows, a, tile, g);
    for (int i = 0; next.i < segments; i++) {
        cp_async_wait<0>();
        __syncthreads(); /* page i has landed, and nobody reads page i - 1 any more */
        now = next;
        walk_on(next, a, segments, later);
        if (next.i < segments) {
            load_page<D>(shared.page[(i + 1) % 2], a, next, g);
            cp_async_commit();
        }
        add_page<D>(rows, shared.page[i % 2], a.pass.rate, now);
    }
    store_rows<D>(rows, a, tile, g);
}

Status back_queries_run(CudaStream *s, const CudaPlan *plan, const BackPass *pass) {
    const LayoutArrays *l = &plan->layout;
    const QueriesWork work = {*pass,         plan->back.tile.device, l->row.device,
                              l->seg.device, l->page.device,         l->segment.device};
    const dim3 grid((unsigned)(plan->back.tiles * pass->G)), block(BACK_THREADS);
    if (plan->limits.head_dim == 64)
        TRY_LAUNCH("attn_back", attn_back_queries<64>, grid, block, sizeof(QueriesShared<64>), s, work);
    else
        TRY_LAUNCH("attn_back", attn_back_queries<128>, grid, block, sizeof(QueriesShared<128>), s, work);
    return ST_OK;
}
