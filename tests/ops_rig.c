/* ops_rig.c -- see ops_rig.h. */
#include "tests/ops_rig.h"

enum { GUARD = 256, ARGS_MAX = 1024 };

static const int64_t largest_rows = 512, largest_width = 1200, largest_vocab = 20000;

void ops_rig_open(OpsRig *r, const Ops *ops, DType act, DType grid) {
    *r = (OpsRig){.ops = ops, .act = act, .real = act == DT_F64 ? DT_F64 : DT_F32, .grid = grid};
    StreamLimits limits = {(int32_t)largest_rows, (int32_t)largest_width, (int32_t)largest_vocab};
    assert_ok(ops->stream_open(&r->stream, &limits));
}

static uint8_t *bytes_of(OpsRig *r, const void *data, size_t bytes) {
    uint8_t *copy = malloc(bytes);
    assert_non_null(copy);
    assert_ok(r->ops->copy(r->stream, copy, data, bytes));
    assert_ok(r->ops->sync(r->stream));
    return copy;
}

static void check_guard(OpsRig *r, const void *data, size_t bytes) {
    uint8_t *guard = bytes_of(r, (const uint8_t *)data + bytes, GUARD);
    for (int i = 0; i < GUARD; i++)
        if (guard[i] != 0xFF) fail_msg("byte %d behind a tensor of %zu bytes was overwritten", i, bytes);
    free(guard);
}

void ops_rig_close(OpsRig *r) {
    while (r->outs) free(r->out[--r->outs].x);
    for (; r->blocks; r->blocks--) {
        check_guard(r, r->block[r->blocks - 1].data, r->block[r->blocks - 1].bytes);
        r->ops->mem_close(r->block[r->blocks - 1].data);
    }
    r->ops->stream_close(r->stream);
}

/* ---- tensors ---- */

Tensor ops_rig_blank(OpsRig *r, DType type, int32_t ndim, const int64_t *dim) {
    size_t bytes = dtype_bytes(type);
    for (int32_t i = 0; i < ndim; i++) bytes *= (size_t)dim[i];
    void *data, *nan = malloc(bytes + GUARD);
    assert_non_null(nan);
    assert_true(r->blocks < OPS_RIG_BLOCKS);
    memset(nan, 0xFF, bytes + GUARD);
    assert_ok(r->ops->mem_open(&data, bytes + GUARD));
    assert_int_equal((uintptr_t)data % ARENA_ALIGN, 0);
    assert_ok(r->ops->copy(r->stream, data, nan, bytes + GUARD));
    assert_ok(r->ops->sync(r->stream));
    free(nan);
    r->block[r->blocks].data = data;
    r->block[r->blocks++].bytes = bytes;
    return tensor_view(data, type, ndim, dim);
}

static void fill(OpsRig *r, Tensor t, const void *host) {
    assert_ok(r->ops->copy(r->stream, t.data, host, tensor_bytes(t)));
    assert_ok(r->ops->sync(r->stream));
}

static double on_grid(double x, DType grid) {
    if (grid == DT_F64) return x;
    return grid == DT_BF16 ? bf16_to_f32(f32_to_bf16((float)x)) : (float)x;
}

/* Weights are bf16 in every run, so what is stored as bf16 is on that grid already. */
Tensor ops_rig_floats(OpsRig *r, DType type, const double *values, int32_t ndim, const int64_t *dim) {
    Tensor t = ops_rig_blank(r, type, ndim, dim), host = t;
    int64_t n = tensor_count(t);
    double *rounded = malloc(sizeof(double) * (size_t)n + 1);
    host.data = malloc(tensor_bytes(t) + 1);
    assert_true(rounded && host.data);
    for (int64_t i = 0; i < n; i++) rounded[i] = on_grid(values[i], r->grid);
    tensor_convert(host, 0, tensor_of(rounded, DT_F64, n), 0, n);
    fill(r, t, host.data);
    free(rounded), free(host.data);
    return t;
}

Tensor ops_rig_normal(OpsRig *r, DType type, uint64_t seed, double scale, int32_t ndim, const int64_t *dim) {
    int64_t n = 1;
    for (int32_t i = 0; i < ndim; i++) n *= dim[i];
    double *x = malloc(sizeof(double) * (size_t)n + 1);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) x[i] = scale * (double)random_normal(seed, 0, (uint64_t)i);
    Tensor t = ops_rig_floats(r, type, x, ndim, dim);
    free(x);
    return t;
}

Tensor ops_rig_whole(OpsRig *r, const int32_t *values, int32_t ndim, const int64_t *dim) {
    Tensor t = ops_rig_blank(r, DT_I32, ndim, dim);
    fill(r, t, values);
    return t;
}

Tensor ops_rig_below(OpsRig *r, int32_t bound, uint64_t seed, int32_t ndim, const int64_t *dim) {
    int64_t n = 1;
    for (int32_t i = 0; i < ndim; i++) n *= dim[i];
    int32_t *x = malloc(sizeof *x * (size_t)n + 1);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) x[i] = (int32_t)random_below(seed, 1, (uint64_t)i, (uint64_t)bound);
    Tensor t = ops_rig_whole(r, x, ndim, dim);
    free(x);
    return t;
}

double *ops_rig_read(OpsRig *r, Tensor t) {
    int64_t n = tensor_count(t);
    Tensor host = t;
    host.data = bytes_of(r, t.data, tensor_bytes(t));
    double *x = malloc(sizeof(double) * (size_t)n + 1);
    assert_non_null(x);
    if (t.dtype != DT_I32) tensor_convert(tensor_of(x, DT_F64, n), 0, host, 0, n);
    for (int64_t i = 0; t.dtype == DT_I32 && i < n; i++) x[i] = ((const int32_t *)host.data)[i];
    free(host.data);
    return x;
}

void ops_rig_take(OpsRig *r, const char *name, Nearness near, Tensor t) {
    assert_true(r->outs < OPS_RIG_OUTPUTS);
    r->out[r->outs++] = (Output){name, near, tensor_count(t), ops_rig_read(r, t)};
}

/* ---- spoiled calls ---- */

typedef struct Operation {
    const char *name;
    Status (*call)(OpsRig *r, const void *args);
    int32_t tensors;
    unsigned absent, free_dims;
} Operation;

/* A tensor that breaks the contract in one of several ways; false: this way breaks nothing. */
enum { WAYS = 5 };
static bool spoiled(Tensor *t, const Operation *op, int32_t i, int way) {
    unsigned known_here = op->free_dims >> 2 * i & 3;
    switch (way) {
    case 0:
        t->data = NULL;
        return !(op->absent >> i & 1);
    case 1:
        t->dtype = t->dtype == DT_I32 ? DT_F32 : DT_I32;
        return true;
    case 2:
        t->ndim--;
        return t->ndim > 0;
    case 3:
        t->dim[0]++;
        return !(known_here & 1);
    default:
        t->dim[t->ndim - 1]++;
        return !(known_here & 2);
    }
}

static uint8_t **snapshot(OpsRig *r) {
    uint8_t **copy = malloc(sizeof *copy * OPS_RIG_BLOCKS);
    assert_non_null(copy);
    for (int32_t b = 0; b < r->blocks; b++) copy[b] = bytes_of(r, r->block[b].data, r->block[b].bytes);
    return copy;
}

static void compare_and_free(OpsRig *r, uint8_t **before, const char *what) {
    uint8_t **after = snapshot(r);
    for (int32_t b = 0; b < r->blocks; b++) {
        if (memcmp(before[b], after[b], r->block[b].bytes))
            fail_msg("%s: a refused call wrote something", what);
        free(before[b]), free(after[b]);
    }
    free(before), free(after);
}

static void spoil_each(OpsRig *r, const Operation *op, const void *args, size_t size) {
    unsigned char bad[ARGS_MAX];
    uint8_t **before = snapshot(r);
    for (int32_t i = 0; i < op->tensors; i++)
        for (int way = 0; way < WAYS; way++) {
            Tensor t;
            memcpy(&t, (const char *)args + sizeof t * (size_t)i, sizeof t);
            if (!t.data || !spoiled(&t, op, i, way)) continue;
            memcpy(bad, args, size);
            memcpy(bad + sizeof t * (size_t)i, &t, sizeof t);
            Status st = op->call(r, bad);
            if (st != ST_ARG)
                fail_msg("%s: argument %d spoiled in way %d gave: %s", op->name, i, way, status_text(st));
            assert_says(op->name);
        }
    compare_and_free(r, before, op->name);
}

#define X(op, Args, tensors, absent, free_dims)                                                              \
    static Status call_##op(OpsRig *r, const void *args) {                                                   \
        return r->ops->op(r->stream, args);                                                                  \
    }                                                                                                        \
    void ops_rig_##op(OpsRig *r, Args a) {                                                                   \
        static const Operation operation = {#op, call_##op, tensors, absent, free_dims};                     \
        if (r->spoil) spoil_each(r, &operation, &a, sizeof a);                                               \
        assert_ok(r->ops->op(r->stream, &a));                                                                \
        assert_ok(r->ops->sync(r->stream));                                                                  \
    }
OPS_RIG_OPERATIONS(X)
#undef X
