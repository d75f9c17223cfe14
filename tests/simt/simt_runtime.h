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
    int driver = CUDART_VERSION; /* what the driver supports; 0: there is no driver */
    bool apart = false; /* the host crashes when it touches device memory; set before the first cudaMalloc */
    int fail_at = 0;  /* the n-th call for memory (device or pinned) from now on fails; 0: none */
    int fault_at = 0; /* the n-th kernel from now on faults; 0: none */
};
extern RuntimeOptions runtime;
size_t device_bytes_live();
size_t device_blocks_live(); /* device and pinned */
void device_reset();         /* after a fault: as if the process began anew */
} // namespace simt

#endif
