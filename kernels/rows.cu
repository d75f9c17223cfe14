/* rows.cu -- moving rows: gather, scatter, add, and in and out of pages. Nothing but memory traffic: each
 * element is read once and written once, eight at a time (vectors.cuh), and rounded only where the two types
 * differ. */
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
    TRY(cuda_float("gather", "y", a->y));
    TRY(cuda_float("gather", "table", a->table));
    Move m = {rows_of(a->y), rows_of(a->table), (const int32_t *)a->id.data, a->y.dim[0], a->y.dim[1]};
    dim3 block = row_block(m.width);
    TRY(cuda_begin(s, "gather"));
    TRY_LAUNCH("gather", gather_kernel, grid_of(m.rows, block), block, 0, s, m);
    return ST_OK;
}

Status scatter_cuda(Stream *stream, const ScatterArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(scatter_check(a));
    TRY(cuda_float("scatter", "y", a->y));
    TRY(cuda_float("scatter", "x", a->x));
    Move m = {rows_of(a->y), rows_of(a->x), (const int32_t *)a->id.data, a->x.dim[0], a->x.dim[1]};
    dim3 block = row_block(m.width);
    TRY(cuda_begin(s, "scatter"));
    TRY_LAUNCH("scatter", scatter_kernel, grid_of(m.rows, block), block, 0, s, m);
    return ST_OK;
}

/* ---- add ---- */

static __global__ void __launch_bounds__(ROW_THREADS) add_kernel(Floats y, Floats x, int64_t n) {
    int64_t i = 8 * ((int64_t)blockIdx.x * ROW_THREADS + threadIdx.x);
    if (i >= n) return;
    float a[8], b[8];
    fetch8(a, y, i, n - i);
    fetch8(b, x, i, n - i);
    widen8(a, y);
    widen8(b, x);
#pragma unroll
    for (int k = 0; k < 8; k++) a[k] += b[k];
    store8(y, i, n - i, a);
}

Status add_cuda(Stream *stream, const AddArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(add_check(a));
    TRY(cuda_float("add", "y", a->y));
    TRY(cuda_float("add", "x", a->x));
    int64_t n = tensor_count(a->y);
    TRY(cuda_begin(s, "add"));
    TRY_LAUNCH("add", add_kernel, dim3((unsigned)blocks_for(n, 8 * ROW_THREADS)), dim3(ROW_THREADS), 0, s,
               elements_of(a->y), elements_of(a->x), n);
    return ST_OK;
}

/* ---- pages ---- */

struct Paging {
    Floats k_pool, v_pool, k, v;
    const int32_t *slot;
    int32_t T, G, D;
};

/* The element of a pool [pages,G,KV_PAGE,D] where head g of the row in `slot` begins. */
static __device__ __forceinline__ int64_t pool_index(const Paging &p, int32_t slot, int32_t g) {
    return (((int64_t)(slot / KV_PAGE) * p.G + g) * KV_PAGE + slot % KV_PAGE) * p.D;
}

/* A thread has its eight elements of both k and v under way at once. */
static __global__ void __launch_bounds__(ROW_THREADS) page_store_kernel(Paging p) {
    int32_t head = (int32_t)row_of(blockIdx.x), c = 8 * (int32_t)threadIdx.x;
    if (head >= p.T * p.G || c >= p.D) return;
    int32_t slot = p.slot[head / p.G];
    if (slot < 0) return;
    int64_t from = (int64_t)head * p.D + c, to = pool_index(p, slot, head % p.G) + c;
    float k[8], v[8];
    fetch8(k, p.k, from, p.D - c);
    fetch8(v, p.v, from, p.D - c);
    widen8(k, p.k);
    widen8(v, p.v);
    store8(p.k_pool, to, p.D - c, k);
    store8(p.v_pool, to, p.D - c, v);
}

static __global__ void __launch_bounds__(ROW_THREADS) page_load_kernel(Paging p) {
    int32_t head = (int32_t)row_of(blockIdx.x), c = 8 * (int32_t)threadIdx.x;
    if (head >= p.T * p.G || c >= p.D) return;
    int32_t slot = p.slot[head / p.G],
            n = slot < 0 ? 0 : p.D - c; /* of no slot: nothing is read, zeros come */
    int64_t from = pool_index(p, slot, head % p.G) + c, to = (int64_t)head * p.D + c;
    float k[8], v[8];
    fetch8(k, p.k_pool, from, n);
    fetch8(v, p.v_pool, from, n);
    widen8(k, p.k_pool);
    widen8(v, p.v_pool);
    store8(p.k, to, p.D - c, k);
    store8(p.v, to, p.D - c, v);
}

static Status paging_of(const char *op, Tensor k_pool, Tensor v_pool, Tensor k, Tensor v, Tensor slot,
                        Paging *out) {
    TRY(cuda_float(op, "k_pool", k_pool));
    TRY(cuda_float(op, "v_pool", v_pool));
    TRY(cuda_float(op, "k", k));
    TRY(cuda_float(op, "v", v));
    *out =
        Paging{rows_of(k_pool),   rows_of(v_pool),   rows_of(k),       rows_of(v), (const int32_t *)slot.data,
               (int32_t)k.dim[0], (int32_t)k.dim[1], (int32_t)k.dim[2]};
    NEED(out->D <= 8 * ROW_THREADS, ST_UNSUPPORTED, "%s: heads of %d, at most %d", op, out->D,
         8 * ROW_THREADS);
    return ST_OK;
}

Status page_store_cuda(Stream *stream, const PageStoreArgs *a) {
    CudaStream *s = cuda_stream(stream);
    Paging p;
    TRY(page_store_check(a));
    TRY(paging_of("page_store", a->k_pool, a->v_pool, a->k, a->v, a->slot, &p));
    dim3 block = row_block(p.D);
    TRY(cuda_begin(s, "page_store"));
    TRY_LAUNCH("page_store", page_store_kernel, grid_of((int64_t)p.T * p.G, block), block, 0, s, p);
    return ST_OK;
}

Status page_load_cuda(Stream *stream, const PageLoadArgs *a) {
    CudaStream *s = cuda_stream(stream);
    Paging p;
    TRY(page_load_check(a));
    TRY(paging_of("page_load", a->k_pool, a->v_pool, a->k, a->v, a->slot, &p));
    dim3 block = row_block(p.D);
    TRY(cuda_begin(s, "page_load"));
    TRY_LAUNCH("page_load", page_load_kernel, grid_of((int64_t)p.T * p.G, block), block, 0, s, p);
    return ST_OK;
}
