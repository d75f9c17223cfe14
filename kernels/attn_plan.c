/* attn_plan.c -- see attn_plan.h. Arrays are taken once, for the largest batch. */
#include <stdlib.h>
#include <string.h>

#include "kernels/attn_plan.h"

/* Lays the arrays of the largest layout out; run twice, to count and to place. */
static void place(RefPlan *p, Arena *a) {
    const AttnLimits *m = &p->limits;
    AttnLayout *l = &p->layout;
    l->row = arena_take(a, sizeof(int32_t) * ((size_t)m->seqs + 1));
    l->seg = arena_take(a, sizeof(int32_t) * ((size_t)m->seqs + 1));
    l->segment = arena_take(a, sizeof(Segment) * (size_t)m->segments);
    l->page = arena_take(a, sizeof(int32_t) * (size_t)m->entries);
    l->own_grad = arena_take(a, sizeof(int32_t) * (size_t)m->pages);
    l->learned_grad = arena_take(a, sizeof(int32_t) * (size_t)m->pages);
}

Status plan_open_ref(AttnPlan **out, const AttnLimits *limits) {
    *out = NULL;
    NEED(limits->heads >= 1 && limits->kv_heads >= 1 && limits->heads % limits->kv_heads == 0, ST_ARG,
         "attn: %d query heads over %d key heads is no whole number", limits->heads, limits->kv_heads);
    RefPlan *p = calloc(1, sizeof *p);
    NEED(p, ST_NOMEM, "attn: no memory for a plan");
    p->limits = *limits;
    Arena count, mem;
    arena_init(&count, NULL, 0);
    place(p, &count);
    Status st = host_mem_open(&p->block, count.used);
    if (st) {
        free(p);
        return st;
    }
    arena_init(&mem, p->block, count.used);
    place(p, &mem);
    *out = (AttnPlan *)(void *)p;
    return ST_OK;
}

void plan_close_ref(AttnPlan *plan) {
    RefPlan *p = (RefPlan *)(void *)plan;
    if (!p) return;
    host_mem_close(p->block);
    free(p);
}

static void copy_ints(const int32_t *to, const int32_t *from, int32_t n) {
    if (from)
        memcpy((int32_t *)(uintptr_t)to, from, sizeof *from * (size_t)n);
    else
        memset((int32_t *)(uintptr_t)to, 0xFF, sizeof *to * (size_t)n); /* absent map: all -1 */
}

Status attn_plan_ref(Stream *s, AttnPlan *plan, const AttnLayout *from) {
    (void)s;
    RefPlan *p = (RefPlan *)(void *)plan;
    TRY(layout_check(from, &p->limits));
    AttnLayout *l = &p->layout;
    l->T = from->T, l->S = from->S, l->entries = from->entries, l->pages = from->pages;
    copy_ints(l->row, from->row, from->S + 1);
    copy_ints(l->seg, from->seg, from->S + 1);
    memcpy((Segment *)(uintptr_t)l->segment, from->segment, sizeof(Segment) * (size_t)from->seg[from->S]);
    copy_ints(l->page, from->page, from->entries);
    copy_ints(l->own_grad, from->own_grad, from->pages);
    copy_ints(l->learned_grad, from->learned_grad, from->pages);
    return ST_OK;
}
