/* cuda.cuh -- what every .cu file includes first: the device language, in its two builds.
 *
 * nvcc compiles these files for the GPU. On a machine without one, g++ or clang++ compiles the very same files as C++
 * and links them with the emulator in tests/simt, which runs every CUDA thread as a fibre. So that one source serves
 * both: kernels are launched by LAUNCH only, shared memory is declared by DYN_SMEM and SHARED_ARRAY only, all PTX
 * stands in ptx.cuh, full-mask warp operations stand at one call site, and spins go through wrappers that yield. */
#ifndef KERNELS_CUDA_CUH
#define KERNELS_CUDA_CUH

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define DYN_SMEM(name)           extern __shared__ __align__(1024) unsigned char name[]
#define SHARED_ARRAY(T, name, n) __shared__ T name[n]

/* Launches and reports what the launch itself found; what the kernel does wrong shows at the next sync. */
template <class... P, class... A>
static inline cudaError_t cuda_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t stream,
                                      A &&...args) {
    if (smem > 48 * 1024) {
        cudaError_t e = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
        if (e != cudaSuccess) return e;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = smem, config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, P(args)...);
}
#define LAUNCH(kernel, grid, block, smem, stream, ...) cuda_launch(kernel, grid, block, smem, stream, __VA_ARGS__)
#else
#include "tests/simt/simt.h"
#endif

#include <stdint.h>

#include "kernels/ptx.cuh"

typedef __nv_bfloat16 bf16;

#endif
