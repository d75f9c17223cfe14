/* simt_runtime.h -- what a test may set about the emulated device. */
#ifndef TESTS_SIMT_SIMT_RUNTIME_H
#define TESTS_SIMT_SIMT_RUNTIME_H

#include <cuda_runtime_api.h>
#include <stddef.h>

namespace simt {
struct RuntimeOptions {
    int devices = 1;
    int compute = 80;      /* compute capability times ten */
    int processors = 4;    /* SMs: persistent kernels size their grid by it */
    size_t memory = (size_t)4 << 30;
    int fail_at = 0;       /* the n-th cudaMalloc from now on fails; 0: none */
    cudaError_t pending = cudaSuccess; /* what the next cudaGetLastError reports */
};
extern RuntimeOptions runtime;
size_t device_bytes_live();
} // namespace simt

#endif
