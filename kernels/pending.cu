/* pending.cu -- operations whose kernels do not exist yet; each is replaced by its file's own definition. */
#include "kernels/cuda_stream.cuh"

#define X(op, Args)                                                                                          \
    __attribute__((weak)) Status op##_cuda(Stream *, const Args *) {                                         \
        FAIL(ST_UNSUPPORTED, #op ": no kernel yet");                                                         \
    }
CUDA_OPERATIONS(X)
#undef X
__attribute__((weak)) size_t logits_scratch(const StreamLimits *) {
    return 0;
}
__attribute__((weak)) size_t adam_scratch(void) {
    return 0;
}
