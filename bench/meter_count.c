/* meter_count.c -- what a kernel moves and multiplies, counted by the emulator, against the least there could
 * be.
 *
 * Not speed, but what speed is made of: bytes of device memory (whatever a cache may save), matrix
 * instructions, and accesses of shared memory that had to wait for a bank. The emulator is slow: attention
 * and Adam get one key head of a model with its query heads, and logits an eighth of the vocabulary; what is
 * counted is proportional to their number. */
#include <stdio.h>
#include <string.h>

#include "bench/meter.h"
#include "kernels/cuda_device.h"
#include "tests/simt/control.h"

enum { MEGABYTES = 600, FLOP_PER_MMA = 4096 };

Status meter_open(Meter *m, const char *device) {
    NEED(!strcmp(device, "simt"), ST_ARG, "--device %s: this program runs simt; cpu and cuda are bench_ops's",
         device);
    m->device = "simt";
    TRY(cuda_ops(&m->ops, 0));
    TRY(m->ops->mem_open(&m->mem, (size_t)MEGABYTES << 20));
    TRY(m->ops->stream_open(&m->stream, &(StreamLimits){1024, 14336, 152064}));
    arena_init(&m->arena, m->mem, (size_t)MEGABYTES << 20);
    return ST_OK;
}

int32_t meter_rows(const Meter *m, int32_t rows) {
    enum { ROWS = 256 };
    (void)m;
    return rows > ROWS ? ROWS : rows;
}

bool meter_wants(const Meter *m, const Shape *shape) {
    (void)m;
    return !strcmp(shape->name, "smollm2") ||
           !strcmp(shape->name, "llama3b"); /* a head size each; others on demand */
}

Shape meter_cut(const Meter *m) {
    Shape s = *m->shape;
    s.H /= s.G;
    s.G = 1;
    s.V /= 8;
    return s;
}

void meter_begin(const Meter *m) {
    if (m->json)
        printf("{\"device\": \"simt\", \"results\": [");
    else
        printf("%-10s %-12s %-34s %12s %7s %10s %7s %10s\n", "model", "operation", "sizes", "bytes", "/least",
               "mma", "/least", "bank waits");
}

void meter_end(const Meter *m) {
    if (m->json) printf("\n]}\n");
}

/* Waves of shared memory beyond those that any access needs, as a share of them. */
static double bank_waits(const SimtCounters *c) {
    double needed = (double)c->shared_ideal + (double)c->ldmatrix;
    return needed > 0 ? ((double)c->shared_waves + (double)c->ldmatrix_waves) / needed - 1 : 0;
}

static void print_share(double got, double least) {
    least > 0 ? printf(" %12.0f %7.3f", got, got / least) : printf(" %12.0f %7s", got, "-");
}

void meter_run(Meter *m, const char *name, const char *kernel, const char *sizes, double bytes, double flops,
               Call call, const void *args) {
    simt_counters_clear();
    must(call(m, args));
    must(m->ops->sync(m->stream));
    SimtCounters c = simt_counters(kernel);
    if (!c.launches) return; /* not a kernel of ours: cuBLASLt's product */
    double moved = (double)(c.read + c.written), mma = (double)c.mma;
    if (m->json) {
        printf("%s\n{\"model\": \"%s\", \"operation\": \"%s\", \"sizes\": \"%s\", \"bytes\": %.0f, "
               "\"least_bytes\": %.0f, "
               "\"mma\": %.0f, \"least_mma\": %.0f, \"bank_waits\": %.4f}",
               m->any ? "," : "", m->shape->name, name, sizes, moved, bytes, mma, flops / FLOP_PER_MMA,
               bank_waits(&c));
    } else {
        printf("%-10s %-12s %-34s", m->shape->name, name, sizes);
        print_share(moved, bytes);
        print_share(mma, mma > 0 ? flops / FLOP_PER_MMA : 0);
        printf(" %9.1f %%\n", 100 * bank_waits(&c));
    }
    m->any = true;
    fflush(stdout);
}
