/* attn_prefill.cu -- attention of many rows per sequence, for prefill and training, on tensor cores.
 *
 * A block owns 128 packed rows (attn_prefill.cuh) of one sequence and one key head, and walks the pages of
 * all the sequence's segments in order: prefixes, then its own. Packing makes the group of query heads that
 * share keys share their copy in shared memory too. Nothing but o and lse leaves the block: scores live in
 * registers only (Dao 2023, arXiv:2307.08691).
 *
 *             64 keys of a page
 *     warp 0    32 rows of scores -> shares -> o           slots of the ring: K and V by turns
 *     warp 1    32 rows                                      K 0   V 0   K 1
 *     warp 2    32 rows                                      V 1   K 2   V 2
 *     warp 3    32 rows                                      K 3   ..
 *
 * Of the ring's three tiles one is in use, one is on its way or there, and one, which was used last, is
 * overwritten by the next but one: a single barrier per tile says both that everybody sees the new tile and
 * that nobody needs the old one.
 *
 * A warp holds 32 rows as two A fragments, so every B fragment of keys or values that ldmatrix fetches serves
 * two products: with 16 rows, tensor cores would wait for shared memory. Queries stay in shared memory and
 * are fetched again for each page, since the sums of o (32 x D) fill the registers.
 *
 * Only a page that is partly out of a segment or that the diagonal crosses is masked, by a code path of its
 * own; it also leaves out blocks of 16 keys that no row of the warp sees. Pages behind the diagonal are not
 * visited. Softmax is in base 2, with scale * log2(e) as the rate of the exponent. */
#include <algorithm>

#include "kernels/attn_plan.cuh"
#include "kernels/attn_tile.cuh"

enum {
    WARPS = 4,
    THREADS = WARPS * WARP,
    TILE_ROWS = 16, /* of an A fragment */
    ROW_TILES = 2,
    WARP_ROWS = ROW_TILES * TILE_ROWS,
    BLOCK_ROWS = WARPS * WARP_ROWS,
    RING = 3,
    KEY_BLOCK = 16, /* keys of one ldmatrix, and of an A fragment of shares */
    KEY_BLOCKS = KV_PAGE / KEY_BLOCK,
    SCORES = KV_PAGE / 8, /* C fragments of a row of scores */
    FAR = 1 << 30,
};

struct Prefill {
    const PrefillItem *item;
    const Segment *segment;
    const int32_t *page;
    const bf16 *q, *k, *v;
    bf16 *o;
    float *lse; /* or NULL */
    int32_t heads, kv_heads, group;
    float rate; /* of the exponent: scale * log2(e) */
};

/* ---- the walk over pages ---- */

/* A page's rows from .. to are keys of the segment; token i of the sequence sees those below reach + i. */
struct KeyPage {
    int32_t number, from, to, reach;
};

/* Where the block is: a segment, a page of it. Rows are counted from the segment's first page. */
struct Walk {
    int32_t last_token; /* that the block has rows of */
    int32_t segment, entry, page, from, to, reach;
};

TILE_FN void enter_segment(Walk &w, const Prefill &p, const PrefillItem &item) {
    Segment g = p.segment[w.segment];
    bool own = w.segment + 1 == item.segments_end;
    w.entry = g.first, w.from = g.from, w.page = g.from / KV_PAGE;
    w.reach = own ? g.from + g.length - item.tokens + 1 : FAR;
    w.to = own ? w.reach + w.last_token : g.from + g.length;
}

TILE_FN Walk walk_new(const Prefill &p, const PrefillItem &item) {
    Walk w;
    w.last_token = (min(item.first + BLOCK_ROWS, item.tokens * p.group) - 1) / p.group;
    w.segment = item.segment;
    enter_segment(w, p, item);
    return w;
}

/* The next page in order; number -1 behind the last. */
TILE_FN KeyPage next_page(Walk &w, const Prefill &p, const PrefillItem &item) {
    if (w.segment == item.segments_end) return KeyPage{-1, 0, 0, 0};
    int32_t begin = w.page * KV_PAGE;
    KeyPage page = {p.page[w.entry + w.page], max(w.from - begin, 0), min(w.to - begin, (int32_t)KV_PAGE),
                    w.reach - begin};
    if (++w.page * KV_PAGE >= w.to && ++w.segment < item.segments_end) enter_segment(w, p, item);
    return page;
}

/* What a warp sees of a page: a bit per block of keys in which one of its rows sees a key, and WHOLE if all
 * rows see all keys. */
enum { WHOLE = 1 << KEY_BLOCKS };

TILE_FN uint32_t window_of(const KeyPage &page, int32_t first_token, int32_t last_token) {
    int32_t first_to = min(page.to, page.reach + first_token), to = min(page.to, page.reach + last_token);
    uint32_t window = page.from == 0 && first_to == KV_PAGE ? WHOLE : 0;
#pragma unroll
    for (int block = 0; block < KEY_BLOCKS; block++)
        if (block * KEY_BLOCK < to && (block + 1) * KEY_BLOCK > page.from) window |= 1u << block;
    return window;
}

/* ---- the products ---- */

/* What a warp knows of its rows: sums of o, and the softmax so far. */
template <int D> struct Rows {
    float o[ROW_TILES][D / 8][4];
    RowPair pair[ROW_TILES];
};

template <int D> TILE_FN void rows_clear(Rows<D> &rows) {
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
        clear(rows.o[m]);
        rows.pair[m] = row_pair_new();
    }
}

/* score = q k^T of the warp's rows, from row `row` of the tile of queries, and a page's keys. MASKED: of the
 * blocks of keys that are in the window. */
template <int D, bool MASKED>
TILE_FN void multiply_keys(float (&score)[ROW_TILES][SCORES][4], bf16 *q, int row, bf16 *k, uint32_t window) {
    const int ahead = D == 64 ? D / 16 : 2; /* unrolled to more, ptxas fetches further and spills */
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) clear(score[m]);
#pragma unroll ahead
    for (int d = 0; d < D / 16; d++) {
        uint32_t a[ROW_TILES][4];
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++) load_a<D>(a[m], q, row + m * TILE_ROWS, d);
#pragma unroll
        for (int block = 0; block < KEY_BLOCKS; block++) {
            if (MASKED && !(window >> block & 1)) continue;
            uint32_t b[4];
            load_b<D>(b, k, block * KEY_BLOCK, d);
#pragma unroll
            for (int m = 0; m < ROW_TILES; m++) {
                mma_bf16(score[m][2 * block], a[m], b[0], b[1]);
                mma_bf16(score[m][2 * block + 1], a[m], b[2], b[3]);
            }
        }
    }
}

/* Scores of keys that a row does not see become -inf. `row`: packed, of the warp's first row. */
TILE_FN void mask_scores(float (&score)[ROW_TILES][SCORES][4], const KeyPage &page, int32_t row,
                         int32_t group) {
    int column = lane_index() % 4 * 2;
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int32_t token = (row + m * TILE_ROWS + i * 8 + lane_index() / 4) / group;
            int32_t to = min(page.to, page.reach + token);
#pragma unroll
            for (int n = 0; n < SCORES; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int key = n * 8 + column + e;
                    if (key < page.from || key >= to) score[m][n][2 * i + e] = -INFINITY;
                }
        }
}

/* Scores become shares, measured from the largest score so far; sums under an older maximum shrink to the new
 * one. Once a row has met its largest key nothing shrinks any more, and to multiply by one is left out. */
template <int D>
TILE_FN void take_scores(Rows<D> &rows, uint32_t (&share)[ROW_TILES][KEY_BLOCKS][4],
                         float (&score)[ROW_TILES][SCORES][4], float rate) {
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
        float shrink[2];
        row_pair_add(rows.pair[m], score[m], rate, shrink);
        if (__any_sync(~0u, shrink[0] != 1.0f || shrink[1] != 1.0f)) row_pair_scale(rows.o[m], shrink);
#pragma unroll
        for (int block = 0; block < KEY_BLOCKS; block++)
            pack_a(share[m][block], score[m][2 * block], score[m][2 * block + 1]);
    }
}

/* o += shares times a page's values. */
template <int D, bool MASKED>
TILE_FN void multiply_values(Rows<D> &rows, const uint32_t (&share)[ROW_TILES][KEY_BLOCKS][4], bf16 *v,
                             uint32_t window) {
#pragma unroll
    for (int block = 0; block < KEY_BLOCKS; block++) {
        if (MASKED && !(window >> block & 1)) continue;
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
            uint32_t b[4];
            load_b_transposed<D>(b, v, block * KEY_BLOCK, d);
#pragma unroll
            for (int m = 0; m < ROW_TILES; m++) {
                mma_bf16(rows.o[m][2 * d], share[m][block], b[0], b[1]);
                mma_bf16(rows.o[m][2 * d + 1], share[m][block], b[2], b[3]);
            }
        }
    }
}

/* ---- queries in, results out ---- */

/* The element of q and o where packed row `row` of the item begins. */
TILE_FN int64_t row_at(const Prefill &p, const PrefillItem &item, int32_t row, int32_t D) {
    int32_t token = row / p.group, head = (int32_t)blockIdx.x * p.group + row % p.group;
    return ((int64_t)(item.token + token) * p.heads + head) * D;
}

/* Queues the copy of the block's queries; rows past the sequence's end become zero. */
template <int D> TILE_FN void load_queries(bf16 *q, const Prefill &p, const PrefillItem &item) {
    const int chunks = D / CHUNK;
#pragma unroll
    for (int i = 0; i < BLOCK_ROWS * chunks / THREADS; i++) {
        int c = (int)threadIdx.x + i * THREADS, row = c / chunks;
        bool valid = item.first + row < item.tokens * p.group;
        const bf16 *from = valid ? p.q + row_at(p, item, item.first + row, D) + c % chunks * CHUNK : p.q;
        cp_async16(tile_at<D>(q, row, c % chunks), from, valid);
    }
}

/* Divides by the sums and leaves the warp's rows of o, rounded, where its queries were: from there they go
 * out in chunks of 16 bytes. Writes lse. `row`: the warp's first in the tile. */
template <int D>
TILE_FN void finish_rows(Rows<D> &rows, bf16 *q, int row, const Prefill &p, const PrefillItem &item) {
    int lane = lane_index();
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
        float part[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int32_t r = row + m * TILE_ROWS + i * 8 + lane / 4, packed = item.first + r;
            float sum = quad_sum(rows.pair[m].sum[i]);
            part[i] = sum > 0.0f ? 1.0f / sum : 0.0f;
            if (p.lse && lane % 4 == 0 && packed < item.tokens * p.group)
                p.lse[row_at(p, item, packed, 1)] = row_lse(rows.pair[m].largest[i], sum, p.rate);
        }
        row_pair_scale(rows.o[m], part);
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                bf16 *chunk = tile_at<D>(q, row + m * TILE_ROWS + i * 8 + lane / 4, n);
                ((uint32_t *)(void *)chunk)[lane % 4] =
                    pack_bf16(rows.o[m][n][2 * i], rows.o[m][n][2 * i + 1]);
            }
    }
}

template <int D> TILE_FN void store_rows(bf16 *q, int row, const Prefill &p, const PrefillItem &item) {
    const int chunks = D / CHUNK;
#pragma unroll
    for (int i = 0; i < WARP_ROWS * chunks / WARP; i++) {
        int c = lane_index() + i * WARP, r = row + c / chunks, packed = item.first + r;
        if (packed < item.tokens * p.group)
            store16(p.o + row_at(p, item, packed, D) + c % chunks * CHUNK,
                    load16(tile_at<D>(q, r, c % chunks)));
    }
}

/* ---- the kernel ---- */

template <int D> TILE_FN const bf16 *page_head(const Prefill &p, const bf16 *pool, const KeyPage &page) {
    return pool + ((int64_t)page.number * p.kv_heads + blockIdx.x) * (KV_PAGE * D);
}

/* Waits for the oldest tile on its way, then queues the next one into the slot that everybody has left. */
template <int D> TILE_FN void turn_ring(bf16 *slot, const Prefill &p, const bf16 *pool, const KeyPage &page) {
    cp_async_wait<1>();
    __syncthreads(); /* everybody sees that tile, and is done with the one before it */
    if (page.number >= 0) tile_load<D, THREADS>(slot, page_head<D>(p, pool, page), page.from, page.to);
    cp_async_commit();
}

/* Where a warp's rows are: the first one's row in the tile and in the sequence; the tokens of first and last.
 */
struct WarpRows {
    int row;
    int32_t packed, first_token, last_token;
    bool none;
};

TILE_FN WarpRows warp_rows(const PrefillItem &item, int32_t group) {
    int row = warp_index() * WARP_ROWS;
    int32_t packed = item.first + row, end = min(packed + WARP_ROWS, item.tokens * group);
    return WarpRows{row, packed, packed / group, (end - 1) / group, packed >= end};
}

/* Keys of a page: the warp's rows score them and turn the scores into shares. */
template <int D>
TILE_FN void see_keys(Rows<D> &rows, uint32_t (&share)[ROW_TILES][KEY_BLOCKS][4], bf16 *q, bf16 *k,
                      const Prefill &p, const WarpRows &w, const KeyPage &page, uint32_t window) {
    float score[ROW_TILES][SCORES][4];
    if (window & WHOLE) {
        multiply_keys<D, false>(score, q, w.row, k, window);
    } else {
        multiply_keys<D, true>(score, q, w.row, k, window);
        mask_scores(score, page, w.packed, p.group);
    }
    take_scores(rows, share, score, p.rate);
}

/* One thread walks for all, and leaves the page in use and the next one in shared memory: the registers that
 * a walk by everybody would take are not there. It writes behind a barrier after the last look at the page
 * before. */
template <int D>
__global__ void __launch_bounds__(THREADS, 2) prefill_tile(const __grid_constant__ Prefill p) {
    DYN_SMEM(shared);
    SHARED_ARRAY(Walk, walk, 1);
    SHARED_ARRAY(KeyPage, pages, 2);
    bf16 *q = (bf16 *)(void *)shared, *ring = q + BLOCK_ROWS * D;
    const int tile = KV_PAGE * D;
    const PrefillItem &item = p.item[blockIdx.y];

    if (threadIdx.x == 0) {
        *walk = walk_new(p, item);
        pages[0] = next_page(*walk, p, item);
    }
    __syncthreads(); /* everybody sees the first page */
    load_queries<D>(q, p, item);
    tile_load<D, THREADS>(ring, page_head<D>(p, p.k, pages[0]), pages[0].from, pages[0].to);
    cp_async_commit();
    tile_load<D, THREADS>(ring + tile, page_head<D>(p, p.v, pages[0]), pages[0].from, pages[0].to);
    cp_async_commit();

    Rows<D> rows;
    rows_clear(rows);
    int slot = 0;
    for (int i = 0; pages[i % 2].number >= 0; i++, slot = (slot + 2) % RING) {
        const KeyPage &page = pages[i % 2];
        KeyPage &next = pages[(i + 1) % 2];
        bf16 *k = ring + slot * tile, *v = ring + (slot + 1) % RING * tile,
             *left = ring + (slot + 2) % RING * tile;
        WarpRows w = warp_rows(item, p.group);
        uint32_t window = w.none ? 0 : window_of(page, w.first_token, w.last_token);
        uint32_t share[ROW_TILES][KEY_BLOCKS][4];

        if (threadIdx.x == 0) next = next_page(*walk, p, item);
        turn_ring<D>(left, p, p.k, next);
        if (window) see_keys(rows, share, q, k, p, w, page, window);
        turn_ring<D>(k, p, p.v, next);
        if (window & WHOLE)
            multiply_values<D, false>(rows, share, v, window);
        else if (window)
            multiply_values<D, true>(rows, share, v, window);
    }
    finish_rows(rows, q, warp_index() * WARP_ROWS, p, item);
    __syncwarp(); /* the rows are there, for all lanes */
    store_rows<D>(q, warp_index() * WARP_ROWS, p, item);
}

/* ---- the list ---- */

static bool longer(const PrefillItem &a, const PrefillItem &b) {
    if (a.pages != b.pages) return a.pages > b.pages;
    return a.token != b.token ? a.token < b.token : a.first < b.first;
}

static int32_t pages_between(int32_t from, int32_t to) {
    return (to + KV_PAGE - 1) / KV_PAGE - from / KV_PAGE;
}

/* Enough for any batch within the limits: a sequence leaves at most one tile unfilled. */
void prefill_place(PrefillList *list, const AttnLimits *limits, PlanMemory *memory) {
    list->items = 0;
    if (!head_has_tiles(limits->head_dim)) return;
    int64_t rows = (int64_t)limits->rows * (limits->heads / limits->kv_heads);
    plan_take(&list->item, memory, blocks_for(rows, BLOCK_ROWS) + limits->seqs);
}

/* The tiles of sequence s. */
static void add_sequence(PrefillList *list, const AttnLimits *limits, const AttnLayout *l, int32_t s) {
    int32_t group = limits->heads / limits->kv_heads, tokens = sequence_rows(l, s), end = l->seg[s + 1];
    int32_t prefix_pages = 0;
    for (int32_t i = l->seg[s]; i + 1 < end; i++)
        prefix_pages += pages_between(l->segment[i].from, l->segment[i].from + l->segment[i].length);
    Segment own = l->segment[end - 1];
    for (int32_t first = 0; first < tokens * group; first += BLOCK_ROWS) {
        int32_t end_row = first + BLOCK_ROWS < tokens * group ? first + BLOCK_ROWS : tokens * group;
        int32_t own_to = own.from + own.length - tokens + (end_row - 1) / group + 1;
        int32_t pages = prefix_pages + pages_between(own.from, own_to);
        list->item.host[list->items++] = PrefillItem{first, l->row[s], tokens, l->seg[s], end, pages};
    }
}

Status prefill_build(PrefillList *list, const AttnLimits *limits, const AttnLayout *layout, CudaStream *s) {
    list->items = 0;
    if (!head_has_tiles(limits->head_dim)) return ST_OK;
    for (int32_t i = 0; i < layout->S; i++)
        if (sequence_rows(layout, i) > DECODE_ROWS) add_sequence(list, limits, layout, i);
    std::sort(list->item.host, list->item.host + list->items, longer);
    return plan_upload(s, &list->item, list->items);
}

/* ---- launch ---- */

template <int D> static Status launch(CudaStream *s, const Prefill &p, int32_t items) {
    size_t bytes = sizeof(bf16) * D * (BLOCK_ROWS + RING * KV_PAGE);
    TRY_LAUNCH("attn", prefill_tile<D>, dim3((uint32_t)p.kv_heads, (uint32_t)items), THREADS, bytes, s, p);
    return ST_OK;
}

Status prefill_run(CudaStream *s, const CudaPlan *plan, const AttnArgs *a) {
    const AttnLimits *m = &plan->limits;
    Prefill p = {plan->prefill.item.device,
                 plan->layout.segment.device,
                 plan->layout.page.device,
                 (const bf16 *)a->q.data,
                 (const bf16 *)a->k.data,
                 (const bf16 *)a->v.data,
                 (bf16 *)a->o.data,
                 (float *)a->lse.data,
                 m->heads,
                 m->kv_heads,
                 m->heads / m->kv_heads,
                 a->scale * LOG2_E};
    return m->head_dim == 64 ? launch<64>(s, p, plan->prefill.items) : launch<128>(s, p, plan->prefill.items);
}
