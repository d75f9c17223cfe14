/* linear.cu -- matrix products: dense ones by cuBLASLt, few rows by a kernel of our own (linear_skinny.cu).
 *
 * cuBLASLt thinks in columns. A row-major [T,I] is its column-major [I,T], so for it
 *
 *     y[T,O]  = x[T,I] w[O,I]^T   is   y  (O x T) = w^T (w is I x O) times x (I x T)
 *     dx[T,I] = dy[T,O] w[O,I]    is   dx (I x T) = w (I x O) times dy (O x T)
 *
 * Choosing an algorithm takes longer than a small product, so choices are kept by shape. Gradients arrive as
 * f32 where sums were kept in f32 (dq, dk, dv, logits); tensor cores want bf16, so such a dy is rounded into
 * scratch first, as many rows at a time as fit there. */
#include <stdlib.h>
#include <string.h>

#include <cublasLt.h>

#include "kernels/linear_skinny.cuh"

enum { CHOICES = 512, WORKSPACE = 32 << 20, ROUNDED_ROWS_MIN = 64 };

/* One product as cuBLASLt sees it: d (m x n) = op(a) b + c + bias; c is NULL, or d, or another matrix. */
typedef struct Product {
    int32_t m, n, k;
    bool transpose_a;
    DType out; /* of c and d */
    const void *a, *b, *bias, *c;
    void *d;
} Product;

/* What a choice depends on. */
typedef struct Shape {
    int32_t m, n, k;
    uint8_t transpose_a, out, added, biased;
    uint32_t align; /* of a, b, c and d, in bytes, at most 16 each */
} Shape;
typedef struct Choice {
    Shape shape;
    bool known;
    cublasLtMatmulAlgo_t algo;
} Choice;

struct Matmul {
    cublasLtHandle_t handle;
    void *workspace;
    Choice choice[CHOICES];
};

static Status blas_status(const char *what, cublasStatus_t e) {
    NEED(e == CUBLAS_STATUS_SUCCESS, e == CUBLAS_STATUS_ALLOC_FAILED ? ST_NOMEM : ST_DEVICE,
         "%s: cuBLASLt says %s", what, cublasLtGetStatusString(e));
    return ST_OK;
}
#define TRY_BLAS(what, call) TRY(blas_status((what), (call)))

Status matmul_open(CudaStream *s) {
    s->matmul = (Matmul *)calloc(1, sizeof *s->matmul);
    NEED(s->matmul, ST_NOMEM, "no memory for a stream");
    TRY_BLAS("opening cuBLASLt", cublasLtCreate(&s->matmul->handle));
    return mem_open_cuda(&s->matmul->workspace, matmul_bytes());
}

size_t matmul_bytes(void) {
    return WORKSPACE;
}

void matmul_close(CudaStream *s) {
    if (!s->matmul) return;
    if (s->matmul->handle) cublasLtDestroy(s->matmul->handle);
    mem_close_cuda(s->matmul->workspace);
    free(s->matmul);
}

size_t linear_scratch(const StreamLimits *l) {
    size_t wide = sizeof(bf16) * (size_t)l->rows * (size_t)l->width,
           head = sizeof(bf16) * ROUNDED_ROWS_MIN * (size_t)l->vocab;
    return wide > head ? wide : head;
}

/* ---- choosing ---- */

static uint32_t alignment(const void *p, int32_t leading, size_t element) {
    uintptr_t x = (uintptr_t)p | (uintptr_t)leading * element | 16;
    return (uint32_t)(x & -x);
}

static Shape shape_of(const Product *p) {
    Shape s = {p->m, p->n, p->k, p->transpose_a, (uint8_t)p->out, p->c != NULL, p->bias != NULL, 0};
    s.align = alignment(p->a, p->transpose_a ? p->k : p->m, 2) | alignment(p->b, p->k, 2) << 8 |
              alignment(p->c, p->m, dtype_bytes(p->out)) << 16 |
              alignment(p->d, p->m, dtype_bytes(p->out)) << 24;
    return s;
}

/* Everything that one call hands to cuBLASLt; plain memory, nothing to close. */
typedef struct Call {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulDescOpaque_t desc_memory;
    cublasLtMatrixLayoutOpaque_t layout[3];
} Call;

static cudaDataType_t type_of(DType t) {
    return t == DT_F32 ? CUDA_R_32F : CUDA_R_16BF;
}

static Status describe(Call *c, const Product *p, const char *op) {
    cublasOperation_t transpose = p->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = p->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    cudaDataType_t bias_type = CUDA_R_16BF;
    int32_t a_rows = p->transpose_a ? p->k : p->m, a_columns = p->transpose_a ? p->m : p->k;
    c->desc = &c->desc_memory, c->a = &c->layout[0], c->b = &c->layout[1], c->d = &c->layout[2];
    TRY_BLAS(op, cublasLtMatmulDescInit(c->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
#define SET(attribute, value)                                                                                \
    TRY_BLAS(op, cublasLtMatmulDescSetAttribute(c->desc, attribute, &(value), sizeof(value)))
    SET(CUBLASLT_MATMUL_DESC_TRANSA, transpose);
    SET(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (p->bias) {
        SET(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p->bias);
        SET(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, bias_type);
    }
#undef SET
    TRY_BLAS(op, cublasLtMatrixLayoutInit(c->a, CUDA_R_16BF, (uint64_t)a_rows, (uint64_t)a_columns, a_rows));
    TRY_BLAS(op, cublasLtMatrixLayoutInit(c->b, CUDA_R_16BF, (uint64_t)p->k, (uint64_t)p->n, p->k));
    TRY_BLAS(op, cublasLtMatrixLayoutInit(c->d, type_of(p->out), (uint64_t)p->m, (uint64_t)p->n, p->m));
    return ST_OK;
}

static Status choose(Choice *to, const Call *c, const Shape *shape, Matmul *m, const char *op) {
    cublasLtMatmulPreferenceOpaque_t memory;
    cublasLtMatmulPreference_t wish = &memory;
    cublasLtMatmulHeuristicResult_t found;
    size_t workspace = WORKSPACE;
    uint32_t align[4] = {shape->align & 255, shape->align >> 8 & 255, shape->align >> 16 & 255,
                         shape->align >> 24};
    int n = 0;
    TRY_BLAS(op, cublasLtMatmulPreferenceInit(wish));
#define SET(attribute, value)                                                                                \
    TRY_BLAS(op, cublasLtMatmulPreferenceSetAttribute(wish, attribute, &(value), sizeof(value)))
    SET(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
    SET(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align[0]);
    SET(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align[1]);
    SET(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align[2]);
    SET(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align[3]);
#undef SET
    TRY_BLAS(op,
             cublasLtMatmulAlgoGetHeuristic(m->handle, c->desc, c->a, c->b, c->d, c->d, wish, 1, &found, &n));
    NEED(n == 1, ST_UNSUPPORTED, "%s: cuBLASLt has no algorithm for a product of %d x %d x %d", op, shape->m,
         shape->n, shape->k);
    to->shape = *shape;
    to->algo = found.algo;
    to->known = true;
    return ST_OK;
}

/* The place of a shape among the choices; another shape that had it is chosen anew when it comes back. */
static Choice *choice_of(Matmul *m, const Shape *s) {
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < sizeof *s; i++) h = (h ^ ((const unsigned char *)s)[i]) * 16777619u;
    return &m->choice[h % CHOICES];
}

static Status multiply(CudaStream *s, const Product *p, const char *op) {
    Call call;
    Shape shape = shape_of(p);
    float one = 1, beta = p->c != NULL;
    const void *c = p->c ? p->c : p->d; /* not read when beta is 0 */
    Choice *choice = choice_of(s->matmul, &shape);
    TRY(describe(&call, p, op));
    if (!choice->known || memcmp(&choice->shape, &shape, sizeof shape))
        TRY(choose(choice, &call, &shape, s->matmul, op));
    TRY_BLAS(op,
             cublasLtMatmul(s->matmul->handle, call.desc, &one, p->a, call.a, p->b, call.b, &beta, c, call.d,
                            p->d, call.d, &choice->algo, s->matmul->workspace, WORKSPACE, s->queue));
    return ST_OK;
}

/* ---- rounding ---- */

static __global__ void round_to_bf16(bf16 *to, const float *from, int64_t n) {
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i + 4 <= n) {
        float4 x = *(const float4 *)(from + i);
        *(uint2 *)(to + i) = make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w));
    } else {
        for (; i < n; i++) to[i] = __float2bfloat16(from[i]);
    }
}

static Status round_rows(CudaStream *s, Tensor from, const char *op) {
    enum { THREADS = 256, EACH = 4 };
    int64_t n = tensor_count(from);
    TRY_LAUNCH(op, round_to_bf16, dim3((unsigned)blocks_for(n, THREADS * EACH)), dim3(THREADS), 0, s,
               (bf16 *)s->scratch, (const float *)from.data, n);
    return ST_OK;
}

/* Calls `run` on pieces of x that are bf16: all of it, or rounded rows of it as many as fit the scratch. The
 * f32 rows of a piece begin on 16 bytes when their number is a multiple of four. */
typedef Status (*RunRows)(CudaStream *s, const void *args, Tensor x, int64_t first);

static Status in_bf16(CudaStream *s, Tensor x, RunRows run, const void *args, const char *op) {
    if (x.dtype == DT_BF16) return run(s, args, x, 0);
    int64_t T = x.dim[0], width = x.dim[1], most = (int64_t)(s->scratch_bytes / sizeof(bf16)) / width / 4 * 4;
    NEED(most > 0, ST_ARG, "%s: rows of %lld, the stream was opened for %d", op, (long long)width,
         s->limits.width);
    for (int64_t first = 0; first < T; first += most) {
        Tensor part = tensor_rows(x, first, T - first < most ? T - first : most);
        TRY(round_rows(s, part, op));
        part.data = s->scratch;
        part.dtype = DT_BF16;
        TRY(run(s, args, part, first));
    }
    return ST_OK;
}

/* ---- the operations ---- */

static Status linear_rows(CudaStream *s, const void *args, Tensor x, int64_t first) {
    const LinearArgs *a = (const LinearArgs *)args;
    Tensor y = tensor_rows(a->y, first, x.dim[0]), residual = a->residual;
    if (residual.data) residual = tensor_rows(residual, first, x.dim[0]);
    if (skinny_suits(x, a->w)) return skinny_run(s, y, x, a->w, a->b, residual);
    Product p = {(int32_t)a->w.dim[0],
                 (int32_t)x.dim[0],
                 (int32_t)x.dim[1],
                 true,
                 y.dtype,
                 a->w.data,
                 x.data,
                 a->b.data,
                 residual.data,
                 y.data};
    return multiply(s, &p, "linear");
}

Status linear_cuda(Stream *stream, const LinearArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(linear_check(a));
    TRY(cuda_float("linear", "y", a->y));
    TRY(cuda_float("linear", "x", a->x));
    TRY(cuda_type("linear", "w", a->w, DT_BF16));
    TRY(cuda_type("linear", "b", a->b, DT_BF16));
    TRY(cuda_begin(s, "linear"));
    return in_bf16(s, a->x, linear_rows, a, "linear");
}

static Status back_rows(CudaStream *s, const void *args, Tensor dy, int64_t first) {
    const LinearBackArgs *a = (const LinearBackArgs *)args;
    Tensor dx = tensor_rows(a->dx, first, dy.dim[0]);
    Product p = {(int32_t)a->w.dim[1],
                 (int32_t)dy.dim[0],
                 (int32_t)dy.dim[1],
                 false,
                 dx.dtype,
                 a->w.data,
                 dy.data,
                 NULL,
                 a->accumulate ? dx.data : NULL,
                 dx.data};
    return multiply(s, &p, "linear_back");
}

Status linear_back_cuda(Stream *stream, const LinearBackArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(linear_back_check(a));
    TRY(cuda_float("linear_back", "dx", a->dx));
    TRY(cuda_float("linear_back", "dy", a->dy));
    TRY(cuda_type("linear_back", "w", a->w, DT_BF16));
    TRY(cuda_begin(s, "linear_back"));
    return in_bf16(s, a->dy, back_rows, a, "linear_back");
}
