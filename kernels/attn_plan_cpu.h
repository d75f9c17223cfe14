/* attn_plan_cpu.h -- how the fast CPU backend cuts a batch's attention into tasks.
 *
 *   range   keys that are read together: a prefix with all sequences that read it, or a sequence's own keys
 *   wave    ranges of which no two are read by the same row, nor (backward) add to the same gradient page
 *   chunk   CHUNK keys of a range, counted from its first: their result is kept apart and then merged
 *   tile    rows of a range's readers times the query heads of one group: TILE_LANES lanes side by side
 *
 * A task is (range, chunk, key head, tile), backward (range, chunk, key head). Its results go to slots, one
 * per (row, chunk) in flight, and are merged chunk by chunk in the order in which the sequence lists its
 * segments. So neither sharing nor the number of slots nor threads changes a row's bits: chunks are cut by
 * the range's own length. */
#ifndef KERNELS_ATTN_PLAN_CPU_H
#define KERNELS_ATTN_PLAN_CPU_H

#include "kernels/cpu.h"

enum {
    CHUNK = 512,     /* keys: with their values 256 KiB at D 64, half of a second-level cache */
    TILE_LANES = 48, /* scores of a page of keys: 12 KiB, so that they stay in the first-level cache */
    LANES_STEP = 16, /* the widest vector, whichever copy of the kernels will run */
};

/* Rows of the batch; `start`: rows of the readers before this one. */
typedef struct Reader { int32_t row, rows, start; } Reader;

typedef struct Range {
    int32_t first, from, length; /* as in Segment; indexes the plan's page list */
    int32_t wave, reader, readers, rows;
    bool own, learns;            /* causal; adds to gradient pages */
} Range;

typedef struct CpuPlan {
    AttnLimits limits;
    int32_t T, pages, ranges, waves;
    int32_t lanes;                   /* TILE_LANES, or one row's if that is more; a multiple of LANES_STEP */
    int32_t threads;
    int64_t products;                /* multiply-adds of a forward pass */
    Range *range;                    /* [ranges] by wave */
    int32_t *wave;                   /* [waves + 1] first range of each */
    Reader *reader;
    int32_t *page, *own_grad, *learned_grad; /* copies of the layout's */
    Range *draft;                    /* ranges in the order in which they were found */
    int32_t *joined;                 /* [segments] the range of each segment */
    int64_t *task;                   /* [ranges + 1] first task of each range of the wave that is running */
    int64_t slots;                   /* rows of partial results */
    float *part, *part_max, *part_sum; /* [slots,H,D] [slots,H] [slots,H] */
    float *row_max, *row_sum;        /* [rows,H] of what is merged; backward: row_sum is delta */
    float *scratch;                  /* [threads, scratch_floats] */
    int64_t scratch_floats;
    void *block;                     /* owned */
} CpuPlan;

static inline const CpuPlan *cpu_plan(const AttnPlan *p) {
    return (const CpuPlan *)(const void *)p;
}

/* ---- tiles ---- */

/* Rows in a tile, and tiles of a range. */
static inline int32_t tile_rows(const CpuPlan *p) {
    return p->lanes / (p->limits.heads / p->limits.kv_heads);
}

static inline int64_t range_tiles(const CpuPlan *p, const Range *r) {
    return cut(r->rows, tile_rows(p));
}

/* The rows of a tile, and how many keys of a chunk each of them sees. */
enum { TILE_ROWS_MAX = TILE_LANES };
typedef struct Tile { int32_t rows, row[TILE_ROWS_MAX], sees[TILE_ROWS_MAX], sees_most, sees_least; } Tile;

void tile_of(Tile *out, const CpuPlan *p, const Range *r, int64_t tile, int64_t chunk);

/* ---- passes over a wave ---- */

/* The chunks first .. first + count of every range of a wave: as many as there are slots for. */
typedef struct Pass { int32_t wave; int64_t chunk, chunks; } Pass;

/* The next pass after *at, which starts zeroed; false when there is none. */
bool pass_next(const CpuPlan *p, Pass *at);
/* What a task of a range is: one of its chunks in the pass or all, one of `heads` or all, one tile or all. */
typedef struct Split { bool chunks, tiles; int32_t heads; } Split;
typedef struct Task { const Range *range; int64_t chunk, head, tile; } Task;

int64_t pass_tasks(const CpuPlan *p, const Pass *at, Split split); /* how many; prepares pass_task */
Task pass_task(const CpuPlan *p, const Pass *at, Split split, int64_t i);

static inline int64_t pass_chunks(const Pass *at, const Range *r) {
    int64_t all = cut(r->length, CHUNK) - at->chunk;
    return all < 0 ? 0 : all < at->chunks ? all : at->chunks;
}

static inline int64_t slot_of(const CpuPlan *p, const Pass *at, int64_t chunk, int32_t row) {
    return (chunk - at->chunk) * p->T + row;
}

/* ---- keys ---- */

/* A run of keys of a range within one page. */
typedef struct Run { int32_t page, offset, keys; } Run;

/* The run that begins at key `key` of a range and ends before `end` or with its page. */
static inline Run run_at(const CpuPlan *p, const Range *r, int64_t key, int64_t end) {
    int64_t row = r->from + key, left = KV_PAGE - row % KV_PAGE;
    return (Run){p->page[r->first + row / KV_PAGE], (int32_t)(row % KV_PAGE),
                 (int32_t)(end - key < left ? end - key : left)};
}

static inline int64_t run_index(const CpuPlan *p, Run run, int64_t g, int32_t page) {
    return (((int64_t)page * p->limits.kv_heads + g) * KV_PAGE + run.offset) * p->limits.head_dim;
}

#endif
