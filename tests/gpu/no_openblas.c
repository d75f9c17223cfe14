/* no_openblas.c -- the few calls of OpenBLAS that the program and the benches make, for the folder that tools/gpu-check
 * carries: 30 MB less, and no library that wants to know the processor. Nobody multiplies on the CPU there but ops_ref,
 * which does it itself, so the one product is a plain loop. */
#include <cblas.h>

void cblas_sgemm(const enum CBLAS_ORDER order, const enum CBLAS_TRANSPOSE transpose_a,
                 const enum CBLAS_TRANSPOSE transpose_b, const blasint m, const blasint n, const blasint k, const float alpha,
                 const float *a, const blasint lda, const float *b, const blasint ldb, const float beta, float *c,
                 const blasint ldc) {
    (void)order; /* row-major, as all callers have it */
    for (blasint i = 0; i < m; i++)
        for (blasint j = 0; j < n; j++) {
            float sum = 0;
            for (blasint e = 0; e < k; e++)
                sum += (transpose_a == CblasTrans ? a[e * lda + i] : a[i * lda + e]) *
                       (transpose_b == CblasTrans ? b[j * ldb + e] : b[e * ldb + j]);
            c[i * ldc + j] = alpha * sum + (beta != 0 ? beta * c[i * ldc + j] : 0);
        }
}

int openblas_get_num_threads(void) {
    return 1;
}

void openblas_set_num_threads(int n) {
    (void)n;
}

int openblas_get_parallel(void) {
    enum { OPENMP = 2 };
    return OPENMP;
}

char *openblas_get_config(void) {
    static char none[] = "none: this build is for a GPU";
    return none;
}

char *openblas_get_corename(void) {
    static char none[] = "none";
    return none;
}
