/* runtime.cpp -- the CUDA runtime calls that the engine makes, on the host.
 *
 * Device memory is host memory of exactly the size asked for, so that ASan sees the first byte behind it, and
 * starts as NaN. Work on a stream runs at once, unless the stream captures a graph: then it is recorded and
 * runs at each launch of the graph. Concurrency between streams is not modelled. A kernel can be made to
 * fault: then, as on a GPU, nothing queued behind it runs and every later call reports the fault. */
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>

#include "tests/simt/machine.h"
#include "tests/simt/simt_runtime.h"

struct CUstream_st {
    std::vector<std::function<void()>> *recording;
};
struct CUgraph_st {
    std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
    std::vector<std::function<void()>> work;
};
struct CUevent_st {
    double milliseconds;
};

namespace simt {
RuntimeOptions runtime;

static bool memory_fails() {
    return runtime.fail_at > 0 && --runtime.fail_at == 0;
}

static std::map<const void *, size_t> block_bytes,
    pinned_bytes; /* live blocks, on the device and on the host */

static bool lies_in(const std::map<const void *, size_t> &blocks, const void *p) {
    auto after = blocks.upper_bound(p);
    if (after == blocks.begin()) return false;
    --after;
    return (const char *)p < (const char *)after->first + after->second;
}

static size_t bytes_live;
static std::mutex memory_lock;
static cudaError_t fault; /* sticky */

/* With runtime.apart the host cannot touch device memory between a synchronisation and the next work: whole
 * pages are closed to it. (Closing them after each piece of work would take most of the time.) */
static size_t whole_pages(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

static bool in_reach;
static void set_reach(bool open) {
    if (!runtime.apart || in_reach == open) return;
    for (const auto &b : block_bytes)
        mprotect((void *)b.first, whole_pages(b.second), open ? PROT_READ | PROT_WRITE : PROT_NONE);
    in_reach = open;
}

static void do_work(const std::function<void()> &work) {
    set_reach(true);
    if (!fault) work();
}

static void *device_alloc(size_t bytes) {
    void *p = nullptr;
    if (!runtime.apart) return posix_memalign(&p, 256, bytes ? bytes : 1) ? nullptr : p;
    p = mmap(nullptr, whole_pages(bytes ? bytes : 1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
             0);
    return p == MAP_FAILED ? nullptr : p;
}

static void device_free(void *p, size_t bytes) {
    if (runtime.apart)
        munmap(p, whole_pages(bytes ? bytes : 1));
    else
        free(p);
}

cudaError_t submit(cudaStream_t stream, std::function<void()> work) {
    if (stream && stream->recording)
        stream->recording->push_back(std::move(work));
    else
        do_work(work);
    return cudaSuccess;
}

bool launch_faults() {
    if (runtime.fault_at > 0 && --runtime.fault_at == 0) fault = cudaErrorIllegalAddress;
    return fault != cudaSuccess;
}

void device_reset() {
    fault = cudaSuccess;
}

/* The driver's call that writes a word when the stream gets there. */
static int write_value(cudaStream_t stream, uintptr_t to, uint32_t value, unsigned) {
    submit(stream, [=] { *(volatile uint32_t *)to = value; });
    return 0;
}

bool is_device(const void *p) {
    return lies_in(block_bytes, p);
}

size_t device_bytes_live() {
    return bytes_live;
}

size_t device_blocks_live() {
    return block_bytes.size() + pinned_bytes.size();
}
} // namespace simt

using namespace simt;

extern "C" {
cudaError_t cudaGetDeviceCount(int *n) {
    *n = runtime.devices;
    return runtime.devices ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) {
    return device < runtime.devices ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated device");
    p->major = runtime.compute / 10, p->minor = runtime.compute % 10;
    p->multiProcessorCount = runtime.processors;
    p->totalGlobalMem = runtime.memory;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr attribute, int) {
    switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *v = SHARED_MAX;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *v = runtime.compute / 10;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *v = runtime.compute % 10;
        return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        *v = runtime.processors;
        return cudaSuccess;
    default:
        return cudaErrorInvalidValue;
    }
}
cudaError_t cudaDriverGetVersion(int *v) {
    *v = runtime.driver;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *v) {
    *v = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int) {
    return cudaSuccess;
}
const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    default:
        return "emulated error";
    }
}
const char *cudaGetErrorName(cudaError_t e) {
    switch (e) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress:
        return "cudaErrorIllegalAddress";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    default:
        return "cudaErrorUnknown";
    }
}
cudaError_t cudaGetLastError() {
    return fault;
}
cudaError_t cudaPeekAtLastError() {
    return fault;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **out, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *found) {
    bool known = !strcmp(symbol, "cuStreamWriteValue32");
    *out = known ? (void *)write_value : nullptr;
    *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
    std::lock_guard<std::mutex> hold(memory_lock);
    *out = nullptr;
    if (memory_fails() || bytes_live + bytes > runtime.memory) return cudaErrorMemoryAllocation;
    *out = device_alloc(bytes);
    if (!*out) return cudaErrorMemoryAllocation;
    memset(*out, 0xFF, bytes);
    set_reach(true); /* as the new block is */
    block_bytes[*out] = bytes;
    bytes_live += bytes;
    set_reach(false);
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) {
    std::lock_guard<std::mutex> hold(memory_lock);
    if (!p) return cudaSuccess;
    auto found = block_bytes.find(p);
    if (found == block_bytes.end()) fail("cudaFree(%p): not an address that cudaMalloc gave", p);
    size_t bytes = found->second;
    bytes_live -= bytes;
    block_bytes.erase(found);
    device_free(p, bytes);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **out, size_t bytes) {
    std::lock_guard<std::mutex> hold(memory_lock);
    *out = nullptr;
    if (memory_fails() || posix_memalign(out, 256, bytes ? bytes : 1)) return cudaErrorMemoryAllocation;
    pinned_bytes[*out] = bytes;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p) {
    std::lock_guard<std::mutex> hold(memory_lock);
    if (p && !pinned_bytes.erase(p)) fail("cudaFreeHost(%p): not an address that cudaMallocHost gave", p);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p) {
    std::lock_guard<std::mutex> hold(memory_lock);
    memset(a, 0, sizeof *a);
    a->type = lies_in(block_bytes, p)    ? cudaMemoryTypeDevice
              : lies_in(pinned_bytes, p) ? cudaMemoryTypeHost
                                         : cudaMemoryTypeUnregistered;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *left, size_t *total) {
    *total = runtime.memory;
    *left = runtime.memory - bytes_live;
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    return submit(stream, [=] { memcpy(to, from, bytes); });
}
cudaError_t cudaMemset(void *to, int value, size_t bytes) {
    submit(nullptr, [=] { memset(to, value, bytes); });
    return cudaGetLastError();
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    return submit(stream, [=] { memset(to, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) {
    *out = new CUstream_st{nullptr};
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    if (s && s->recording) fail("cudaStreamSynchronize while the stream captures a graph");
    set_reach(false);
    return cudaGetLastError();
}
cudaError_t cudaDeviceSynchronize() {
    return cudaGetLastError();
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
    s->recording = new std::vector<std::function<void()>>();
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out) {
    *out = new CUgraph_st{std::move(*s->recording)};
    delete s->recording;
    s->recording = nullptr;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long) {
    *out = new CUgraphExec_st{g->work};
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t) {
    for (const auto &work : g->work) do_work(work);
    return cudaGetLastError();
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
    delete g;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned) {
    *out = new CUevent_st{0};
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return cudaEventCreateWithFlags(out, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    e->milliseconds = (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
    set_reach(false);
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
    *ms = (float)(b->milliseconds - a->milliseconds);
    return cudaSuccess;
}
}
