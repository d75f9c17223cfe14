/* ops_cuda.cu -- the CUDA backend's table, its device, memory and streams.
 *
 * A process uses one device (several GPUs: one rank each). The runtime is linked statically and the driver
 * found at run time, so the same binary starts on a machine without either and says what is missing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda_stream.cuh"

extern "C" {
#include "kernels/cuda_device.h"
}

/* ---- errors ---- */

Status cuda_status(const char *what, cudaError_t e) {
    NEED(e == cudaSuccess, e == cudaErrorMemoryAllocation ? ST_NOMEM : ST_DEVICE, "%s: %s (%s)", what,
         cudaGetErrorString(e), cudaGetErrorName(e));
    return ST_OK;
}

Status cuda_float(const char *op, const char *name, Tensor t) {
    NEED(!t.data || t.dtype == DT_F32 || t.dtype == DT_BF16, ST_UNSUPPORTED,
         "%s: %s is %s; the cuda backend computes on f32 and bf16 (ref takes the rest)", op, name,
         dtype_name(t.dtype));
    return ST_OK;
}

Status cuda_type(const char *op, const char *name, Tensor t, DType type) {
    NEED(!t.data || t.dtype == type, ST_UNSUPPORTED,
         "%s: %s is %s; the cuda backend wants %s here (ref takes the rest)", op, name, dtype_name(t.dtype),
         dtype_name(type));
    return ST_OK;
}

/* ---- the device ---- */

static int device = -1; /* of this process, once chosen */

Status cuda_device_count(int32_t *n) {
    int count = 0, driver = 0, runtime = 0;
    *n = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaError_t e = cudaGetDeviceCount(&count);
    cudaGetLastError(); /* a machine without a device is no failure of what comes next */
    NEED(driver > 0, ST_NOTFOUND, "no CUDA driver on this machine; install one, or use --device cpu");
    NEED(e != cudaErrorInsufficientDriver && driver / 1000 >= runtime / 1000, ST_NOTFOUND,
         "the CUDA driver supports CUDA %d.%d, this program wants %d.%d or later; update the driver, or use "
         "--device cpu",
         driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    NEED(e == cudaSuccess && count > 0, ST_NOTFOUND, "no CUDA device: %s; use --device cpu",
         e == cudaSuccess ? "the driver lists none" : cudaGetErrorString(e));
    *n = count;
    return ST_OK;
}

Status cuda_device_read(CudaDevice *out, int32_t index) {
    memset(out, 0, sizeof *out);
    int32_t n;
    TRY(cuda_device_count(&n));
    NEED(index >= 0 && index < n, ST_ARG, "there is no CUDA device %d, only 0 to %d", index, n - 1);
    cudaDeviceProp p;
    TRY_CUDA("reading the device", cudaGetDeviceProperties(&p, index));
    snprintf(out->name, sizeof out->name, "%s", p.name);
    out->major = p.major, out->minor = p.minor, out->processors = p.multiProcessorCount;
    cudaDriverGetVersion(&out->driver);
    cudaRuntimeGetVersion(&out->runtime);
    TRY_CUDA("choosing the device", cudaSetDevice(index));
    TRY_CUDA("reading the device's memory", cudaMemGetInfo(&out->bytes_free, &out->bytes));
    if (device >= 0 && device != index) TRY_CUDA("choosing the device", cudaSetDevice(device));
    return ST_OK;
}

/* ---- memory ---- */

Status mem_open_cuda(void **out, size_t bytes) {
    size_t left = 0, all = 0;
    *out = NULL;
    cudaError_t e = cudaMalloc(out, bytes ? bytes : 1);
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* said here, so nobody else should find it */
        cudaMemGetInfo(&left, &all);
        FAIL(ST_NOMEM,
             "out of device memory: %zu bytes asked, %zu of %zu free; a smaller batch or fewer pages need "
             "less",
             bytes, left, all);
    }
    return cuda_status("device memory", e);
}

void mem_close_cuda(void *mem) {
    cudaFree(mem);
}

/* ---- staging ---- */

/* Small copies from ordinary host memory go through a ring of pinned memory, so that the caller may change
 * its memory at once and the device need not wait. Each half of the ring is used again when what was copied
 * from it has arrived. */
enum { STAGING_HALF = 1 << 20, STAGED_MAX = 64 << 10 };
struct Staging {
    unsigned char *ring; /* pinned, two halves */
    int half;
    size_t used; /* of that half */
    cudaEvent_t arrived[2];
};

static Status staging_open(Staging **out) {
    Staging *g = *out = (Staging *)calloc(1, sizeof *g);
    NEED(g, ST_NOMEM, "no memory for a stream");
    TRY_CUDA("staging", cudaMallocHost((void **)&g->ring, 2 * STAGING_HALF));
    for (int i = 0; i < 2; i++)
        TRY_CUDA("staging", cudaEventCreateWithFlags(&g->arrived[i], cudaEventDisableTiming));
    return ST_OK;
}

static void staging_close(Staging *g) {
    if (!g) return;
    for (int i = 0; i < 2; i++)
        if (g->arrived[i]) cudaEventDestroy(g->arrived[i]);
    cudaFreeHost(g->ring);
    free(g);
}

static Status stage(CudaStream *s, const void *from, size_t bytes, const void **staged) {
    Staging *g = s->staging;
    if (g->used + bytes > STAGING_HALF) {
        TRY_CUDA("copy", cudaEventRecord(g->arrived[g->half], s->queue));
        g->half ^= 1;
        g->used = 0;
        TRY_CUDA("copy", cudaEventSynchronize(g->arrived[g->half]));
    }
    unsigned char *to = g->ring + (size_t)g->half * STAGING_HALF + g->used;
    memcpy(to, from, bytes);
    g->used += (bytes + 15) / 16 * 16;
    *staged = to;
    return ST_OK;
}

static bool is_ordinary_host_memory(const void *p) {
    cudaPointerAttributes a;
    if (cudaPointerGetAttributes(&a, p) != cudaSuccess) return true;
    return a.type == cudaMemoryTypeUnregistered;
}

static Status copy_cuda(Stream *stream, void *to, const void *from, size_t bytes) {
    CudaStream *s = cuda_stream(stream);
    if (bytes == 0) return ST_OK;
    const void *source = from;
    if (bytes <= STAGED_MAX && is_ordinary_host_memory(from)) TRY(stage(s, from, bytes, &source));
    return cuda_status("copy", cudaMemcpyAsync(to, source, bytes, cudaMemcpyDefault, s->queue));
}

static Status zero_cuda(Stream *stream, Tensor t) {
    if (!t.data) return ST_OK;
    return cuda_status("zero", cudaMemsetAsync(t.data, 0, tensor_bytes(t), cuda_stream(stream)->queue));
}

/* ---- which operation is running ---- */

/* Kernels fail long after their launch. So the device itself notes, in stream order and in memory that
 * outlives its failure, which operation it has begun: one write of the stream, which costs it no kernel. */
enum { NAMES_MAX = 64 };
static const char *op_name[NAMES_MAX];
static int op_names;

typedef int (*WriteValue)(cudaStream_t, uintptr_t, uint32_t, unsigned);
static WriteValue write_value;

static void find_write_value(void) {
    enum { SINCE_CUDA = 11070 };
    void *entry = NULL;
    cudaDriverEntryPointQueryResult found;
    cudaError_t e = cudaGetDriverEntryPointByVersion("cuStreamWriteValue32", &entry, SINCE_CUDA,
                                                     cudaEnableDefault, &found);
    if (e == cudaSuccess && found == cudaDriverEntryPointSuccess) write_value = (WriteValue)entry;
    cudaGetLastError();
}

static uint32_t number_of(const char *op) {
    int i = 0;
    while (i < op_names && strcmp(op_name[i], op)) i++;
    if (i == op_names && op_names < NAMES_MAX) op_name[op_names++] = op;
    return (uint32_t)i + 1;
}

Status cuda_begin(CudaStream *s, const char *op) {
    if (s->recording) return ST_OK; /* the whole pass will have one name */
    if (write_value && write_value(s->queue, (uintptr_t)s->running, number_of(op), 0))
        FAIL(ST_DEVICE, "%s: the stream takes no more work: an operation before it failed", op);
    return ST_OK;
}

static Status sync_cuda(Stream *stream) {
    CudaStream *s = cuda_stream(stream);
    cudaError_t e = cudaStreamSynchronize(s->queue);
    if (e == cudaSuccess) return ST_OK;
    uint32_t n = *(volatile uint32_t *)s->running;
    return cuda_status(
        n >= 1 && n <= (uint32_t)op_names ? op_name[n - 1] : "an operation since the last sync", e);
}

/* ---- streams ---- */

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static const size_t tickets = sizeof(uint32_t) * CUDA_TICKETS;

static size_t scratch_for(const StreamLimits *l) {
    return larger(linear_scratch(l), larger(logits_scratch(l), adam_scratch()));
}

size_t cuda_stream_bytes(const StreamLimits *limits) {
    return scratch_for(limits) + tickets + matmul_bytes();
}

static Status open_parts(CudaStream *s) {
    TRY_CUDA("stream", cudaStreamCreateWithFlags(&s->queue, cudaStreamNonBlocking));
    TRY_CUDA("stream", cudaDeviceGetAttribute(&s->processors, cudaDevAttrMultiProcessorCount, device));
    TRY(staging_open(&s->staging));
    TRY_CUDA("stream", cudaMallocHost((void **)&s->running, sizeof *s->running));
    *s->running = 0;
    s->scratch_bytes = scratch_for(&s->limits);
    TRY(mem_open_cuda(&s->scratch, s->scratch_bytes));
    TRY(mem_open_cuda((void **)&s->ticket, tickets));
    TRY_CUDA("stream", cudaMemsetAsync(s->ticket, 0, tickets, s->queue));
    return matmul_open(s);
}

static void stream_close_cuda(Stream *stream) {
    CudaStream *s = cuda_stream(stream);
    if (!s) return;
    if (s->queue) cudaStreamSynchronize(s->queue);
    matmul_close(s);
    mem_close_cuda(s->ticket);
    mem_close_cuda(s->scratch);
    cudaFreeHost(s->running);
    staging_close(s->staging);
    if (s->queue) cudaStreamDestroy(s->queue);
    free(s);
}

static Status stream_open_cuda(Stream **out, const StreamLimits *limits) {
    *out = NULL;
    CudaStream *s = (CudaStream *)calloc(1, sizeof *s);
    NEED(s, ST_NOMEM, "no memory for a stream");
    s->limits = *limits;
    Status st = open_parts(s);
    if (st)
        stream_close_cuda((Stream *)(void *)s);
    else
        *out = (Stream *)(void *)s;
    return st;
}

/* ---- the table ---- */

static Ops table;

static void fill_table(void) {
#ifdef SIMT_EMULATOR
    table.name = "simt";
#else
    table.name = "cuda";
#endif
    table.act = DT_BF16;
    table.mem_open = mem_open_cuda, table.mem_close = mem_close_cuda;
    table.stream_open = stream_open_cuda, table.stream_close = stream_close_cuda;
    table.plan_open = plan_open_cuda, table.plan_close = plan_close_cuda, table.attn_plan = attn_plan_cuda;
    table.copy = copy_cuda, table.zero = zero_cuda, table.sync = sync_cuda;
    table.plan_records = plan_records_cuda, table.record = record_cuda, table.record_end = record_end_cuda;
    table.replay = replay_cuda, table.recording_close = recording_close_cuda;
#define X(op, Args) table.op = op##_cuda;
    OPERATIONS(X)
#undef X
}

Status cuda_ops(const Ops **out, int32_t index) {
    enum { OLDEST = 8 };
    *out = NULL;
    CudaDevice d;
    TRY(cuda_device_read(&d, index));
    NEED(d.major >= OLDEST, ST_UNSUPPORTED,
         "device %d (%s) has compute capability %d.%d, the kernels want 8.0 or later; use --device cpu",
         index, d.name, d.major, d.minor);
    NEED(device < 0 || device == index, ST_ARG,
         "this process uses CUDA device %d already, it cannot also use %d", device, index);
    device = index;
    TRY_CUDA("choosing the device", cudaSetDevice(index));
    find_write_value();
    fill_table();
    *out = &table;
    return ST_OK;
}
