/* rope.cu -- rotary positions. A block takes one token: its angles are worked out once, in shared memory, and
 * serve all heads. A thread turns eight pairs (i, i + D/2) of a head, two accesses of 16 bytes each way. */
#include "kernels/angles.cuh"
#include "kernels/vectors.cuh"

enum { ROPE_HALF_MAX = 128 };

struct RopeTask {
    Floats x;
    const int32_t *pos;
    const float *freq;
    int32_t heads, half;
    float sign;
};

/* The angles of this block's token. The product is an f32 one, as the checkpoints were trained with. */
static __device__ __forceinline__ void write_turns(Turn *turn, const RopeTask &t) {
    int32_t i = (int32_t)(threadIdx.y * blockDim.x + threadIdx.x);
    if (i < t.half) {
        Turn u = turn_of((float)t.pos[blockIdx.x] * t.freq[i]);
        turn[i] = Turn{u.cosine, t.sign * u.sine};
    }
    __syncthreads();
}

static __global__ void __launch_bounds__(ROW_THREADS) rope_kernel(RopeTask t) {
    SHARED_ARRAY(Turn, turn, ROPE_HALF_MAX);
    write_turns(turn, t);
    int32_t i = 8 * (int32_t)threadIdx.x, n = t.half - i;
    if (n <= 0) return;
    for (int32_t h = (int32_t)threadIdx.y; h < t.heads; h += (int32_t)blockDim.y) {
        int64_t first = ((int64_t)blockIdx.x * t.heads + h) * 2 * t.half + i;
        float a[8], b[8];
        fetch8(a, t.x, first, n);
        fetch8(b, t.x, first + t.half, n);
        widen8(a, t.x);
        widen8(b, t.x);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            if (k >= n) continue;
            Turn u = turn[i + k];
            float turned = a[k] * u.cosine - b[k] * u.sine;
            b[k] = b[k] * u.cosine + a[k] * u.sine;
            a[k] = turned;
        }
        store8(t.x, first, n, a);
        store8(t.x, first + t.half, n, b);
    }
}

Status rope_cuda(Stream *stream, const RopeArgs *a) {
    CudaStream *s = cuda_stream(stream);
    TRY(rope_check(a));
    TRY(cuda_float("rope", "x", a->x));
    int32_t pairs = (int32_t)(a->x.dim[2] / 2);
    NEED(pairs <= ROPE_HALF_MAX, ST_UNSUPPORTED, "rope: head size %d, at most %d", 2 * pairs,
         2 * ROPE_HALF_MAX);
    RopeTask t = {floats_of(a->x, pairs),
                  (const int32_t *)a->pos.data,
                  (const float *)a->freq.data,
                  (int32_t)a->x.dim[1],
                  pairs,
                  (float)a->sign};
    TRY(cuda_begin(s, "rope"));
    TRY_LAUNCH("rope", rope_kernel, dim3((unsigned)a->x.dim[0]), row_block(pairs), 0, s, t);
    return ST_OK;
}
