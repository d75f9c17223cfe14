/* attn_decode_list.cu -- which page ranges a batch reads for which rows, cut into items.
 *
 * The words are in attn_decode.cuh. Ranges are found by content: two segments are the same range when they
 * cover the same rows of the same pages, wherever in the page list these stand. How a range is cut depends on
 * its own length, and the order of a row's slots on its own sequence, so neither who else reads a range nor
 * the number of slots can change a bit of a row's result. */
#include "kernels/attn_plan.cuh"

#include <string.h>

enum {
    CHUNK_PAGES_MIN = 4,
    SLOTS_MIN = 1024,
    SLOTS_PER_SEQUENCE = 16, /* a prefix of 2048 keys and 512 own ones make 6 */
    SIZE_CLASSES = 32,       /* powers of two */
};

/* ---- chunks ---- */

/* Pages in a chunk of a range of so many: grows with the square root, so that short ranges spread over the
 * device and long ones leave few parts to merge. */
static int32_t chunk_pages(int32_t pages) {
    int32_t chunk = CHUNK_PAGES_MIN;
    while ((int64_t)chunk * chunk < pages) chunk *= 2;
    return chunk;
}

/* Chunks of a range of so many pages, or of a shorter one if that has more: ranges of chunk^2 / 4 pages, the
 * longest with chunks half as long, have chunk / 2 of them. */
static int32_t chunks_most(int32_t pages) {
    int32_t chunk = chunk_pages(pages), chunks = (int32_t)blocks_for(pages, chunk);
    return chunk > CHUNK_PAGES_MIN && chunks < chunk / 2 ? chunk / 2 : chunks;
}

static int32_t chunks_of(const DecodeRange *r) {
    return (int32_t)blocks_for(r->pages, chunk_pages(r->pages));
}

/* ---- memory ---- */

static bool serves(const AttnLimits *m) {
    return head_has_tiles(m->head_dim) && m->act == DT_BF16;
}

/* Rows of decoding sequences that a batch can have, and of one sequence. */
static int32_t most_rows(const AttnLimits *m) {
    return m->rows < DECODE_ROWS ? m->rows : DECODE_ROWS;
}

static void cut_heads(DecodeList *list, const AttnLimits *m) {
    int32_t group = m->heads / m->kv_heads, per_group = (int32_t)blocks_for(group, DECODE_PACKED);
    list->heads = (int32_t)blocks_for(group, per_group);
    list->stripes = m->kv_heads * per_group;
}

static int32_t readers_most(const DecodeList *list) {
    return DECODE_PACKED / list->heads;
}

/* Of one segment of one sequence: each chunk once for every DECODE_PACKED of its packed rows, and once more
 * where these fall into two waves. */
static int64_t items_most(const DecodeList *list, const AttnLimits *m) {
    return (int64_t)chunks_most(m->entries) * (blocks_for(most_rows(m), readers_most(list)) + 1);
}

static int32_t slots_of(const AttnLimits *m) {
    if (m->seqs < SLOTS_MIN / SLOTS_PER_SEQUENCE) return SLOTS_MIN;
    return SLOTS_PER_SEQUENCE * m->seqs;
}

void decode_place(DecodeList *list, const AttnLimits *m, PlanMemory *memory) {
    if (!serves(m)) return;
    cut_heads(list, m);
    int64_t items = m->segments * items_most(list, m);
    list->slots = slots_of(m);
    plan_take(&list->item, memory, items);
    plan_take(&list->reader, memory, (int64_t)m->segments * most_rows(m));
    plan_take(&list->count, memory, 1);
    list->arrived = plan_take_device<uint32_t>(memory, (int64_t)m->rows * list->stripes);
    list->sync = plan_take_device<DecodeSync>(memory, 1);
    list->part = plan_take_device<float>(memory, (int64_t)list->slots * m->heads * m->head_dim);
    list->part_lse = plan_take_device<float>(memory, (int64_t)list->slots * m->heads);
    Arena *host = &memory->host;
    list->range = (DecodeRange *)arena_take(host, sizeof *list->range * (size_t)m->segments);
    list->use = (DecodeUse *)arena_take(host, sizeof *list->use * (size_t)m->segments);
    list->place = (DecodePlace *)arena_take(host, sizeof *list->place * (size_t)m->rows);
    list->draft = (DecodeItem *)arena_take(host, sizeof *list->draft * (size_t)items);
    list->range_of = (int32_t *)arena_take(host, sizeof(int32_t) * (size_t)m->segments);
    list->begins_with = (int32_t *)arena_take(host, sizeof(int32_t) * (size_t)m->pages);
    list->parts = (int32_t *)arena_take(host, sizeof(int32_t) * (size_t)m->seqs);
    list->bucket = (int32_t *)arena_take(host, sizeof(int32_t) * ((size_t)m->rows + SIZE_CLASSES));
}

/* ---- ranges ---- */

static bool decodes(const AttnLayout *l, int32_t s) {
    return sequence_rows(l, s) <= DECODE_ROWS;
}

static bool same_pages(const AttnLayout *l, const DecodeRange *a, const DecodeRange *b) {
    return a->from == b->from && a->to == b->to &&
           !memcmp(l->page + a->entry, l->page + b->entry, sizeof *l->page * (size_t)a->pages);
}

/* The number of a range that is there already, else of this one, new. Ranges that begin with the same page
 * are chained. begins_with[page] is the latest; for pages that none begins with it holds anything, and what
 * it points at then begins with another page. */
static int32_t join(DecodeList *list, const AttnLayout *l, int32_t ranges, DecodeRange r) {
    int32_t *latest = &list->begins_with[l->page[r.entry]];
    bool known = *latest >= 0 && *latest < ranges && l->page[list->range[*latest].entry] == l->page[r.entry];
    r.next = known ? *latest : -1;
    for (int32_t i = r.next; !r.own && i >= 0; i = list->range[i].next)
        if (!list->range[i].own && same_pages(l, &r, &list->range[i])) return i;
    list->range[ranges] = r;
    *latest = ranges;
    return ranges;
}

static DecodeRange range_of_segment(Segment seg, bool own) {
    DecodeRange r = {};
    r.entry = seg.first + seg.from / KV_PAGE, r.from = seg.from % KV_PAGE, r.to = r.from + seg.length;
    r.pages = (int32_t)blocks_for(r.to, KV_PAGE), r.own = own;
    return r;
}

/* All ranges with their numbers of uses; each sequence's number of parts. Returns how many ranges. */
static int32_t find_ranges(DecodeList *list, const AttnLayout *l) {
    int32_t ranges = 0;
    for (int32_t s = 0; s < l->S; s++) {
        list->parts[s] = 0;
        for (int32_t i = l->seg[s]; decodes(l, s) && i < l->seg[s + 1]; i++) {
            int32_t r = join(list, l, ranges, range_of_segment(l->segment[i], i + 1 == l->seg[s + 1]));
            if (r == ranges) ranges++;
            list->range_of[i] = r;
            list->range[r].uses++;
            list->parts[s] += chunks_of(&list->range[r]);
        }
    }
    return ranges;
}

/* The uses of each range side by side, in the order of the batch. */
static void find_uses(DecodeList *list, const AttnLayout *l, int32_t ranges) {
    int32_t first = 0;
    for (int32_t r = 0; r < ranges; r++) {
        list->range[r].use = first;
        first += list->range[r].uses;
        list->range[r].uses = 0;
    }
    for (int32_t s = 0; s < l->S; s++) {
        int32_t part = 0;
        for (int32_t i = l->seg[s]; decodes(l, s) && i < l->seg[s + 1]; i++) {
            DecodeRange *r = &list->range[list->range_of[i]];
            list->use[r->use + r->uses++] = DecodeUse{s, part};
            part += chunks_of(r);
        }
    }
}

/* ---- slots ---- */

/* Gives each row its slots; a row that finds too few left begins a new wave. Returns the number of waves. */
static Status place_rows(DecodeList *list, const AttnLayout *l, int32_t *waves) {
    DecodePlace at = {};
    int32_t rows = 0;
    for (int32_t s = 0; s < l->S; s++) {
        int32_t parts = list->parts[s];
        NEED(parts <= list->slots, ST_UNSUPPORTED,
             "attn_plan: sequence %d reads %d chunks of keys, at most %d are merged; give it fewer prefixes",
             s, parts, list->slots);
        for (int32_t t = l->row[s]; parts > 0 && t < l->row[s + 1]; t++, rows++) {
            if (at.first + parts > list->slots) at = DecodePlace{0, at.wave + 1, rows * list->stripes};
            list->place[t] = at;
            at.first += parts;
        }
    }
    *waves = at.wave + 1;
    return ST_OK;
}

/* ---- items ---- */

/* Readers of a range, from *use and *row of it on, that make one item: of one wave, and no more than fit. */
static int32_t add_readers(DecodeList *list, const AttnLayout *l, const DecodeRange *r, int32_t *use,
                           int32_t *row, DecodeReader *to) {
    int32_t n = 0, wave = 0;
    for (; *use < r->uses; ++*use, *row = 0) {
        DecodeUse u = list->use[r->use + *use];
        for (int32_t rows = sequence_rows(l, u.sequence); *row < rows; ++*row, n++) {
            int32_t t = l->row[u.sequence] + *row;
            DecodePlace at = list->place[t];
            if (n == 0) wave = at.wave;
            if (n == readers_most(list) || at.wave != wave) return n;
            int32_t hidden = r->own ? rows - 1 - *row : 0;
            to[n] = DecodeReader{t, at.first, list->parts[u.sequence], at.first + u.part, hidden};
        }
    }
    return n;
}

static int32_t most_hidden(const DecodeReader *reader, int32_t n) {
    int32_t most = 0;
    for (int32_t i = 0; i < n; i++) most = reader[i].hidden > most ? reader[i].hidden : most;
    return most;
}

/* One item for each chunk of the range, for these readers. */
static Status add_items(DecodeList *list, const DecodeRange *r, int32_t reader, int32_t readers) {
    const DecodeReader *first = list->reader.host + reader;
    DecodePlace place = list->place[first->row];
    int32_t step = chunk_pages(r->pages), hidden = most_hidden(first, readers);
    for (int32_t chunk = 0, page = 0; page < r->pages; chunk++, page += step) {
        NEED(list->items < list->item.capacity, ST_UNSUPPORTED,
             "attn_plan: more than %lld chunks of keys to read; open the plan with more segments",
             (long long)list->item.capacity);
        int32_t before = page * KV_PAGE, left = r->pages - page;
        list->item.host[list->items++] = DecodeItem{r->entry + page,  left < step ? left : step,
                                                    r->from - before, r->to - before,
                                                    hidden,           reader,
                                                    readers,          chunk,
                                                    place.wave,       place.after};
    }
    return ST_OK;
}

static Status cut_range(DecodeList *list, const AttnLayout *l, const DecodeRange *r, int32_t *readers) {
    for (int32_t use = 0, row = 0; use < r->uses;) {
        int32_t n = add_readers(list, l, r, &use, &row, list->reader.host + *readers);
        TRY(add_items(list, r, *readers, n));
        *readers += n;
    }
    return ST_OK;
}

/* ---- order ---- */

static int32_t wave_of(const DecodeList *, const DecodeItem *item) {
    return item->wave;
}

/* Falls with the size: what takes long begins first. */
static int32_t size_class(const DecodeList *list, const DecodeItem *item) {
    int32_t size = item->pages * (1 + 2 * item->readers * list->heads / DECODE_PACKED), power = 0;
    while (size >>= 1) power++;
    return SIZE_CLASSES - 1 - power;
}

/* Stable, so that sorting by size and then by wave orders by both. */
static void sort_items(DecodeList *list, DecodeItem *to, const DecodeItem *from, int32_t keys,
                       int32_t (*key)(const DecodeList *, const DecodeItem *)) {
    memset(list->bucket, 0, sizeof *list->bucket * (size_t)keys);
    for (int32_t i = 0; i < list->items; i++) list->bucket[key(list, &from[i])]++;
    for (int32_t b = 0, first = 0; b < keys; b++) {
        int32_t n = list->bucket[b];
        list->bucket[b] = first;
        first += n;
    }
    for (int32_t i = 0; i < list->items; i++) to[list->bucket[key(list, &from[i])]++] = from[i];
}

Status decode_build(DecodeList *list, const AttnLimits *m, const AttnLayout *l, CudaStream *s) {
    list->items = 0;
    if (!serves(m)) return ST_OK;
    int32_t ranges = find_ranges(list, l), waves = 0, readers = 0;
    find_uses(list, l, ranges);
    TRY(place_rows(list, l, &waves));
    for (int32_t r = 0; r < ranges; r++) TRY(cut_range(list, l, &list->range[r], &readers));
    sort_items(list, list->draft, list->item.host, SIZE_CLASSES, size_class);
    sort_items(list, list->item.host, list->draft, waves, wave_of);
    *list->count.host = list->items;
    TRY(plan_upload(s, &list->item, list->items));
    TRY(plan_upload(s, &list->reader, readers));
    return plan_upload(s, &list->count, 1);
}
