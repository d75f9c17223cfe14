/* simt.h -- the CUDA device language on the host, for .cu files compiled by g++ or clang++.
 *
 * A CUDA thread is a fibre. Fibres of a block run one at a time on one host thread and change places only in the
 * operations below (barriers, warp collectives, spins), in order or at random. Everything that the hardware leaves
 * undefined until a barrier is made visibly wrong here: shared and device memory start as NaN, a copy in flight
 * leaves NaN behind, a lane that misses a collective is an error that names both places.
 *
 * One instance of __shared__ state per resident block comes from SHARED_ARRAY and DYN_SMEM, never from `__shared__`
 * itself, which has no meaning here. */
#ifndef TESTS_SIMT_SIMT_H
#define TESTS_SIMT_SIMT_H

#include <cuda_runtime.h> /* types only: float4, dim3, cudaStream_t */
#include <cuda_bf16.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <tuple>
#include <utility>

/* cuda_runtime.h defines these for a host compiler; some of them silently as nothing. */
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#undef __grid_constant__
#undef __forceinline__
#undef __noinline__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define SIMT_EMULATOR   1

#define DYN_SMEM(name) unsigned char *name = simt::dynamic_shared()
#define SHARED_ARRAY(T, name, n)                                                                             \
    static char name##_tag_;                                                                                 \
    T *name = (T *)simt::static_shared(&name##_tag_, sizeof(T) * (n), alignof(T))

/* The place of a call, for reports: __syncthreads() at attn.cu:120. */
#define SIMT_AT   const char *at_file = __builtin_FILE(), int at_line = __builtin_LINE()
#define SIMT_PASS simt::Place{at_file, at_line}

namespace simt {
struct Place { const char *file; int line; };
struct Warp;
struct Block;

/* The part of a fibre that kernels look at. */
struct Thread {
    uint3 index;
    uint32_t linear, lane;
    Warp *warp;
    Block *block;
};
struct Grid { uint3 block; dim3 block_dim, grid_dim; };
extern __thread Thread *self;
extern __thread Grid *grid;

unsigned char *dynamic_shared();
void *static_shared(const void *tag, size_t bytes, size_t align); /* per block, poisoned, taken on first use */

/* All lanes of mask meet; the last to arrive runs `exec` over all operands. `fence`: also orders memory. */
typedef void (*CollectiveFn)(Warp *, uint32_t mask, void **operand);
void collective(const char *what, uint32_t mask, void *operand, CollectiveFn exec, bool fence, Place at);
void barrier(int id, int threads, bool wait, Place at);
void spin(const char *what, Place at);
[[noreturn]] void fail(const char *fmt, ...);

struct ShuffleOperand { uint64_t value, result; int source; };
struct VoteOperand { int predicate; uint32_t result; };
void shuffle_exec(Warp *, uint32_t mask, void **operand);
void vote_exec(Warp *, uint32_t mask, void **operand);
void nothing_exec(Warp *, uint32_t mask, void **operand);

template <class T> inline T shuffle(uint32_t mask, T v, int source, const char *what, Place at) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    ShuffleOperand op{0, 0, source};
    memcpy(&op.value, &v, sizeof v);
    collective(what, mask, &op, shuffle_exec, false, at);
    memcpy(&v, &op.result, sizeof v);
    return v;
}
inline uint32_t vote(uint32_t mask, int predicate, const char *what, Place at) {
    VoteOperand op{predicate, 0};
    collective(what, mask, &op, vote_exec, false, at);
    return op.result;
}

/* How a run goes; tests walk through these. */
enum Schedule { IN_ORDER, RANDOM };
enum Async { EAGER, LATE, RANDOMLY }; /* when a cp.async lands: at once, at its wait, at any point between */
struct Options {
    int workers = 1;  /* host threads, each with its own blocks */
    int resident = 1; /* blocks on a worker at the same time */
    Schedule schedule = IN_ORDER;
    Async async = LATE;
    uint64_t seed = 1;
};
extern Options options;

/* What was counted, per kernel name, since counters_clear. Bytes and sectors need the counting build. */
struct Counters {
    uint64_t launches, blocks, barriers, collectives, mma, ldmatrix, ldmatrix_waves, cp_async_bytes;
    uint64_t global_read, global_written;     /* bytes, each byte once per warp access */
    uint64_t global_sectors, global_requests; /* 32-byte sectors touched; warp accesses */
    uint64_t shared_waves, shared_ideal;      /* bank wavefronts needed, and without conflicts */
};
Counters counters_of(const char *kernel); /* all zero for a kernel that never ran */
void counters_clear();
void counters_visit(void (*visit)(void *user, const char *kernel, const Counters *c), void *user);

void run(const char *kernel, dim3 grid_dim, dim3 block_dim, size_t smem, const std::function<void()> &body);
/* Runs now, or is recorded when the stream captures a graph. */
cudaError_t submit(cudaStream_t stream, std::function<void()> work);
bool launch_faults(); /* whether this kernel is the one that a test wants to fault, or comes behind it */

template <class... P, class... A>
cudaError_t launch(const char *name, void (*kernel)(P...), dim3 g, dim3 b, size_t smem, cudaStream_t stream, A &&...a) {
    std::tuple<P...> args(std::forward<A>(a)...);
    return submit(stream, [=] {
        if (!launch_faults()) run(name, g, b, smem, [&] { std::apply(kernel, args); });
    });
}
} // namespace simt

#define threadIdx (simt::self->index)
#define blockIdx  (simt::grid->block)
#define blockDim  (simt::grid->block_dim)
#define gridDim   (simt::grid->grid_dim)
#define warpSize  32
#define LAUNCH(kernel, g, b, smem, stream, ...) simt::launch(#kernel, kernel, g, b, smem, stream, __VA_ARGS__)

inline void __syncthreads(SIMT_AT) {
    simt::barrier(0, 0, true, SIMT_PASS);
}
inline void __syncwarp(uint32_t mask = ~0u, SIMT_AT) {
    simt::collective("__syncwarp", mask, nullptr, simt::nothing_exec, true, SIMT_PASS);
}
template <class T> inline T __shfl_sync(uint32_t mask, T v, int source, int width = 32, SIMT_AT) {
    int lane = (int)simt::self->lane;
    return simt::shuffle(mask, v, (lane & ~(width - 1)) | (source & (width - 1)), "__shfl_sync", SIMT_PASS);
}
template <class T> inline T __shfl_xor_sync(uint32_t mask, T v, int bits, int width = 32, SIMT_AT) {
    int lane = (int)simt::self->lane, source = lane ^ bits;
    if ((source & ~(width - 1)) > (lane & ~(width - 1))) source = lane;
    return simt::shuffle(mask, v, source, "__shfl_xor_sync", SIMT_PASS);
}
template <class T> inline T __shfl_down_sync(uint32_t mask, T v, int delta, int width = 32, SIMT_AT) {
    int lane = (int)simt::self->lane, source = (lane & (width - 1)) + delta < width ? lane + delta : lane;
    return simt::shuffle(mask, v, source, "__shfl_down_sync", SIMT_PASS);
}
template <class T> inline T __shfl_up_sync(uint32_t mask, T v, int delta, int width = 32, SIMT_AT) {
    int lane = (int)simt::self->lane, source = (lane & (width - 1)) >= delta ? lane - delta : lane;
    return simt::shuffle(mask, v, source, "__shfl_up_sync", SIMT_PASS);
}
inline uint32_t __ballot_sync(uint32_t mask, int p, SIMT_AT) {
    return simt::vote(mask, p, "__ballot_sync", SIMT_PASS);
}
inline int __any_sync(uint32_t mask, int p, SIMT_AT) {
    return simt::vote(mask, p, "__any_sync", SIMT_PASS) != 0;
}
inline int __all_sync(uint32_t mask, int p, SIMT_AT) {
    return simt::vote(mask, p, "__all_sync", SIMT_PASS) == mask;
}
template <class T> inline T min(T a, T b) {
    return b < a ? b : a;
}
template <class T> inline T max(T a, T b) {
    return a < b ? b : a;
}
inline int __popc(uint32_t x) {
    return __builtin_popcount(x);
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}
inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
inline uint32_t __float_as_uint(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
inline float __uint_as_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
template <class T> inline T __ldg(const T *p) {
    return *p;
}
inline float __fdividef(float a, float b) {
    return a / b;
}
inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
#define __expf(x) expf(x)
#define __logf(x) logf(x)

/* Integer atomics only: floating ones would make results depend on timing. */
inline int atomicAdd(int *p, int v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
inline uint32_t atomicAdd(uint32_t *p, uint32_t v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
inline uint32_t atomicCAS(uint32_t *p, uint32_t expected, uint32_t v) {
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

#endif
