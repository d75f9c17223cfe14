/* linear_skinny.cuh -- y = x w^T for few rows; see linear_skinny.cu. */
#ifndef KERNELS_LINEAR_SKINNY_CUH
#define KERNELS_LINEAR_SKINNY_CUH

#include "kernels/cuda_stream.cuh"

/* Whether the kernel takes this product: at most 16 rows, both bf16, width a multiple of 32, 16-byte aligned. */
bool skinny_suits(Tensor x, Tensor w);
/* y = residual + x w^T + b as in LinearArgs; y f32 or bf16. A row has the same bits whatever rows stand beside it. */
Status skinny_run(CudaStream *s, Tensor y, Tensor x, Tensor w, Tensor b, Tensor residual);

#endif
