/* cuda_absent.c -- the CUDA backend of a program that was built without the toolkit: there is no device. */
#include <string.h>

#include "kernels/cuda_device.h"

Status cuda_device_count(int32_t *n) {
    *n = 0;
    FAIL(ST_NOTFOUND,
         "this program was built without the CUDA toolkit; install it and build again, or use --device cpu");
}

Status cuda_device_read(CudaDevice *out, int32_t index) {
    memset(out, 0, sizeof *out);
    FAIL(ST_ARG, "there is no CUDA device %d: this program was built without the CUDA toolkit", index);
}

Status cuda_ops(const Ops **out, int32_t index) {
    (void)index;
    *out = NULL;
    int32_t none;
    return cuda_device_count(&none);
}

size_t cuda_stream_bytes(const StreamLimits *limits) {
    (void)limits;
    return 0;
}

size_t cuda_plan_bytes(const AttnLimits *limits) {
    (void)limits;
    return 0;
}
