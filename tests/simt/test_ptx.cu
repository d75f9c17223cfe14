/* test_ptx.cu -- every wrapper of kernels/ptx.cuh and every way in which threads meet, on inputs whose results are exact.
 *
 * The file compiles for both builds. Under the emulator all tests run in order, with copies that land as late as they
 * may, and under random schedules; a GPU that runs the same tests confirms the models. What must be refused (a barrier
 * that half a warp misses, a copy nobody waits for) is tried in a child process: the emulator reports and exits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda.cuh"

static int failures;
#define EXPECT(condition, ...)                                                                               \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            failures++;                                                                                      \
            printf("# %s:%d: ", __FILE__, __LINE__);                                                         \
            printf(__VA_ARGS__);                                                                             \
            putchar('\n');                                                                                   \
            return;                                                                                          \
        }                                                                                                    \
    } while (0)

/* ---- device memory for tests ---- */

template <class T> static T *upload(const T *host, size_t n) {
    void *p = nullptr;
    if (cudaMalloc(&p, n * sizeof(T)) != cudaSuccess) exit(1);
    if (host) cudaMemcpyAsync(p, host, n * sizeof(T), cudaMemcpyHostToDevice, nullptr);
    return (T *)p;
}

template <class T> static void download(T *host, T *device, size_t n) {
    cudaMemcpyAsync(host, device, n * sizeof(T), cudaMemcpyDeviceToHost, nullptr);
    cudaStreamSynchronize(nullptr);
    cudaFree(device);
}

/* ---- ldmatrix ---- */

__global__ void ldmatrix_kernel(uint32_t *out, const uint16_t *in, int transpose) {
    DYN_SMEM(smem);
    uint16_t *tile = (uint16_t *)smem;
    int lane = (int)threadIdx.x;
    for (int i = lane; i < 256; i += 32) tile[i] = in[i];
    __syncthreads();
    uint32_t r[4];
    if (transpose)
        ldmatrix_x4_trans(r, tile + lane * 8);
    else
        ldmatrix_x4(r, tile + lane * 8);
    for (int m = 0; m < 4; m++) out[lane * 4 + m] = r[m];
}

/* Element (row, column) of matrix m holds 64 m + 8 row + column: every result names its own origin. */
static void test_ldmatrix() {
    uint16_t in[256];
    uint32_t out[128];
    for (int i = 0; i < 256; i++) in[i] = (uint16_t)i;
    for (int transpose = 0; transpose < 2; transpose++) {
        uint16_t *d_in = upload(in, 256);
        uint32_t *d_out = upload<uint32_t>(nullptr, 128);
        LAUNCH(ldmatrix_kernel, dim3(1), dim3(32), 512, nullptr, d_out, (const uint16_t *)d_in, transpose);
        download(out, d_out, 128);
        cudaFree(d_in);
        for (int lane = 0; lane < 32; lane++)
            for (int m = 0; m < 4; m++) {
                int a = lane / 4, b = lane % 4 * 2;
                uint32_t low = (uint32_t)(64 * m + (transpose ? 8 * b + a : 8 * a + b));
                uint32_t want = low | (low + (transpose ? 8 : 1)) << 16;
                EXPECT(out[lane * 4 + m] == want, "lane %d matrix %d: %08x, wanted %08x", lane, m, out[lane * 4 + m], want);
            }
    }
}

/* ---- mma ---- */

__global__ void mma_kernel(float *d, const uint32_t *a, const uint32_t *b, int f16) {
    int lane = (int)threadIdx.x;
    float sum[4];
    uint32_t fragment[4];
    for (int i = 0; i < 4; i++) sum[i] = d[lane * 4 + i], fragment[i] = a[lane * 4 + i];
    if (f16)
        mma_f16(sum, fragment, b[lane * 2], b[lane * 2 + 1]);
    else
        mma_bf16(sum, fragment, b[lane * 2], b[lane * 2 + 1]);
    for (int i = 0; i < 4; i++) d[lane * 4 + i] = sum[i];
}

static uint16_t half_bits(int v, bool f16) {
    uint16_t h;
    if (f16) {
        __half x = __float2half((float)v);
        memcpy(&h, &x, 2);
    } else {
        bf16 x = __float2bfloat16((float)v);
        memcpy(&h, &x, 2);
    }
    return h;
}

static uint32_t pair(int low, int high, bool f16) {
    return half_bits(low, f16) | (uint32_t)half_bits(high, f16) << 16;
}

/* Small whole numbers: products and sums are exact in f32, in any order. */
static void test_mma() {
    int A[16][16], B[16][8];
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++) A[i][k] = (i * 7 + k * 3) % 9 - 4;
    for (int k = 0; k < 16; k++)
        for (int j = 0; j < 8; j++) B[k][j] = (k * 5 + j * 2) % 7 - 3;
    for (int f16 = 0; f16 < 2; f16++) {
        uint32_t a[128], b[64];
        float d[128];
        for (int lane = 0; lane < 32; lane++) {
            int g = lane / 4, t = lane % 4 * 2;
            for (int r = 0; r < 4; r++) {
                const int *row = A[g + r % 2 * 8] + t + r / 2 * 8;
                a[lane * 4 + r] = pair(row[0], row[1], f16);
            }
            for (int r = 0; r < 2; r++) b[lane * 2 + r] = pair(B[t + r * 8][g], B[t + r * 8 + 1][g], f16);
            for (int i = 0; i < 4; i++) d[lane * 4 + i] = (float)(lane + i);
        }
        uint32_t *da = upload(a, 128), *db = upload(b, 64);
        float *dd = upload(d, 128);
        LAUNCH(mma_kernel, dim3(1), dim3(32), 0, nullptr, dd, (const uint32_t *)da, (const uint32_t *)db, f16);
        download(d, dd, 128);
        cudaFree(da), cudaFree(db);
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++) {
                int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2, want = lane + i;
                for (int k = 0; k < 16; k++) want += A[row][k] * B[k][column];
                EXPECT(d[lane * 4 + i] == (float)want, "lane %d value %d: %g, wanted %d", lane, i, (double)d[lane * 4 + i], want);
            }
    }
}

/* ---- cp.async ---- */

/* Two groups in flight; each thread reads what its neighbour copied. */
__global__ void cp_async_kernel(uint32_t *out, const uint32_t *in) {
    DYN_SMEM(smem);
    int lane = (int)threadIdx.x, other = (lane + 1) % 64;
    uint32_t *first = (uint32_t *)smem, *second = first + 256;
    cp_async16(first + lane * 4, in + lane * 4, true);
    cp_async_commit();
    cp_async16(second + lane * 4, in + 256 + lane * 4, lane % 2 == 0);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    uint32_t sum = first[other * 4] + first[other * 4 + 3];
    cp_async_wait<0>();
    __syncthreads();
    out[lane] = sum + second[other * 4];
}

static void test_cp_async() {
    uint32_t in[512], out[64];
    for (int i = 0; i < 512; i++) in[i] = (uint32_t)i;
    uint32_t *d_in = upload(in, 512), *d_out = upload<uint32_t>(nullptr, 64);
    LAUNCH(cp_async_kernel, dim3(1), dim3(64), 2048, nullptr, d_out, (const uint32_t *)d_in);
    download(out, d_out, 64);
    cudaFree(d_in);
    for (int lane = 0; lane < 64; lane++) {
        int other = (lane + 1) % 64;
        uint32_t want = (uint32_t)(8 * other + 3 + (other % 2 == 0 ? 256 + 4 * other : 0));
        EXPECT(out[lane] == want, "thread %d: %u, wanted %u", lane, out[lane], want);
    }
}

/* ---- numbers ---- */

__global__ void numbers_kernel(float *out, uint32_t *packed) {
    out[threadIdx.x] = ex2((float)((int)threadIdx.x - 16));
    if (threadIdx.x == 0) {
        out[32] = ex2(-INFINITY);
        packed[0] = pack_bf16(1.0f, -2.0f);
    }
}

static void test_numbers() {
    float out[33];
    uint32_t packed[1];
    float *d = upload<float>(nullptr, 33);
    uint32_t *p = upload<uint32_t>(nullptr, 1);
    LAUNCH(numbers_kernel, dim3(1), dim3(32), 0, nullptr, d, p);
    download(out, d, 33);
    download(packed, p, 1);
    for (int i = 0; i < 32; i++) EXPECT(out[i] == ldexpf(1, i - 16), "2^%d gave %g", i - 16, (double)out[i]);
    EXPECT(out[32] == 0, "2^-inf gave %g", (double)out[32]);
    EXPECT(packed[0] == 0xC0003F80u, "pack of 1 and -2 gave %08x", packed[0]);
}

/* ---- warps ---- */

__global__ void warp_kernel(int *out) {
    int lane = (int)threadIdx.x & 31, v = (int)threadIdx.x;
    for (int bits = 16; bits; bits >>= 1) v += __shfl_xor_sync(~0u, v, bits);
    out[threadIdx.x * 4] = v;
    out[threadIdx.x * 4 + 1] = __shfl_sync(~0u, lane * 10, 5, 8);
    out[threadIdx.x * 4 + 2] = __shfl_down_sync(~0u, lane, 3);
    out[threadIdx.x * 4 + 3] = (int)__ballot_sync(~0u, lane % 3 == 0);
}

static void test_warps() {
    int out[256], *d = upload<int>(nullptr, 256);
    LAUNCH(warp_kernel, dim3(1), dim3(64), 0, nullptr, d);
    download(out, d, 256);
    for (int t = 0; t < 64; t++) {
        int lane = t & 31, warp = t / 32, sum = 32 * (32 * warp) + 31 * 16;
        EXPECT(out[t * 4] == sum, "sum of warp %d: %d, wanted %d", warp, out[t * 4], sum);
        EXPECT(out[t * 4 + 1] == (lane / 8 * 8 + 5) * 10, "shuffle of lane %d: %d", lane, out[t * 4 + 1]);
        EXPECT(out[t * 4 + 2] == (lane + 3 < 32 ? lane + 3 : lane), "shuffle down of lane %d: %d", lane, out[t * 4 + 2]);
        EXPECT((uint32_t)out[t * 4 + 3] == 0x49249249u, "ballot: %08x", (uint32_t)out[t * 4 + 3]);
    }
}

/* ---- blocks ---- */

/* The last block to arrive adds up what all have written: tickets, acquire and release. */
__global__ void last_block_kernel(int *total, int *part, uint32_t *ticket) {
    SHARED_ARRAY(int, last, 1);
    for (int i = (int)threadIdx.x; i < 64; i += (int)blockDim.x) part[blockIdx.x * 64 + i] = (int)(blockIdx.x + 1) * i;
    __syncthreads();
    if (threadIdx.x == 0) *last = add_acquire_release(ticket, 1) == gridDim.x - 1;
    __syncthreads();
    if (!*last) return;
    for (int i = (int)threadIdx.x; i < 64; i += (int)blockDim.x) {
        int sum = 0;
        for (unsigned b = 0; b < gridDim.x; b++) sum += part[b * 64 + i];
        total[i] = sum;
    }
}

static void test_last_block() {
    int total[64];
    uint32_t zero = 0, *ticket = upload(&zero, 1);
    int *d = upload<int>(nullptr, 64), *part = upload<int>(nullptr, 8 * 64);
    LAUNCH(last_block_kernel, dim3(8), dim3(48), 0, nullptr, d, part, ticket);
    download(total, d, 64);
    cudaFree(part), cudaFree(ticket);
    for (int i = 0; i < 64; i++) EXPECT(total[i] == 36 * i, "total %d: %d, wanted %d", i, total[i], 36 * i);
}

/* A block waits for a flag that another sets. Both must be resident. */
__global__ void flag_kernel(int *out, int *message, uint32_t *flag) {
    if (threadIdx.x) return;
    if (blockIdx.x == 0) {
        while (load_acquire(flag) == 0) {
        }
        *out = *message;
    } else {
        *message = 42;
        store_release(flag, 1);
    }
}

static void test_flags() {
    int out = 0;
    uint32_t zero = 0, *flag = upload(&zero, 1);
    int *d = upload<int>(nullptr, 1), *message = upload<int>(nullptr, 1);
    LAUNCH(flag_kernel, dim3(2), dim3(32), 0, nullptr, d, message, flag);
    download(&out, d, 1);
    cudaFree(message), cudaFree(flag);
    EXPECT(out == 42, "the message arrived as %d", out);
}

struct Test { const char *name; void (*run)(); };
static const Test tests[] = {
    {"ldmatrix", test_ldmatrix}, {"mma", test_mma},     {"cp_async", test_cp_async},     {"numbers", test_numbers},
    {"warps", test_warps},       {"flags", test_flags}, {"last_block", test_last_block},
};
enum { TESTS = sizeof tests / sizeof tests[0] };

#ifdef SIMT_EMULATOR
/* ---- what must be refused ---- */

#include <sys/wait.h>
#include <unistd.h>

__global__ void half_barrier(int from) {
    if ((int)threadIdx.x >= from + 32) __syncthreads();
}
__global__ void half_shuffle(int *out) {
    if (threadIdx.x & 1) return;
    out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 2);
}
__global__ void never_waits(const uint32_t *in) {
    DYN_SMEM(smem);
    cp_async16(smem + threadIdx.x * 16, in + threadIdx.x * 4, true);
    cp_async_commit();
}
__global__ void reads_too_early(uint32_t *out, const uint32_t *in) {
    DYN_SMEM(smem);
    cp_async16(smem + threadIdx.x * 16, in + threadIdx.x * 4, true);
    cp_async_commit();
    out[threadIdx.x] = *(uint32_t *)(smem + threadIdx.x * 16);
    cp_async_wait<0>();
}
__global__ void outside_shared(uint32_t *out) {
    DYN_SMEM(smem);
    uint32_t r[4];
    ldmatrix_x4(r, smem + threadIdx.x * 16);
    out[threadIdx.x] = r[0];
}
__global__ void waits_for_nobody(uint32_t *flag) {
    while (load_acquire(flag) == 0) {
    }
}

static uint32_t *spare() {
    static uint32_t zeros[1024];
    return upload(zeros, 1024);
}

static void run_half_barrier() { LAUNCH(half_barrier, dim3(1), dim3(64), 0, nullptr, 0); }
static void run_half_shuffle() { LAUNCH(half_shuffle, dim3(1), dim3(32), 0, nullptr, (int *)spare()); }
static void run_never_waits() { LAUNCH(never_waits, dim3(1), dim3(32), 512, nullptr, (const uint32_t *)spare()); }
static void run_outside_shared() { LAUNCH(outside_shared, dim3(1), dim3(32), 256, nullptr, spare()); }
static void run_waits_for_nobody() { LAUNCH(waits_for_nobody, dim3(1), dim3(1), 0, nullptr, spare()); }

#ifdef SIMT_TSAN
/* Right by luck in every order in which the emulator runs it; only the race detector sees the missing barrier. */
__global__ void missing_barrier(int *out) {
    SHARED_ARRAY(int, x, 64);
    x[threadIdx.x] = (int)threadIdx.x;
    out[threadIdx.x] = x[(threadIdx.x + 32) % 64];
}
static void run_missing_barrier() { LAUNCH(missing_barrier, dim3(1), dim3(64), 0, nullptr, (int *)spare()); }
extern "C" const char *__tsan_default_options() { return "halt_on_error=1"; }
#endif

struct Refusal { const char *name; void (*run)(); const char *says; int code = 97; };
static const Refusal refusals[] = {
#ifdef SIMT_TSAN
    {"a missing barrier", run_missing_barrier, "data race", 66},
#endif
    {"half a block at a barrier", run_half_barrier, "DEADLOCK"},
    {"half a warp in a shuffle", run_half_shuffle, "waits for it"},
    {"a copy nobody waits for", run_never_waits, "never waited for"},
    {"ldmatrix outside shared memory", run_outside_shared, "not within"},
    {"spinning on a flag nobody sets", run_waits_for_nobody, "LIVELOCK"},
};
enum { REFUSALS = sizeof refusals / sizeof refusals[0] };

/* Runs it in a child; true when the child was ended by a report that names the mistake and this file. */
static bool refused(const Refusal *r) {
    int channel[2];
    char said[4096];
    size_t n = 0;
    if (pipe(channel)) return false;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(channel[1], 2);
        r->run();
        _exit(0);
    }
    close(channel[1]);
    for (ssize_t got; (got = read(channel[0], said + n, sizeof said - 1 - n)) > 0;) n += (size_t)got;
    said[n] = '\0';
    close(channel[0]);
    int status;
    waitpid(child, &status, 0);
    bool right = WIFEXITED(status) && WEXITSTATUS(status) == r->code && strstr(said, r->says);
    if (!right) printf("# %s: %s\n", r->name, n ? said : "nothing was said");
    return right;
}

/* Not an error but a wrong number: what is read before the wait is NaN, not yesterday's data. */
static bool early_reads_show() {
    uint32_t out[32], *d = spare(), *in = spare();
    LAUNCH(reads_too_early, dim3(1), dim3(32), 512, nullptr, d, (const uint32_t *)in);
    cudaMemcpyAsync(out, d, sizeof out, cudaMemcpyDeviceToHost, nullptr);
    cudaFree(d), cudaFree(in);
    return out[7] == 0xFFFFFFFFu;
}

/* One run of all tests under each way of scheduling. */
static int run_everything() {
    int number = 0;
    for (int seed = 0; seed < 7; seed++) {
        simt::options = simt::Options();
        simt::options.resident = 2;
        simt::options.schedule = seed ? simt::RANDOM : simt::IN_ORDER;
        simt::options.async = seed % 3 == 0 ? simt::LATE : seed % 3 == 1 ? simt::EAGER : simt::RANDOMLY;
        simt::options.seed = (uint64_t)seed + 1;
        for (int i = 0; i < TESTS; i++) {
            int before = failures;
            tests[i].run();
            printf("%s %d - %s, schedule %d\n", failures == before ? "ok" : "not ok", ++number, tests[i].name, seed);
        }
    }
    simt::options = simt::Options();
    for (int i = 0; i < REFUSALS; i++) {
        bool right = refused(&refusals[i]);
        failures += !right;
        printf("%s %d - refused: %s\n", right ? "ok" : "not ok", ++number, refusals[i].name);
    }
    bool shows = early_reads_show();
    failures += !shows;
    printf("%s %d - a copy in flight leaves NaN\n", shows ? "ok" : "not ok", ++number);
    return number;
}
#else
static int run_everything() {
    for (int i = 0; i < TESTS; i++) {
        int before = failures;
        tests[i].run();
        printf("%s %d - %s\n", failures == before ? "ok" : "not ok", i + 1, tests[i].name);
    }
    return TESTS;
}
#endif

int main() {
    printf("1..%d\n", run_everything());
    return failures != 0;
}
