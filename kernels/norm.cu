/* norm.cu -- root-mean-square norm over the last dimension, and the way back to its input.
 *
 * A row lies in registers between its sum and its store, so each element travels once in either direction.
 * Rows differ a lot in width (heads of 32, streams of 8192): a row gets a lane for each eight of its
 * elements, up to 256 lanes, and where that is not enough a lane has several groups of eight.
 *
 *   a row of 4096:   lane   0     1     2    ...   255    0      1     ...   255
 *                    group  0     0     0    ...   0      1      1     ...   1
 *                    from   0     8     16   ...   2040   2048   2056  ...   4088
 *
 *   width   groups N   rows at once R, forward and back
 *   ..2048     1         4   2
 *   ..4096     2         2   1
 *   ..8192     4         1   1
 *
 * The weights are the same for all rows. To read them once and not once per row, the grid is no larger than
 * the device and a block goes from rows to rows with its weights in registers, R at a time so that enough
 * loads are under way. */
#include "kernels/vectors.cuh"

enum { NORM_WIDTH_MAX = 8192, NORM_BLOCKS = 2 /* for each multiprocessor */ };

/* Eight elements of one of the R rows that a thread works on; those rows stand a whole grid apart. */
struct Group {
    int64_t row, first; /* index of its first element */
    int64_t left;       /* the row's elements from there on; none when there is no such row */
};
template <int N>
static __device__ __forceinline__ Group group_of(int j, int64_t block, int64_t rows, int64_t width) {
    int64_t row = row_of(block + j / N * (int64_t)gridDim.x);
    int64_t column = 8 * ((int64_t)threadIdx.x + j % N * (int64_t)blockDim.x);
    return Group{row, row * width + column, row < rows ? width - column : 0};
}

template <int N>
static __device__ __forceinline__ void load_weights(float (&w)[N][8], Floats t, int64_t width) {
#pragma unroll
    for (int n = 0; n < N; n++) {
        int64_t column = 8 * ((int64_t)threadIdx.x + n * (int64_t)blockDim.x);
        load8(w[n], t, column, width - column);
    }
}

static __device__ __forceinline__ float dot8(const float (&a)[8], const float (&b)[8]) {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < 8; k++) sum += a[k] * b[k];
    return sum;
}

/* ---- forward ---- */

struct NormTask {
    Floats y, x, w;
    float *rstd; /* may be absent */
    int64_t rows, width;
    float eps;
};

template <int N, int R> static __global__ void __launch_bounds__(ROW_THREADS) norm_kernel(NormTask t) {
    SHARED_ARRAY(float, partial, (R * ROW_WARPS));
    float w[N][8];
    load_weights(w, t.w, t.width);
    for (int64_t block = blockIdx.x; block * blockDim.y < t.rows; block += R * (int64_t)gridDim.x) {
        float x[N * R][8], sum[R] = {};
#pragma unroll
        for (int j = 0; j < N * R; j++) {
            Group g = group_of<N>(j, block, t.rows, t.width);
            fetch8(x[j], t.x, g.first, g.left);
        }
#pragma unroll
        for (int j = 0; j < N * R; j++) {
            widen8(x[j], t.x);
            sum[j / N] += dot8(x[j], x[j]);
        }
        sum_rows(sum, partial);
#pragma unroll
        for (int j = 0; j < N * R; j++) {
            Group g = group_of<N>(j, block, t.rows, t.width);
            float rstd = rsqrtf(sum[j / N] / (float)t.width + t.eps);
#pragma unroll
            for (int k = 0; k < 8; k++) x[j][k] *= w[j % N][k] * rstd;
            store8(t.y, g.first, g.left, x[j]);
            if (t.rstd && j % N == 0 && threadIdx.x == 0 && g.left > 0) t.rstd[g.row] = rstd;
        }
    }
}

/* Calls LAUNCH_NR(N, R) with the layout that the table above gives for a width. */
#define WITH_LAYOUT(width, LAUNCH_NR, R1, R2)                                                                \
    do {                                                                                                     \
        if ((width) <= 8 * ROW_THREADS)                                                                      \
            LAUNCH_NR(1, R1);                                                                                \
        else if ((width) <= 16 * ROW_THREADS)                                                                \
            LAUNCH_NR(2, R2);                                                                                \
        else                                                                                                 \
            LAUNCH_NR(4, 1);                                                                                 \
    } while (0)

static Status check_width(const char *op, int64_t width) {
    NEED(width <= NORM_WIDTH_MAX, ST_UNSUPPORTED, "%s: rows of %lld, at most %d", op, (long long)width,
         NORM_WIDTH_MAX);
    return ST_OK;
}

static dim3 grid_of(const CudaStream *s, int64_t rows, dim3 block) {
    int64_t wanted = blocks_for(rows, block.y), most = NORM_BLOCKS * (int64_t)s->processors;
    return dim3((unsigned)(wanted < most ? wanted : most));
}

Status norm_cuda(Stream *stream, const NormArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(norm_check(a));
    TRY(cuda_type("norm", "rstd", a->rstd, DT_F32));
    int64_t rows = tensor_rows_count(a->x), width = width_of(a->x);
    TRY(check_width("norm", width));
    NormTask t = {{}, {}, {}, (float *)a->rstd.data, rows, width, a->eps};
    FLOATS_OF(t.y, "norm", a->y, width);
    FLOATS_OF(t.x, "norm", a->x, width);
    FLOATS_OF(t.w, "norm", a->w, width);
    dim3 block = row_block(width), grid = grid_of(s, rows, block);
    TRY(cuda_begin(s, "norm"));
#define LAUNCH_NR(N, R) TRY_LAUNCH("norm", (norm_kernel<N, R>), grid, block, 0, s, t)
    WITH_LAYOUT(width, LAUNCH_NR, 4, 2);
#undef LAUNCH_NR
    return ST_OK;
}

/* ---- back ---- */

struct NormBackTask {
    Floats dx, dy, x, w;
    const float *rstd;
    int64_t rows, width;
    bool accumulate;
};

/* With xhat = x rstd and g = w dy:  dx = rstd (g - xhat mean(g xhat)). */
template <int N, int R>
static __global__ void __launch_bounds__(ROW_THREADS) norm_back_kernel(NormBackTask t) {
    SHARED_ARRAY(float, partial, (R * ROW_WARPS));
    float w[N][8];
    load_weights(w, t.w, t.width);
    for (int64_t block = blockIdx.x; block * blockDim.y < t.rows; block += R * (int64_t)gridDim.x) {
        float x[N * R][8], d[N * R][8], old[N * R][8] = {}, sum[R] = {};
#pragma unroll
        for (int j = 0; j < N * R; j++) {
            Group g = group_of<N>(j, block, t.rows, t.width);
            fetch8(x[j], t.x, g.first, g.left);
            fetch8(d[j], t.dy, g.first, g.left);
            if (t.accumulate) fetch8(old[j], t.dx, g.first, g.left);
        }
#pragma unroll
        for (int j = 0; j < N * R; j++) {
            widen8(x[j], t.x);
            widen8(d[j], t.dy);
            if (t.accumulate) widen8(old[j], t.dx);
#pragma unroll
            for (int k = 0; k < 8; k++) d[j][k] *= w[j % N][k];
            sum[j / N] += dot8(d[j], x[j]);
        }
        sum_rows(sum, partial);
#pragma unroll
        for (int j = 0; j < N * R; j++) {
            Group g = group_of<N>(j, block, t.rows, t.width);
            float rstd = g.left > 0 ? t.rstd[g.row] : 0.0f;
            float pull = sum[j / N] / (float)t.width * rstd * rstd;
#pragma unroll
            for (int k = 0; k < 8; k++) d[j][k] = old[j][k] + rstd * (d[j][k] - x[j][k] * pull);
            store8(t.dx, g.first, g.left, d[j]);
        }
    }
}

Status norm_back_cuda(Stream *stream, const NormBackArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(norm_back_check(a));
    TRY(cuda_type("norm_back", "rstd", a->rstd, DT_F32));
    int64_t rows = tensor_rows_count(a->x), width = width_of(a->x);
    TRY(check_width("norm_back", width));
    NormBackTask t = {{}, {}, {}, {}, (const float *)a->rstd.data, rows, width, a->accumulate};
    FLOATS_OF(t.dx, "norm_back", a->dx, width);
    FLOATS_OF(t.dy, "norm_back", a->dy, width);
    FLOATS_OF(t.x, "norm_back", a->x, width);
    FLOATS_OF(t.w, "norm_back", a->w, width);
    dim3 block = row_block(width), grid = grid_of(s, rows, block);
    TRY(cuda_begin(s, "norm_back"));
#define LAUNCH_NR(N, R) TRY_LAUNCH("norm_back", (norm_back_kernel<N, R>), grid, block, 0, s, t)
    WITH_LAYOUT(width, LAUNCH_NR, 2, 1);
#undef LAUNCH_NR
    return ST_OK;
}
