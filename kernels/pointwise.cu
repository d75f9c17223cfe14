/* pointwise.cu -- swiglu: silu(gate) * up, silu(x) = x sigmoid(x), and back. A thread takes eight elements;
 * all of its loads are started before the first is used (vectors.cuh). Arithmetic hides behind the memory:
 * two approximate instructions make a sigmoid, and their error is below a thousandth of bf16's. */
#include "kernels/vectors.cuh"

#define LOG2_E 1.44269504f

/* 1 / (1 + e^-x); e^-x may become infinite, and the result 0. */
static __device__ __forceinline__ float sigmoid(float x) {
    return __fdividef(1.0f, 1.0f + ex2(-LOG2_E * x));
}

static __device__ __forceinline__ int64_t first_element() {
    return 8 * ((int64_t)blockIdx.x * ROW_THREADS + threadIdx.x);
}

static dim3 element_grid(int64_t n) {
    return dim3((unsigned)blocks_for(n, 8 * ROW_THREADS));
}

struct SwigluTask {
    Floats y, gate, up;
    int64_t n;
};

static __global__ void __launch_bounds__(ROW_THREADS) swiglu_kernel(SwigluTask t) {
    int64_t i = first_element(), n = t.n - i;
    if (n <= 0) return;
    float g[8], u[8];
    fetch8(g, t.gate, i, n);
    fetch8(u, t.up, i, n);
    widen8(g, t.gate);
    widen8(u, t.up);
#pragma unroll
    for (int k = 0; k < 8; k++) g[k] *= sigmoid(g[k]) * u[k];
    store8(t.y, i, n, g);
}

Status swiglu_cuda(Stream *stream, const SwigluArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(swiglu_check(a));
    SwigluTask t = {{}, {}, {}, tensor_count(a->y)};
    FLOATS_OF(t.y, "swiglu", a->y, 8);
    FLOATS_OF(t.gate, "swiglu", a->gate, 8);
    FLOATS_OF(t.up, "swiglu", a->up, 8);
    TRY(cuda_begin(s, "swiglu"));
    TRY_LAUNCH("swiglu", swiglu_kernel, element_grid(t.n), dim3(ROW_THREADS), 0, s, t);
    return ST_OK;
}

/* ---- back ---- */

struct SwigluBackTask {
    Floats dgate, dup, dy, gate, up;
    int64_t n;
};

/* silu'(x) = sigmoid(x) (1 + x (1 - sigmoid(x))). dgate, dup may be gate, up: this thread has read its
 * elements. */
static __global__ void __launch_bounds__(ROW_THREADS) swiglu_back_kernel(SwigluBackTask t) {
    int64_t i = first_element(), n = t.n - i;
    if (n <= 0) return;
    float d[8], g[8], u[8];
    fetch8(d, t.dy, i, n);
    fetch8(g, t.gate, i, n);
    fetch8(u, t.up, i, n);
    widen8(d, t.dy);
    widen8(g, t.gate);
    widen8(u, t.up);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        float s = sigmoid(g[k]), through_gate = d[k] * u[k] * s * (1.0f + g[k] * (1.0f - s));
        u[k] = d[k] * g[k] * s;
        g[k] = through_gate;
    }
    store8(t.dgate, i, n, g);
    store8(t.dup, i, n, u);
}

Status swiglu_back_cuda(Stream *stream, const SwigluBackArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(swiglu_back_check(a));
    SwigluBackTask t = {{}, {}, {}, {}, {}, tensor_count(a->dy)};
    FLOATS_OF(t.dgate, "swiglu_back", a->dgate, 8);
    FLOATS_OF(t.dup, "swiglu_back", a->dup, 8);
    FLOATS_OF(t.dy, "swiglu_back", a->dy, 8);
    FLOATS_OF(t.gate, "swiglu_back", a->gate, 8);
    FLOATS_OF(t.up, "swiglu_back", a->up, 8);
    TRY(cuda_begin(s, "swiglu_back"));
    TRY_LAUNCH("swiglu_back", swiglu_back_kernel, element_grid(t.n), dim3(ROW_THREADS), 0, s, t);
    return ST_OK;
}
