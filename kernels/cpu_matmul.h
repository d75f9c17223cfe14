/* cpu_matmul.h -- products of f32 matrices with rows of f32 or of weights, for attention and for the way back
 * through a linear.
 *
 * C = A B, where element (i, k) of A lies at a[i * ai + k * ak] and the rows of B and C are dense. With both
 * strides of A free, the same code does q k^T, p v, all five products of attention's backward pass and dy W on
 * blocks that fit the first-level cache, without packing: A is read one number at a time anyway. Rows of
 * bf16 become f32 on their way into a register, which costs one instruction and no memory.
 *
 * Every element of C is one chain of multiply-adds over k = 0, 1, ..: its bits depend on its own row of A and
 * column of B only, not on the shape of the block it was computed in. The promise that a row's attention has
 * the same bits in any company rests on this. */
#ifndef KERNELS_CPU_MATMUL_H
#define KERNELS_CPU_MATMUL_H

#include "kernels/cpu_vector.h"

typedef struct Factor { const float *at; int64_t i, k; } Factor; /* a, ai, ak */
typedef struct Rows { Numbers of; int64_t ld; } Rows;

/* What becomes of C: it is replaced, or each of its elements begins the chain (attention's running sums), or a
 * finished chain is added to it (a long sum in parts: shorter chains round less). */
typedef enum Into { REPLACE, GO_ON, ADD } Into;

/* A block of C whose sums, one row of B and one number of A fill the registers: 12 of 16, or 24 of 32. */
enum { BLOCK_ROWS = VEC == 16 ? 8 : 6, BLOCK_VECTORS = VEC == 16 ? 3 : 2 };

/* `rows` x `vectors` vectors of C; both, and the type of B, are constants where this is called. Of the last
 * vector only `last` numbers are there. */
VECTOR_FN void matmul_block(int rows, int vectors, int64_t last, float *c, int64_t ldc, Factor a, Rows b,
                            int64_t K, Into into) {
    Vec sum[BLOCK_ROWS][BLOCK_VECTORS];
    int64_t width[BLOCK_VECTORS];
    for (int j = 0; j < BLOCK_VECTORS; j++) width[j] = j + 1 < vectors ? VEC : last;
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int j = 0; j < vectors; j++)
            sum[i][j] = into == GO_ON ? vec_load_part(c + i * ldc + VEC * j, width[j]) : vec_all(0);
    for (int64_t k = 0; k < K; k++) {
        Vec right[BLOCK_VECTORS];
#pragma GCC unroll 3
        for (int j = 0; j < vectors; j++) right[j] = numbers_load(b.of, k * b.ld + VEC * j, width[j]);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            Vec left = vec_all(a.at[i * a.i + k * a.k]);
#pragma GCC unroll 3
            for (int j = 0; j < vectors; j++) sum[i][j] = vec_fma(left, right[j], sum[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 3
        for (int j = 0; j < vectors; j++) {
            float *to = c + i * ldc + VEC * j;
            if (into == ADD) sum[i][j] += vec_load_part(to, width[j]);
            vec_store_part(to, sum[i][j], width[j]);
        }
}

/* All rows of one strip of columns. */
VECTOR_FN void matmul_strip(int vectors, int64_t last, float *c, int64_t ldc, Factor a, Rows b, int64_t M,
                            int64_t K, Into into) {
#define BLOCK(rows) matmul_block(rows, vectors, last, c, ldc, a, b, K, into)
    for (; M >= BLOCK_ROWS; M -= BLOCK_ROWS, c += BLOCK_ROWS * ldc, a.at += BLOCK_ROWS * a.i)
        BLOCK(BLOCK_ROWS);
    switch (M) {
#ifdef __AVX512F__
    case 7: BLOCK(7); break;
    case 6: BLOCK(6); break;
#endif
    case 5: BLOCK(5); break;
    case 4: BLOCK(4); break;
    case 3: BLOCK(3); break;
    case 2: BLOCK(2); break;
    case 1: BLOCK(1); break;
    default: break;
    }
#undef BLOCK
}

/* How many of the vectors that are left make the next strip. Four are two and two: of three and one, the second
 * strip would not have enough sums to hide the multiplier's latency. */
static inline int64_t strip_vectors(int64_t left) {
    if (left <= BLOCK_VECTORS) return left;
    return left == 4 ? 2 : BLOCK_VECTORS;
}

/* C[M,N] = A[M,K] B[K,N], for one type of B. */
VECTOR_FN void matmul_typed(float *c, int64_t ldc, Factor a, Rows b, int64_t M, int64_t N, int64_t K,
                            Into into) {
    while (N > 0) {
        int64_t vectors = strip_vectors(N / VEC), width = vectors ? vectors * VEC : N;
        switch (vectors) {
#ifdef __AVX512F__
        case 3: matmul_strip(3, VEC, c, ldc, a, b, M, K, into); break;
#endif
        case 2: matmul_strip(2, VEC, c, ldc, a, b, M, K, into); break;
        case 1: matmul_strip(1, VEC, c, ldc, a, b, M, K, into); break;
        default: matmul_strip(1, N, c, ldc, a, b, M, K, into);
        }
        N -= width, c += width, b.of = numbers_from(b.of, width);
    }
}

/* C = A B with B in f32. */
static inline void matmul(float *c, int64_t ldc, Factor a, const float *b, int64_t ldb, int64_t M, int64_t N,
                          int64_t K, Into into) {
    matmul_typed(c, ldc, a, (Rows){{b, DT_F32}, ldb}, M, N, K, into);
}

static inline void matmul_weights(float *c, int64_t ldc, Factor a, Rows b, int64_t M, int64_t N, int64_t K,
                                  Into into) {
    switch (b.of.type) {
    case DT_BF16: b.of.type = DT_BF16, matmul_typed(c, ldc, a, b, M, N, K, into); break;
    case DT_F32: b.of.type = DT_F32, matmul_typed(c, ldc, a, b, M, N, K, into); break;
    default: matmul_typed(c, ldc, a, b, M, N, K, into);
    }
}

/* to[j][i] = factor * from[i][j] for 8 rows of from. */
VECTOR_FN void transpose8(float *to, int64_t ldt, const float *from, int64_t ldf, float factor) {
    F8 r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = f8_load(from + i * ldf) * factor;
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
