/* meter_time.c -- time on a CPU or a GPU, against what the device can do.
 *
 * Two ceilings are measured first: moving memory and multiplying, with this program's own operations where
 * the device is a GPU, with a sum and sgemm where it is the CPU. An operation that must move b bytes and make
 * f operations of arithmetic takes at least max(b / bandwidth, f / rate); the percentage is that over the
 * time it took. Times are the fastest of several; operands fit a cache where the model's do, so a percentage
 * above 100 means that they stayed in one. On a GPU several calls are queued at a time, so that a launch
 * costs what it costs in a pass. */
#ifdef BENCH_SGEMM
#include <cblas.h>
#undef I
#endif
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/meter.h"
#include "kernels/cuda_device.h"

enum { CPU_MEGABYTES = 2200, GPU_MEGABYTES = 12000, GPU_CALLS = 10 };

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool on_gpu(const Meter *m) {
    return m->ops != &ops_cpu;
}

/* The fastest of what fits 0.2 seconds, three tries at least. */
static double fastest(Meter *m, Call call, const void *args) {
    double start = seconds_now(), best = INFINITY;
    int calls = on_gpu(m) ? GPU_CALLS : 1;
    for (int n = 0; n < 3 || seconds_now() - start < 0.2; n++) {
        double from = seconds_now();
        for (int i = 0; i < calls; i++) must(call(m, args));
        must(m->ops->sync(m->stream));
        best = fmin(best, (seconds_now() - from) / calls);
    }
    return best;
}

/* ---- ceilings ---- */

typedef struct Ceiling {
    Tensor x, w, y;
    int32_t n;
    uint64_t sum;
} Ceiling;

static Status sum_memory(Meter *m, const void *args) {
    Ceiling *c = (Ceiling *)(uintptr_t)args;
    const uint64_t *x = c->x.data;
    int64_t words = (int64_t)tensor_bytes(c->x) / 8;
    uint64_t sum = 0;
    (void)m;
#pragma omp parallel for reduction(+ : sum)
    for (int64_t i = 0; i < words; i++) sum += x[i];
    c->sum += sum;
    return ST_OK;
}

/* The ceiling for arithmetic is what the best-known library makes of a large product; where it is not
 * installed, what our own does. */
static Status multiply_cpu(Meter *m, const void *args) {
    const Ceiling *c = args;
#ifdef BENCH_SGEMM
    (void)m;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, c->n, c->n, c->n, 1, c->x.data, c->n, c->w.data,
                c->n, 0, c->y.data, c->n);
    return ST_OK;
#else
    return m->ops->linear(m->stream, &(LinearArgs){.y = c->y, .x = c->x, .w = c->w});
#endif
}

static Status copy_memory(Meter *m, const void *args) {
    const Ceiling *c = args;
    return m->ops->copy(m->stream, c->y.data, c->x.data, tensor_bytes(c->x));
}

static Status multiply_gpu(Meter *m, const void *args) {
    const Ceiling *c = args;
    return m->ops->linear(m->stream, &(LinearArgs){.y = c->y, .x = c->x, .w = c->w});
}

static void measure_ceilings(Meter *m) {
    bool gpu = on_gpu(m);
    Ceiling c = {.n = gpu ? 8192 : 1536};
    DType type = gpu ? DT_BF16 : DT_F32;
    c.x = NOISE(m, DT_F32, 512 << 18), c.y = TAKE(m, DT_F32, 512 << 18);
    double bytes = (double)tensor_bytes(c.x);
    m->bandwidth = gpu ? 2 * bytes / fastest(m, copy_memory, &c) : bytes / fastest(m, sum_memory, &c);
    arena_init(&m->arena, m->mem, m->arena.size);
    c.x = NOISE(m, type, c.n, c.n), c.w = NOISE(m, type, c.n, c.n), c.y = TAKE(m, type, c.n, c.n);
    m->rate = 2.0 * c.n * c.n * c.n / fastest(m, gpu ? multiply_gpu : multiply_cpu, &c);
}

/* ---- opening ---- */

static Status choose(Meter *m, const char *device) {
    static char name[300];
    m->ops = &ops_cpu;
    m->device = "cpu";
    if (!strcmp(device, "cpu")) return ST_OK;
    NEED(!strncmp(device, "cuda", 4), ST_ARG,
         "--device %s: this program runs cpu and cuda[:N]; simt is bench_ops_simt's", device);
    int32_t index = device[4] == ':' ? atoi(device + 5) : 0;
    CudaDevice d;
    TRY(cuda_ops(&m->ops, index));
    TRY(cuda_device_read(&d, index));
    snprintf(name, sizeof name, "cuda:%d (%s)", index, d.name);
    m->device = name;
    return ST_OK;
}

Status meter_open(Meter *m, const char *device) {
    TRY(choose(m, device));
    m->dense = true;
    size_t bytes = (size_t)(on_gpu(m) ? GPU_MEGABYTES : CPU_MEGABYTES) << 20;
    TRY(m->ops->mem_open(&m->mem, bytes));
    TRY(m->ops->stream_open(&m->stream, &(StreamLimits){4096, 14336, 152064}));
    arena_init(&m->arena, m->mem, bytes);
    measure_ceilings(m);
    return ST_OK;
}

int32_t meter_rows(const Meter *m, int32_t rows) {
    return on_gpu(m) && rows >= 512 ? 8 * rows : rows;
}

bool meter_wants(const Meter *m, const Shape *s) {
    return on_gpu(m) || s->C <= 2048; /* larger models on a CPU: nobody waits for them */
}

Shape meter_cut(const Meter *m) {
    return *m->shape;
}

/* ---- reports ---- */

void meter_begin(const Meter *m) {
    if (m->json)
        printf("{\"device\": \"%s\", \"bytes_per_s\": %.4g, \"flop_per_s\": %.4g, \"results\": [", m->device,
               m->bandwidth, m->rate);
    else
        printf("%s: ceilings %.1f GB/s, %.1f GFLOP/s\n\n%-10s %-12s %-34s %12s %9s %11s %8s\n", m->device,
               m->bandwidth * 1e-9, m->rate * 1e-9, "model", "operation", "sizes", "time", "GB/s", "GFLOP/s",
               "ceiling");
}

void meter_end(const Meter *m) {
    if (m->json) printf("\n]}\n");
}

static void print_number(double x, int width) {
    x > 0 ? printf(" %*.1f", width, x) : printf(" %*s", width, "-");
}

void meter_run(Meter *m, const char *name, const char *kernel, const char *sizes, double bytes, double flops,
               Call call, const void *args) {
    (void)kernel;
    double seconds = fastest(m, call, args), least = fmax(bytes / m->bandwidth, flops / m->rate);
    if (m->json) {
        printf("%s\n{\"model\": \"%s\", \"operation\": \"%s\", \"sizes\": \"%s\", \"seconds\": %.4e, "
               "\"bytes\": %.0f, "
               "\"flop\": %.0f, \"of_ceiling\": %.3f}",
               m->any ? "," : "", m->shape->name, name, sizes, seconds, bytes, flops, least / seconds);
    } else {
        printf("%-10s %-12s %-34s %9.1f us", m->shape->name, name, sizes, seconds * 1e6);
        print_number(bytes / seconds * 1e-9, 9);
        print_number(flops / seconds * 1e-9, 11);
        least > 0 ? printf(" %6.0f %%\n", 100 * least / seconds) : printf("\n");
    }
    m->any = true;
    fflush(stdout);
}
