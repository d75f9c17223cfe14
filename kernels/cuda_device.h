/* cuda_device.h -- the CUDA backend as the rest of the program sees it: plain C, no header of the toolkit.
 *
 * Three builds have these functions: kernels/ops_cuda.cu by nvcc; the same file under the emulator (tests/simt); and
 * kernels/cuda_absent.c where the toolkit is missing, whose answer is always that there is no device. */
#ifndef KERNELS_CUDA_DEVICE_H
#define KERNELS_CUDA_DEVICE_H

#include "kernels/ops.h"

typedef struct CudaDevice {
    char name[256];
    int32_t major, minor; /* compute capability */
    int32_t processors;
    size_t bytes, bytes_free;
    int32_t driver, runtime; /* CUDA versions times 1000, as 13000 */
} CudaDevice;

/* How many devices there are; 0 with ST_NOTFOUND and the reason: no toolkit at build time, no driver, a driver too old,
 * no device. */
Status cuda_device_count(int32_t *n);

/* ST_ARG for an index there is none of. */
Status cuda_device_read(CudaDevice *out, int32_t index);

/* Bytes of the device that the backend's stream_open and plan_open take; no device is needed to ask. 0: no toolkit at build
 * time. */
size_t cuda_stream_bytes(const StreamLimits *limits);
size_t cuda_plan_bytes(const AttnLimits *limits);

/* The table of this process's device, chosen once: a second call must name the same one. ST_NOTFOUND as above;
 * ST_UNSUPPORTED for a card older than compute capability 8.0. */
Status cuda_ops(const Ops **out, int32_t index);

#endif
