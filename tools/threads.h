/* threads.h -- the threads that compute: OpenMP's, or the one thread of a build without it. */
#ifndef TOOLS_THREADS_H
#define TOOLS_THREADS_H

#ifdef _OPENMP
#include <omp.h>
#endif

static inline int threads_now(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static inline void threads_set(int n) {
#ifdef _OPENMP
    omp_set_num_threads(n);
#else
    (void)n;
#endif
}

#endif
