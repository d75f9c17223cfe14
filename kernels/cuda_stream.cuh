/* cuda_stream.cuh -- the host side that all .cu files share: streams with their scratch, launches that fail
 * by name.
 *
 * An operation is a host function  Status op_cuda(Stream *, const OpArgs *)  in the file of its kernels. It
 * calls the contract's check (checks.h), then cuda_begin, then launches with TRY_LAUNCH. Nothing here waits
 * for the device: what a kernel does wrong shows at the next sync, which names the operation that was running
 * (see cuda_begin). */
#ifndef KERNELS_CUDA_STREAM_CUH
#define KERNELS_CUDA_STREAM_CUH

extern "C" {
#include "kernels/checks.h"
}
#include "kernels/cuda.cuh"

struct CudaStream {
    cudaStream_t queue;
    int processors; /* multiprocessors of the device: what a persistent grid is sized by */
    StreamLimits limits;
    /* One scratch for all operations: work on a stream runs in order, so each may use all of it while it
     * runs. What it holds between two operations is undefined. */
    void *scratch;
    size_t scratch_bytes;
    /* Counters for "the last block to arrive": zero between operations, and whoever counts one up puts it
     * back. */
    uint32_t *ticket;
    struct Matmul *matmul;   /* linear.cu */
    struct Staging *staging; /* ops_cuda.cu: pinned memory that host-to-device copies pass through */
    uint32_t *running;       /* pinned: number of the operation that the device is busy with */
    bool recording;          /* a graph, not doing */
};
enum { CUDA_TICKETS = 4096 };

static inline CudaStream *cuda_stream(Stream *s) {
    return (CudaStream *)(void *)s;
}

/* Tells the device, in stream order, that operation `op` (a string literal that lives for ever) begins. */
Status cuda_begin(CudaStream *s, const char *op);
/* What a call of the runtime returned, as a Status whose message names `what`. */
Status cuda_status(const char *what, cudaError_t e);

#define TRY_CUDA(what, call) TRY(cuda_status((what), (call)))
#define TRY_LAUNCH(op, kernel, grid, block, smem, s, ...)                                                    \
    TRY_CUDA(op, LAUNCH(kernel, grid, block, smem, (s)->queue, __VA_ARGS__))

/* ST_UNSUPPORTED unless the tensor is absent, f32 or bf16: what kernels here compute on. */
Status cuda_float(const char *op, const char *name, Tensor t);
/* ST_UNSUPPORTED unless the tensor is absent or exactly of this type. */
Status cuda_type(const char *op, const char *name, Tensor t, DType type);

static inline int64_t blocks_for(int64_t n, int64_t per_block) {
    return (n + per_block - 1) / per_block;
}

/* Chooses a kernel by the type of a tensor: WITH_FLOAT(a->x, X, { LAUNCH of kernel<X> }) with X float or
 * bf16. */
#define WITH_FLOAT(tensor, X, ...)                                                                           \
    do {                                                                                                     \
        if ((tensor).dtype == DT_F32) {                                                                      \
            using X = float;                                                                                 \
            __VA_ARGS__                                                                                      \
        } else {                                                                                             \
            using X = bf16;                                                                                  \
            __VA_ARGS__                                                                                      \
        }                                                                                                    \
    } while (0)

/* ---- the table's functions ---- */

#define X(op, Args) Status op##_cuda(Stream *s, const Args *a);
OPERATIONS(X)
#undef X
Status plan_open_cuda(AttnPlan **out, const AttnLimits *limits);
void plan_close_cuda(AttnPlan *plan);
Status attn_plan_cuda(Stream *s, AttnPlan *plan, const AttnLayout *layout);
bool plan_records_cuda(const AttnPlan *plan);
Status record_cuda(Stream *s);
Status record_end_cuda(Stream *s, Recording **out);
Status replay_cuda(Stream *s, Recording *recording);
void recording_close_cuda(Recording *recording);

/* linear.cu: what matrix products keep in a stream. */
Status matmul_open(CudaStream *s);
void matmul_close(CudaStream *s);
size_t matmul_bytes(void); /* of the device, for one stream */

/* Scratch that the operations of a file need for these limits, in bytes; stream_open takes the largest. */
size_t linear_scratch(const StreamLimits *l);
size_t logits_scratch(const StreamLimits *l);
size_t adam_scratch(void);

/* Device memory, as in the table. */
Status mem_open_cuda(void **out, size_t bytes);
void mem_close_cuda(void *mem);

#endif
