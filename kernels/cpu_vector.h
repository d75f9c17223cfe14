/* cpu_vector.h -- VEC floats at a time, in the compiler's vector types: sixteen with AVX-512, else eight.
 *
 * With AVX-512 and AVX2 these become single instructions; elsewhere the compiler cuts them into what the
 * machine has. The copies of a kernel for different machines differ in rounding, and where a sum runs in
 * lanes, in its order. */
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

#ifdef __AVX512F__
enum { VEC = 16 };
#else
enum { VEC = 8 };
#endif

typedef float F4 __attribute__((vector_size(16)));
typedef float F8 __attribute__((vector_size(32)));
typedef float Vec __attribute__((vector_size(4 * VEC)));
typedef int32_t VecI __attribute__((vector_size(4 * VEC)));
typedef uint32_t VecU __attribute__((vector_size(4 * VEC)));
typedef double VecD __attribute__((vector_size(8 * VEC)));
typedef uint16_t VecH __attribute__((vector_size(2 * VEC)));
typedef float F8Any __attribute__((vector_size(32), aligned(4), may_alias));
typedef float VecAny __attribute__((vector_size(4 * VEC), aligned(4), may_alias));
typedef uint32_t VecUAny __attribute__((vector_size(4 * VEC), aligned(2), may_alias));
typedef uint16_t VecHAny __attribute__((vector_size(2 * VEC), aligned(2), may_alias));

VECTOR_FN Vec vec_load(const float *p) {
    return *(const VecAny *)p;
}

VECTOR_FN void vec_store(float *p, Vec x) {
    *(VecAny *)p = x;
}

/* The first n of a vector's numbers, zeros behind them; n beyond VEC is VEC. */
VECTOR_FN Vec vec_load_part(const float *p, int64_t n) {
    if (n >= VEC) return vec_load(p);
#ifdef __AVX512F__
    return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    Vec x = {0};
    memcpy(&x, p, sizeof *p * (size_t)n);
    return x;
#endif
}

VECTOR_FN void vec_store_part(float *p, Vec x, int64_t n) {
    if (n >= VEC) {
        vec_store(p, x);
        return;
    }
#ifdef __AVX512F__
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)x);
#else
    memcpy(p, &x, sizeof *p * (size_t)n);
#endif
}

VECTOR_FN Vec vec_all(float x) {
    return x - (Vec){0};
}

VECTOR_FN VecU vecu_all(uint32_t x) {
    return x - (VecU){0};
}

/* A bf16 is the upper half of a float: one instruction puts each beside a zero half. */
VECTOR_FN Vec vec_bf16(const uint16_t *p) {
#if defined __AVX512F__
    const VecU place = {0x00000, 0x10000, 0x20000, 0x30000, 0x40000, 0x50000, 0x60000, 0x70000,
                        0x80000, 0x90000, 0xa0000, 0xb0000, 0xc0000, 0xd0000, 0xe0000, 0xf0000};
    __m512i words = _mm512_castsi256_si512(_mm256_loadu_si256((const void *)p));
    return (Vec)_mm512_maskz_permutexvar_epi16(0xAAAAAAAA, (__m512i)place, words);
#elif defined __AVX2__
    const __m256i place = _mm256_setr_epi8(-1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7, -1, -1, 8,
                                           9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15);
    __m128i words = _mm_loadu_si128((const void *)p);
    return (Vec)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(words), place);
#else
    return (Vec)(__builtin_convertvector(*(const VecHAny *)p, VecU) << 16);
#endif
}

/* The first n of them, zeros behind. */
VECTOR_FN Vec vec_bf16_part(const uint16_t *p, int64_t n) {
    if (n >= VEC) return vec_bf16(p);
    uint16_t some[VEC] = {0};
    memcpy(some, p, sizeof *p * (size_t)n);
    return vec_bf16(some);
}

#ifdef __AVX512F__
VECTOR_FN F8 vec_low(Vec x) {
    return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
}

VECTOR_FN F8 vec_high(Vec x) {
    return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
}
#endif

/* a * b + c, rounded once where the machine can */
VECTOR_FN Vec vec_fma(Vec a, Vec b, Vec c) {
#if defined __AVX512F__
    return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined __FMA__
    return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

VECTOR_FN Vec vec_where(VecI mask, Vec yes, Vec no) {
#if defined __AVX512F__
    return (Vec)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)mask), (__m512)no, (__m512)yes);
#elif defined __AVX2__
    return (Vec)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
#else
    return (Vec)((mask & (VecI)yes) | (~mask & (VecI)no));
#endif
}

VECTOR_FN Vec vec_zero_where(VecI mask, Vec x) {
    return (Vec)(~mask & (VecI)x);
}

/* The larger of each pair; where x is not a number, x. */
VECTOR_FN Vec vec_max(Vec x, Vec floor) {
#if defined __AVX512F__
    return (Vec)_mm512_max_ps((__m512)floor, (__m512)x);
#elif defined __AVX2__
    return (Vec)_mm256_max_ps((__m256)floor, (__m256)x);
#else
    return vec_where(x < floor, floor, x);
#endif
}

VECTOR_FN Vec vec_min(Vec x, Vec ceiling) {
#if defined __AVX512F__
    return (Vec)_mm512_min_ps((__m512)ceiling, (__m512)x);
#elif defined __AVX2__
    return (Vec)_mm256_min_ps((__m256)ceiling, (__m256)x);
#else
    return vec_where(x > ceiling, ceiling, x);
#endif
}

VECTOR_FN Vec vec_sqrt(Vec x) {
#if defined __AVX512F__
    return (Vec)_mm512_sqrt_ps((__m512)x);
#elif defined __AVX2__
    return (Vec)_mm256_sqrt_ps((__m256)x);
#else
    Vec y;
    for (int i = 0; i < VEC; i++) y[i] = sqrtf(x[i]);
    return y;
#endif
}

VECTOR_FN F8 f8_load(const float *p) {
    return *(const F8Any *)p;
}

VECTOR_FN void f8_store(float *p, F8 x) {
    *(F8Any *)p = x;
}

VECTOR_FN double f8_sum_double(F8 x) {
    return (((double)x[0] + x[4]) + ((double)x[1] + x[5])) + (((double)x[2] + x[6]) + ((double)x[3] + x[7]));
}

#ifdef __AVX512F__
VECTOR_FN F8 vec_fold(Vec x) {
    return vec_low(x) + vec_high(x);
}

VECTOR_FN double vec_sum_double(Vec x) {
    return f8_sum_double(vec_low(x)) + f8_sum_double(vec_high(x));
}
#else
VECTOR_FN F8 vec_fold(Vec x) {
    return x;
}

VECTOR_FN double vec_sum_double(Vec x) {
    return f8_sum_double(x);
}
#endif

/* The sums of four vectors, side by side: pairs of lanes are added while two vectors become one. */
VECTOR_FN F4 vec_sums(Vec a, Vec b, Vec c, Vec d) {
    F8 p = vec_fold(a), q = vec_fold(b), r = vec_fold(c), s = vec_fold(d);
    F8 pq = __builtin_shufflevector(p, q, 0, 8, 1, 9, 4, 12, 5, 13) +
            __builtin_shufflevector(p, q, 2, 10, 3, 11, 6, 14, 7, 15);
    F8 rs = __builtin_shufflevector(r, s, 0, 8, 1, 9, 4, 12, 5, 13) +
            __builtin_shufflevector(r, s, 2, 10, 3, 11, 6, 14, 7, 15);
    F8 all = __builtin_shufflevector(pq, rs, 0, 1, 8, 9, 4, 5, 12, 13) +
             __builtin_shufflevector(pq, rs, 2, 3, 10, 11, 6, 7, 14, 15);
    return __builtin_shufflevector(all, all, 0, 1, 2, 3) + __builtin_shufflevector(all, all, 4, 5, 6, 7);
}

VECTOR_FN float vec_largest(Vec x) {
    float m = x[0];
    for (int i = 1; i < VEC; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* Whether any lane of a comparison holds. */
VECTOR_FN int vec_any(VecI mask) {
#if defined __AVX512F__
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined __AVX2__
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    int any = 0;
    for (int i = 0; i < VEC; i++) any |= mask[i];
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
        for (; i + VEC <= n; i += VEC) vec_store(to + i, vec_bf16(half + i));
        for (; i < n; i++) to[i] = bf16_to_f32(half[i]);
        break;
    case DT_F16:
        for (; i < n; i++) to[i] = f16_to_f32(half[i]);
        break;
    default:
        for (; i < n; i++) to[i] = (float)((const double *)from.data)[first + i];
    }
}

/* ---- numbers of any float type, read as f32 ---- */

typedef struct Numbers { const void *at; DType type; } Numbers;

VECTOR_FN Numbers numbers_from(Numbers x, int64_t first) {
    return (Numbers){(const char *)x.at + first * (int64_t)dtype_bytes(x.type), x.type};
}

/* Those from `first` on, n of them (at most VEC), zeros behind. Where the type is a constant this is one
 * instruction; types that no model keeps its weights in are read one by one. */
VECTOR_FN Vec numbers_load(Numbers x, int64_t first, int64_t n) {
    if (x.type == DT_F32) return vec_load_part((const float *)x.at + first, n);
    if (x.type == DT_BF16) return vec_bf16_part((const uint16_t *)x.at + first, n);
    Vec some = vec_all(0);
    for (int64_t i = 0; i < n && i < VEC; i++)
        some[i] = x.type == DT_F16 ? f16_to_f32(((const uint16_t *)x.at)[first + i])
                                   : (float)((const double *)x.at)[first + i];
    return some;
}

/* e^x, off by less than two units in the last place; 0 below -87.3 (where results would be denormal),
 * infinity above 88.4, NaN stays. x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial for e^r (Cephes'
 * coefficients), and 2^n built from its bits: the number that is added to round n carries the exponent's
 * bias, so that one shift is all it takes. */
VECTOR_FN Vec vec_exp(Vec x) {
    const Vec shift = vec_all(12582912.0f + 127); /* 1.5 * 2^23: adding it rounds to a whole number */
    Vec inside = vec_max(vec_min(x, vec_all(89.0f)), vec_all(-87.3f));
    Vec shifted = vec_fma(inside, vec_all(1.44269504f), shift);
    Vec n = shifted - shift;
    Vec r = vec_fma(n, vec_all(-0.693359375f), inside);
    r = vec_fma(n, vec_all(2.12194440e-4f), r);
    Vec p = vec_all(1.9875691500e-4f);
    p = vec_fma(p, r, vec_all(1.3981999507e-3f));
    p = vec_fma(p, r, vec_all(8.3334519073e-3f));
    p = vec_fma(p, r, vec_all(4.1665795894e-2f));
    p = vec_fma(p, r, vec_all(1.6666665459e-1f));
    p = vec_fma(p, r, vec_all(5.0000001201e-1f));
    p = vec_fma(p, r * r, r + vec_all(1.0f));
    Vec power = (Vec)((VecI)shifted << 23);
    return vec_zero_where(x < vec_all(-87.3f), p * power);
}

/* Sum of squares, in lanes of f32 that go on in double every BLOCK elements. */
static inline double vec_squares(const float *x, int64_t n) {
    enum { BLOCK = 512 };
    double sum = 0;
    int64_t i = 0;
    while (i + VEC <= n) {
        Vec part = vec_all(0);
        int64_t end = i + BLOCK < n ? i + BLOCK : n;
        for (; i + VEC <= end; i += VEC) part = vec_fma(vec_load(x + i), vec_load(x + i), part);
        sum += vec_sum_double(part);
    }
    for (; i < n; i++) sum += (double)x[i] * x[i];
    return sum;
}

/* Sine and cosine of any angle a position can have: the reduction by quarter turns is done in double, where
 * it costs nothing next to the care that f32 would need. */
VECTOR_FN void vec_sincos(Vec x, Vec *sine, Vec *cosine) {
    const double shift = 0x1.8p52;
    VecD wide = __builtin_convertvector(x, VecD);
    VecD quarters = wide * 0x1.45f306dc9c883p-1 + shift - shift;
    Vec r = __builtin_convertvector(wide - quarters * 0x1.921fb54442d18p0, Vec);
    VecI quadrant = __builtin_convertvector(quarters, VecI) & 3;
    Vec z = r * r;
    Vec s = vec_fma(vec_fma(vec_fma(vec_all(-1.9515295891e-4f), z, vec_all(8.3321608736e-3f)), z,
                         vec_all(-1.6666654611e-1f)), z * r, r);
    Vec c = vec_fma(vec_fma(vec_fma(vec_all(2.443315711809948e-5f), z, vec_all(-1.388731625493765e-3f)), z,
                         vec_all(4.166664568298827e-2f)), z * z, vec_fma(vec_all(-0.5f), z, vec_all(1.0f)));
    VecI odd = (quadrant & 1) != 0;
    Vec sin_size = vec_where(odd, c, s), cos_size = vec_where(odd, s, c);
    *sine = (Vec)((VecI)sin_size ^ ((quadrant & 2) << 30));
    *cosine = (Vec)((VecI)cos_size ^ (((quadrant + 1) & 2) << 30));
}

#endif
