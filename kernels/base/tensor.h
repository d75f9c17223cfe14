/* tensor.h -- a typed, shaped, contiguous view of memory that somebody else owns.
 *
 * Row-major, without strides: what an operation reads or writes is always one block, which is what every kernel,
 * every copy and every file wants. Parts of it are tensors again when they are cut along the first dimension. */
#ifndef KERNELS_BASE_TENSOR_H
#define KERNELS_BASE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/arena.h"
#include "kernels/base/status.h"

typedef enum DType { DT_F32, DT_F64, DT_BF16, DT_F16, DT_I32 } DType;
enum { TENSOR_DIMS = 5 };

typedef struct Tensor {
    void *data; /* borrowed; NULL: absent (no bias, no gradient wanted) */
    DType dtype;
    int32_t ndim;             /* 0..TENSOR_DIMS */
    int64_t dim[TENSOR_DIMS]; /* elements; unused ones are 0 */
} Tensor;

size_t dtype_bytes(DType t);
const char *dtype_name(DType t); /* "f32", "f64", "bf16", "f16", "i32" */
int64_t tensor_count(Tensor t);  /* elements; 1 for ndim 0, 0 for an absent tensor */
size_t tensor_bytes(Tensor t);

/* Shapes are written as they are read: tensor_of(p, DT_F32, rows, width). Any integer type will do. */
#define TENSOR_SHAPE(...) (int32_t)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__}
#define tensor_of(data, type, ...) tensor_view((data), (type), TENSOR_SHAPE(__VA_ARGS__))
#define tensor_take(out, arena, type, ...) tensor_place((out), (arena), (type), TENSOR_SHAPE(__VA_ARGS__))
#define tensor_shape(t, ...) tensor_reshape((t), TENSOR_SHAPE(__VA_ARGS__))
#define tensor_is(t, type, ...) tensor_matches((t), (type), TENSOR_SHAPE(__VA_ARGS__))

Tensor tensor_view(void *data, DType type, int32_t ndim, const int64_t *dim);
/* Takes the memory from an arena. ST_NOMEM when it does not fit. */
Status tensor_place(Tensor *out, Arena *a, DType type, int32_t ndim, const int64_t *dim);
Tensor tensor_rows(Tensor t, int64_t first, int64_t count); /* t[first .. first+count) of dim 0 */
Tensor tensor_at(Tensor t, int64_t i);                      /* t[i]: one dimension less */
/* The same elements in another shape; counts must agree. */
Tensor tensor_reshape(Tensor t, int32_t ndim, const int64_t *dim);
/* Whether t is present with this type and shape; -1 matches any size. */
bool tensor_matches(Tensor t, DType type, int32_t ndim, const int64_t *dim);
/* to[i .. i+n) = from[j .. j+n), host memory, between any two float types; rounded once. */
void tensor_convert(Tensor to, int64_t i, Tensor from, int64_t j, int64_t n);
void tensor_print(Tensor t, char *buf, size_t cap); /* "bf16[4096,8,128]", "absent" */

/* bf16 <-> f32: exact widening, rounding to nearest even (NaN stays NaN). */
static inline float bf16_to_f32(uint16_t x) {
    union { uint32_t u; float f; } v = {(uint32_t)x << 16};
    return v.f;
}
static inline uint16_t f32_to_bf16(float x) {
    union { float f; uint32_t u; } v = {x};
    if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((v.u >> 16) | 0x40u);
    return (uint16_t)((v.u + 0x7fffu + ((v.u >> 16) & 1u)) >> 16);
}
float f16_to_f32(uint16_t x);

#endif
