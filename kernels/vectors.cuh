/* vectors.cuh -- float tensors of either type, eight neighbours at a time; rows shared out among threads.
 *
 * Element-wise kernels wait for memory and for nothing else. What matters is that every byte travels once, in
 * accesses of 16 bytes, and that a thread has all of its loads under way before it looks at the first. So the
 * types of tensors are told at run time: one kernel serves every mixture of f32 and bf16, and the few
 * selections cost nothing beside the memory. Reading is cut in two for the same reason: fetch8 only starts
 * loads, widen8 makes floats of what came.
 *
 *   a block of 256 threads, rows of 512 elements:          x: 64 lanes, 8 elements each
 *                                                          y: 4 rows
 * A row whose width is no multiple of eight, or that begins off a 16-byte boundary, is read and written
 * element by element; only the accesses differ. */
#ifndef KERNELS_VECTORS_CUH
#define KERNELS_VECTORS_CUH

#include "kernels/cuda_stream.cuh"

enum { ROW_THREADS = 256, ROW_WARPS = ROW_THREADS / 32 };

struct Floats {
    unsigned char *data;
    bool narrow; /* bf16 */
    bool wide;   /* whole groups of eight may be accessed 16 bytes at a time */
};

static inline int64_t width_of(Tensor t) {
    return t.dim[t.ndim - 1];
}

/* The view of a tensor, or ST_UNSUPPORTED for another type. `unit`: what lies between two starts of accesses
 * is a multiple of so many elements; where everything is one long row, that is 8. */
static inline Status floats_of(Floats *out, const char *op, const char *name, Tensor t, int64_t unit) {
    *out = Floats{(unsigned char *)t.data, t.dtype == DT_BF16, (uintptr_t)t.data % 16 == 0 && unit % 8 == 0};
    return cuda_float(op, name, t);
}
#define FLOATS_OF(out, op, t, unit) TRY(floats_of(&(out), (op), #t, (t), (unit)))

/* ---- eight elements ---- */

/* Starts loading elements i .. i+8 of t, of which the first n exist; the others become zero. */
static __device__ __forceinline__ void fetch8(float (&v)[8], Floats t, int64_t i, int64_t n) {
    if (t.wide && n >= 8) {
        Vec16 a = load16(t.data + i * (t.narrow ? 2 : 4)), b = {};
        if (!t.narrow) b = load16(t.data + i * 4 + 16);
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = __uint_as_float(a.w[k]), v[k + 4] = __uint_as_float(b.w[k]);
    } else if (t.narrow) {
        const uint16_t *p = (const uint16_t *)t.data + i;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t low = 2 * k < n ? p[2 * k] : 0, high = 2 * k + 1 < n ? p[2 * k + 1] : 0;
            v[k] = __uint_as_float(low | high << 16);
        }
    } else {
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = k < n ? ((const float *)t.data)[i + k] : 0.0f;
    }
}

/* Eight bf16 came as four words; from the last to the first, so that none is overwritten unread. */
static __device__ __forceinline__ void widen8(float (&v)[8], Floats t) {
    if (!t.narrow) return;
#pragma unroll
    for (int k = 3; k >= 0; k--) {
        uint32_t pair = __float_as_uint(v[k]);
        v[2 * k + 1] = __uint_as_float(pair & 0xFFFF0000u);
        v[2 * k] = __uint_as_float(pair << 16);
    }
}

static __device__ __forceinline__ void load8(float (&v)[8], Floats t, int64_t i, int64_t n) {
    fetch8(v, t, i, n);
    widen8(v, t);
}

static __device__ __forceinline__ void store8(Floats t, int64_t i, int64_t n, const float (&v)[8]) {
    if (t.wide && n >= 8 && t.narrow) {
        store16(t.data + i * 2, Vec16{{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                                       pack_bf16(v[6], v[7])}});
    } else if (t.wide && n >= 8) {
        Vec16 a, b;
#pragma unroll
        for (int k = 0; k < 4; k++) a.w[k] = __float_as_uint(v[k]), b.w[k] = __float_as_uint(v[k + 4]);
        store16(t.data + i * 4, a);
        store16(t.data + i * 4 + 16, b);
    } else {
#pragma unroll
        for (int k = 0; k < 8; k++) {
            if (k >= n) continue;
            if (t.narrow)
                ((uint16_t *)t.data)[i + k] = (uint16_t)pack_bf16(v[k], 0.0f);
            else
                ((float *)t.data)[i + k] = v[k];
        }
    }
}

/* ---- rows ---- */

/* A power of two of lanes for each row, as many as it has groups of eight if a block has so many. */
static inline dim3 row_block(int64_t width) {
    unsigned lanes = 1;
    while (lanes < ROW_THREADS && lanes * 8 < width) lanes *= 2;
    return dim3(lanes, ROW_THREADS / lanes);
}

/* The row of this thread when a block takes blockDim.y of them at a time. */
static __device__ __forceinline__ int64_t row_of(int64_t block) {
    return block * blockDim.y + threadIdx.y;
}

/* Every lane of a row gets the sum over all of them, for R rows at once. The order of adding follows from the
 * width of the row alone. partial: [R * ROW_WARPS] shared. All threads of the block call this together. */
template <int R> static __device__ __forceinline__ void sum_rows(float (&sum)[R], float *partial) {
    int lanes = min((int)blockDim.x, 32);
    for (int offset = 1; offset < lanes; offset *= 2)
#pragma unroll
        for (int r = 0; r < R; r++) sum[r] += __shfl_xor_sync(0xFFFFFFFFu, sum[r], offset);
    if (blockDim.x <= 32) return;
    int warps = (int)blockDim.x / 32, first = (int)threadIdx.y * warps, warp = first + (int)threadIdx.x / 32;
    if (threadIdx.x % 32 == 0)
#pragma unroll
        for (int r = 0; r < R; r++) partial[r * ROW_WARPS + warp] = sum[r];
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; r++) {
        sum[r] = 0;
        for (int k = 0; k < warps; k++) sum[r] += partial[r * ROW_WARPS + first + k];
    }
    __syncthreads(); /* partial is written again for the next rows */
}

#endif
