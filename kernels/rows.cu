/* rows.cu -- moving rows: gather and scatter. Nothing but memory traffic: each element is read once and
 * written once, eight at a time (vectors.cuh), and rounded only where the two types differ. */
#include "kernels/vectors.cuh"

/* Row t on one side is row id[t] on the other. */
struct Move {
    Floats to, from;
    const int32_t *id;
    int64_t rows, width;
};

/* One row, shared out among the lanes. */
static __device__ __forceinline__ void move_row(const Move &m, int64_t to, int64_t from) {
    for (int64_t c = 8 * threadIdx.x; c < m.width; c += 8 * blockDim.x) {
        float v[8];
        load8(v, m.from, from * m.width + c, m.width - c);
        store8(m.to, to * m.width + c, m.width - c, v);
    }
}

static __global__ void __launch_bounds__(ROW_THREADS) gather_kernel(Move m) {
    int64_t t = row_of(blockIdx.x);
    if (t < m.rows) move_row(m, t, m.id[t]);
}

static __global__ void __launch_bounds__(ROW_THREADS) scatter_kernel(Move m) {
    int64_t t = row_of(blockIdx.x);
    if (t < m.rows) move_row(m, m.id[t], t);
}

static dim3 grid_of(int64_t rows, dim3 block) {
    return dim3((unsigned)blocks_for(rows, block.y));
}

Status gather_cuda(Stream *stream, const GatherArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(gather_check(a));
    Move m = {{}, {}, (const int32_t *)a->id.data, a->y.dim[0], a->y.dim[1]};
    FLOATS_OF(m.to, "gather", a->y, m.width);
    FLOATS_OF(m.from, "gather", a->table, m.width);
    dim3 block = row_block(m.width);
    TRY(cuda_begin(s, "gather"));
    TRY_LAUNCH("gather", gather_kernel, grid_of(m.rows, block), block, 0, s, m);
    return ST_OK;
}

Status scatter_cuda(Stream *stream, const ScatterArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(scatter_check(a));
    Move m = {{}, {}, (const int32_t *)a->id.data, a->x.dim[0], a->x.dim[1]};
    FLOATS_OF(m.to, "scatter", a->y, m.width);
    FLOATS_OF(m.from, "scatter", a->x, m.width);
    dim3 block = row_block(m.width);
    TRY(cuda_begin(s, "scatter"));
    TRY_LAUNCH("scatter", scatter_kernel, grid_of(m.rows, block), block, 0, s, m);
    return ST_OK;
}
