/* attn_back_tile.cuh -- what the two tiled kernels of attn_back share: packed rows, and fragments out of
 * memory. */
#ifndef KERNELS_ATTN_BACK_TILE_CUH
#define KERNELS_ATTN_BACK_TILE_CUH

#include "kernels/attn_plan.cuh"
#include "kernels/attn_tile.cuh"

enum { BACK_WARPS = 4, BACK_THREADS = BACK_WARPS * WARP };

/* Packed row `row` of key head g, as a row of q, d_o and dq. */
TILE_FN int64_t head_row(const BackPass &p, int32_t row, int32_t g) {
    int32_t t = row / p.group;
    return (int64_t)t * p.H + g * p.group + (row - t * p.group);
}

/* A[16 rows, 16 k] of a product straight out of memory: `low` and `high` are rows l/4 and l/4 + 8 of the
 * tile, or NULL, which reads as zeros. */
TILE_FN void load_a_rows(uint32_t (&a)[4], const bf16 *low, const bf16 *high, int k) {
    int column = 16 * k + lane_index() % 4 * 2;
    a[0] = low ? *(const uint32_t *)(low + column) : 0;
    a[1] = high ? *(const uint32_t *)(high + column) : 0;
    a[2] = low ? *(const uint32_t *)(low + column + 8) : 0;
    a[3] = high ? *(const uint32_t *)(high + column + 8) : 0;
}

#endif
