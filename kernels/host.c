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

Status host_mem_open(void **out, size_t bytes) {
    *out = NULL;
    bool refuse = fail_in > 0 && --fail_in == 0;
    size_t rounded = (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    if (rounded < bytes) refuse = true;
    void *p = refuse ? NULL : aligned_alloc(ARENA_ALIGN, rounded ? rounded : ARENA_ALIGN);
    NEED(p, ST_NOMEM, "out of memory: %zu bytes asked, about %zu free; a smaller batch or fewer pages need less", bytes,
         free_bytes());
    opens++;
    live++;
    asked += (int64_t)bytes;
    *out = p;
    return ST_OK;
}

/* In pages of 2 MiB, where the system gives them, most translations of the addresses in a pass over all weights
 * are at hand. A block that is used in part would take more memory than it needs: so not all blocks are. */
void host_mem_filled(void *mem, size_t bytes) {
#ifdef MADV_HUGEPAGE
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)mem + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)mem + bytes) / page * page;
    if (first < end) madvise((char *)mem + (first - (uintptr_t)mem), end - first, MADV_HUGEPAGE);
#else
    (void)mem, (void)bytes;
#endif
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
