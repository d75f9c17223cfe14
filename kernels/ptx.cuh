/* ptx.cuh -- every PTX instruction the kernels use, one wrapper each; the only inline assembly in the tree.
 *
 * Wrappers take generic pointers, never 32-bit shared addresses, and accumulators as arrays by reference: the
 * emulator's models (tests/simt/ptx.cpp) can then check what they are given. Each wrapper has a unit test with
 * integer-valued inputs that both builds run (tests/simt/test_ptx.cu), so that a real GPU can confirm the model. */
#ifndef KERNELS_PTX_CUH
#define KERNELS_PTX_CUH

#ifdef __CUDACC__
#define PTX_FN static __device__ __forceinline__

PTX_FN uint32_t ptx_shared(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8. */
PTX_FN void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(ptx_shared(row))
                 : "memory");
}
PTX_FN void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(ptx_shared(row))
                 : "memory");
}

/* d[16,8] += a[16,16] b[16,8]: bf16 operands, f32 sums; a row-major, b column-major fragments. */
PTX_FN void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
PTX_FN void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 16 bytes from global to shared memory without passing a register; not valid: zeros, and nothing is read. */
PTX_FN void cp_async16(void *to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(ptx_shared(to)), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}
PTX_FN void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Waits until at most N of this thread's groups are in flight. Others see the data after a barrier. */
template <int N> PTX_FN void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

PTX_FN float ex2(float x) { /* 2^x; ex2(-inf) = 0 */
    float y;
    asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
    return y;
}
PTX_FN uint32_t pack_bf16(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

/* Flags between blocks. What a thread wrote before a release is seen by whoever acquires the value. */
PTX_FN uint32_t load_acquire(const uint32_t *p) {
    uint32_t v;
    asm volatile("ld.acquire.gpu.global.u32 %0,[%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
PTX_FN void store_release(uint32_t *p, uint32_t v) {
    asm volatile("st.release.gpu.global.u32 [%0],%1;" ::"l"(p), "r"(v) : "memory");
}
PTX_FN uint32_t add_acquire_release(uint32_t *p, uint32_t v) {
    uint32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0,[%1],%2;" : "=r"(old) : "l"(p), "r"(v) : "memory");
    return old;
}

/* 16-byte accesses; p is 16-byte aligned. */
struct alignas(16) Vec16 { uint32_t w[4]; };
PTX_FN Vec16 load16(const void *p) {
    return *(const Vec16 *)p;
}
PTX_FN void store16(void *p, Vec16 v) {
    *(Vec16 *)p = v;
}
#else
#include "tests/simt/simt_ptx.h"
#endif

#endif
