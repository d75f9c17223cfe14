/* cpu_matmul.h -- small products of f32 matrices, for attention.
 *
 * C (+)= A B, where element (i, k) of A lies at a[i * ai + k * ak] and the rows of B and C are dense. With
 * both strides of A free, the same code does q k^T, p v and all five products of the backward pass on blocks
 * that fit the first-level cache, without packing: A is read one number at a time anyway.
 *
 * Every element of C is one chain of multiply-adds over k = 0, 1, ..: its bits depend on its own row of A and
 * column of B only, not on the shape of the block it was computed in. The promise that a row's attention has
 * the same bits in any company rests on this. */
#ifndef KERNELS_CPU_MATMUL_H
#define KERNELS_CPU_MATMUL_H

#include "kernels/cpu_vector.h"

typedef struct Factor { const float *at; int64_t i, k; } Factor; /* a, ai, ak */
typedef struct Rows { const float *at; int64_t ld; } Rows;

/* `rows` x 8*`vectors` elements of C; both are constants where this is called: 12 sums, 2 of B and one of A
 * fill the sixteen registers. */
VECTOR_FN void matmul_tile(int rows, int vectors, float *c, int64_t ldc, Factor a, Rows b, int64_t K,
                           int add) {
    F8 sum[6][2];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) sum[i][j] = add ? f8_load(c + i * ldc + 8 * j) : f8_all(0);
    for (int64_t k = 0; k < K; k++) {
        F8 right[2];
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) right[j] = f8_load(b.at + k * b.ld + 8 * j);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            F8 left = f8_all(a.at[i * a.i + k * a.k]);
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++) sum[i][j] = f8_fma(left, right[j], sum[i][j]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) f8_store(c + i * ldc + 8 * j, sum[i][j]);
}

VECTOR_FN void matmul_columns(int vectors, float *c, int64_t ldc, Factor a, Rows b, int64_t M, int64_t K,
                              int add) {
    for (; M >= 6; M -= 6, c += 6 * ldc, a.at += 6 * a.i) matmul_tile(6, vectors, c, ldc, a, b, K, add);
    switch (M) {
    case 5: matmul_tile(5, vectors, c, ldc, a, b, K, add); break;
    case 4: matmul_tile(4, vectors, c, ldc, a, b, K, add); break;
    case 3: matmul_tile(3, vectors, c, ldc, a, b, K, add); break;
    case 2: matmul_tile(2, vectors, c, ldc, a, b, K, add); break;
    case 1: matmul_tile(1, vectors, c, ldc, a, b, K, add); break;
    default: break;
    }
}

/* C[M,N] (+)= A[M,K] B[K,N]; N is a multiple of 8. */
static inline void matmul(float *c, int64_t ldc, Factor a, Rows b, int64_t M, int64_t N, int64_t K, int add) {
    for (; N >= 16; N -= 16, c += 16, b.at += 16) matmul_columns(2, c, ldc, a, b, M, K, add);
    if (N) matmul_columns(1, c, ldc, a, b, M, K, add);
}

/* to[j][i] = factor * from[i][j] for 8 rows of from. */
VECTOR_FN void transpose8(float *to, int64_t ldt, const float *from, int64_t ldf, float factor) {
    F8 r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = f8_load(from + i * ldf) * f8_all(factor);
    for (int i = 0; i < 8; i += 2) {
        s[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        s[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = __builtin_shufflevector(s[i + j], s[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            r[i + 2 * j + 1] = __builtin_shufflevector(s[i + j], s[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        f8_store(to + i * ldt, __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11));
        f8_store(to + (i + 4) * ldt, __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15));
    }
}

#endif
