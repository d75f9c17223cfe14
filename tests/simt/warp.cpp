/* warp.cpp -- where threads meet: warp collectives and block barriers.
 *
 * Stricter than the hardware, like compute-sanitizer's synccheck: all lanes of a mask must come to the same operation
 * at the same line, and lanes of one warp must reach a barrier at the same line. What works by luck on one GPU is an
 * error here. */
#include "tests/simt/machine.h"

namespace simt {
void nothing_exec(Warp *, uint32_t, void **) {
}

void shuffle_exec(Warp *, uint32_t mask, void **operand) {
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        ShuffleOperand *p = (ShuffleOperand *)operand[i];
        int source = p->source & 31;
        if (!(mask >> source & 1)) fail("shuffle: lane %d reads lane %d, which is outside mask %08x", i, source, mask);
        p->result = ((ShuffleOperand *)operand[source])->value;
    }
}

void vote_exec(Warp *, uint32_t mask, void **operand) {
    uint32_t result = 0;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1 && ((VoteOperand *)operand[i])->predicate) result |= 1u << i;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) ((VoteOperand *)operand[i])->result = result;
}

/* The lanes of this warp that exist; the last warp of a block may be short. */
static uint32_t existing_lanes(const Warp *w) {
    uint32_t left = w->block->threads - (uint32_t)w->id * 32;
    return left >= 32 ? ~0u : (1u << left) - 1;
}

/* Whoever waits for this lane must wait in the same operation. */
static void check_convergence(const Warp *w, const Fibre *f) {
    for (uint32_t m = w->waiting; m; m &= m - 1) {
        const Fibre *o = w->lane[__builtin_ctz(m)];
        bool waits_for_me = o->mask >> f->lane & 1;
        bool same = o->mask == f->mask && o->exec == f->exec && o->what == f->what && o->at.line == f->at.line;
        if (waits_for_me && !same)
            fail("divergent warp operation: this lane is in %s mask %08x at %s:%d, lane %u in %s mask %08x at %s:%d", f->what,
                 f->mask, f->at.file, f->at.line, o->lane, o->what, o->mask, o->at.file, o->at.line);
    }
}

static void release_warp(Warp *w, uint32_t lanes) {
    w->waiting &= ~lanes;
    w->ready |= lanes;
    if (lanes) w->block->ready_warps |= 1u << w->id;
}

/* Under a random schedule the last to arrive has no right to go on first. */
static void maybe_step_back(Fibre *f) {
    if (options.schedule != RANDOM) return;
    fibre_wake(f);
    fibre_yield(f);
}

void collective(const char *what, uint32_t mask, void *operand, CollectiveFn exec, bool fence, Place at) {
    Quiet quiet;
    Fibre *f = me();
    Warp *w = f->warp;
    f->what = what, f->at = at, f->operand = operand, f->mask = mask, f->exec = exec, f->detail[0] = '\0';
    uint32_t lanes = mask & existing_lanes(w);
    if (!(mask >> f->lane & 1)) fail("%s at %s:%d: own lane is not in mask %08x", what, at.file, at.line, mask);
    if (lanes & ~w->live) fail("%s at %s:%d: mask %08x names exited lanes %08x", what, at.file, at.line, mask, lanes & ~w->live);
    check_convergence(w, f);
    char *order = &w->order[w->generation & 1];
    if (fence) order_release(order);

    if (((w->waiting & lanes) | 1u << f->lane) != lanes) {
        w->waiting |= 1u << f->lane;
        f->state = WAITING;
        fibre_yield(f);
    } else {
        void *all[32] = {};
        for (uint32_t m = lanes; m; m &= m - 1) all[__builtin_ctz(m)] = w->lane[__builtin_ctz(m)]->operand;
        all[f->lane] = operand;
        worker->counters.collectives++;
        exec(w, lanes, all);
        w->generation++;
        release_warp(w, lanes & ~(1u << f->lane));
        maybe_step_back(f);
    }
    if (fence) order_acquire(order);
}

/* ---- block barriers ---- */

static void check_barrier(const Barrier *r, const Fibre *f, int id, int threads, int expected, Place at) {
    if (threads % 32 || threads <= 0)
        fail("barrier %d at %s:%d: thread count %d is no multiple of 32", id, at.file, at.line, threads);
    if (r->arrived && r->expected != expected)
        fail("barrier %d at %s:%d: count %d, but those who arrived expect %d", id, at.file, at.line, expected, r->expected);
    if (r->arrived >= expected) fail("barrier %d at %s:%d: more arrivals than %d", id, at.file, at.line, expected);
    const Fibre *first = r->warps >> f->warp->id & 1 ? r->first[f->warp->id] : nullptr;
    if (first && (first->at.line != at.line || strcmp(first->at.file, at.file)))
        fail("divergent barrier %d: this lane at %s:%d, lane %u of the same warp at %s:%d", id, at.file, at.line, first->lane,
             first->at.file, first->at.line);
}

static void open_barrier(Barrier *r) {
    r->arrived = 0;
    r->phase++;
    r->warps = 0;
    for (Fibre *o : r->waiting) fibre_wake(o);
    r->waiting.clear();
}

static void wait_at(Barrier *r, Fibre *f, int id, int threads, Place at) {
    f->state = WAITING, f->what = "barrier", f->at = at;
    snprintf(f->detail, sizeof f->detail, "%d of %d threads", id, threads);
    r->waiting.push_back(f);
    if (!(r->warps >> f->warp->id & 1)) r->first[f->warp->id] = f;
    r->warps |= 1u << f->warp->id;
    fibre_yield(f);
}

void barrier(int id, int threads, bool wait, Place at) {
    Quiet quiet;
    Fibre *f = me();
    Block *b = f->block;
    int whole = (int)((b->threads + 31) / 32 * 32);
    if (id < 0 || id >= BARRIERS) fail("barrier id %d at %s:%d: 0 to %d", id, at.file, at.line, BARRIERS - 1);
    if (threads == 0) threads = whole;
    int expected = threads == whole ? (int)b->threads : threads;
    Barrier *r = &b->barrier[id];
    check_barrier(r, f, id, threads, expected, at);
    char *order = &r->order[r->phase & 1];
    order_release(order);
    r->expected = expected;
    if (++r->arrived == expected) {
        worker->counters.barriers++;
        if (expected == (int)b->threads) count_flush(b);
        open_barrier(r);
        maybe_step_back(f);
    } else if (wait) {
        wait_at(r, f, id, threads, at);
    }
    if (wait) order_acquire(order);
}
} // namespace simt
