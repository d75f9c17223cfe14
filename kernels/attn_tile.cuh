/* attn_tile.cuh -- tiles in shared memory, fragments in registers: what the attention kernels share.
 *
 * A tile is the keys (or values) of one head in one page: KV_PAGE rows of D bf16, one contiguous block of the
 * pool. In shared memory a row keeps its place, but its 16-byte chunks change theirs: chunk c of row r stands
 * at c ^ (r % 8).
 *
 *     place       0 1 2 3 4 5 6 7
 *     row 0       0 1 2 3 4 5 6 7         Eight rows of one chunk, which is what ldmatrix fetches at a time,
 *     row 1       1 0 3 2 5 4 7 6         lie in eight different groups of banks; so does one row, which is
 *     row 2       2 3 0 1 6 7 4 5         what cp.async stores. Neither ever waits for a bank. With D = 128
 *     ..                                  the pattern repeats for chunks 8 .. 15.
 *
 * mma.m16n8k16 multiplies A [16 rows, 16 k] by B [16 k, 8 columns] into C [16 rows, 8 columns]. Lane l holds
 * rows l / 4 and l / 4 + 8 of A and of C, and of C in each of them the columns 2 (l % 4) and the next one.
 * The four lanes that share rows are a quad, their two rows a row pair:
 *
 *     c[0] c[1]   row l / 4,     columns 2 (l % 4), 2 (l % 4) + 1      row i of the pair: c[2 i], c[2 i + 1]
 *     c[2] c[3]   row l / 4 + 8, the same columns
 *
 * Two neighbouring C of scores are, rounded to bf16, just the A of the product with the values: no lane needs
 * what another has. */
#ifndef KERNELS_ATTN_TILE_CUH
#define KERNELS_ATTN_TILE_CUH

#include <math.h>

#include "kernels/cuda.cuh"
extern "C" {
#include "kernels/ops.h"
}

#define TILE_FN static __device__ __forceinline__

enum { WARP = 32, CHUNK = 8 /* elements in 16 bytes */ };

static const float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;

TILE_FN int lane_index() {
    return (int)threadIdx.x % WARP;
}
TILE_FN int warp_index() {
    return (int)threadIdx.x / WARP;
}

/* ---- shared memory ---- */

/* Where chunk `chunk` of row `row` lies. */
template <int D> TILE_FN bf16 *tile_at(bf16 *tile, int row, int chunk) {
    return tile + row * D + (chunk ^ (row & 7)) * CHUNK;
}

/* Queues the copy of a page's head tile by all THREADS of the block. Rows outside from .. to become zero and
 * are not read: there may be NaN, and 0 * NaN would reach every sum. The caller commits, waits and
 * synchronises. */
template <int D, int THREADS> TILE_FN void tile_load(bf16 *tile, const bf16 *page_head, int from, int to) {
    const int chunks = D / CHUNK;
    static_assert(KV_PAGE * chunks % THREADS == 0, "every thread copies as many chunks");
#pragma unroll
    for (int i = 0; i < KV_PAGE * chunks / THREADS; i++) {
        int c = (int)threadIdx.x + i * THREADS, row = c / chunks;
        cp_async16(tile_at<D>(tile, row, c % chunks), page_head + c * CHUNK, row >= from && row < to);
    }
}

/* ---- fragments ---- */

/* A[16 rows, 16 k] out of rows row .. row+16 and columns 16 k .. 16 k + 16. */
template <int D> TILE_FN void load_a(uint32_t (&a)[4], bf16 *tile, int row, int k) {
    int l = lane_index();
    ldmatrix_x4(a, tile_at<D>(tile, row + l % 16, 2 * k + l / 16));
}

/* A[16 rows, 16 k] where the tile has k along its rows, k .. k+16, and A's rows along its columns,
 * 16 m .. 16 m + 16. */
template <int D> TILE_FN void load_a_transposed(uint32_t (&a)[4], bf16 *tile, int k, int m) {
    int l = lane_index();
    ldmatrix_x4_trans(a, tile_at<D>(tile, k + l / 16 * 8 + l % 8, 2 * m + l / 8 % 2));
}

/* Two B[16 k, 8 columns] out of tile rows n .. n+16 (B's columns) and tile columns 16 k .. 16 k + 16:
 * b[0], b[1] of rows n .. n+8, b[2], b[3] of the next eight. This is K in Q K^T. */
template <int D> TILE_FN void load_b(uint32_t (&b)[4], bf16 *tile, int n, int k) {
    int l = lane_index();
    ldmatrix_x4(b, tile_at<D>(tile, n + l / 16 * 8 + l % 8, 2 * k + l / 8 % 2));
}

/* Two B[16 k, 8 columns] where the tile has k along its rows, k .. k+16, and B's columns along its own, 16 n
 * .. 16 n + 16: b[0], b[1] of the first eight columns, b[2], b[3] of the next. This is V in P V. */
template <int D> TILE_FN void load_b_transposed(uint32_t (&b)[4], bf16 *tile, int k, int n) {
    int l = lane_index();
    ldmatrix_x4_trans(b, tile_at<D>(tile, k + l % 16, 2 * n + l / 16));
}

/* Sums of columns 16 k .. 16 k + 8 and of the next eight, as the A of another product. */
TILE_FN void pack_a(uint32_t (&a)[4], const float (&c0)[4], const float (&c1)[4]) {
    a[0] = pack_bf16(c0[0], c0[1]);
    a[1] = pack_bf16(c0[2], c0[3]);
    a[2] = pack_bf16(c1[0], c1[1]);
    a[3] = pack_bf16(c1[2], c1[3]);
}

template <int N> TILE_FN void clear(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) c[n][i] = 0.0f;
}

/* ---- rows ---- */

/* Over the four lanes that share a row; all of them get the result. */
TILE_FN float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
TILE_FN float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

/* A row pair in the middle of its softmax: the largest score so far (as computed, before the scale), and what
 * this lane's columns add to sum 2^(rate (score - largest)), with rate = scale * log2(e) > 0. */
struct RowPair {
    float largest[2], sum[2];
};

TILE_FN RowPair row_pair_new() {
    return RowPair{{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
}

/* What scores are measured from: zero where all are -inf, whose difference with itself would be NaN. */
TILE_FN float row_base(float largest, float rate) {
    return largest == -INFINITY ? 0.0f : largest * rate;
}

/* Takes in the scores of 8 N further keys, which become exponentials; masked ones are -inf. What was summed
 * under the old maximum has to be multiplied by shrink[i]; the pair's own sum already is. */
template <int N> TILE_FN void row_pair_add(RowPair &r, float (&score)[N][4], float rate, float (&shrink)[2]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float largest = r.largest[i];
#pragma unroll
        for (int n = 0; n < N; n++) largest = fmaxf(largest, fmaxf(score[n][2 * i], score[n][2 * i + 1]));
        largest = quad_max(largest);
        float base = row_base(largest, rate), sum = 0.0f;
        shrink[i] = ex2(r.largest[i] * rate - base);
#pragma unroll
        for (int n = 0; n < N; n++) {
            score[n][2 * i] = ex2(score[n][2 * i] * rate - base);
            score[n][2 * i + 1] = ex2(score[n][2 * i + 1] * rate - base);
            sum += score[n][2 * i] + score[n][2 * i + 1];
        }
        r.largest[i] = largest;
        r.sum[i] = r.sum[i] * shrink[i] + sum;
    }
}

/* Multiplies the sums of a row pair: c[n][0], c[n][1] by factor[0], the others by factor[1]. */
template <int N> TILE_FN void row_pair_scale(float (&c)[N][4], const float (&factor)[2]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) c[n][i] *= factor[i / 2];
}

/* log sum exp of row i, natural; `sum` is the whole row's. -inf for a row without keys. */
TILE_FN float row_lse(float largest, float sum, float rate) {
    return sum > 0.0f ? (row_base(largest, rate) + log2f(sum)) * LN_2 : -INFINITY;
}

#endif
