/* arena.h -- one block of memory, handed out from the front.
 *
 * An Arena only does address arithmetic: it never reads, writes or frees the block, so the same code lays out host
 * memory, device memory, and (base 0) nothing at all, which counts how much a layout needs. Every plan runs twice:
 * once to count, once to place. */
#ifndef KERNELS_BASE_ARENA_H
#define KERNELS_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct Arena {
    uintptr_t base;    /* 0: counting only; addresses must not be used */
    size_t size, used; /* bytes */
} Arena;

enum { ARENA_ALIGN = 256 }; /* what a tensor copy of any device wants */

void arena_init(Arena *a, void *base, size_t size); /* size is ignored when base is NULL */
/* The next `bytes` bytes, aligned to ARENA_ALIGN; NULL when they do not fit. While counting the result is a
 * non-NULL address that must not be used. */
void *arena_take(Arena *a, size_t bytes);

#endif
