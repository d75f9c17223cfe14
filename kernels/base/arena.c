/* arena.c -- see arena.h; counting and placing are the same arithmetic. */
#include "kernels/base/arena.h"

void arena_init(Arena *a, void *base, size_t size) {
    a->base = (uintptr_t)base;
    a->size = base ? size : SIZE_MAX;
    a->used = 0;
}

void *arena_take(Arena *a, size_t bytes) {
    size_t start = (a->used + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    if (start < a->used || bytes > a->size || start > a->size - bytes) return NULL;
    a->used = start + bytes;
    /* While counting, any address but NULL will do. */
    return (void *)((a->base ? a->base : ARENA_ALIGN) + start);
}
