/* host.c -- memory of the host backends. */
#include "kernels/host.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int64_t opens, live, asked, fail_in;

int64_t host_mem_opens(void) {
    return opens;
}

int64_t host_mem_live(void) {
    return live;
}

int64_t host_mem_asked(void) {
    return asked;
}

void host_mem_fail_at(int64_t n) {
    fail_in = n;
}

static size_t free_bytes(void) {
    long pages = sysconf(_SC_AVPHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (size_t)pages * (size_t)size : 0;
}

/* Weights and pools are read from end to end in every pass. In pages of 2 MiB, where the system gives them, most
 * of the translations of addresses that this takes are at hand. */
static void *allocate(size_t bytes) {
    enum { HUGE_PAGE = 2 << 20 };
    bool large = bytes >= 2 * HUGE_PAGE;
    size_t step = large ? HUGE_PAGE : ARENA_ALIGN, rounded = (bytes + step - 1) / step * step;
    if (rounded < bytes) return NULL;
    void *p = aligned_alloc(step, rounded ? rounded : step);
#ifdef MADV_HUGEPAGE
    if (p && large) madvise(p, rounded, MADV_HUGEPAGE);
#endif
    return p;
}

Status host_mem_open(void **out, size_t bytes) {
    *out = NULL;
    bool refuse = fail_in > 0 && --fail_in == 0;
    void *p = refuse ? NULL : allocate(bytes);
    NEED(p, ST_NOMEM, "out of memory: %zu bytes asked, about %zu free; a smaller batch or fewer pages need less", bytes,
         free_bytes());
    opens++;
    live++;
    asked += (int64_t)bytes;
    *out = p;
    return ST_OK;
}

void host_mem_close(void *mem) {
    if (mem) live--;
    free(mem);
}

Status host_copy(Stream *s, void *to, const void *from, size_t bytes) {
    (void)s;
    if (bytes) memmove(to, from, bytes);
    return ST_OK;
}

Status host_zero(Stream *s, Tensor t) {
    (void)s;
    if (t.data) memset(t.data, 0, tensor_bytes(t));
    return ST_OK;
}

Status host_sync(Stream *s) {
    (void)s;
    return ST_OK;
}
