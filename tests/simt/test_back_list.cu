/* test_back_list.cu -- the lists that attention's backward kernels walk, against a count of every pair.
 *
 * Random layouts, with segments that overlap, that leave out rows and that occur twice. The walks of all
 * items of a page are taken on the host, and every row must be met once for each segment in which it sees a
 * key of that page. What a layout of too many visits leads to is tried as well. Prints TAP. */
#include <stdio.h>
#include <stdlib.h>

#include <vector>

#include "kernels/attn_plan.cuh"

static int number, failed;
static void check(bool good, const char *what, int trial) {
    number++;
    if (!good) failed++;
    printf("%s %d - %s, layout %d\n", good ? "ok" : "not ok", number, what, trial);
}

static int32_t below(int32_t n) { /* of a fixed sequence */
    static uint64_t x = 88172645463325252u;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return (int32_t)(x % (uint64_t)n);
}

/* ---- layouts ---- */

struct Batch {
    std::vector<int32_t> row{0}, seg{0}, page, own_grad, learned_grad;
    std::vector<Segment> segment;
    int32_t group, kv_heads;
};

static AttnLayout layout_of(const Batch &b) {
    return AttnLayout{b.row.back(),           (int32_t)b.row.size() - 1,  b.row.data(),
                      b.seg.data(),           b.segment.data(),           b.page.data(),
                      (int32_t)b.page.size(), (int32_t)b.own_grad.size(), b.own_grad.data(),
                      b.learned_grad.data()};
}

/* Entries are the pages in reverse; the first 8 learn, the next 4 are only read, the others are own ones. */
static Batch batch_new(int32_t pages) {
    Batch b;
    b.group = 1 + below(8), b.kv_heads = 1 + below(9);
    for (int32_t i = 0; i < pages; i++) {
        b.page.push_back(pages - 1 - i);
        b.learned_grad.push_back(i < 8 ? 7 - i : -1);
        b.own_grad.push_back(i < 12 ? -1 : i - 12);
    }
    return b;
}

static void add_segment(Batch *b, int32_t first, int32_t entries, int32_t shortest) {
    int32_t rows = entries * KV_PAGE, length = shortest + below(rows - shortest - KV_PAGE + 1);
    b->segment.push_back(Segment{first, below(KV_PAGE), length});
}

static Batch random_batch() {
    enum { PAGES = 40 };
    Batch b = batch_new(PAGES);
    for (int32_t s = 0, sequences = 1 + below(6); s < sequences; s++) {
        int32_t rows = 1 + below(below(2) ? 8 : 300);
        for (int32_t i = 0, prefixes = below(4); i < prefixes; i++)
            add_segment(&b, PAGES - 12 + below(10), 2,
                        1 + below(KV_PAGE - 1)); /* pages 0 .. 11 end the list */
        add_segment(&b, below(PAGES - 12 - 8), 8, rows);
        b.row.push_back(b.row.back() + rows);
        b.seg.push_back((int32_t)b.segment.size());
    }
    return b;
}

/* ---- lists ---- */

struct Lists {
    AttnLimits limits;
    BackList list;
    CudaStream stream;
    void *host, *device;
};

static void lists_open(Lists *l, const Batch &b) {
    const AttnLayout at = layout_of(b);
    *l = Lists{};
    l->limits = AttnLimits{at.T,       at.S, at.seg[at.S], at.entries, at.pages, b.group * b.kv_heads,
                           b.kv_heads, 64,   DT_BF16,      true};
    PlanMemory memory;
    arena_init(&memory.host, NULL, 0);
    arena_init(&memory.device, NULL, 0);
    back_place(&l->list, &l->limits, &memory);
    size_t host = memory.host.used, device = memory.device.used;
    if (cudaMallocHost(&l->host, host) || cudaMalloc(&l->device, device)) exit(1);
    arena_init(&memory.host, l->host, host);
    arena_init(&memory.device, l->device, device);
    back_place(&l->list, &l->limits, &memory);
    if (back_build(&l->list, &l->limits, &at, &l->stream)) exit(1);
}

static void lists_close(Lists *l) {
    cudaFreeHost(l->host);
    cudaFree(l->device);
}

/* How often packed row r meets page p: met[p * rows + r]. */
typedef std::vector<int32_t> Meetings;

static Meetings meetings_of_layout(const Batch &b) {
    const AttnLayout at = layout_of(b);
    const int32_t rows = at.T * b.group;
    Meetings met((size_t)(at.pages * rows));
    for (int32_t s = 0; s < at.S; s++)
        for (int32_t i = at.seg[s]; i < at.seg[s + 1]; i++)
            for (int32_t t = at.row[s]; t < at.row[s + 1]; t++) {
                const Segment g = at.segment[i];
                int32_t keys = g.length - (i + 1 == at.seg[s + 1] ? at.row[s + 1] - 1 - t : 0);
                for (int32_t e = g.from / KV_PAGE; e * KV_PAGE < g.from + keys; e++)
                    for (int32_t h = 0; h < b.group; h++)
                        met[(size_t)(at.page[g.first + e] * rows + t * b.group + h)]++;
            }
    return met;
}

static void walk(Meetings *met, const BackList *list, const BackItem &item, int32_t rows) {
    const BackVisit *v = list->visit.host + item.visit;
    int32_t row = item.steps ? (v->row_from & ~1) + item.skip * BACK_STEP : 0;
    for (int32_t i = 0; i < item.steps; i++) {
        for (int32_t r = row; r < row + BACK_STEP; r++)
            if (r >= v->row_from && r < v->row_to) (*met)[(size_t)(item.page * rows + r)]++;
        row += BACK_STEP;
        if (row >= v->row_to && i + 1 < item.steps) row = (++v)->row_from & ~1;
    }
}

static bool same_meetings(const Batch &b, const BackList *list) {
    const int32_t rows = b.row.back() * b.group, pages = (int32_t)b.own_grad.size();
    Meetings right = meetings_of_layout(b), met(right.size());
    for (int32_t i = 0; i < list->learned + list->own; i++) walk(&met, list, list->item.host[i], rows);
    for (int32_t p = 0; p < pages; p++)
        for (int32_t r = 0; r < rows; r++) {
            bool wanted = b.own_grad[(size_t)p] >= 0 || b.learned_grad[(size_t)p] >= 0;
            if (met[(size_t)(p * rows + r)] != (wanted ? right[(size_t)(p * rows + r)] : 0)) return false;
        }
    return true;
}

/* Learned pages first, then own ones; of each kind the longest first; every page with a gradient has all its
 * parts. */
static bool in_order(const Batch &b, const BackList *list) {
    std::vector<int32_t> parts(b.own_grad.size());
    for (int32_t i = 0; i < list->learned + list->own; i++) {
        const BackItem &item = list->item.host[i];
        bool learned = i < list->learned, first = i == 0 || i == list->learned;
        if ((learned ? b.learned_grad : b.own_grad)[(size_t)item.page] != item.grad || item.grad < 0)
            return false;
        if (!first && list->item.host[i - 1].steps < item.steps) return false;
        if (item.part < 0 || item.part >= item.parts) return false;
        if (++parts[(size_t)item.page] > item.parts) return false;
        if (item.parts > 1 && item.slot + item.parts > list->item.capacity - (int32_t)b.own_grad.size())
            return false;
    }
    for (size_t p = 0; p < parts.size(); p++)
        if ((parts[p] > 0) != (b.own_grad[p] >= 0 || b.learned_grad[p] >= 0)) return false;
    return true;
}

static bool slots_apart(const BackList *list) {
    std::vector<int32_t> taken((size_t)list->item.capacity);
    for (int32_t i = 0; i < list->learned + list->own; i++) {
        const BackItem &item = list->item.host[i];
        if (item.parts > 1 && taken[(size_t)(item.slot + item.part)]++) return false;
    }
    return true;
}

static bool tiles_cover(const Batch &b, const BackList *list) {
    std::vector<int32_t> met((size_t)(b.row.back() * b.group));
    for (int32_t i = 0; i < list->tiles; i++) {
        const BackTile &t = list->tile.host[i];
        for (int32_t r = t.row; r < t.row + BACK_ROWS && r < b.row[(size_t)t.sequence + 1] * b.group; r++)
            met[(size_t)r]++;
        if (i && list->tile.host[i - 1].keys < t.keys) return false;
    }
    for (int32_t n : met)
        if (n != 1) return false;
    return true;
}

static int try_layouts() {
    int split = 0;
    for (int trial = 0; trial < 40; trial++) {
        Batch b = random_batch();
        Lists l;
        lists_open(&l, b);
        check(l.list.fits && same_meetings(b, &l.list), "every row meets every page once for each segment",
              trial);
        check(in_order(b, &l.list), "all pages are there, the longest first", trial);
        check(slots_apart(&l.list), "each part has a slot of its own", trial);
        check(tiles_cover(b, &l.list), "tiles cover all rows", trial);
        for (int32_t i = 0; i < l.list.learned + l.list.own; i++) split += l.list.item.host[i].parts > 1;
        lists_close(&l);
    }
    return split;
}

/* One row that reads the learned pages over and over: more visits than there is room for, and the list says so. */
static void try_too_many() {
    Batch b = batch_new(40);
    for (int32_t i = 0; i < 40000; i++) b.segment.push_back(Segment{32, 0, 8 * KV_PAGE});
    b.segment.push_back(Segment{0, 0, 1});
    b.row.push_back(1);
    b.seg.push_back((int32_t)b.segment.size());
    Lists l;
    lists_open(&l, b);
    check(!l.list.fits, "too many visits are noticed", 0);
    lists_close(&l);
}

int main() {
    int split = try_layouts();
    check(split > 0, "some pages were cut into parts", 0);
    try_too_many();
    printf("1..%d\n", number);
    return failed > 0;
}
