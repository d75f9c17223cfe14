/* counters.cpp -- what a kernel moved and multiplied.
 *
 * In the counting build kernels are compiled with -fsanitize=thread but linked with the callbacks below instead of
 * TSan: every load and store is logged per lane, and the k-th execution of one instruction in the 32 lanes of a warp
 * forms one warp access, as it would on the GPU. From these follow bytes, 32-byte sectors and bank conflicts. What is
 * neither shared nor device memory (locals, the emulator's own state) is a register on the GPU and left out. What was
 * logged is counted at every barrier of the whole block, where all lanes are at the same place. One worker only. */
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
void count_flush(Block *) {
}
void count_read(const void *, size_t) {
}
#else
struct Access { uintptr_t instruction, address; uint32_t bytes, time; bool write; };
static std::map<const Fibre *, std::vector<Access>> log_of;

static bool on_own_stack(const Fibre *f, uintptr_t a) {
    return a >= (uintptr_t)f->stack && a < (uintptr_t)f->stack + f->stack_bytes;
}

static void note(const void *p, size_t bytes, bool write, void *instruction) {
    const Fibre *f = (const Fibre *)self;
    if (!f || on_own_stack(f, (uintptr_t)p)) return;
    log_of[f].push_back({(uintptr_t)instruction, (uintptr_t)p, (uint32_t)bytes, 0, write});
}

void count_read(const void *p, size_t bytes) {
    note(p, bytes, false, (void *)&count_read);
}

static bool is_shared(const Block *b, uintptr_t a) {
    return (a >= (uintptr_t)b->shared && a < (uintptr_t)b->shared + b->shared_bytes) ||
           (a >= (uintptr_t)b->static_arena && a < (uintptr_t)b->static_arena + STATIC_MAX);
}

/* Distinct units of 2^shift bytes that a warp access touches. */
static uint64_t distinct(const Access *v, size_t n, int shift) {
    static std::vector<uintptr_t> unit;
    unit.clear();
    for (size_t i = 0; i < n; i++)
        for (uintptr_t u = v[i].address >> shift; u <= (v[i].address + v[i].bytes - 1) >> shift; u++) unit.push_back(u);
    std::sort(unit.begin(), unit.end());
    return (uint64_t)(std::unique(unit.begin(), unit.end()) - unit.begin());
}

/* Banks are 4 bytes wide; 8- and 16-byte accesses go in halves and quarters of a warp. */
static void count_shared(Counters &c, const Access *v, size_t n) {
    size_t lanes = v[0].bytes >= 16 ? 8 : v[0].bytes == 8 ? 16 : 32;
    for (size_t i = 0; i < n; i += lanes) {
        std::vector<uintptr_t> word;
        for (size_t j = i; j < std::min(n, i + lanes); j++)
            for (uintptr_t w = v[j].address >> 2; w <= (v[j].address + v[j].bytes - 1) >> 2; w++) word.push_back(w);
        std::sort(word.begin(), word.end());
        word.erase(std::unique(word.begin(), word.end()), word.end());
        int per_bank[32] = {}, worst = 0;
        for (uintptr_t w : word) worst = std::max(worst, ++per_bank[w & 31]);
        c.shared_waves += (uint64_t)worst;
        c.shared_ideal += (word.size() + 31) / 32;
    }
}

static void count_global(Counters &c, const Access *v, size_t n) {
    uint64_t bytes = 0; /* lanes of an access rarely overlap: then counting them one by one would do */
    for (size_t i = 0; i < n; i++) bytes += v[i].bytes;
    uint64_t sectors = distinct(v, n, 5);
    if (bytes > sectors * 32) bytes = distinct(v, n, 0);
    (v[0].write ? c.global_written : c.global_read) += bytes;
    c.global_sectors += sectors;
    c.global_requests++;
}

/* A lane's k-th execution of each instruction: sorted by instruction, in order of time. */
static void number_executions(std::vector<Access> &lane) {
    std::stable_sort(lane.begin(), lane.end(),
                     [](const Access &a, const Access &b) { return a.instruction < b.instruction; });
    for (size_t i = 0; i < lane.size(); i++)
        lane[i].time = i && lane[i].instruction == lane[i - 1].instruction ? lane[i - 1].time + 1 : 0;
}

static void count_warp(const Block *b, Counters &c, Warp &w) {
    static std::vector<Access> all;
    all.clear();
    for (Fibre *f : w.lane) {
        if (!f) continue;
        std::vector<Access> &lane = log_of[f];
        number_executions(lane);
        all.insert(all.end(), lane.begin(), lane.end());
        lane.clear();
    }
    std::stable_sort(all.begin(), all.end(), [](const Access &x, const Access &y) {
        return x.instruction != y.instruction ? x.instruction < y.instruction : x.time < y.time;
    });
    for (size_t i = 0, n; i < all.size(); i += n) {
        n = 1;
        while (i + n < all.size() && all[i + n].instruction == all[i].instruction && all[i + n].time == all[i].time) n++;
        if (is_shared(b, all[i].address))
            count_shared(c, &all[i], n);
        else if (is_device((const void *)all[i].address))
            count_global(c, &all[i], n);
    }
}

void count_flush(Block *b) {
    for (Warp &w : b->warp) count_warp(b, worker->counters, w);
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
