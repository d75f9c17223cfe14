/* meter.h -- operands on a device, and how long or how much an operation takes there.
 *
 * One text of benches (ops.c) is built into two programs. bench_ops (meter_time.c) runs operations on a CPU
 * or a GPU and reports time against that device's ceilings, which it measures first. bench_ops_simt
 * (meter_count.c) runs the CUDA kernels in the emulator's counting build and reports bytes and matrix
 * instructions against the least there could be. */
#ifndef BENCH_METER_H
#define BENCH_METER_H

#include "kernels/ops.h"

/* Sizes of a model: width, feed-forward width, query and key heads, head size, vocabulary. */
typedef struct Shape {
    const char *name;
    int32_t C, F, H, G, D, V;
} Shape;

typedef struct Meter {
    const Ops *ops;
    Stream *stream;
    const char *device; /* "cpu", "cuda:0 (name)", "simt" */
    const Shape *shape;
    bool json, any;
    bool dense; /* whether products of many rows are worth running: not where they are not our kernels */
    double bandwidth, rate; /* ceilings: bytes and operations of arithmetic per second */
    Arena arena;            /* of device memory; operands are taken from its front, group by group */
    void *mem;              /* owned */
    Tensor noise[2];        /* host memory, f32 and bf16: what operands are filled from */
} Meter;

/* A program's end on any failure: benches have nothing to clean up that the end of the process does not. */
void must(Status st);

/* Opens a device ("cpu", "cuda[:N]", "simt"), memory for operands, a stream; measures ceilings. ST_ARG for a
 * device that this program cannot run. */
Status meter_open(Meter *m, const char *device);
void meter_close(Meter *m);
int32_t meter_rows(const Meter *m, int32_t rows); /* how many of `rows` rows this device should be given */
bool meter_wants(const Meter *m,
                 const Shape *shape); /* whether a model of these sizes is run unless asked for */
Shape meter_cut(
    const Meter *m); /* of the model, as much as the device is given where work grows with keys or tokens */

/* ---- operands ---- */

#define TAKE(m, type, ...)  meter_take((m), (type), TENSOR_SHAPE(__VA_ARGS__))
#define NOISE(m, type, ...) meter_noise((m), TAKE((m), (type), __VA_ARGS__), 1)
Tensor meter_take(Meter *m, DType type, int32_t ndim, const int64_t *dim);
/* Numbers between -size and size. */
Tensor meter_noise(Meter *m, Tensor t, float size);
Tensor meter_floats(Meter *m, float value, int64_t n);                  /* n times the same */
Tensor meter_counted(Meter *m, int64_t n, int32_t first, int32_t step); /* i32: first, first + step, .. */

/* ---- measuring ---- */

typedef Status (*Call)(Meter *m, const void *args);
/* Runs call(m, args) and reports it: `bytes` that must move, each counted once, and operations of arithmetic;
 * either may be 0. `kernel`: part of the names of its kernels, for who counts. */
void meter_run(Meter *m, const char *name, const char *kernel, const char *sizes, double bytes, double flops,
               Call call, const void *args);

void meter_begin(const Meter *m); /* heading of the report */
void meter_end(const Meter *m);

#endif
