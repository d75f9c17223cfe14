/* meter.c -- operands, the same for every way of measuring; see meter.h. */
#include "bench/meter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NOISE_COUNT = 1 << 20 };

void must(Status st) {
    if (!st) return;
    fprintf(stderr, "bench_ops: %s\n", status_message());
    exit(1);
}

/* Between -1 and 1, and never twice the same in a row. */
static float noise_at(int64_t i) {
    return (float)((uint64_t)i * 0x9E3779B97F4A7C15u >> 40) * 0x1p-23f - 1.0f;
}

static void open_noise(Meter *m) {
    float *x = malloc(sizeof *x * NOISE_COUNT);
    uint16_t *y = malloc(sizeof *y * NOISE_COUNT);
    if (!x || !y) exit(1);
    m->noise[0] = tensor_of(x, DT_F32, NOISE_COUNT);
    m->noise[1] = tensor_of(y, DT_BF16, NOISE_COUNT);
}

Tensor meter_take(Meter *m, DType type, int32_t ndim, const int64_t *dim) {
    Tensor t;
    must(tensor_place(&t, &m->arena, type, ndim, dim));
    return t;
}

Tensor meter_noise(Meter *m, Tensor t, float size) {
    if (!m->noise[0].data) open_noise(m);
    for (int64_t i = 0; i < NOISE_COUNT; i++) ((float *)m->noise[0].data)[i] = size * noise_at(i);
    tensor_convert(m->noise[1], 0, m->noise[0], 0, NOISE_COUNT);
    Tensor from = m->noise[t.dtype == DT_BF16];
    size_t bytes = tensor_bytes(t), block = tensor_bytes(from);
    for (size_t at = 0; at < bytes; at += block)
        must(
            m->ops->copy(m->stream, (char *)t.data + at, from.data, bytes - at < block ? bytes - at : block));
    must(m->ops->sync(m->stream));
    return t;
}

static Tensor upload(Meter *m, Tensor t, void *host) {
    must(m->ops->copy(m->stream, t.data, host, tensor_bytes(t)));
    must(m->ops->sync(m->stream));
    free(host);
    return t;
}

Tensor meter_floats(Meter *m, float value, int64_t n) {
    float *x = malloc(sizeof *x * (size_t)n);
    if (!x) exit(1);
    for (int64_t i = 0; i < n; i++) x[i] = value;
    return upload(m, TAKE(m, DT_F32, n), x);
}

Tensor meter_counted(Meter *m, int64_t n, int32_t first, int32_t step) {
    int32_t *x = malloc(sizeof *x * (size_t)n);
    if (!x) exit(1);
    for (int64_t i = 0; i < n; i++) x[i] = first + step * (int32_t)i;
    return upload(m, TAKE(m, DT_I32, n), x);
}

void meter_close(Meter *m) {
    free(m->noise[0].data), free(m->noise[1].data);
    m->ops->stream_close(m->stream);
    m->ops->mem_close(m->mem);
}
