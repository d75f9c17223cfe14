/* adam.cu -- one Adam step on pages, and the norm of a gradient: memory traffic with little arithmetic in it.
 *
 * A step is one launch, whatever the number of cartridges. A block takes one head of one page of one slice
 * (all keys or all values of a layer), 64 x D numbers in a row, of which the rows from .. to learn:
 *
 *     row  0 .. from    0 -> g                           frozen: nothing but the gradient is touched
 *       from .. to      p g m v -> p m v pool, 0 -> g    34 bytes a number when the pool is bf16
 *         to .. 64      0 -> g                           the tail of a last page
 *
 * A lane takes four numbers, so an access of a warp to p, g, m or v is 512 bytes in a row, one to the pool
 * 256. What the update needs beside these depends on the page alone; one thread works it out, in double,
 * because 1 - beta2^step is small in the first steps. */
#include "kernels/cuda_stream.cuh"

enum { THREADS = 256, WARPS = THREADS / 32, LANE = 4 /* numbers of a lane */ };

/* What lies where; sizes in numbers. */
struct Pages {
    int32_t slices, n, heads, width; /* [slices, n, heads, KV_PAGE, width] */
    const int32_t *from, *to;
};

static Pages pages_of(Tensor t, Tensor from, Tensor to) {
    return Pages{(int32_t)t.dim[0], (int32_t)t.dim[1],          (int32_t)t.dim[2],
                 (int32_t)t.dim[4], (const int32_t *)from.data, (const int32_t *)to.data};
}

static int64_t heads_of(const Pages &p) {
    return (int64_t)p.slices * p.n * p.heads;
}

/* One head of one page: which page, and which of its numbers learn. */
struct Head {
    int32_t slice, page, head, first, end, size;
};

static __device__ __forceinline__ Head head_at(const Pages &p, int64_t i) {
    int32_t page = (int32_t)(i / p.heads % p.n);
    return Head{(int32_t)(i / p.heads / p.n), page,
                (int32_t)(i % p.heads),       p.from[page] * p.width,
                p.to[page] * p.width,         KV_PAGE * p.width};
}

/* ---- adam ---- */

struct Adam {
    Pages shape;
    float *p, *g, *m, *v;
    int32_t pool_pages;
    const int32_t *page, *step;
    const float *lr;
    float beta1, beta2, eps, grad_scale;
    bool to_bf16;
};

/* What is the same for all numbers of a page. */
struct PageStep {
    float rest1, rest2, unbias1, unbias2, lr;
};

static __device__ double power(double base, int32_t n) {
    double result = 1;
    for (; n > 0; n >>= 1, base *= base)
        if (n & 1) result *= base;
    return result;
}

static __device__ PageStep page_step(const Adam &a, int32_t page) {
    int32_t n = a.step[page];
    return PageStep{(float)(1 - (double)a.beta1), (float)(1 - (double)a.beta2),
                    (float)(1 / (1 - power(a.beta1, n))), (float)(1 / (1 - power(a.beta2, n))), a.lr[page]};
}

/* N numbers of one lane, moved by one access. */
template <int N> struct Numbers { float x[N]; };

template <int N> static __device__ __forceinline__ Numbers<N> load(const float *at) {
    Numbers<N> r;
    if (N == LANE) {
        Vec16 v = load16(at);
#pragma unroll
        for (int i = 0; i < N; i++) r.x[i] = __uint_as_float(v.w[i]);
    } else {
        r.x[0] = *at;
    }
    return r;
}

template <int N> static __device__ __forceinline__ void store(float *at, const Numbers<N> &r) {
    if (N == LANE) {
        Vec16 v;
#pragma unroll
        for (int i = 0; i < N; i++) v.w[i] = __float_as_uint(r.x[i]);
        store16(at, v);
    } else {
        *at = r.x[0];
    }
}

template <int N> static __device__ __forceinline__ void store(bf16 *at, const Numbers<N> &r) {
    if (N == LANE) {
        *(uint2 *)at = make_uint2(pack_bf16(r.x[0], r.x[1 % N]), pack_bf16(r.x[2 % N], r.x[3 % N]));
    } else {
        *at = __float2bfloat16_rn(r.x[0]);
    }
}

static __device__ __forceinline__ float nearest_bf16(float x) {
    return __bfloat162float(__float2bfloat16_rn(x));
}

/* Numbers i .. i+N of the masters, which go to `pool`. */
template <int N, class X>
static __device__ __forceinline__ void update(const Adam &a, const PageStep &s, int64_t i, X *pool) {
    Numbers<N> p = load<N>(a.p + i), g = load<N>(a.g + i), m = load<N>(a.m + i), v = load<N>(a.v + i);
#pragma unroll
    for (int k = 0; k < N; k++) {
        float gradient = a.grad_scale * g.x[k];
        m.x[k] = a.beta1 * m.x[k] + s.rest1 * gradient;
        v.x[k] = a.beta2 * v.x[k] + s.rest2 * gradient * gradient;
        p.x[k] -= s.lr * (m.x[k] * s.unbias1) / (sqrtf(v.x[k] * s.unbias2) + a.eps);
    }
    store(a.m + i, m);
    store(a.v + i, v);
    store(a.p + i, p);
#pragma unroll
    for (int k = 0; k < N; k++)
        if (a.to_bf16)
            p.x[k] = nearest_bf16(p.x[k]); /* of what was stored: the file must agree with the master */
    store(pool, p);
}

template <int N, class X> static __global__ void __launch_bounds__(THREADS) adam_kernel(Adam a, X *pool) {
    SHARED_ARRAY(PageStep, step, 1);
    Head h = head_at(a.shape, blockIdx.x);
    if (threadIdx.x == 0) step[0] = page_step(a, h.page);
    __syncthreads(); /* step is there */
    PageStep s = step[0];
    int64_t here = (int64_t)blockIdx.x * h.size;
    pool += (((int64_t)h.slice * a.pool_pages + a.page[h.page]) * a.shape.heads + h.head) * h.size;
    for (int32_t i = N * threadIdx.x; i < h.size; i += N * THREADS) {
        if (i >= h.first && i < h.end) update<N>(a, s, here + i, pool + i);
        store(a.g + here + i, Numbers<N>{});
    }
}

static bool in_fours(Tensor t) {
    return (uintptr_t)t.data % 16 == 0;
}

Status adam_cuda(Stream *stream, const AdamArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(adam_check(a));
    TRY(cuda_type("adam", "p", a->p, DT_F32));
    TRY(cuda_type("adam", "g", a->g, DT_F32));
    TRY(cuda_type("adam", "m", a->m, DT_F32));
    TRY(cuda_type("adam", "v", a->v, DT_F32));
    TRY(cuda_float("adam", "pool", a->pool));
    Adam k = {pages_of(a->p, a->from, a->to),
              (float *)a->p.data,
              (float *)a->g.data,
              (float *)a->m.data,
              (float *)a->v.data,
              (int32_t)a->pool.dim[1],
              (const int32_t *)a->page.data,
              (const int32_t *)a->step.data,
              (const float *)a->lr.data,
              a->beta1,
              a->beta2,
              a->eps,
              a->grad_scale,
              a->keep == DT_BF16};
    bool fours = a->p.dim[4] % LANE == 0 && in_fours(a->p) && in_fours(a->g) && in_fours(a->m) &&
                 in_fours(a->v) && in_fours(a->pool);
    int64_t heads = heads_of(k.shape);
    if (heads == 0) return ST_OK;
    TRY(cuda_begin(s, "adam"));
    WITH_FLOAT(a->pool, X, {
        TRY_LAUNCH("adam", (fours ? adam_kernel<LANE, X> : adam_kernel<1, X>), dim3((unsigned)heads),
                   dim3(THREADS), 0, s, k, (X *)a->pool.data);
    });
    return ST_OK;
}

/* ---- squared norm ---- */

/* At most so many blocks, each with every SUMS-th head: the order of adding follows from the shape alone. */
enum { SUMS = 1024 };

size_t adam_scratch(void) {
    return sizeof(double) * SUMS;
}

/* The sum over the block, in every thread. */
static __device__ double block_sum(double x) {
    SHARED_ARRAY(double, of_warp, WARPS);
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, offset);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    double sum = 0;
#pragma unroll
    for (int i = 0; i < WARPS; i++) sum += of_warp[i];
    __syncthreads(); /* of_warp is written again by the next sum */
    return sum;
}

static __device__ double sum_of_head(const Pages &shape, const float *g, int64_t i) {
    Head h = head_at(shape, i);
    const float *x = g + i * h.size;
    double sum = 0;
    if (h.first >= h.end) return 0;
    /* Whole groups of four, from that with the first number to that with the last; the rest is left out. */
    for (int32_t at = (h.first & ~(LANE - 1)) + LANE * (int32_t)threadIdx.x; at < h.end;
         at += LANE * THREADS) {
        Numbers<LANE> v = load<LANE>(x + at);
#pragma unroll
        for (int k = 0; k < LANE; k++)
            if (at + k >= h.first && at + k < h.end) sum += (double)v.x[k] * v.x[k];
    }
    return sum;
}

/* Each block leaves its sum; the last one to do so adds them up, in their order. */
static __global__ void __launch_bounds__(THREADS)
    squared_norm_kernel(Pages shape, int64_t heads, const float *g, double *part, uint32_t *ticket,
                        double *out) {
    SHARED_ARRAY(bool, last, 1);
    double sum = 0;
    for (int64_t i = blockIdx.x; i < heads; i += gridDim.x) sum += sum_of_head(shape, g, i);
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        part[blockIdx.x] = sum;
        last[0] = add_acquire_release(ticket, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last[0]) return;
    sum = 0;
    for (int32_t i = threadIdx.x; i < (int32_t)gridDim.x; i += THREADS) sum += part[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *out = sum, *ticket = 0;
}

Status squared_norm_cuda(Stream *stream, const SquaredNormArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(squared_norm_check(a));
    TRY(cuda_type("squared_norm", "g", a->g, DT_F32));
    NEED(in_fours(a->g), ST_UNSUPPORTED, "squared_norm: g begins off a 16-byte boundary");
    Pages shape = pages_of(a->g, a->from, a->to);
    int64_t heads = heads_of(shape), blocks = min(max(heads, (int64_t)1), (int64_t)SUMS);
    TRY(cuda_begin(s, "squared_norm"));
    TRY_LAUNCH("squared_norm", squared_norm_kernel, dim3((unsigned)blocks), dim3(THREADS), 0, s, shape, heads,
               (const float *)a->g.data, (double *)s->scratch, s->ticket, (double *)a->sum.data);
    return ST_OK;
}
