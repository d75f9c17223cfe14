/* random.h -- a counter-based generator: the n-th number of a stream is a function of (seed, n) alone.
 *
 * So a draw depends on who asks for it, never on what was drawn before: runs resume, shard and replay without any
 * generator state in a file. Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
 * Host and device compute the same bits; this header is plain C that a CUDA file may include. */
#ifndef KERNELS_BASE_RANDOM_H
#define KERNELS_BASE_RANDOM_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define RANDOM_FN static __host__ __device__ inline
#else
#define RANDOM_FN static inline
#endif

typedef struct Random4 { uint32_t v[4]; } Random4;

RANDOM_FN Random4 random_block(uint64_t seed, uint64_t stream, uint64_t n) {
    uint32_t c0 = (uint32_t)n, c1 = (uint32_t)(n >> 32), c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b, c3 = (uint32_t)a, c0 = n0, c2 = n2;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    Random4 r = {{c0, c1, c2, c3}};
    return r;
}
RANDOM_FN uint64_t random_u64(uint64_t seed, uint64_t stream, uint64_t n) {
    Random4 r = random_block(seed, stream, n);
    return (uint64_t)r.v[0] << 32 | r.v[1];
}
/* Uniform in [0, bound), bound > 0; the bias is below bound / 2^64. */
RANDOM_FN uint64_t random_below(uint64_t seed, uint64_t stream, uint64_t n, uint64_t bound) {
    return random_u64(seed, stream, n) % bound;
}
/* Uniform in the open interval (0, 1): its logarithm is finite. */
RANDOM_FN float random_unit(uint32_t bits) {
    return ((float)(bits >> 9) + 0.5f) * (1.0f / 8388608.0f);
}
/* Standard normal, by Box and Muller. */
RANDOM_FN float random_normal(uint64_t seed, uint64_t stream, uint64_t n) {
    Random4 r = random_block(seed, stream, n);
    return sqrtf(-2.0f * logf(random_unit(r.v[0]))) * cosf(6.28318530718f * random_unit(r.v[1]));
}

#endif
