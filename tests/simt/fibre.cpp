/* fibre.cpp -- one stack per CUDA thread, and the switch between them.
 *
 * The switch is a few instructions of assembly where we know the machine (20 to 50 ns), ucontext elsewhere (200 ns:
 * it saves the signal mask by a system call). Sanitizers must be told of every switch. */
#include <sys/mman.h>

#include "tests/simt/machine.h"

namespace simt {
__thread Thread *self;
__thread Grid *grid;
__thread Worker *worker;
const std::function<void()> *kernel_body;

static void fibre_main();

#if defined(__x86_64__)
extern "C" void simt_switch(void **save, void *to);
__asm__(".text\n.globl simt_switch\n.type simt_switch,@function\nsimt_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
        ".size simt_switch,.-simt_switch\n");

static void raw_switch(void **save, void *to) {
    simt_switch(save, to);
}

/* A stack that looks as if simt_switch had been called at the start of fibre_main. */
static void *fresh_stack(Fibre *f) {
    void **top = (void **)((uintptr_t)(f->stack + f->stack_bytes) & ~(uintptr_t)15);
    *--top = nullptr;
    *--top = (void *)fibre_main;
    for (int saved = 0; saved < 6; saved++) *--top = nullptr;
    return top;
}
#else
} // namespace simt
#include <ucontext.h>
namespace simt {
static void raw_switch(void **save, void *to) {
    ucontext_t here;
    *save = &here; /* lives on this stack until someone switches back */
    swapcontext(&here, (ucontext_t *)to);
}

static void *fresh_stack(Fibre *f) {
    ucontext_t *u = (ucontext_t *)f->stack; /* the low end: deepest calls would hit the guard page first */
    getcontext(u);
    u->uc_stack.ss_sp = f->stack + 4096;
    u->uc_stack.ss_size = f->stack_bytes - 4096;
    u->uc_link = nullptr;
    makecontext(u, fibre_main, 0);
    return u;
}
#endif

static size_t stack_bytes() {
#ifdef SIMT_ASAN
    return 256 * 1024; /* red zones */
#else
    return 64 * 1024;
#endif
}

Fibre *fibre_new() {
    Fibre *f = new Fibre();
    f->stack_bytes = stack_bytes();
    char *m = (char *)mmap(nullptr, f->stack_bytes + 4096, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) fail("no memory for the stack of a fibre");
    mprotect(m, 4096, PROT_NONE);
    f->stack = m + 4096;
#ifdef SIMT_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
    return f;
}

void fibre_prepare(Fibre *f) {
    f->fake_stack = nullptr;
    f->stack_pointer = fresh_stack(f);
}

/* After every arrival on a stack. The first arrival on a fibre learns where the worker's own stack lies. */
static void arrived(void *fake_stack, bool learn_main) {
#ifdef SIMT_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(fake_stack, &bottom, &bytes);
    if (learn_main && !worker->main_stack) worker->main_stack = bottom, worker->main_stack_bytes = bytes;
#else
    (void)fake_stack, (void)learn_main;
#endif
}

void fibre_switch(Fibre *from, Fibre *to, bool dying) {
    Worker *w = worker;
    self = to;
    if (to) to->state = RUNNING;
#ifdef SIMT_ASAN
    void **fake = from ? &from->fake_stack : &w->main_fake_stack;
    __sanitizer_start_switch_fiber(dying ? nullptr : fake, to ? to->stack : w->main_stack,
                                   to ? to->stack_bytes : w->main_stack_bytes);
#else
    (void)dying;
#endif
#ifdef SIMT_TSAN
    __tsan_switch_to_fiber(to ? to->tsan : w->main_tsan, 1); /* 1: no synchronisation */
#endif
    raw_switch(from ? &from->stack_pointer : &w->main_stack_pointer, to ? to->stack_pointer : w->main_stack_pointer);
    arrived(from ? from->fake_stack : w->main_fake_stack, false);
}

static void fibre_main() {
    arrived(nullptr, true);
    order_acquire(&me()->block->start_order);
    (*kernel_body)();
    Fibre *f = me();
    order_release(&f->block->end_order);
    fibre_exit(f);
    fibre_switch(f, fibre_next(f->block), true);
    __builtin_trap();
}
} // namespace simt
