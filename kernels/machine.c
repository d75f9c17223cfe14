/* machine.c -- see machine.h. */
#include "kernels/machine.h"

#include <stdio.h>

#include "kernels/cpu.h"

void machine_settings(char *out, size_t cap) {
    int threads = 1;
#ifdef _OPENMP
    threads = omp_get_max_threads();
#endif
    snprintf(out, cap, "%d thread%s, %s", threads, threads == 1 ? "" : "s", cpu_instructions());
}
