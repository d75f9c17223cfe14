/* test_counters.cu -- what the counting build counts, on kernels whose traffic one can tell by looking. */
#include <stdio.h>
#include <string.h>

#include "kernels/cuda.cuh"
#include "tests/simt/control.h"

enum { WARPS = 2, LANES = 32, N = WARPS * LANES };

static __global__ void copy_words(float *to, const float *from) {
    to[threadIdx.x] = from[threadIdx.x];
}

static __global__ void copy_far_apart(float *to, const float *from) {
    to[threadIdx.x] = from[threadIdx.x * 8];
}

static __global__ void copy_vectors(Vec16 *to, const Vec16 *from) {
    store16(&to[threadIdx.x], load16(&from[threadIdx.x]));
}

static __global__ void read_one_word(float *to, const float *from) {
    to[threadIdx.x] = *from;
}

/* Each lane writes to its own row of `stride` words and reads it back. */
static __global__ void through_shared(float *to, const float *from, int stride) {
    SHARED_ARRAY(float, tile, LANES * LANES);
    tile[threadIdx.x * stride] = from[threadIdx.x];
    __syncthreads();
    to[threadIdx.x] = tile[threadIdx.x * stride];
}

/* A loop whose accesses are the same instruction again and again, on both sides of a barrier. */
static __global__ void sum_pieces(float *to, const float *from, int pieces) {
    float sum = 0;
    for (int i = 0; i < pieces; i++) {
        sum += from[i * N + threadIdx.x];
        __syncthreads();
    }
    to[threadIdx.x] = sum;
}

static int tests, failures;

static void check(bool good, const char *what) {
    printf("%s %d - %s\n", good ? "ok" : "not ok", ++tests, what);
    failures += !good;
}

static float *from, *to;

static SimtCounters counted(const char *kernel) {
    SimtCounters c = simt_counters(kernel);
    simt_counters_clear();
    return c;
}

static void test_global(void) {
    LAUNCH(copy_words, dim3(1), dim3(N), 0, 0, to, from);
    SimtCounters c = counted("copy_words");
    check(c.read == 4 * N && c.written == 4 * N, "a copy of words reads and writes them once");
    check(c.requests == 2 * WARPS && c.sectors == 2 * N * 4 / 32, "four sectors serve a warp of words side by side");
    LAUNCH(copy_far_apart, dim3(1), dim3(N), 0, 0, to, from);
    c = counted("copy_far_apart");
    check(c.sectors == N + N * 4 / 32, "words 32 bytes apart take a sector each");
    LAUNCH(copy_vectors, dim3(1), dim3(N), 0, 0, (Vec16 *)to, (const Vec16 *)from);
    c = counted("copy_vectors");
    check(c.read == 16 * N && c.requests == 2 * WARPS && c.sectors == 2 * N * 16 / 32, "16-byte accesses are one request a warp");
    LAUNCH(read_one_word, dim3(1), dim3(N), 0, 0, to, from);
    c = counted("read_one_word");
    check(c.read == 4 * WARPS && c.sectors == WARPS + N * 4 / 32, "a word that all lanes read is read once by a warp");
    LAUNCH(sum_pieces, dim3(3), dim3(N), 0, 0, to, from, 5);
    c = counted("sum_pieces");
    check(c.read == 3 * 5 * 4 * N && c.requests == 3 * (5 + 1) * WARPS && c.barriers == 15, "loops and blocks add up");
}

static void test_shared(void) {
    LAUNCH(through_shared, dim3(1), dim3(LANES), 0, 0, to, from, 1);
    SimtCounters c = counted("through_shared");
    check(c.shared_waves == 2 && c.shared_ideal == 2, "neighbouring words are in different banks");
    LAUNCH(through_shared, dim3(1), dim3(LANES), 0, 0, to, from, LANES);
    c = counted("through_shared");
    check(c.shared_waves == 2 * LANES && c.shared_ideal == 2, "a column of 32-word rows is in one bank");
    LAUNCH(through_shared, dim3(1), dim3(LANES), 0, 0, to, from, 2);
    c = counted("through_shared");
    check(c.shared_waves == 4, "every second word: two rows of banks");
}

int main(void) {
    enum { BYTES = 16 * N * 8 };
    if (cudaMalloc((void **)&from, BYTES) || cudaMalloc((void **)&to, BYTES)) return 1;
    memset(from, 0, BYTES);
    test_global();
    test_shared();
    cudaFree(from), cudaFree(to);
    printf("1..%d\n", tests);
    return failures > 0;
}
