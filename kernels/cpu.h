/* cpu.h -- the fast CPU backend: what its operations share.
 *
 * Every *_cpu.c that computes is compiled twice, once for AVX2 with FMA and once for whatever the compiler's
 * baseline is, and CPU(name) gives the two copies their names. The vectors of cpu_vector.h are the compiler's
 * own, so one text serves both. ops_cpu asks the machine which copy to call: one binary runs anywhere and is
 * fast where it can be.
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

enum {
    SKINNY_ROWS = 48,   /* up to here linear multiplies without sgemm: bench_ops shows where the two cross */
    SKINNY_OUTPUTS = 6, /* of these at a time */
    PANEL_COLUMNS = 192, /* a converted piece of a weight: 288 KiB, with what sgemm packs in one cache */
    PANEL_DEPTH = 384,
};

typedef struct CpuStream {
    StreamLimits limits;
    int32_t threads;   /* scratch exists for so many */
    int32_t wide_max;
    float *wide;       /* [wide_max] a vector of weights as f32 */
    float *rows;       /* [SKINNY_ROWS, width rounded up to 16] inputs of a skinny linear, repacked */
    float *unpacked;   /* [threads, SKINNY_OUTPUTS, width rounded up to 16]: unpacked_floats each */
    int64_t unpacked_floats;
    float *panel;      /* [threads, PANEL_COLUMNS * PANEL_DEPTH] */
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

/* The two complete backends behind ops_cpu, for tests that compare them. */
extern const Ops ops_cpu_portable;
#ifdef CARTRIDGE_AVX2
extern const Ops ops_cpu_avx2;
#endif

#define CPU_OPERATIONS(X)                                                                                    \
    X(gather, GatherArgs)                                                                                    \
    X(scatter, ScatterArgs)                                                                                  \
    X(norm, NormArgs)                                                                                        \
    X(norm_back, NormBackArgs)                                                                               \
    X(linear, LinearArgs)                                                                                    \
    X(linear_back, LinearBackArgs)                                                                           \
    X(heads, HeadsArgs)                                                                                      \
    X(heads_back, HeadsBackArgs)                                                                             \
    X(swiglu, SwigluArgs)                                                                                    \
    X(swiglu_back, SwigluBackArgs)                                                                           \
    X(attn, AttnArgs)                                                                                        \
    X(attn_back, AttnBackArgs)                                                                               \
    X(distill, DistillArgs)                                                                                  \
    X(topk, TopkArgs)                                                                                        \
    X(sample, SampleArgs)                                                                                    \
    X(adam, AdamArgs)                                                                                        \
    X(squared_norm, SquaredNormArgs)

#define X(op, args)                                                                                          \
    Status op##_portable(Stream *s, const args *a);                                                          \
    Status op##_avx2(Stream *s, const args *a);
CPU_OPERATIONS(X)
#undef X

/* CPU(norm) is norm_avx2 or norm_portable: the compiler is given CPU_ISA. */
#define CPU_PASTE(name, isa) name##_##isa
#define CPU_NAME(name, isa) CPU_PASTE(name, isa)
#define CPU(name) CPU_NAME(name, CPU_ISA)

#endif
