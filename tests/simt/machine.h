/* machine.h -- inside the emulator: fibres, warps, blocks, workers. Kernels never see this.
 *
 * Under TSan the emulator itself is compiled without -fsanitize=thread and speaks to its API: a CUDA thread is a TSan
 * fibre, changing fibres orders nothing, and exactly those operations that order memory on a GPU are reported as
 * acquire and release. So a missing __syncthreads() is a data race to TSan even though one host thread ran it all. */
#ifndef TESTS_SIMT_MACHINE_H
#define TESTS_SIMT_MACHINE_H

#include <stdio.h>
#include <stdlib.h>

#include <string>
#include <vector>

#include "tests/simt/simt.h"

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
static inline void shadow_allow(const void *p, size_t n) {
    __asan_unpoison_memory_region(p, n);
}
static inline void shadow_forbid(const void *p, size_t n) {
    __asan_poison_memory_region(p, n);
}
#else
static inline void shadow_allow(const void *, size_t) {
}
static inline void shadow_forbid(const void *, size_t) {
}
#endif

#ifdef SIMT_TSAN
extern "C" {
void *__tsan_get_current_fiber();
void *__tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void *);
void __tsan_switch_to_fiber(void *, unsigned);
void __tsan_acquire(void *);
void __tsan_release(void *);
void __tsan_ignore_thread_begin();
void __tsan_ignore_thread_end();
void __tsan_read_range(void *, unsigned long);
void __tsan_write_range(void *, unsigned long);
}
static inline void order_acquire(const void *p) {
    __tsan_acquire((void *)p);
}
static inline void order_release(const void *p) {
    __tsan_release((void *)p);
}
/* TSan's interceptors (malloc, memmove) also see this uninstrumented emulator: silence them while inside. */
struct Quiet {
    Quiet() { __tsan_ignore_thread_begin(); }
    ~Quiet() { __tsan_ignore_thread_end(); }
};
/* An access that a model makes on a thread's behalf. */
static inline void touch_read(const void *p, size_t n) {
    __tsan_ignore_thread_end();
    __tsan_read_range((void *)p, n);
    __tsan_ignore_thread_begin();
}
static inline void touch_write(const void *p, size_t n) {
    __tsan_ignore_thread_end();
    __tsan_write_range((void *)p, n);
    __tsan_ignore_thread_begin();
}
#else
static inline void order_acquire(const void *) {
}
static inline void order_release(const void *) {
}
struct Quiet {
    Quiet() {}
    ~Quiet() {}
};
static inline void touch_read(const void *, size_t) {
}
static inline void touch_write(const void *, size_t) {
}
#endif

namespace simt {
enum State { READY, RUNNING, WAITING, SPINNING, DONE };

struct Copy { void *to; const void *from; bool valid; }; /* one cp.async of 16 bytes */

struct Fibre : Thread {
    void *stack_pointer;
    char *stack;
    size_t stack_bytes;
    State state;
    /* what it waits for, for collectives and for reports */
    const char *what;
    Place at;
    char detail[64];
    void *operand;
    uint32_t mask;
    CollectiveFn exec;
    /* sanitizer handles */
    void *fake_stack, *tsan;
    std::vector<std::vector<Copy>> groups; /* committed, oldest first */
    std::vector<Copy> open;
};

struct Warp {
    Block *block;
    int id;
    uint32_t live, ready, waiting; /* lane masks */
    Fibre *lane[32];
    char order[2]; /* addresses for TSan, by parity of generation */
    unsigned generation;
};

struct Barrier {
    int expected, arrived;
    unsigned phase;
    char order[2];
    std::vector<Fibre *> waiting;
    uint32_t warps;   /* that have a lane waiting */
    Fibre *first[32]; /* of each warp: later lanes must come from the same place */
};

enum { BARRIERS = 16, WARPS_MAX = 32 };
enum { SHARED_MAX = 227 * 1024, STATIC_MAX = 48 * 1024 };

struct Worker;
struct Block {
    Worker *worker;
    Grid grid;
    int number;
    uint32_t threads, live;
    uint32_t ready_warps;
    int warp_now;
    bool busy;
    char start_order, end_order;
    std::vector<Fibre *> fibre;
    std::vector<Warp> warp;
    Barrier barrier[BARRIERS];
    struct Static { const void *tag; void *p; };
    std::vector<Static> statics;
    unsigned char *static_arena;
    size_t static_used;
    unsigned char *shared; /* dynamic shared memory */
    size_t shared_bytes;
};

struct Worker {
    std::vector<Block *> block;
    void *main_stack_pointer, *main_fake_stack, *main_tsan;
    const void *main_stack;
    size_t main_stack_bytes;
    uint64_t random;
    int spinning;
    Counters counters;
};

extern const char *kernel_name;
static inline Fibre *me() {
    return (Fibre *)self;
}
uint32_t random_below(Worker *w, uint32_t bound);
std::string describe(const Fibre *f);

/* fibre.cpp */
Fibre *fibre_new();
void fibre_prepare(Fibre *f);             /* next switch to it enters the kernel */
void fibre_switch(Fibre *from, Fibre *to, bool dying); /* NULL: the worker's own stack */
extern const std::function<void()> *kernel_body;
extern __thread Worker *worker;

/* schedule.cpp */
void fibre_wake(Fibre *f);
void fibre_yield(Fibre *f); /* its state says why; comes back when woken */
Fibre *fibre_next(Block *b);
void fibre_exit(Fibre *f);  /* bookkeeping and checks; does not return to the kernel */

/* runtime.cpp */
bool is_device(const void *p); /* within a block that cudaMalloc gave */

/* counters.cpp */
void count_add(const char *kernel, const Counters &c);
void count_flush(Block *b); /* groups this block's logged accesses into warp accesses, and counts them */
void count_read(const void *p, size_t n); /* a model's access */
} // namespace simt

#endif
