/* attn_plan_cpu.c -- see attn_plan_cpu.h. */
#include "kernels/attn_plan_cpu.h"

#include <stdlib.h>
#include <string.h>

static CpuPlan *plan_of(AttnPlan *p) {
    return (CpuPlan *)(void *)p;
}

/* ---- memory ---- */

static int64_t whole_lanes(int64_t n) {
    return cut(n, LANES_STEP) * LANES_STEP;
}

/* Backward needs most: four copies of a tile's rows and the sum for dq, two blocks of scores, numbers per
 * lane. */
static int64_t scratch_floats(const CpuPlan *p) {
    int64_t lanes = p->lanes, D = p->limits.head_dim;
    return whole_lanes(5 * lanes * D + 2 * lanes * KV_PAGE + 8 * lanes);
}

/* Enough that training batches advance four chunks at a time and a few decoding rows all their chunks at
 * once. */
static int64_t slots_wanted(const AttnLimits *m) {
    int64_t rows = 4 * (int64_t)m->rows;
    return rows > 512 ? rows : 512;
}

/* Run twice: to count, and to place. */
static void place(CpuPlan *p, Arena *a) {
    const AttnLimits *m = &p->limits;
    size_t segments = (size_t)m->segments, slots = (size_t)p->slots, heads = (size_t)m->heads;
    p->range = arena_take(a, sizeof(Range) * segments);
    p->draft = arena_take(a, sizeof(Range) * segments);
    p->reader = arena_take(a, sizeof(Reader) * segments);
    p->joined = arena_take(a, sizeof(int32_t) * segments);
    p->wave = arena_take(a, sizeof(int32_t) * (segments + 1));
    p->task = arena_take(a, sizeof(int64_t) * (segments + 1));
    p->page = arena_take(a, sizeof(int32_t) * (size_t)m->entries);
    p->own_grad = arena_take(a, sizeof(int32_t) * (size_t)m->pages);
    p->learned_grad = arena_take(a, sizeof(int32_t) * (size_t)m->pages);
    p->part = arena_take(a, sizeof(float) * slots * heads * (size_t)m->head_dim);
    p->part_max = arena_take(a, sizeof(float) * slots * heads);
    p->part_sum = arena_take(a, sizeof(float) * slots * heads);
    p->row_max = arena_take(a, sizeof(float) * (size_t)m->rows * heads);
    p->row_sum = arena_take(a, sizeof(float) * (size_t)m->rows * heads);
    p->scratch = arena_take(a, sizeof(float) * (size_t)(p->scratch_floats * p->threads));
}

/* Everything but the memory; its bytes. */
static size_t size_up(CpuPlan *p, const AttnLimits *limits) {
    int32_t group = limits->heads / limits->kv_heads;
    *p = (CpuPlan){.limits = *limits,
                   .lanes = (int32_t)whole_lanes(group > TILE_LANES ? group : TILE_LANES),
                   .threads = cpu_threads(INT32_MAX),
                   .slots = slots_wanted(limits)};
    p->scratch_floats = scratch_floats(p);
    Arena count;
    arena_init(&count, NULL, 0);
    place(p, &count);
    return count.used;
}

size_t cpu_plan_bytes(const AttnLimits *limits) {
    CpuPlan p;
    return size_up(&p, limits);
}

static Status check_limits(const AttnLimits *m) {
    NEED(m->kv_heads >= 1 && m->heads >= 1 && m->heads % m->kv_heads == 0, ST_ARG,
         "attn: %d query heads over %d key heads is no whole number", m->heads, m->kv_heads);
    NEED(m->rows >= 1 && m->seqs >= 1 && m->segments >= 1 && m->entries >= 1 && m->pages >= 1, ST_ARG,
         "attn: a plan for %d rows, %d sequences, %d segments, %d entries, %d pages is empty", m->rows,
         m->seqs, m->segments, m->entries, m->pages);
    NEED(m->act == DT_F32, ST_UNSUPPORTED,
         "attn: activations in %s; the cpu backend computes in f32 (ref takes the rest)", dtype_name(m->act));
    NEED(m->head_dim >= 8 && m->head_dim % 8 == 0, ST_UNSUPPORTED,
         "attn: head size %d, wanted a multiple of 8", m->head_dim);
    return ST_OK;
}

Status plan_open_cpu(AttnPlan **out, const AttnLimits *limits) {
    *out = NULL;
    TRY(check_limits(limits));
    CpuPlan *p = malloc(sizeof *p);
    NEED(p, ST_NOMEM, "attn: no memory for a plan");
    size_t bytes = size_up(p, limits);
    Status st = host_mem_open(&p->block, bytes);
    if (st) {
        free(p);
        return st;
    }
    Arena mem;
    arena_init(&mem, p->block, bytes);
    place(p, &mem);
    *out = (AttnPlan *)(void *)p;
    return ST_OK;
}

void plan_close_cpu(AttnPlan *plan) {
    CpuPlan *p = plan_of(plan);
    if (!p) return;
    host_mem_close(p->block);
    free(p);
}

/* ---- ranges ---- */

static void copy_grads(int32_t *to, const int32_t *from, int32_t n) {
    if (from)
        memcpy(to, from, sizeof *to * (size_t)n);
    else
        memset(to, 0xFF, sizeof *to * (size_t)n); /* an absent map: all -1 */
}

static int64_t first_page(const Range *r) {
    return r->first + r->from / KV_PAGE;
}

static int64_t range_pages(const Range *r) {
    return ((int64_t)r->from + r->length - 1) / KV_PAGE - r->from / KV_PAGE + 1;
}

static bool same_keys(const CpuPlan *p, const Range *a, const Range *b) {
    return a->length == b->length && a->from % KV_PAGE == b->from % KV_PAGE &&
           !memcmp(p->page + first_page(a), p->page + first_page(b),
                   sizeof *p->page * (size_t)range_pages(a));
}

static bool share_page(const CpuPlan *p, const Range *a, const Range *b) {
    const int32_t *pa = p->page + first_page(a), *pb = p->page + first_page(b);
    for (int64_t i = 0; i < range_pages(a); i++)
        for (int64_t j = 0; j < range_pages(b); j++)
            if (pa[i] == pb[j]) return true;
    return false;
}

static bool learns(const CpuPlan *p, const Range *r) {
    for (int64_t i = 0; i < range_pages(r); i++) {
        int32_t page = p->page[first_page(r) + i];
        if (p->own_grad[page] >= 0 || p->learned_grad[page] >= 0) return true;
    }
    return false;
}

/* Whether a range would add to a gradient page that another one of that wave adds to. */
static bool collides(const CpuPlan *p, const Range *r, int32_t wave) {
    for (int32_t i = 0; r->learns && i < p->ranges; i++) {
        const Range *other = &p->draft[i];
        if (other->wave == wave && other->learns && share_page(p, r, other)) return true;
    }
    return false;
}

/* The range of a segment that may not run before `wave`: one that is there already, or a new one. */
static int32_t join(CpuPlan *p, Segment seg, bool own, int32_t wave) {
    Range r = {.first = seg.first, .from = seg.from, .length = seg.length, .wave = wave, .own = own};
    for (int32_t i = 0; !own && i < p->ranges; i++) {
        const Range *other = &p->draft[i];
        if (!other->own && other->wave >= wave && same_keys(p, &r, other)) return i;
    }
    r.learns = learns(p, &r);
    while (collides(p, &r, r.wave)) r.wave++;
    p->draft[p->ranges] = r;
    return p->ranges++;
}

static void find_ranges(CpuPlan *p, const AttnLayout *l) {
    p->ranges = p->waves = 0;
    for (int32_t s = 0; s < l->S; s++) {
        int32_t wave = 0;
        for (int32_t i = l->seg[s]; i < l->seg[s + 1]; i++) {
            int32_t r = join(p, l->segment[i], i + 1 == l->seg[s + 1], wave);
            p->joined[i] = r;
            p->draft[r].readers++;
            wave = p->draft[r].wave + 1;
        }
        if (wave > p->waves) p->waves = wave;
    }
}

/* Sorts the drafts by wave and points `joined` at the sorted ones. Counts, then places; draft[i].reader is
 * borrowed to remember where a draft went. */
static void sort_ranges(CpuPlan *p, int32_t segments) {
    memset(p->wave, 0, sizeof *p->wave * ((size_t)p->waves + 1));
    for (int32_t i = 0; i < p->ranges; i++) p->wave[p->draft[i].wave]++;
    int32_t first = 0;
    for (int32_t w = 0; w <= p->waves; w++) {
        int32_t n = p->wave[w];
        p->wave[w] = first;
        first += n;
    }
    for (int32_t i = 0; i < p->ranges; i++) {
        int32_t to = p->wave[p->draft[i].wave]++;
        p->range[to] = p->draft[i];
        p->draft[i].reader = to;
    }
    for (int32_t w = p->waves; w > 0; w--) p->wave[w] = p->wave[w - 1];
    p->wave[0] = 0;
    for (int32_t i = 0; i < segments; i++) p->joined[i] = p->draft[p->joined[i]].reader;
}

static int64_t count_products(const CpuPlan *p) {
    int64_t n = 0;
    for (int32_t i = 0; i < p->ranges; i++)
        n += 2 * (int64_t)p->range[i].rows * p->range[i].length * p->limits.heads * p->limits.head_dim;
    return n;
}

/* Sequences that stand side by side become one reader: their rows do. */
static void add_reader(CpuPlan *p, Range *r, int32_t row, int32_t rows) {
    Reader *last = p->reader + r->reader + r->readers - 1;
    if (r->readers && last->row + last->rows == row)
        last->rows += rows;
    else
        p->reader[r->reader + r->readers++] = (Reader){row, rows, r->rows};
    r->rows += rows;
}

static void find_readers(CpuPlan *p, const AttnLayout *l) {
    int32_t first = 0;
    for (int32_t i = 0; i < p->ranges; i++) {
        Range *r = &p->range[i];
        int32_t n = r->readers;
        r->reader = first, r->readers = r->rows = 0;
        first += n;
    }
    for (int32_t s = 0; s < l->S; s++)
        for (int32_t i = l->seg[s]; i < l->seg[s + 1]; i++)
            add_reader(p, &p->range[p->joined[i]], l->row[s], l->row[s + 1] - l->row[s]);
}

Status attn_plan_cpu(Stream *s, AttnPlan *plan, const AttnLayout *l) {
    (void)s;
    CpuPlan *p = plan_of(plan);
    TRY(layout_check(l, &p->limits));
    p->T = l->T;
    memcpy(p->page, l->page, sizeof *p->page * (size_t)l->entries);
    copy_grads(p->own_grad, l->own_grad, l->pages);
    copy_grads(p->learned_grad, l->learned_grad, l->pages);
    p->pages = l->pages;
    find_ranges(p, l);
    sort_ranges(p, l->seg[l->S]);
    find_readers(p, l);
    p->products = count_products(p);
    return ST_OK;
}

/* ---- passes, tasks, tiles ---- */

static int64_t wave_chunks(const CpuPlan *p, int32_t wave) {
    int64_t most = 0;
    for (int32_t i = p->wave[wave]; i < p->wave[wave + 1]; i++) {
        int64_t n = cut(p->range[i].length, CHUNK);
        most = n > most ? n : most;
    }
    return most;
}

bool pass_next(const CpuPlan *p, Pass *at) {
    at->chunk += at->chunks;
    at->chunks = p->slots / p->T;
    while (at->wave < p->waves && at->chunk >= wave_chunks(p, at->wave)) at->wave++, at->chunk = 0;
    return at->wave < p->waves;
}

static int64_t range_tasks(const CpuPlan *p, const Pass *at, Split split, const Range *r) {
    int64_t chunks = pass_chunks(at, r);
    return (split.chunks ? chunks : chunks > 0) * split.heads * (split.tiles ? range_tiles(p, r) : 1);
}

int64_t pass_tasks(const CpuPlan *p, const Pass *at, Split split) {
    int64_t n = 0;
    for (int32_t i = p->wave[at->wave]; i < p->wave[at->wave + 1]; i++) {
        p->task[i] = n;
        n += range_tasks(p, at, split, &p->range[i]);
    }
    return n;
}

/* The last element of first[low .. high) that is not above i. */
static int32_t find_last(const int64_t *first, int32_t low, int32_t high, int64_t i) {
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        if (first[middle] <= i)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Tiles of one head and chunk come one after the other: their keys are in the cache then. */
Task pass_task(const CpuPlan *p, const Pass *at, Split split, int64_t i) {
    int32_t r = find_last(p->task, p->wave[at->wave], p->wave[at->wave + 1], i);
    Task t = {.range = &p->range[r]};
    int64_t rest = i - p->task[r], tiles = split.tiles ? range_tiles(p, t.range) : 1;
    t.tile = rest % tiles;
    t.head = rest / tiles % split.heads;
    t.chunk = at->chunk + rest / tiles / split.heads;
    return t;
}

static int32_t keys_seen(const Range *r, int32_t i, int64_t chunk) {
    int64_t end = r->own ? (int64_t)r->length - r->rows + i + 1 : r->length;
    int64_t seen = end - chunk * CHUNK;
    return (int32_t)(seen < 0 ? 0 : seen < CHUNK ? seen : CHUNK);
}

static int32_t find_reader(const CpuPlan *p, const Range *r, int32_t i) {
    int32_t low = r->reader, high = r->reader + r->readers;
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        if (p->reader[middle].start <= i)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void tile_of(Tile *out, const CpuPlan *p, const Range *r, int64_t tile, int64_t chunk) {
    int32_t first = (int32_t)(tile * tile_rows(p)), left = r->rows - first;
    out->rows = left < tile_rows(p) ? left : tile_rows(p);
    out->sees_most = 0;
    out->sees_least = CHUNK;
    const Reader *reader = p->reader + find_reader(p, r, first);
    for (int32_t i = 0; i < out->rows; i++) {
        if (first + i >= reader->start + reader->rows) reader++;
        int32_t sees = keys_seen(r, first + i, chunk);
        out->row[i] = reader->row + first + i - reader->start;
        out->sees[i] = sees;
        if (sees > out->sees_most) out->sees_most = sees;
        if (sees < out->sees_least) out->sees_least = sees;
    }
}
