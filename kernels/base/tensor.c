/* tensor.c -- views; no arithmetic on elements happens here. */
#include "kernels/base/tensor.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

size_t dtype_bytes(DType t) {
    static const size_t bytes[] = {[DT_F32] = 4, [DT_F64] = 8, [DT_BF16] = 2, [DT_F16] = 2, [DT_I32] = 4};
    return bytes[t];
}

const char *dtype_name(DType t) {
    static const char *const name[] = {
        [DT_F32] = "f32", [DT_F64] = "f64", [DT_BF16] = "bf16", [DT_F16] = "f16", [DT_I32] = "i32"};
    return name[t];
}

int64_t tensor_count(Tensor t) {
    if (!t.data) return 0;
    int64_t n = 1;
    for (int32_t i = 0; i < t.ndim; i++) n *= t.dim[i];
    return n;
}

size_t tensor_bytes(Tensor t) {
    return (size_t)tensor_count(t) * dtype_bytes(t.dtype);
}

Tensor tensor_view(void *data, DType type, int32_t ndim, const int64_t *dim) {
    assert(ndim >= 0 && ndim <= TENSOR_DIMS);
    Tensor t = {.data = data, .dtype = type, .ndim = ndim};
    for (int32_t i = 0; i < ndim; i++) t.dim[i] = dim[i];
    return t;
}

Status tensor_place(Tensor *out, Arena *a, DType type, int32_t ndim, const int64_t *dim) {
    Tensor t = tensor_view(out, type, ndim, dim); /* any address: only the count is used */
    char shape[96];
    tensor_print(t, shape, sizeof shape);
    t.data = arena_take(a, tensor_bytes(t));
    NEED(t.data, ST_NOMEM, "a %s does not fit: %zu of %zu bytes are taken", shape, a->used, a->size);
    *out = t;
    return ST_OK;
}

Tensor tensor_rows(Tensor t, int64_t first, int64_t count) {
    assert(t.ndim >= 1 && first >= 0 && count >= 0 && first + count <= t.dim[0]);
    int64_t row = 1;
    for (int32_t i = 1; i < t.ndim; i++) row *= t.dim[i];
    if (t.data) t.data = (char *)t.data + (size_t)(first * row) * dtype_bytes(t.dtype);
    t.dim[0] = count;
    return t;
}

Tensor tensor_at(Tensor t, int64_t i) {
    t = tensor_rows(t, i, 1);
    for (int32_t d = 0; d + 1 < t.ndim; d++) t.dim[d] = t.dim[d + 1];
    t.dim[--t.ndim] = 0;
    return t;
}

Tensor tensor_reshape(Tensor t, int32_t ndim, const int64_t *dim) {
    Tensor r = tensor_view(t.data, t.dtype, ndim, dim);
    assert(tensor_count(r) == tensor_count(t));
    return r;
}

bool tensor_matches(Tensor t, DType type, int32_t ndim, const int64_t *dim) {
    if (!t.data || t.dtype != type || t.ndim != ndim) return false;
    for (int32_t i = 0; i < ndim; i++)
        if (dim[i] >= 0 && dim[i] != t.dim[i]) return false;
    return true;
}

void tensor_print(Tensor t, char *buf, size_t cap) {
    if (!t.data) {
        snprintf(buf, cap, "absent");
        return;
    }
    size_t used = (size_t)snprintf(buf, cap, "%s[", dtype_name(t.dtype));
    for (int32_t i = 0; i < t.ndim && used < cap; i++)
        used += (size_t)snprintf(buf + used, cap - used, i ? ",%lld" : "%lld", (long long)t.dim[i]);
    if (used < cap) snprintf(buf + used, cap - used, "]");
}

float f16_to_f32(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000u) << 16, exponent = (x >> 10) & 31u, mantissa = x & 1023u;
    union {
        uint32_t u;
        float f;
    } v;
    if (exponent == 0) { /* zero and subnormals: mantissa * 2^-24 */
        v.f = (float)mantissa * 0x1p-24f;
        v.u |= sign;
    } else {
        v.u = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | mantissa << 13;
    }
    return v.f;
}

static double element(Tensor t, int64_t i) {
    switch (t.dtype) {
    case DT_F32:
        return ((const float *)t.data)[i];
    case DT_F64:
        return ((const double *)t.data)[i];
    case DT_BF16:
        return bf16_to_f32(((const uint16_t *)t.data)[i]);
    case DT_F16:
        return f16_to_f32(((const uint16_t *)t.data)[i]);
    default:
        return ((const int32_t *)t.data)[i];
    }
}

void tensor_convert(Tensor to, int64_t i, Tensor from, int64_t j, int64_t n) {
    size_t bytes = dtype_bytes(to.dtype);
    if (to.dtype == from.dtype) {
        memmove((char *)to.data + (size_t)i * bytes, (const char *)from.data + (size_t)j * bytes,
                (size_t)n * bytes);
        return;
    }
    assert(to.dtype == DT_F32 || to.dtype == DT_F64 || to.dtype == DT_BF16);
    for (int64_t e = 0; e < n; e++) {
        double v = element(from, j + e);
        if (to.dtype == DT_F32)
            ((float *)to.data)[i + e] = (float)v;
        else if (to.dtype == DT_F64)
            ((double *)to.data)[i + e] = v;
        else
            ((uint16_t *)to.data)[i + e] = f32_to_bf16((float)v);
    }
}
