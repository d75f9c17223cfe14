/* ops_cpu.c -- the table of the fast CPU backend, its streams and its choice of instructions. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/cpu_vector.h"

Status cpu_f32(const char *op, const char *name, Tensor t) {
    NEED(!t.data || t.dtype == DT_F32, ST_UNSUPPORTED,
         "%s: %s is %s; the cpu backend computes in f32 (ref takes the rest)", op, name, dtype_name(t.dtype));
    return ST_OK;
}

Status cpu_weights(Stream *stream, const char *op, Tensor w, const float **out) {
    if (w.dtype == DT_F32) {
        *out = w.data;
        return ST_OK;
    }
    CpuStream *s = cpu_stream(stream);
    NEED(w.dim[0] <= s->wide_max, ST_ARG, "%s: %lld weights, the stream was opened for %d", op,
         (long long)w.dim[0], s->wide_max);
    cpu_widen(s->wide, w, 0, w.dim[0]);
    *out = s->wide;
    return ST_OK;
}

/* ---- streams ---- */

static int32_t larger(int32_t a, int32_t b) {
    return a > b ? a : b;
}

/* Run twice: to count, and to place. */
static void place(CpuStream *s, Arena *a) {
    size_t threads = (size_t)s->threads;
    s->wide = arena_take(a, sizeof(float) * (size_t)s->wide_max);
    s->ranked = arena_take(a, sizeof(Ranked) * threads * (size_t)s->limits.vocab);
}

/* Everything but the memory; its bytes. */
static size_t size_up(CpuStream *s, const StreamLimits *limits) {
    *s = (CpuStream){.limits = *limits,
                     .wide_max = larger(limits->width, limits->vocab), /* the bias of a head is the longest of all */
                     .threads = cpu_threads(INT32_MAX)};
    Arena count;
    arena_init(&count, NULL, 0);
    place(s, &count);
    return count.used;
}

size_t cpu_stream_bytes(const StreamLimits *limits) {
    CpuStream s;
    return size_up(&s, limits);
}

static Status stream_open_cpu(Stream **out, const StreamLimits *limits) {
    *out = NULL;
    CpuStream *s = malloc(sizeof *s);
    NEED(s, ST_NOMEM, "no memory for a stream");
    size_t bytes = size_up(s, limits);
    Status st = host_mem_open(&s->block, bytes);
    if (st) {
        free(s);
        return st;
    }
    Arena mem;
    arena_init(&mem, s->block, bytes);
    place(s, &mem);
    *out = (Stream *)(void *)s;
    return ST_OK;
}

static void stream_close_cpu(Stream *stream) {
    CpuStream *s = cpu_stream(stream);
    if (!s) return;
    host_mem_close(s->block);
    free(s);
}

/* ---- tables ---- */

#define SHARED                                                                                               \
    .act = DT_F32, .mem_open = host_mem_open, .mem_close = host_mem_close, .mem_filled = host_mem_filled,    \
    .stream_open = stream_open_cpu, .stream_close = stream_close_cpu, .plan_open = plan_open_cpu,            \
    .plan_close = plan_close_cpu, .copy = host_copy, .zero = host_zero, .sync = host_sync,                   \
    .attn_plan = attn_plan_cpu

#define X(op, Args) .op = op##_portable,
const Ops ops_cpu_portable = {.name = "cpu", SHARED, OPERATIONS(X)};
#undef X

#ifdef CARTRIDGE_X86
#define X(op, Args) .op = op##_avx2,
static const Ops avx2 = {.name = "cpu", SHARED, OPERATIONS(X)};
#undef X
#define X(op, Args) .op = op##_avx512,
static const Ops avx512 = {.name = "cpu", SHARED, OPERATIONS(X)};
#undef X

const Ops *ops_cpu_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2 : NULL;
}

const Ops *ops_cpu_avx512(void) {
    bool all = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return all && ops_cpu_avx2() ? &avx512 : NULL;
}
#else
const Ops *ops_cpu_avx2(void) {
    return NULL;
}

const Ops *ops_cpu_avx512(void) {
    return NULL;
}
#endif

static const Ops *chosen(void) {
    const Ops *ops = ops_cpu_avx512();
    if (!ops) ops = ops_cpu_avx2();
    return ops ? ops : &ops_cpu_portable;
}

const char *cpu_instructions(void) {
    return ops_cpu_avx512() ? "AVX-512" : ops_cpu_avx2() ? "AVX2" : "portable";
}

#define X(op, Args)                                                                                          \
    static Status op##_cpu(Stream *s, const Args *a) {                                                       \
        return chosen()->op(s, a);                                                                           \
    }
OPERATIONS(X)
#undef X

#define X(op, Args) .op = op##_cpu,
const Ops ops_cpu = {.name = "cpu", SHARED, OPERATIONS(X)};
#undef X
