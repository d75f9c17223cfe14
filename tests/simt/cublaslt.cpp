/* cublaslt.cpp -- the calls of cuBLASLt that kernels/linear.cu makes, on the host: one plain product.
 *
 * Descriptions are opaque memory that the caller owns; what is set is kept in it. Only what linear.cu uses is
 * known, and anything else is refused, so that a new use shows. Sums are f32 in order of depth, as an
 * algorithm's might be. */
#include <cublasLt.h>

#include <vector>

#include "tests/simt/machine.h"

namespace {
struct Product {
    cublasOperation_t transpose_a;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    cudaDataType_t bias_type;
};
struct Layout {
    cudaDataType_t type;
    uint64_t rows, columns;
    int64_t leading;
};
static_assert(sizeof(Product) <= sizeof(cublasLtMatmulDescOpaque_t), "fits what the caller owns");
static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "fits what the caller owns");

/* Element (row, column) of a column-major matrix. */
float element(const Layout &l, const void *data, uint64_t row, uint64_t column) {
    int64_t i = (int64_t)column * l.leading + (int64_t)row;
    return l.type == CUDA_R_32F ? ((const float *)data)[i]
                                : __bfloat162float(((const __nv_bfloat16 *)data)[i]);
}

void put(const Layout &l, void *data, uint64_t row, uint64_t column, float v) {
    int64_t i = (int64_t)column * l.leading + (int64_t)row;
    if (l.type == CUDA_R_32F)
        ((float *)data)[i] = v;
    else
        ((__nv_bfloat16 *)data)[i] = __float2bfloat16(v);
}

/* op(a) as f32, one row of the product after the other: the inner loop then runs through memory. */
std::vector<float> rows_of(const Product &p, const Layout &l, const void *a, uint64_t m, uint64_t k) {
    std::vector<float> wide(m * k);
    for (uint64_t i = 0; i < m; i++)
        for (uint64_t j = 0; j < k; j++)
            wide[i * k + j] = p.transpose_a == CUBLAS_OP_T ? element(l, a, j, i) : element(l, a, i, j);
    return wide;
}

void multiply(const Product &p, float alpha, const void *a, const Layout &la, const void *b, const Layout &lb,
              float beta, const void *c, void *d, const Layout &ld) {
    uint64_t m = ld.rows, n = ld.columns, k = lb.rows;
    std::vector<float> wide = rows_of(p, la, a, m, k), column(k);
    for (uint64_t j = 0; j < n; j++) {
        for (uint64_t i = 0; i < k; i++) column[i] = element(lb, b, i, j);
        for (uint64_t i = 0; i < m; i++) {
            float sum = 0;
            const float *row = &wide[i * k];
            for (uint64_t e = 0; e < k; e++) sum += row[e] * column[e];
            if (p.epilogue == CUBLASLT_EPILOGUE_BIAS)
                sum += element({p.bias_type, m, 1, (int64_t)m}, p.bias, i, 0);
            put(ld, d, i, j, alpha * sum + (beta != 0 ? beta * element(ld, c, i, j) : 0));
        }
    }
}
} // namespace

extern "C" {
cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
    *out = (cublasLtHandle_t)malloc(1);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) {
    free(h);
    return CUBLAS_STATUS_SUCCESS;
}
const char *cublasLtGetStatusString(cublasStatus_t e) {
    return e == CUBLAS_STATUS_SUCCESS ? "success" : "emulated failure";
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *(Product *)desc = {CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr, CUDA_R_32F};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute, const void *v,
                                              size_t) {
    Product *p = (Product *)desc;
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        p->transpose_a = *(const cublasOperation_t *)v;
        return CUBLAS_STATUS_SUCCESS;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        p->epilogue = *(const cublasLtEpilogue_t *)v;
        return CUBLAS_STATUS_SUCCESS;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        p->bias = *(const void *const *)v;
        return CUBLAS_STATUS_SUCCESS;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        p->bias_type = *(const cudaDataType_t *)v;
        return CUBLAS_STATUS_SUCCESS;
    default:
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}
cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t l, size_t, cudaDataType type,
                                                 uint64_t rows, uint64_t columns, int64_t leading) {
    *(Layout *)l = {type, rows, columns, leading};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t, size_t) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t, const void *,
                                                    size_t) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int wanted,
                                              cublasLtMatmulHeuristicResult_t *out, int *found) {
    memset(out, 0, sizeof *out * (size_t)wanted);
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb,
                              const void *beta, const void *c, cublasLtMatrixLayout_t lc, void *d,
                              cublasLtMatrixLayout_t ld, const cublasLtMatmulAlgo_t *, void *, size_t,
                              cudaStream_t stream) {
    Product p = *(const Product *)desc;
    Layout A = *(const Layout *)la, B = *(const Layout *)lb, D = *(const Layout *)ld;
    float by = *(const float *)alpha, add = *(const float *)beta;
    if (memcmp(lc, ld, sizeof(Layout))) return CUBLAS_STATUS_NOT_SUPPORTED;
    simt::submit(stream, [=] { multiply(p, by, a, A, b, B, add, c, d, D); });
    return CUBLAS_STATUS_SUCCESS;
}
}
