/* attn_back.cu -- gradients of attention. Contract: AttnBackArgs in ops.h; reference: attn_back.c.
 *
 *   plain  (attn_back_plain.cu)  a block per row of a result; any head size up to 256, f32 or bf16
 *   tiled  (below)               tensor cores; head sizes 64 and 128, bf16
 *
 * With the lse of all segments together, each key's part of the gradient is a matter between that key and the
 * rows that see it. The tiled version is three kernels:
 *
 *   row_statistics          lse in base 2 and delta = rowsum(dO o), in the order of packed rows
 *   attn_back_keys.cu       dK, dV: a block owns a page of one head, and every row that sees it passes by
 *   attn_back_queries.cu       dQ: a block owns 64 rows, and every page that they see passes by
 *
 *                 keys                          The square of rows and keys is gone through twice, by columns
 * and by
 *              +--+--+--+--+                    rows: seven products instead of five. In return every sum
 * stays in the rows     |  |##|  |  |   ## a block       registers of one block, is written once, and has an
 * order that depends |  |##|  |  |   of dK and dV     on shapes only: no atomics, nothing to clear, the same
 * bits every time.
 *              |==|==|==|==|   == a block of dQ
 *              +--+--+--+--+
 *
 * "Packed" rows are token x query head of a group: all rows that may see a key head's keys, numbered through.
 * A group of any size fills tiles as well as any other, and q, dO and the statistics of a step are nearly one
 * stretch of memory. */
#include "kernels/attn_back_tile.cuh"

/* ---- statistics of rows ---- */

struct RowStatistics {
    float2 *row; /* as in BackList */
    const bf16 *o, *d_o;
    const float *lse;
    int64_t packed;
    int32_t rows, H, group; /* rows: T * H */
};

TILE_FN void store_statistics(const RowStatistics &a, int32_t row, float delta) {
    if (row >= a.rows) return;
    int32_t t = row / a.H, h = row % a.H;
    a.row[h / a.group * a.packed + t * a.group + h % a.group] = make_float2(a.lse[row] * LOG2_E, delta);
}

/* delta is the diagonal of dO o^T, a warp taking 16 rows of both. Most of the products are thrown away, but
 * the sum is the tensor core's, in the order in which it adds up dP = dO V^T: of a row that sees one key
 * only, o is v, and dP - delta is zero to the last bit. */
template <int D>
static __global__ void __launch_bounds__(BACK_THREADS) attn_back_row_statistics(RowStatistics a) {
    const int32_t low = (blockIdx.x * BACK_WARPS + warp_index()) * 16 + lane_index() / 4, high = low + 8;
    float of_low[4] = {}, of_high[4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t o[4], d_o[4];
        load_a_rows(o, low < a.rows ? a.o + (int64_t)low * D : NULL,
                    high < a.rows ? a.o + (int64_t)high * D : NULL, k);
        load_a_rows(d_o, low < a.rows ? a.d_o + (int64_t)low * D : NULL,
                    high < a.rows ? a.d_o + (int64_t)high * D : NULL, k);
        mma_bf16(of_low, d_o, o[0], o[2]);  /* the columns are rows 0 .. 7 of o: */
        mma_bf16(of_high, d_o, o[1], o[3]); /* and rows 8 .. 15 */
    }
    const int diagonal =
        lane_index() / 4; /* column l/4 of row l/4 is with the lane that has columns l%4 * 2 .. + 1 */
    if (lane_index() % 4 != diagonal / 2) return;
    store_statistics(a, low, diagonal % 2 ? of_low[1] : of_low[0]);
    store_statistics(a, high, diagonal % 2 ? of_high[3] : of_high[2]);
}

static Status find_statistics(CudaStream *s, const CudaPlan *p, const AttnBackArgs *a, int64_t packed) {
    const RowStatistics to = {p->back.row,
                              (const bf16 *)a->o.data,
                              (const bf16 *)a->d_o.data,
                              (const float *)a->lse.data,
                              packed,
                              p->T * p->limits.heads,
                              p->limits.heads,
                              p->limits.heads / p->limits.kv_heads};
    const dim3 grid((unsigned)blocks_for(to.rows, BACK_WARPS * 16)), block(BACK_THREADS);
    if (p->limits.head_dim == 64)
        TRY_LAUNCH("attn_back", attn_back_row_statistics<64>, grid, block, 0, s, to);
    else
        TRY_LAUNCH("attn_back", attn_back_row_statistics<128>, grid, block, 0, s, to);
    return ST_OK;
}

/* ---- the host's side ---- */

static BackPass pass_of(const CudaPlan *p, const AttnBackArgs *a) {
    BackPass to = {};
    to.q = (const bf16 *)a->q.data, to.d_o = (const bf16 *)a->d_o.data;
    to.k = (const bf16 *)a->k.data, to.v = (const bf16 *)a->v.data;
    to.dq = (float *)a->dq.data;
    to.dk_own = (float *)a->dk_own.data, to.dv_own = (float *)a->dv_own.data;
    to.dk_learned = (float *)a->dk_learned.data, to.dv_learned = (float *)a->dv_learned.data;
    to.H = p->limits.heads, to.G = p->limits.kv_heads, to.group = to.H / to.G;
    to.row = p->back.row, to.packed = ((int64_t)p->T * to.group + 1) / 2 * 2;
    to.scale = a->scale, to.rate = a->scale * LOG2_E;
    return to;
}

Status back_run(CudaStream *s, const CudaPlan *p, const AttnBackArgs *a) {
    const BackPass pass = pass_of(p, a);
    const BackList *l = &p->back;
    const int32_t from = a->dk_learned.data ? 0 : l->learned;
    const int32_t to = a->dk_own.data ? l->learned + l->own : l->learned;
    TRY(find_statistics(s, p, a, pass.packed));
    if (from < to) TRY(back_keys_run(s, l, &pass, p->limits.head_dim, from, to));
    return a->dq.data ? back_queries_run(s, p, &pass) : ST_OK;
}

static Status check_types(const AttnBackArgs *a) {
    TRY(cuda_float("attn_back", "q", a->q));
    TRY(cuda_type("attn_back", "k", a->k, a->q.dtype));
    TRY(cuda_type("attn_back", "v", a->v, a->q.dtype));
    TRY(cuda_type("attn_back", "o", a->o, a->q.dtype));
    TRY(cuda_type("attn_back", "d_o", a->d_o, a->q.dtype));
    TRY(cuda_type("attn_back", "lse", a->lse, DT_F32));
    TRY(cuda_type("attn_back", "dq", a->dq, DT_F32));
    TRY(cuda_type("attn_back", "dk_own", a->dk_own, DT_F32));
    TRY(cuda_type("attn_back", "dv_own", a->dv_own, DT_F32));
    TRY(cuda_type("attn_back", "dk_learned", a->dk_learned, DT_F32));
    return cuda_type("attn_back", "dv_learned", a->dv_learned, DT_F32);
}

Status attn_back_cuda(Stream *stream, const AttnBackArgs *a) {
    CudaStream *s = cuda_stream(stream);
    const CudaPlan *p = cuda_plan(a->plan);
    TRY(attn_back_check(a, &p->limits, p->T));
    TRY(check_types(a));
    TRY(cuda_begin(s, "attn_back"));
    bool tiles = a->q.dtype == DT_BF16 && head_has_tiles(p->limits.head_dim) && p->back.fits;
    return tiles ? back_run(s, p, a) : back_plain_run(s, p, a);
}
