/* cpu_vector.h -- eight floats at a time, in the compiler's vector types.
 *
 * With AVX2 these become single instructions; elsewhere the compiler cuts them into what the machine has. The
 * copies of a kernel that see FMA and those that do not differ in rounding, never in the order of a sum. */
#ifndef KERNELS_CPU_VECTOR_H
#define KERNELS_CPU_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/base/tensor.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define VECTOR_FN static inline __attribute__((always_inline))

typedef float F8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));
typedef uint32_t U8 __attribute__((vector_size(32)));
typedef double D8 __attribute__((vector_size(64)));
typedef uint16_t H8 __attribute__((vector_size(16)));
typedef float F8Any __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t U8Any __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint16_t H8Any __attribute__((vector_size(16), aligned(2), may_alias));

VECTOR_FN F8 f8_load(const float *p) {
    return *(const F8Any *)p;
}

VECTOR_FN void f8_store(float *p, F8 x) {
    *(F8Any *)p = x;
}

VECTOR_FN F8 f8_all(float x) {
    return (F8){x, x, x, x, x, x, x, x};
}

VECTOR_FN F8 f8_bf16(const uint16_t *p) {
    return (F8)(__builtin_convertvector(*(const H8Any *)p, U8) << 16);
}

/* a * b + c, rounded once where the machine can */
VECTOR_FN F8 f8_fma(F8 a, F8 b, F8 c) {
#ifdef __FMA__
    return (F8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

VECTOR_FN F8 f8_where(I8 mask, F8 yes, F8 no) {
#ifdef __AVX2__
    return (F8)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
#else
    return (F8)((mask & (I8)yes) | (~mask & (I8)no));
#endif
}

VECTOR_FN F8 f8_zero_where(I8 mask, F8 x) {
    return (F8)(~mask & (I8)x);
}

/* The larger of each pair; where x is not a number, x. */
VECTOR_FN F8 f8_max(F8 x, F8 floor) {
#ifdef __AVX2__
    return (F8)_mm256_max_ps((__m256)floor, (__m256)x);
#else
    return f8_where(x < floor, floor, x);
#endif
}

VECTOR_FN F8 f8_min(F8 x, F8 ceiling) {
#ifdef __AVX2__
    return (F8)_mm256_min_ps((__m256)ceiling, (__m256)x);
#else
    return f8_where(x > ceiling, ceiling, x);
#endif
}

VECTOR_FN F8 f8_sqrt(F8 x) {
#ifdef __AVX2__
    return (F8)_mm256_sqrt_ps((__m256)x);
#else
    F8 y;
    for (int i = 0; i < 8; i++) y[i] = sqrtf(x[i]);
    return y;
#endif
}

VECTOR_FN float f8_sum(F8 x) {
    return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7]));
}

VECTOR_FN double f8_sum_double(F8 x) {
    return (((double)x[0] + x[4]) + ((double)x[1] + x[5])) + (((double)x[2] + x[6]) + ((double)x[3] + x[7]));
}

VECTOR_FN float f8_largest(F8 x) {
    float m = x[0];
    for (int i = 1; i < 8; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* Whether any lane of a comparison holds. */
VECTOR_FN int i8_any(I8 mask) {
#ifdef __AVX2__
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    int any = 0;
    for (int i = 0; i < 8; i++) any |= mask[i];
    return any;
#endif
}

/* n elements of any float type from element `first` on, as f32. */
static inline void cpu_widen(float *to, Tensor from, int64_t first, int64_t n) {
    const uint16_t *half = (const uint16_t *)from.data + first;
    int64_t i = 0;
    switch (from.dtype) {
    case DT_F32: memcpy(to, (const float *)from.data + first, sizeof *to * (size_t)n); break;
    case DT_BF16:
        for (; i + 8 <= n; i += 8) f8_store(to + i, f8_bf16(half + i));
        for (; i < n; i++) to[i] = bf16_to_f32(half[i]);
        break;
    case DT_F16:
        for (; i < n; i++) to[i] = f16_to_f32(half[i]);
        break;
    default:
        for (; i < n; i++) to[i] = (float)((const double *)from.data)[first + i];
    }
}

/* e^x, off by less than two units in the last place; 0 below -87.3 (where results would be denormal),
 * infinity above 88.4, NaN stays. x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial for e^r (Cephes'
 * coefficients), and 2^n built from its bits: the number that is added to round n carries the exponent's
 * bias, so that one shift is all it takes. */
VECTOR_FN F8 f8_exp(F8 x) {
    const F8 shift = f8_all(12582912.0f + 127); /* 1.5 * 2^23: adding it rounds to a whole number */
    F8 inside = f8_max(f8_min(x, f8_all(89.0f)), f8_all(-87.3f));
    F8 shifted = f8_fma(inside, f8_all(1.44269504f), shift);
    F8 n = shifted - shift;
    F8 r = f8_fma(n, f8_all(-0.693359375f), inside);
    r = f8_fma(n, f8_all(2.12194440e-4f), r);
    F8 p = f8_all(1.9875691500e-4f);
    p = f8_fma(p, r, f8_all(1.3981999507e-3f));
    p = f8_fma(p, r, f8_all(8.3334519073e-3f));
    p = f8_fma(p, r, f8_all(4.1665795894e-2f));
    p = f8_fma(p, r, f8_all(1.6666665459e-1f));
    p = f8_fma(p, r, f8_all(5.0000001201e-1f));
    p = f8_fma(p, r * r, r + f8_all(1.0f));
    F8 power = (F8)((I8)shifted << 23);
    return f8_zero_where(x < f8_all(-87.3f), p * power);
}

/* Sum of squares, in eight lanes of f32 that go on in double every BLOCK elements. */
static inline double f8_squares(const float *x, int64_t n) {
    enum { BLOCK = 512 };
    double sum = 0;
    int64_t i = 0;
    while (i + 8 <= n) {
        F8 part = f8_all(0);
        int64_t end = i + BLOCK < n ? i + BLOCK : n;
        for (; i + 8 <= end; i += 8) part = f8_fma(f8_load(x + i), f8_load(x + i), part);
        sum += f8_sum_double(part);
    }
    for (; i < n; i++) sum += (double)x[i] * x[i];
    return sum;
}

/* Sine and cosine of any angle a position can have: the reduction by quarter turns is done in double, where
 * it costs nothing next to the care that f32 would need. */
VECTOR_FN void f8_sincos(F8 x, F8 *sine, F8 *cosine) {
    const D8 shift = {0x1.8p52, 0x1.8p52, 0x1.8p52, 0x1.8p52, 0x1.8p52, 0x1.8p52, 0x1.8p52, 0x1.8p52};
    D8 wide = __builtin_convertvector(x, D8);
    D8 quarters = wide * 0x1.45f306dc9c883p-1 + shift - shift;
    F8 r = __builtin_convertvector(wide - quarters * 0x1.921fb54442d18p0, F8);
    I8 quadrant = __builtin_convertvector(quarters, I8) & 3;
    F8 z = r * r;
    F8 s = f8_fma(f8_fma(f8_fma(f8_all(-1.9515295891e-4f), z, f8_all(8.3321608736e-3f)), z,
                         f8_all(-1.6666654611e-1f)), z * r, r);
    F8 c = f8_fma(f8_fma(f8_fma(f8_all(2.443315711809948e-5f), z, f8_all(-1.388731625493765e-3f)), z,
                         f8_all(4.166664568298827e-2f)), z * z, f8_fma(f8_all(-0.5f), z, f8_all(1.0f)));
    I8 odd = (quadrant & 1) != 0;
    F8 sin_size = f8_where(odd, c, s), cos_size = f8_where(odd, s, c);
    *sine = (F8)((I8)sin_size ^ ((quadrant & 2) << 30));
    *cosine = (F8)((I8)cos_size ^ (((quadrant + 1) & 2) << 30));
}

#endif
