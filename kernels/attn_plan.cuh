/* attn_plan.cuh -- a batch's attention, worked out on the host once and used by all layers.
 *
 * Three lists, each built by the file whose kernel walks it:
 *   prefill  (attn_prefill.cuh)  tiles of rows of sequences with more than DECODE_ROWS rows
 *   decode   (attn_decode.cuh)   page ranges with all rows that read them, for sequences with at most DECODE_ROWS rows
 *   back     (attn_back.cuh)     pages with all rows that see them, and tiles of rows for dq
 * Which kernel serves a row depends on its own sequence only, so a row has the same bits in any company.
 *
 * Every array exists twice, in pinned host memory where it is built and in device memory; one copy brings it over. The
 * sizes are those of AttnLimits, so a captured graph finds the arrays of the next batch at the same addresses. */
#ifndef KERNELS_ATTN_PLAN_CUH
#define KERNELS_ATTN_PLAN_CUH

#include "kernels/cuda_stream.cuh"

enum { DECODE_ROWS = 16 };

/* The two blocks that arrays are taken from; run twice: to count (bases NULL), and to place. */
struct PlanMemory { Arena host, device; };

/* host[i] is built by plan_build and uploaded; device[i] is what kernels read. */
template <class T> struct PlanArray {
    T *host, *device;
    int64_t capacity;
};
template <class T> static inline void plan_take(PlanArray<T> *a, PlanMemory *m, int64_t capacity) {
    a->host = (T *)arena_take(&m->host, sizeof(T) * (size_t)capacity);
    a->device = (T *)arena_take(&m->device, sizeof(T) * (size_t)capacity);
    a->capacity = capacity;
}
/* Device memory without a host side: partial results, counters. */
template <class T> static inline T *plan_take_device(PlanMemory *m, int64_t count) {
    return (T *)arena_take(&m->device, sizeof(T) * (size_t)count);
}
/* Brings the first n elements to the device, in stream order. */
template <class T> static inline Status plan_upload(CudaStream *s, const PlanArray<T> *a, int64_t n) {
    if (n == 0) return ST_OK;
    return cuda_status("attn_plan", cudaMemcpyAsync(a->device, a->host, sizeof(T) * (size_t)n, cudaMemcpyHostToDevice,
                                                    s->queue));
}

/* The layout itself, for kernels that walk it directly. */
struct LayoutArrays {
    PlanArray<int32_t> row, seg, page, own_grad, learned_grad, sequence; /* sequence: [T] of each row */
    PlanArray<Segment> segment;
};

/* Of the tensor-core kernels; the others (attn.cu's plain one) need the layout only. */
static inline bool head_has_tiles(int32_t head_dim) {
    return head_dim == 64 || head_dim == 128;
}

static inline int32_t sequence_rows(const AttnLayout *l, int32_t s) {
    return l->row[s + 1] - l->row[s];
}

#include "kernels/attn_back.cuh"
#include "kernels/attn_decode.cuh"
#include "kernels/attn_prefill.cuh"

struct CudaPlan {
    AttnLimits limits;
    int32_t T, S, pages; /* of the batch it was made for */
    LayoutArrays layout;
    PrefillList prefill;
    DecodeList decode;
    BackList back;
    cudaEvent_t uploaded; /* the host side may be rebuilt once this has passed */
    void *host, *device;  /* owned */
};

static inline CudaPlan *cuda_plan(const AttnPlan *p) {
    return (CudaPlan *)(uintptr_t)(const void *)p;
}

#endif
