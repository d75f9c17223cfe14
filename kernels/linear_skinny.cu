/* linear_skinny.cu -- y[T,O] = x[T,I] w[O,I]^T for T <= 16: decoding. Its time is that of reading w once.
 *
 * A block owns 16 outputs, its warps share I. The product runs on tensor cores, with w as the 16-row operand
 * and the rows of x as its columns, so that 1 to 8 rows cost what w costs. In an mma of depth 16, thread (g,
 * q) of a warp holds the depths 2q, 2q+1, 2q+8, 2q+9 of row g of w and of column g of x. Which depths of I
 * those are does not matter as long as both operands agree; so thread q takes the eight consecutive depths 8q
 * .. 8q+7 of a stretch of 32, for two mmas, and both operands come from memory by 16-byte loads straight into
 * the registers where the mma wants them:
 *
 *     depth of I    0 .......7 8 ......15 16 .....23 24 .....31
 *     thread q      0          1          2          3
 *     first mma     0 1 2 3    8 9 10 11  16 ..19    24 ..27      (2q, 2q+1, 2q+8, 2q+9 of it)
 *     second mma    4 5 6 7    12 .. 15   20 ..23    28 ..31
 *
 * Neither shared memory nor ldmatrix is needed before the end, where the warps' sums are added in order. */
#include "kernels/linear_skinny.cuh"

enum { OUTPUTS = 16, WARPS = 4, STRETCH = 32, ROWS_MAX = 16, COLUMNS = 8, STRETCHES_AHEAD = 4 };
/* Of the sums in shared memory: with it those that a warp stores together lie in all banks. */
enum { PITCH = OUTPUTS + 4 };

bool skinny_suits(Tensor x, Tensor w) {
    return x.dtype == DT_BF16 && w.dtype == DT_BF16 && x.dim[0] <= ROWS_MAX && x.dim[1] % STRETCH == 0 &&
           ((uintptr_t)x.data | (uintptr_t)w.data) % 16 == 0;
}

struct Skinny {
    void *y;
    const bf16 *x, *w, *b;
    const void *residual; /* like y, or NULL */
    int32_t T, I, O;
};

/* Eight depths of a row; zeros for a row that is not there. */
static __device__ __forceinline__ Vec16 depths_of(const bf16 *rows, int32_t row, int32_t count, int32_t I,
                                                  int32_t i) {
    Vec16 zero = {{0, 0, 0, 0}};
    return row < count ? load16(rows + (int64_t)row * I + i) : zero;
}

/* sum[c] += the products of one stretch: w rows g and g+8 against columns 8c+g of x. */
template <int TILES>
static __device__ __forceinline__ void multiply_stretch(float (&sum)[TILES][4], const Skinny &p, int32_t o,
                                                        int32_t i) {
    const int32_t g = (threadIdx.x & 31) >> 2;
    Vec16 low = depths_of(p.w, o + g, p.O, p.I, i), high = depths_of(p.w, o + g + 8, p.O, p.I, i);
    uint32_t first[4] = {low.w[0], high.w[0], low.w[1], high.w[1]},
             second[4] = {low.w[2], high.w[2], low.w[3], high.w[3]};
#pragma unroll
    for (int c = 0; c < TILES; c++) {
        Vec16 x = depths_of(p.x, c * COLUMNS + g, p.T, p.I, i);
        mma_bf16(sum[c], first, x.w[0], x.w[1]);
        mma_bf16(sum[c], second, x.w[2], x.w[3]);
    }
}

template <class Y>
static __device__ __forceinline__ void store_output(const Skinny &p, int32_t t, int32_t o, float v) {
    int64_t i = (int64_t)t * p.O + o;
    if (p.b) v += __bfloat162float(p.b[o]);
    if (p.residual) v += (float)((const Y *)p.residual)[i];
    ((Y *)p.y)[i] = (Y)v;
}

template <class Y, int TILES> static __global__ void __launch_bounds__(WARPS * 32) skinny(Skinny p) {
    SHARED_ARRAY(float, part, WARPS *TILES *COLUMNS *PITCH);
    const int32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, o = blockIdx.x * OUTPUTS;
    float sum[TILES][4] = {};
#pragma unroll STRETCHES_AHEAD
    for (int32_t i = warp * STRETCH; i < p.I; i += WARPS * STRETCH)
        multiply_stretch(sum, p, o, i + lane % 4 * 8);
#pragma unroll
    for (int c = 0; c < TILES; c++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int32_t output = lane / 4 + e / 2 * 8, t = c * COLUMNS + lane % 4 * 2 + e % 2;
            part[(warp * TILES * COLUMNS + t) * PITCH + output] = sum[c][e];
        }
    __syncthreads();
    for (int32_t j = threadIdx.x; j < OUTPUTS * TILES * COLUMNS; j += WARPS * 32) {
        int32_t t = j / OUTPUTS, output = j % OUTPUTS;
        if (t >= p.T || o + output >= p.O) continue;
        float v = 0;
        for (int w = 0; w < WARPS; w++) v += part[(w * TILES * COLUMNS + t) * PITCH + output];
        store_output<Y>(p, t, o + output, v);
    }
}

Status skinny_run(CudaStream *s, Tensor y, Tensor x, Tensor w, Tensor b, Tensor residual) {
    Skinny p = {y.data,        (const bf16 *)x.data, (const bf16 *)w.data, (const bf16 *)b.data,
                residual.data, (int32_t)x.dim[0],    (int32_t)x.dim[1],    (int32_t)w.dim[0]};
    dim3 grid((unsigned)blocks_for(p.O, OUTPUTS)), block(WARPS * 32);
    WITH_FLOAT(y, Y, {
        if (p.T <= COLUMNS)
            TRY_LAUNCH("linear", (skinny<Y, 1>), grid, block, 0, s, p);
        else
            TRY_LAUNCH("linear", (skinny<Y, 2>), grid, block, 0, s, p);
    });
    return ST_OK;
}
