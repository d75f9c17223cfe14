/* ptx.cpp -- shared memory, and functional models of the PTX instructions wrapped in kernels/ptx.cuh.
 *
 * The models rest on the PTX ISA's documentation of fragment layouts. Where the hardware promises nothing, neither do
 * they: the destination of a cp.async holds NaN until the thread has waited for it. Tensor-core sums are taken in an
 * order of our own, so results are compared within tolerances. */
#include "tests/simt/machine.h"
#include "tests/simt/simt_ptx.h"

namespace simt {
/* ---- shared memory ---- */

unsigned char *dynamic_shared() {
    return me()->block->shared;
}

void *static_shared(const void *tag, size_t bytes, size_t align) {
    Quiet quiet;
    Block *b = me()->block;
    for (const auto &s : b->statics)
        if (s.tag == tag) return s.p;
    size_t start = (b->static_used + align - 1) / align * align;
    if (start + bytes > STATIC_MAX) fail("more than %d bytes of static shared memory", STATIC_MAX);
    b->static_used = start + bytes + 16; /* a gap that ASan watches */
    void *p = b->static_arena + start;
    b->statics.push_back({tag, p});
    shadow_allow(p, bytes);
    return p;
}

static bool in_dynamic_shared(const Block *b, const void *p, size_t bytes) {
    const unsigned char *c = (const unsigned char *)p;
    return c >= b->shared && c + bytes <= b->shared + b->shared_bytes;
}

static void check_shared(const char *what, const void *p, Place at) {
    const Block *b = me()->block;
    if (!in_dynamic_shared(b, p, 16))
        fail("%s at %s:%d: %p is not within the block's %zu bytes of dynamic shared memory", what, at.file, at.line, p,
             b->shared_bytes);
    if ((uintptr_t)p & 15) fail("%s at %s:%d: shared address is not 16-byte aligned", what, at.file, at.line);
}

/* ---- ldmatrix ---- */

static void need_full_warp(uint32_t mask, const char *what) {
    if (mask != ~0u) fail("%s needs all 32 lanes, got %08x", what, mask);
}

struct MatrixOperand { uint16_t row[8]; uint32_t *result; uintptr_t address; bool transpose; };

/* Eight rows of 16 bytes are one wave when they lie in different 16-byte bank groups. */
static int bank_waves(MatrixOperand **p) {
    int count[8] = {}, worst = 0;
    for (int i = 0; i < 8; i++) {
        int n = ++count[p[i]->address >> 4 & 7];
        if (n > worst) worst = n;
    }
    return worst;
}

static void ldmatrix_exec(Warp *, uint32_t mask, void **operand) {
    need_full_warp(mask, "ldmatrix");
    MatrixOperand **p = (MatrixOperand **)operand;
    for (int matrix = 0; matrix < 4; matrix++) {
        MatrixOperand **row = p + matrix * 8;
        worker->counters.ldmatrix++;
        worker->counters.ldmatrix_waves += (uint64_t)bank_waves(row);
        for (int lane = 0; lane < 32; lane++) {
            int g = lane >> 2, t = (lane & 3) * 2;
            bool tr = p[lane]->transpose;
            uint32_t low = tr ? row[t]->row[g] : row[g]->row[t], high = tr ? row[t + 1]->row[g] : row[g]->row[t + 1];
            p[lane]->result[matrix] = low | high << 16;
        }
    }
}

void ldmatrix(uint32_t (&r)[4], const void *row, bool transpose, Place at) {
    Quiet quiet;
    check_shared("ldmatrix", row, at);
    touch_read(row, 16);
    MatrixOperand op;
    memcpy(op.row, row, 16);
    op.result = r, op.address = (uintptr_t)row, op.transpose = transpose;
    collective(transpose ? "ldmatrix.trans" : "ldmatrix", ~0u, &op, ldmatrix_exec, false, at);
}

/* ---- mma.sync m16n8k16 ---- */

struct MmaOperand { float *d; const uint32_t *a; uint32_t b[2]; bool f16; };
typedef float Vec8 __attribute__((vector_size(32)));

static float element(uint32_t pair, int high, bool f16) {
    uint16_t h = (uint16_t)(high ? pair >> 16 : pair);
    if (f16) {
        __half_raw raw;
        raw.x = h;
        return __half2float(__half(raw));
    }
    return __uint_as_float((uint32_t)h << 16);
}

static void gather_operands(MmaOperand **p, float a[16][16], float b[16][8]) {
    for (int lane = 0; lane < 32; lane++) {
        int g = lane >> 2, t = (lane & 3) * 2;
        bool f16 = p[lane]->f16;
        for (int r = 0; r < 4; r++) /* registers: (row, k) = (g,t) (g+8,t) (g,t+8) (g+8,t+8) */
            for (int h = 0; h < 2; h++) a[g + (r & 1) * 8][t + (r >> 1) * 8 + h] = element(p[lane]->a[r], h, f16);
        for (int r = 0; r < 2; r++)
            for (int h = 0; h < 2; h++) b[t + r * 8 + h][g] = element(p[lane]->b[r], h, f16);
    }
}

static void mma_exec(Warp *, uint32_t mask, void **operand) {
    need_full_warp(mask, "mma.sync");
    MmaOperand **p = (MmaOperand **)operand;
    float a[16][16], b[16][8];
    gather_operands(p, a, b);
    worker->counters.mma++;
    Vec8 sum[16];
    for (int row = 0; row < 16; row++) {
        Vec8 s = {}, column;
        for (int k = 0; k < 16; k++) {
            memcpy(&column, b[k], sizeof column);
            s += a[row][k] * column;
        }
        sum[row] = s;
    }
    for (int lane = 0; lane < 32; lane++) {
        int g = lane >> 2, t = (lane & 3) * 2;
        for (int i = 0; i < 4; i++) p[lane]->d[i] += sum[g + (i >> 1) * 8][t + (i & 1)];
    }
}

void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool f16, Place at) {
    Quiet quiet;
    MmaOperand op = {d, a, {b0, b1}, f16};
    collective(f16 ? "mma.f16" : "mma.bf16", ~0u, &op, mma_exec, false, at);
}

/* ---- cp.async ---- */

static void land(const Copy &c) {
    if (c.valid)
        memcpy(c.to, c.from, 16);
    else
        memset(c.to, 0, 16);
    touch_write(c.to, 16);
}

static void check_source(const void *from, Place at) {
    if ((uintptr_t)from & 15) fail("cp.async at %s:%d: source is not 16-byte aligned", at.file, at.line);
#ifdef SIMT_ASAN
    if (__asan_region_is_poisoned((void *)from, 16)) {
        volatile char sink = *(volatile char *)__asan_region_is_poisoned((void *)from, 16); /* ASan reports the place */
        (void)sink;
    }
#endif
    touch_read(from, 16);
    count_read(from, 16);
    worker->counters.cp_async_bytes += 16;
}

void cp_async(void *to, const void *from, bool valid, Place at) {
    Quiet quiet;
    check_shared("cp.async", to, at);
    if (valid) check_source(from, at);
    Copy c = {to, from, valid};
    if (options.async == EAGER || (options.async == RANDOMLY && random_below(worker, 2))) {
        land(c);
        return;
    }
    memset(to, 0xFF, 16); /* in flight: undefined */
    me()->open.push_back(c);
}

void cp_commit() {
    Quiet quiet;
    Fibre *f = me();
    f->groups.push_back(std::move(f->open));
    f->open.clear();
}

void cp_wait(int left) {
    Quiet quiet;
    Fibre *f = me();
    while ((int)f->groups.size() > left) {
        for (const Copy &c : f->groups.front()) land(c);
        f->groups.erase(f->groups.begin());
    }
}

/* ---- flags between blocks ---- */

uint32_t acquire(const uint32_t *p, Place at) {
    uint32_t v = __atomic_load_n(p, __ATOMIC_ACQUIRE);
    order_acquire(p); /* this file is not instrumented, the release in the kernel is */
    spin("load_acquire", at); /* gives others a turn, so that waiting for one of them ends */
    return v;
}
} // namespace simt
