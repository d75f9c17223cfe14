/* gpu_table.h -- the table of the GPU, real or emulated, for programs that have nothing else to test. */
#ifndef TESTS_SIMT_GPU_TABLE_H
#define TESTS_SIMT_GPU_TABLE_H

#include "kernels/cuda_device.h"
#include "tests/test.h"

/* Ends the program where there is none. */
static inline const Ops *gpu_table(void) {
    const Ops *ops;
    if (!cuda_ops(&ops, 0)) return ops;
    fprintf(stderr, "%s\n", status_message());
    exit(1);
}

#endif
