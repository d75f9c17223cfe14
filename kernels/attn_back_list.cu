/* attn_back_list.cu -- builds the lists of attn_back.cuh from a layout. All of it depends on shapes only, so
 * the order in which gradients are added does too.
 *
 * The number of visits is not bounded by the page entries: a layout may let many segments read the same ones.
 * There is room for VISITS_MIN visits, or VISITS_PER_ENTRY for each entry if that is more; batches of the
 * engine need one for each entry. A layout that needs more goes to the plain kernels. */
#include <algorithm>

#include "kernels/attn_plan.cuh"

enum {
    VISITS_MIN = 1 << 18,
    VISITS_PER_ENTRY = 8,
    ITEMS_GOAL = 256, /* items of all heads that keep a large chip busy; fewer: the longest are split */
    STEPS_MIN = 16,   /* of a part: less work is not worth the partial sums */
    PARTS_MAX = 16
};

static int64_t visits_max(const AttnLimits *m) {
    int64_t all = (int64_t)m->segments * m->entries;
    return std::min(all, std::max((int64_t)VISITS_MIN, (int64_t)VISITS_PER_ENTRY * m->entries));
}

/* A page is split when it is longer than its share of ITEMS_GOAL, into less than twice its length over that
 * share. */
static int64_t slots_max(const AttnLimits *m) {
    return std::min((int64_t)2 * ITEMS_GOAL / m->kv_heads + 1, (int64_t)m->pages * PARTS_MAX);
}

void back_place(BackList *l, const AttnLimits *m, PlanMemory *memory) {
    const int64_t group = m->heads / m->kv_heads, packed = m->rows * group, slots = slots_max(m);
    plan_take(&l->item, memory, m->pages + slots);
    plan_take(&l->visit, memory, visits_max(m));
    plan_take(&l->tile, memory, packed / BACK_ROWS + m->seqs);
    l->end = (int32_t *)arena_take(&memory->host, sizeof(int32_t) * (size_t)m->pages);
    l->steps = (int32_t *)arena_take(&memory->host, sizeof(int32_t) * (size_t)m->pages);
    if (!head_has_tiles(m->head_dim)) return;
    l->row = plan_take_device<float2>(memory, m->kv_heads * (packed + 1));
    l->partial = plan_take_device<float>(memory, slots * m->kv_heads * 2 * KV_PAGE * m->head_dim);
    l->ticket = plan_take_device<uint32_t>(memory, slots * m->kv_heads);
}

/* ---- visits ---- */

/* Page entry e, counted from the segment's first: the keys of segment i that lie in it, and who sees them. */
static BackVisit visit_of(const AttnLayout *l, int32_t s, int32_t i, int32_t e, int32_t group) {
    const Segment seg = l->segment[i];
    const int32_t end = seg.from + seg.length, start = e * KV_PAGE;
    BackVisit v;
    v.key_from = (int16_t)std::max(seg.from - start, 0);
    v.key_to = (int16_t)std::min(end - start, (int32_t)KV_PAGE);
    /* Own keys end with the last token's, which is the last token to see any. In a prefix every key is
     * before. */
    bool own = i + 1 == l->seg[s + 1];
    v.diagonal = own ? l->row[s + 1] + start - end : l->row[s] - KV_PAGE;
    v.row_from = std::max(l->row[s], v.diagonal + v.key_from) * group;
    v.row_to = l->row[s + 1] * group;
    return v;
}

/* Loads begin at even rows: two rows' statistics are 16 bytes. */
static int32_t steps_of(const BackVisit &v) {
    return (v.row_to - (v.row_from & ~1) + BACK_STEP - 1) / BACK_STEP;
}

static bool has_gradient(const AttnLayout *l, int32_t page) {
    return (l->own_grad && l->own_grad[page] >= 0) || (l->learned_grad && l->learned_grad[page] >= 0);
}

/* Calls take(page, visit) for every visit of a page with a gradient, in the layout's order. */
template <class Take> static void each_visit(const AttnLayout *l, int32_t group, Take take) {
    for (int32_t s = 0; s < l->S; s++)
        for (int32_t i = l->seg[s]; i < l->seg[s + 1]; i++) {
            const Segment seg = l->segment[i];
            for (int32_t e = seg.from / KV_PAGE; e * KV_PAGE < seg.from + seg.length; e++) {
                int32_t page = l->page[seg.first + e];
                if (has_gradient(l, page)) take(page, visit_of(l, s, i, e, group));
            }
        }
}

/* Counts, then places: page p's visits end before end[p] and begin where those of the page before end. False:
 * they do not fit. */
static bool build_visits(BackList *list, const AttnLayout *l, int32_t group) {
    int32_t *end = list->end, *steps = list->steps;
    int64_t visits = 0;
    std::fill(end, end + l->pages, 0);
    std::fill(steps, steps + l->pages, 0);
    each_visit(l, group, [&](int32_t page, BackVisit v) {
        end[page]++;
        steps[page] += steps_of(v);
        visits++;
    });
    if (visits > list->visit.capacity) return false;
    int32_t at = 0;
    for (int32_t p = 0; p < l->pages; p++) {
        int32_t n = end[p];
        end[p] = at;
        at += n;
    }
    each_visit(l, group, [&](int32_t page, BackVisit v) { list->visit.host[end[page]++] = v; });
    list->visits = at;
    return true;
}

/* ---- items ---- */

/* The item's walk begins `skip` steps behind the page's first visit. */
static void skip_visits(const BackList *list, BackItem *item) {
    for (int32_t n; (n = steps_of(list->visit.host[item->visit])) <= item->skip; item->visit++)
        item->skip -= n;
}

/* Cuts a page's walk into parts that differ by one step at most. */
static int32_t add_items(BackList *list, int32_t n, int32_t page, int32_t grad, int32_t parts, int32_t slot) {
    const int64_t steps = list->steps[page];
    for (int32_t i = 0; i < parts; i++) {
        int32_t from = (int32_t)(steps * i / parts), to = (int32_t)(steps * (i + 1) / parts);
        BackItem item = {page, grad, page ? list->end[page - 1] : 0, from, to - from, i, parts, slot};
        if (steps) skip_visits(list, &item);
        list->item.host[n++] = item;
    }
    return n;
}

static int32_t share_of(const BackList *list, const AttnLayout *l, int32_t kv_heads) {
    int64_t all = 0;
    for (int32_t p = 0; p < l->pages; p++) all += list->steps[p];
    return (int32_t)std::max((int64_t)STEPS_MIN, blocks_for(all * kv_heads, ITEMS_GOAL));
}

/* Pages that `grad` names. Own pages that nobody sees are items too: their gradient is zero. */
static int32_t items_of(BackList *list, const AttnLayout *l, const int32_t *grad, int32_t share, int32_t n,
                        int32_t *slot) {
    const int32_t from = n;
    for (int32_t p = 0; grad && p < l->pages; p++) {
        if (grad[p] < 0) continue;
        int32_t parts =
            (int32_t)std::min(std::max(blocks_for(list->steps[p], share), (int64_t)1), (int64_t)PARTS_MAX);
        n = add_items(list, n, p, grad[p], parts, *slot);
        if (parts > 1) *slot += parts;
    }
    std::sort(list->item.host + from, list->item.host + n, [](const BackItem &a, const BackItem &b) {
        if (a.steps != b.steps) return a.steps > b.steps; /* the longest first */
        return a.page != b.page ? a.page < b.page : a.part < b.part;
    });
    return n;
}

/* ---- tiles of rows, for dq ---- */

static void build_tiles(BackList *list, const AttnLayout *l, int32_t group) {
    int32_t n = 0;
    for (int32_t s = 0; s < l->S; s++)
        for (int32_t row = l->row[s] * group; row < l->row[s + 1] * group; row += BACK_ROWS) {
            int64_t keys = 0;
            for (int32_t i = l->seg[s]; i < l->seg[s + 1]; i++) keys += l->segment[i].length;
            int32_t last = std::min((row + BACK_ROWS - 1) / group, l->row[s + 1] - 1);
            list->tile.host[n++] = BackTile{s, row, (int32_t)(keys - (l->row[s + 1] - 1 - last))};
        }
    std::sort(list->tile.host, list->tile.host + n, [](const BackTile &a, const BackTile &b) {
        return a.keys != b.keys ? a.keys > b.keys : a.row < b.row;
    });
    list->tiles = n;
}

Status back_build(BackList *list, const AttnLimits *m, const AttnLayout *l, CudaStream *s) {
    const int32_t group = m->heads / m->kv_heads;
    list->fits = build_visits(list, l, group);
    if (!list->fits) return ST_OK;
    const int32_t share = share_of(list, l, m->kv_heads);
    int32_t slot = 0;
    list->learned = items_of(list, l, l->learned_grad, share, 0, &slot);
    list->own = items_of(list, l, l->own_grad, share, list->learned, &slot) - list->learned;
    build_tiles(list, l, group);
    TRY(plan_upload(s, &list->visit, list->visits));
    TRY(plan_upload(s, &list->item, list->learned + list->own));
    return plan_upload(s, &list->tile, list->tiles);
}
