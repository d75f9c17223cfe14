/* counters.cpp -- what a kernel moved and multiplied.
 *
 * In the counting build kernels are compiled with -fsanitize=thread but linked with the callbacks below instead of
 * TSan: every load and store is logged per lane, and the k-th execution of one instruction in the 32 lanes of a warp
 * forms one warp access, as it would on the GPU. From these follow bytes, 32-byte sectors and bank conflicts. Locals
 * (registers on the GPU) are told by their address on the fibre's stack and left out. One worker only. */
#include <algorithm>
#include <map>
#include <mutex>

#include "tests/simt/machine.h"

namespace simt {
static std::map<std::string, Counters> table;
static std::mutex table_lock;

void count_add(const char *kernel, const Counters &c) {
    std::lock_guard<std::mutex> hold(table_lock);
    Counters &t = table[kernel];
    uint64_t *to = (uint64_t *)&t;
    const uint64_t *from = (const uint64_t *)&c;
    for (size_t i = 0; i < sizeof(Counters) / sizeof(uint64_t); i++) to[i] += from[i];
}

Counters counters_of(const char *kernel) {
    std::lock_guard<std::mutex> hold(table_lock);
    auto found = table.find(kernel);
    return found == table.end() ? Counters() : found->second;
}

void counters_clear() {
    std::lock_guard<std::mutex> hold(table_lock);
    table.clear();
}

void counters_visit(void (*visit)(void *, const char *, const Counters *), void *user) {
    for (const auto &e : table) visit(user, e.first.c_str(), &e.second);
}

#ifndef SIMT_COUNTING
void count_block_end(Block *) {
}
void count_read(const void *, size_t) {
}
#else
struct Access { uintptr_t instruction, address; uint32_t bytes; bool write; };
static std::map<const Fibre *, std::vector<Access>> log_of;

static bool on_own_stack(const Fibre *f, uintptr_t a) {
    return a >= (uintptr_t)f->stack && a < (uintptr_t)f->stack + f->stack_bytes;
}

static void note(const void *p, size_t bytes, bool write, void *instruction) {
    const Fibre *f = (const Fibre *)self;
    if (!f || on_own_stack(f, (uintptr_t)p)) return;
    log_of[f].push_back({(uintptr_t)instruction, (uintptr_t)p, (uint32_t)bytes, write});
}

void count_read(const void *p, size_t bytes) {
    note(p, bytes, false, (void *)&count_read);
}

static bool is_shared(const Block *b, uintptr_t a) {
    return (a >= (uintptr_t)b->shared && a < (uintptr_t)b->shared + b->shared_bytes) ||
           (a >= (uintptr_t)b->static_arena && a < (uintptr_t)b->static_arena + STATIC_MAX);
}

/* Distinct units of 2^shift bytes that a warp access touches. */
static uint64_t distinct(const std::vector<Access> &v, int shift) {
    std::vector<uintptr_t> unit;
    for (const Access &a : v)
        for (uintptr_t u = a.address >> shift; u <= (a.address + a.bytes - 1) >> shift; u++) unit.push_back(u);
    std::sort(unit.begin(), unit.end());
    return (uint64_t)(std::unique(unit.begin(), unit.end()) - unit.begin());
}

/* Banks are 4 bytes wide; 8- and 16-byte accesses go in halves and quarters of a warp. */
static void count_shared(Counters &c, const std::vector<Access> &v) {
    size_t lanes = v[0].bytes >= 16 ? 8 : v[0].bytes == 8 ? 16 : 32;
    for (size_t i = 0; i < v.size(); i += lanes) {
        std::vector<Access> part(v.begin() + (long)i, v.begin() + (long)std::min(v.size(), i + lanes));
        std::map<uintptr_t, int> words;
        for (const Access &a : part)
            for (uintptr_t w = a.address >> 2; w <= (a.address + a.bytes - 1) >> 2; w++) words[w] = 1;
        int per_bank[32] = {}, worst = 0;
        for (const auto &w : words) worst = std::max(worst, ++per_bank[w.first & 31]);
        c.shared_waves += (uint64_t)worst;
        c.shared_ideal += (words.size() + 31) / 32;
    }
}

static void count_global(Counters &c, const std::vector<Access> &v) {
    (v[0].write ? c.global_written : c.global_read) += distinct(v, 0);
    c.global_sectors += distinct(v, 5);
    c.global_requests++;
}

void count_block_end(Block *b) {
    for (Warp &w : b->warp) {
        std::map<std::pair<uintptr_t, uint32_t>, std::vector<Access>> access;
        for (Fibre *f : w.lane) {
            if (!f) continue;
            std::map<uintptr_t, uint32_t> times;
            for (const Access &a : log_of[f]) access[{a.instruction, times[a.instruction]++}].push_back(a);
            log_of[f].clear();
        }
        for (const auto &e : access) {
            if (is_shared(b, e.second[0].address))
                count_shared(worker->counters, e.second);
            else
                count_global(worker->counters, e.second);
        }
    }
}

extern "C" {
#define CALLBACKS(n)                                                                                         \
    void __tsan_read##n(void *p) { note(p, n, false, __builtin_return_address(0)); }                         \
    void __tsan_write##n(void *p) { note(p, n, true, __builtin_return_address(0)); }                         \
    void __tsan_unaligned_read##n(void *p) { note(p, n, false, __builtin_return_address(0)); }               \
    void __tsan_unaligned_write##n(void *p) { note(p, n, true, __builtin_return_address(0)); }
CALLBACKS(1) CALLBACKS(2) CALLBACKS(4) CALLBACKS(8) CALLBACKS(16)
void __tsan_read_range(void *p, unsigned long n) { note(p, n, false, __builtin_return_address(0)); }
void __tsan_write_range(void *p, unsigned long n) { note(p, n, true, __builtin_return_address(0)); }
void *__tsan_memcpy(void *to, const void *from, size_t n) {
    note(from, n, false, __builtin_return_address(0));
    note(to, n, true, __builtin_return_address(0));
    return memcpy(to, from, n);
}
void *__tsan_memset(void *to, int v, size_t n) {
    note(to, n, true, __builtin_return_address(0));
    return memset(to, v, n);
}
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
uint32_t __tsan_atomic32_fetch_add(volatile uint32_t *p, uint32_t v, int) {
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
uint32_t __tsan_atomic32_load(const volatile uint32_t *p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
void __tsan_atomic32_store(volatile uint32_t *p, uint32_t v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
int __tsan_atomic32_compare_exchange_val(volatile uint32_t *p, uint32_t expected, uint32_t v, int, int) {
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return (int)expected;
}
}
#endif
} // namespace simt
