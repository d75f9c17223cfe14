/* machine.h -- what, beside the inputs, may decide the last bits of a result on a host. */
#ifndef KERNELS_MACHINE_H
#define KERNELS_MACHINE_H

#include <stddef.h>

/* "2 threads, AVX2": threads and the instructions that the kernels use. Runs with the same text give the same bits. */
void machine_settings(char *out, size_t cap);

#endif
