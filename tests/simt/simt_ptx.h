/* simt_ptx.h -- the host side of kernels/ptx.cuh: the same wrappers, calling models (ptx.cpp). */
#ifndef TESTS_SIMT_SIMT_PTX_H
#define TESTS_SIMT_SIMT_PTX_H

#include "tests/simt/simt.h"

#define PTX_FN static inline

namespace simt {
void ldmatrix(uint32_t (&r)[4], const void *row, bool transpose, Place at);
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool f16, Place at);
void cp_async(void *to, const void *from, bool valid, Place at);
void cp_commit();
void cp_wait(int groups);
uint32_t acquire(const uint32_t *p, Place at);
} // namespace simt

PTX_FN void ldmatrix_x4(uint32_t (&r)[4], const void *row, SIMT_AT) {
    simt::ldmatrix(r, row, false, SIMT_PASS);
}
PTX_FN void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, SIMT_AT) {
    simt::ldmatrix(r, row, true, SIMT_PASS);
}
PTX_FN void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT_AT) {
    simt::mma(d, a, b0, b1, false, SIMT_PASS);
}
PTX_FN void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT_AT) {
    simt::mma(d, a, b0, b1, true, SIMT_PASS);
}
PTX_FN void cp_async16(void *to, const void *from, bool valid, SIMT_AT) {
    simt::cp_async(to, from, valid, SIMT_PASS);
}
PTX_FN void cp_async_commit() {
    simt::cp_commit();
}
template <int N> PTX_FN void cp_async_wait() {
    simt::cp_wait(N);
}
PTX_FN float ex2(float x) {
    return exp2f(x);
}
PTX_FN uint32_t pack_bf16(float low, float high) {
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    uint32_t r;
    memcpy(&r, &v, 4);
    return r;
}
PTX_FN uint32_t load_acquire(const uint32_t *p, SIMT_AT) {
    return simt::acquire(p, SIMT_PASS);
}
PTX_FN void store_release(uint32_t *p, uint32_t v) {
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
PTX_FN uint32_t add_acquire_release(uint32_t *p, uint32_t v) {
    return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}

/* One access of 16 bytes, also for those who watch accesses: a struct would be copied piece by piece. */
struct alignas(16) Vec16 { uint32_t w[4]; };
namespace simt {
typedef uint32_t Lanes4 __attribute__((vector_size(16), may_alias));
}
PTX_FN Vec16 load16(const void *p) {
    simt::Lanes4 x = *(const simt::Lanes4 *)p;
    return Vec16{{x[0], x[1], x[2], x[3]}};
}
PTX_FN void store16(void *p, Vec16 v) {
    *(simt::Lanes4 *)p = simt::Lanes4{v.w[0], v.w[1], v.w[2], v.w[3]};
}

#endif
