/* schedule.cpp -- which fibre runs next, which block starts next, and what is said when none can. */
#include <pthread.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

#include "tests/simt/machine.h"

namespace simt {
Options options;
const char *kernel_name = "?";

enum { FAIL_EXIT = 97, GUARD = 64, SPIN_ROUNDS_MAX = 200000 };

std::string describe(const Fibre *f) {
    char text[128];
    uint3 b = f->block->grid.block;
    snprintf(text, sizeof text, "block (%u,%u,%u) thread %u (warp %u lane %u)", b.x, b.y, b.z, f->linear, f->linear / 32,
             f->lane);
    return text;
}

void fail(const char *fmt, ...) {
    fflush(stdout);
    fprintf(stderr, "SIMT ERROR in %s: ", kernel_name);
    if (self) fprintf(stderr, "%s: ", describe(me()).c_str());
    va_list args;
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    fflush(stderr);
    _exit(FAIL_EXIT);
}

/* xorshift: only has to differ between seeds. */
uint32_t random_below(Worker *w, uint32_t bound) {
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (uint32_t)(w->random >> 16) % bound;
}

/* ---- fibres ---- */

static int nth_bit(uint32_t mask, uint32_t n) {
    while (n--) mask &= mask - 1;
    return __builtin_ctz(mask);
}

static int random_bit(Worker *w, uint32_t mask) {
    return nth_bit(mask, random_below(w, (uint32_t)__builtin_popcount(mask)));
}

/* In order a warp runs until none of its lanes can: then the next warp that can. */
static int next_warp(Block *b) {
    if (options.schedule == RANDOM) return random_bit(b->worker, b->ready_warps);
    if (!(b->ready_warps >> b->warp_now & 1)) {
        uint32_t later = b->warp_now == 31 ? 0 : b->ready_warps & (~0u << (b->warp_now + 1));
        b->warp_now = __builtin_ctz(later ? later : b->ready_warps);
    }
    return b->warp_now;
}

Fibre *fibre_next(Block *b) {
    if (!b->ready_warps) return nullptr;
    int number = next_warp(b);
    Warp *w = &b->warp[(size_t)number];
    int lane = options.schedule == RANDOM ? random_bit(b->worker, w->ready) : __builtin_ctz(w->ready);
    w->ready &= ~(1u << lane);
    if (!w->ready) b->ready_warps &= ~(1u << number);
    return w->lane[lane];
}

void fibre_wake(Fibre *f) {
    f->state = READY;
    f->warp->ready |= 1u << f->lane;
    f->block->ready_warps |= 1u << f->warp->id;
}

/* At random a block makes way for the others after so many changes of threads, on average: blocks that are resident
 * together overtake each other. */
enum { TURN = 256 };
void fibre_yield(Fibre *f) {
    bool over = options.schedule == RANDOM && random_below(f->block->worker, TURN) == 0;
    Fibre *next = over ? nullptr : fibre_next(f->block);
    if (next == f)
        f->state = RUNNING;
    else
        fibre_switch(f, next, false);
}

void spin(const char *what, Place at) {
    Quiet quiet;
    Fibre *f = me();
    f->state = SPINNING;
    f->what = what, f->at = at, f->detail[0] = '\0';
    worker->spinning++;
    fibre_yield(f);
}

void fibre_exit(Fibre *f) {
    Quiet quiet;
    if (!f->open.empty()) fail("thread exits with cp.async operations never committed");
    for (const auto &group : f->groups)
        if (!group.empty()) fail("thread exits with a cp.async group never waited for");
    f->state = DONE;
    f->warp->live &= ~(1u << f->lane);
    f->block->live--;
    for (uint32_t m = f->warp->waiting; m; m &= m - 1) {
        Fibre *other = f->warp->lane[__builtin_ctz(m)];
        if (other->mask >> f->lane & 1)
            fail("exits while lane %u waits for it in %s (mask %08x) at %s:%d", other->lane, other->what, other->mask,
                 other->at.file, other->at.line);
    }
}

/* ---- blocks ---- */

static Block *block_new(Worker *w) {
    Block *b = new Block();
    b->worker = w;
    size_t bytes = SHARED_MAX + 2 * 65536;
    char *m = (char *)mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) fail("no memory for the shared memory of a block");
    b->shared = (unsigned char *)(((uintptr_t)m + 65535) & ~(uintptr_t)65535);
    b->static_arena = (unsigned char *)aligned_alloc(1024, STATIC_MAX);
    b->statics.reserve(64);
    return b;
}

/* Shared memory starts as 0xFF everywhere: a NaN in f32, bf16 and f16. */
static void poison_shared(Block *b, size_t smem) {
    b->statics.clear();
    b->static_used = 0;
    shadow_allow(b->static_arena, STATIC_MAX);
    memset(b->static_arena, 0xFF, STATIC_MAX);
    shadow_forbid(b->static_arena, STATIC_MAX);
    b->shared_bytes = smem;
    shadow_allow(b->shared, SHARED_MAX + GUARD);
    memset(b->shared, 0xFF, smem + GUARD);
    size_t end = (smem + 7) / 8 * 8;
    shadow_forbid(b->shared + end, SHARED_MAX + GUARD - end);
}

static void start_thread(Block *b, uint32_t i) {
    Fibre *f = b->fibre[i];
    dim3 d = b->grid.block_dim;
    f->index = {i % d.x, i / d.x % d.y, i / (d.x * d.y)};
    f->linear = i, f->lane = i % 32;
    f->block = b, f->warp = &b->warp[i / 32];
    f->groups.clear(), f->open.clear();
    f->warp->block = b, f->warp->id = (int)(i / 32);
    f->warp->lane[f->lane] = f;
    f->warp->live |= 1u << f->lane;
    fibre_prepare(f);
    fibre_wake(f);
}

static void block_start(Block *b, dim3 g, dim3 d, size_t smem, int number) {
    b->number = number;
    b->grid.grid_dim = g, b->grid.block_dim = d;
    b->grid.block = {(unsigned)number % g.x, (unsigned)number / g.x % g.y, (unsigned)number / (g.x * g.y)};
    b->threads = b->live = d.x * d.y * d.z;
    b->ready_warps = 0, b->warp_now = 0, b->busy = true;
    while (b->fibre.size() < b->threads) b->fibre.push_back(fibre_new());
    b->warp.clear();
    b->warp.resize((b->threads + 31) / 32);
    for (Barrier &r : b->barrier) r = Barrier();
    poison_shared(b, smem);
    order_acquire(&b->end_order); /* the slot's last block is over: its accesses lie before ours */
    order_release(&b->start_order);
    for (uint32_t i = 0; i < b->threads; i++) start_thread(b, i);
}

static void block_end(Block *b) {
    count_flush(b);
    for (int i = 0; i < BARRIERS; i++)
        if (b->barrier[i].arrived) fail("block %d ends with %d arrivals pending on barrier %d", b->number, b->barrier[i].arrived, i);
#ifndef SIMT_ASAN
    for (size_t i = b->shared_bytes; i < b->shared_bytes + GUARD; i++)
        if (b->shared[i] != 0xFF) fail("block %d wrote past its %zu bytes of dynamic shared memory", b->number, b->shared_bytes);
#endif
    b->busy = false;
}

/* ---- reports ---- */

static bool same_wait(const Fibre *a, const Fibre *b) {
    if (a->state != b->state) return false;
    return a->state == DONE || (a->at.line == b->at.line && !strcmp(a->detail, b->detail));
}

static void report_block(const Block *b) {
    uint3 n = b->grid.block;
    for (uint32_t i = 0; i < b->threads;) {
        const Fibre *f = b->fibre[i];
        uint32_t end = i + 1;
        while (end < b->threads && same_wait(f, b->fibre[end])) end++;
        fprintf(stderr, "  block (%u,%u,%u) threads %u-%u: ", n.x, n.y, n.z, i, end - 1);
        if (f->state == DONE)
            fprintf(stderr, "exited\n");
        else
            fprintf(stderr, "%s %s at %s:%d\n", f->what, f->detail, f->at.file, f->at.line);
        i = end;
    }
    for (int i = 0; i < BARRIERS; i++)
        if (b->barrier[i].arrived)
            fprintf(stderr, "    barrier %d: %d of %d arrived\n", i, b->barrier[i].arrived, b->barrier[i].expected);
}

static void report_stuck(Worker *w, const char *kind) {
    fflush(stdout);
    fprintf(stderr, "SIMT %s in %s:\n", kind, kernel_name);
    for (Block *b : w->block)
        if (b->busy) report_block(b);
    fflush(stderr);
    _exit(FAIL_EXIT);
}

/* ---- launches ---- */

static std::atomic<int> next_block;
static struct { dim3 grid, block; size_t smem; int blocks; } job;

/* Runs what can run of one slot; false when it has nothing to do. */
static bool block_turn(Worker *w, Block *b, bool *ran) {
    if (!b->busy) {
        int number = next_block.fetch_add(1);
        if (number >= job.blocks) {
            next_block = job.blocks;
            return false;
        }
        block_start(b, job.grid, job.block, job.smem, number);
        w->counters.blocks++;
    }
    grid = &b->grid;
    while (b->ready_warps) {
        fibre_switch(nullptr, fibre_next(b), false);
        *ran = true;
        if (options.schedule == RANDOM) break;
    }
    self = nullptr;
    if (!b->live) {
        block_end(b);
        *ran = true;
    }
    return true;
}

static int wake_spinners(Worker *w) {
    if (!w->spinning) return 0;
    int woke = 0;
    w->spinning = 0;
    for (Block *b : w->block)
        for (uint32_t i = 0; b->busy && i < b->threads; i++)
            if (b->fibre[i]->state == SPINNING) fibre_wake(b->fibre[i]), woke++;
    return woke;
}

static void worker_loop(Worker *w) {
    Quiet quiet;
    worker = w;
#ifdef SIMT_TSAN
    w->main_tsan = __tsan_get_current_fiber();
#endif
    while ((int)w->block.size() < options.resident) w->block.push_back(block_new(w));
    int rounds_spinning = 0;
    for (;;) {
        bool any = false, ran = false;
        for (int i = 0; i < options.resident; i++) any |= block_turn(w, w->block[(size_t)i], &ran);
        if (!any) break;
        int woke = wake_spinners(w);
        if (!ran && !woke) report_stuck(w, "DEADLOCK");
        rounds_spinning = ran && !woke ? 0 : rounds_spinning + 1;
        if (rounds_spinning > SPIN_ROUNDS_MAX) report_stuck(w, "LIVELOCK (spinning without progress)");
    }
    for (Block *b : w->block) order_acquire(&b->end_order);
}

static void *worker_thread(void *w) {
    worker_loop((Worker *)w);
    return nullptr;
}

static std::vector<Worker *> pool;

static void check_launch(const char *kernel, dim3 g, dim3 b, size_t smem) {
    unsigned threads = b.x * b.y * b.z;
    if (smem > SHARED_MAX) fail("%s asks for %zu bytes of shared memory, at most %d", kernel, smem, SHARED_MAX);
    if (threads == 0 || threads > 1024) fail("%s asks for %u threads in a block, 1 to 1024", kernel, threads);
    if (g.x == 0 || g.y == 0 || g.z == 0 || g.y > 65535 || g.z > 65535)
        fail("%s asks for a grid of %u x %u x %u blocks", kernel, g.x, g.y, g.z);
}

void run(const char *kernel, dim3 g, dim3 b, size_t smem, const std::function<void()> &body) {
    kernel_name = kernel;
    check_launch(kernel, g, b, smem);
    kernel_body = &body;
    job = {g, b, smem, (int)(g.x * g.y * g.z)};
    next_block = 0;
    size_t workers = (size_t)(options.workers < job.blocks ? options.workers : job.blocks);
    while (pool.size() < workers) pool.push_back(new Worker());
    for (size_t i = 0; i < workers; i++) {
        pool[i]->random = options.seed * 0x9E3779B97F4A7C15ull + i + 1;
        pool[i]->main_stack = nullptr;
        pool[i]->counters = Counters();
    }
    pool[0]->counters.launches = 1;
    std::vector<pthread_t> thread(workers);
    for (size_t i = 1; i < workers; i++) pthread_create(&thread[i], nullptr, worker_thread, pool[i]);
    worker_loop(pool[0]);
    for (size_t i = 1; i < workers; i++) pthread_join(thread[i], nullptr);
    for (size_t i = 0; i < workers; i++) count_add(kernel, pool[i]->counters);
}
} // namespace simt
