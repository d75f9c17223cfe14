/* cpu.h -- the fast CPU backend: what its operations share.
 *
 * Every *_cpu.c that computes is compiled three times, for AVX-512, for AVX2 with FMA and for whatever the
 * compiler's baseline is, and CPU(name) gives the copies their names. The vectors of cpu_vector.h are the
 * compiler's own, so one text serves all. ops_cpu asks the machine which copy to call: one binary runs
 * anywhere and is fast where it can be.
 *
 * Work is cut into parts by sizes alone, never by the number of threads, and a part is always computed in the
 * same order: threads only decide who does it. Hence the same bits with any number of them. */
#ifndef KERNELS_CPU_H
#define KERNELS_CPU_H

#include "kernels/checks.h"
#include "kernels/host.h"

#ifdef _OPENMP
#include <omp.h>
#endif

typedef struct Ranked { float value; int32_t id; } Ranked;

typedef struct CpuStream {
    StreamLimits limits;
    int32_t threads;   /* scratch exists for so many */
    int32_t wide_max;
    float *wide;       /* [wide_max] a vector of weights as f32 */
    Ranked *ranked;    /* [threads, vocab] */
    void *block;       /* owned */
} CpuStream;

static inline CpuStream *cpu_stream(Stream *s) {
    return (CpuStream *)(void *)s;
}

static inline int cpu_thread(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* Threads for an operation that needs scratch planned for at most `planned`. */
static inline int cpu_threads(int32_t planned) {
#ifdef _OPENMP
    int n = omp_get_max_threads();
    return n < planned ? n : planned;
#else
    (void)planned;
    return 1;
#endif
}

/* How many parts of that size n makes. */
static inline int64_t cut(int64_t n, int64_t part) {
    return (n + part - 1) / part;
}

/* Below so many elements, or multiply-adds, one thread is done before a second one has woken up. */
enum { PARALLEL_MIN = 1 << 15, PARALLEL_PRODUCTS = 1 << 18 };

static inline bool cpu_many(int64_t products) {
    return products >= PARALLEL_PRODUCTS;
}

/* This backend computes in f32; absent tensors pass. */
Status cpu_f32(const char *op, const char *name, Tensor t);
#define CPU_F32(op, t) TRY(cpu_f32((op), #t, (t)))

/* a vector of weights as f32, in the stream's `wide` unless it is f32 already. */
Status cpu_weights(Stream *s, const char *op, Tensor w, const float **out);

/* What stream_open and plan_open take with the threads of now; for plans. */
size_t cpu_stream_bytes(const StreamLimits *limits);
size_t cpu_plan_bytes(const AttnLimits *limits);

Status plan_open_cpu(AttnPlan **out, const AttnLimits *limits);
void plan_close_cpu(AttnPlan *plan);
Status attn_plan_cpu(Stream *s, AttnPlan *plan, const AttnLayout *layout);

/* What the chosen copy was compiled for: "AVX-512", "AVX2" or "portable". */
const char *cpu_instructions(void);

/* The complete backends behind ops_cpu, for tests that compare them; NULL where this machine cannot run one. */
const Ops *ops_cpu_avx512(void);
const Ops *ops_cpu_avx2(void);
extern const Ops ops_cpu_portable;

#define X(op, Args)                                                                                          \
    Status op##_portable(Stream *s, const Args *a);                                                          \
    Status op##_avx2(Stream *s, const Args *a);                                                              \
    Status op##_avx512(Stream *s, const Args *a);
OPERATIONS(X)
#undef X

/* CPU(norm) is norm_avx512, norm_avx2 or norm_portable: the compiler is given CPU_ISA. */
#define CPU_PASTE(name, isa) name##_##isa
#define CPU_NAME(name, isa) CPU_PASTE(name, isa)
#define CPU(name) CPU_NAME(name, CPU_ISA)

#endif
