/* attn_decode.cu -- attention of short pieces over long ranges of keys, all of a layer in one launch.
 *
 * A row of decoding reads far more keys than it computes with, so what counts is that each page is read once.
 * The list (attn_decode.cuh) turns the batch around: an item is a chunk of pages and all rows that read it,
 * of whatever sequences. A block draws an item and one of its stripes of heads, walks the pages, and leaves
 * for each row a part: the attention over this chunk alone. Whoever stores the last part of a row merges them
 * all.
 *
 *     pages  p0 p1 p2 ..   tiles K0 V0 K1 V1 K2 ..   a ring of three in shared memory, two on their way
 *
 *     many rows: warp w has the packed rows 16 w .. 16 w + 16, and from 64 + 16 w on, and walks all keys
 *
 *         scores [16 rows, 64 keys] = Q K^T   ->   softmax   ->   o [16 rows, D] += P V
 *
 *     at most 16 rows: all warps have the same ones, and share the keys, then the columns
 *
 *         scores [16 rows, keys 16 w ..]  ->  shared memory  ->  those of all 64 keys in every warp: softmax
 *                                                            ->  o [16 rows, columns w D/4 ..] += P V
 *
 * Both make each number by the same operations in the same order: a score is one chain of products over D, a
 * maximum and a sum run over the 64 keys of a page, a column of o is one chain over the keys. So the number
 * of readers may decide which one runs: the bits of a row do not depend on it.
 *
 * Parts are f32 and meet in memory. A block stores them and counts up each row's counter (release); the one
 * that completes a row sees them all (acquire) and merges them in the order of the slots, whoever came last.
 * Which block draws which item is left to timing, and changes nothing. */
#include "kernels/attn_plan.cuh"
#include "kernels/attn_tile.cuh"

enum {
    THREADS = 128,
    WARPS = THREADS / WARP,
    BLOCKS = 2, /* resident on a multiprocessor */
    ROWS = 16,  /* of a matrix instruction */
    RING = 3,   /* tiles */
};

/* What a launch is given. H query heads, G key heads; the rest as in DecodeList and AttnArgs. */
struct Decode {
    const int32_t *count;
    const DecodeItem *item;
    const DecodeReader *reader;
    const int32_t *page;
    DecodeSync *sync;
    uint32_t *arrived;
    float *part, *part_lse, *lse;
    const bf16 *q, *k, *v;
    bf16 *o;
    int32_t H, G, stripes, heads;
    float rate;
};

/* An item and a stripe of heads. It lies in shared memory: registers are for sums. */
struct Work {
    DecodeItem item;
    const DecodeReader *reader;  /* [item.readers] */
    const int32_t *page;         /* [item.pages] */
    const bf16 *k, *v;           /* of the key head, in page 0 of the pool */
    int32_t stripe, head, heads; /* query heads head .. head + heads */
    int32_t rows;                /* packed: readers x heads */
};

struct Shared {
    int32_t draw;
    Work work;
};

/* What merging keeps in shared memory, where the ring was. */
struct Merging {
    int32_t complete[DECODE_PACKED]; /* by reader: whether all its parts are there */
    float base[DECODE_PACKED];       /* by packed row: what exponents are measured from, */
    float inverse[DECODE_PACKED];    /* and 1 / their sum */
};

/* ---- drawing items ---- */

TILE_FN Work work_of(const Decode &a, int32_t draw, int64_t head_elements) {
    Work w;
    w.item = a.item[draw / a.stripes];
    w.reader = a.reader + w.item.reader;
    w.page = a.page + w.item.entry;
    w.stripe = draw % a.stripes;
    int32_t group = a.H / a.G, per_group = a.stripes / a.G, kv_head = w.stripe / per_group;
    int32_t within = w.stripe % per_group * a.heads;
    w.k = a.k + kv_head * head_elements, w.v = a.v + kv_head * head_elements;
    w.head = kv_head * group + within;
    w.heads = min(a.heads, group - within);
    w.rows = w.item.readers * w.heads;
    return w;
}

/* The last block to leave puts the counters back: all others have drawn their last ticket by then. */
TILE_FN void leave(const Decode &a) {
    if (threadIdx.x > 0) return;
    if (add_acquire_release(&a.sync->finished, 1) + 1 < gridDim.x) return;
    a.sync->ticket = a.sync->merged = a.sync->finished = 0;
}

/* ---- packed rows ---- */

TILE_FN DecodeReader reader_of(const Work &w, int row) {
    return w.reader[row / w.heads];
}
TILE_FN int32_t head_of(const Work &w, int row) {
    return w.head + row % w.heads;
}

/* ---- loading ---- */

/* Queues the copies of q, up to the last 16 packed rows that hold one; what is missing there becomes zero. */
template <int D> TILE_FN void load_queries(const Decode &a, const Work &w, bf16 *q) {
    const int chunks = D / CHUNK;
    int all = (w.rows + ROWS - 1) / ROWS * ROWS * chunks;
    for (int c = (int)threadIdx.x; c < all; c += THREADS) {
        int row = c / chunks;
        bool there = row < w.rows;
        int64_t from = there ? (int64_t)reader_of(w, row).row * a.H + head_of(w, row) : 0;
        cp_async16(tile_at<D>(q, row, c % chunks), a.q + from * D + c % chunks * CHUNK, there);
    }
}

/* The ring, behind the queries. Tiles pass it in the order K of page 0, V of page 0, K of page 1, .. */
template <int D> TILE_FN bf16 *ring_tile(bf16 *q, int t) {
    return q + (DECODE_PACKED + t % RING * KV_PAGE) * D;
}

/* Queues the copy of tile t, or nothing behind the last; a group of copies in any case. */
template <int D> TILE_FN void ring_load(const Decode &a, const Work &w, bf16 *q, int t) {
    int32_t i = t / 2;
    if (i < w.item.pages) {
        int64_t page = (int64_t)w.page[i] * a.G * KV_PAGE * D;
        tile_load<D, THREADS>(ring_tile<D>(q, t), (t % 2 ? w.v : w.k) + page, w.item.from - i * KV_PAGE,
                              w.item.to - i * KV_PAGE);
    }
    cp_async_commit();
}

/* Waits for tile t. Once all have it, nobody reads tile t - 1 any more, and t + 2 takes its place. */
template <int D> TILE_FN void ring_next(const Decode &a, const Work &w, bf16 *q, int t) {
    cp_async_wait<1>();
    __syncthreads(); /* all threads have tile t */
    ring_load<D>(a, w, q, t + 2);
}

/* ---- scores ---- */

/* The scores of packed rows row .. row + 16 for keys key .. key + 8 N. The loop is not wholly unrolled
 * because o leaves no registers for that. */
template <int D, int N> TILE_FN void multiply_keys(float (&score)[N][4], bf16 *q, int row, bf16 *k, int key) {
    clear(score);
#pragma unroll 2
    for (int d = 0; d < D / 16; d++) {
        uint32_t a[4], b[4];
        load_a<D>(a, q, row, d);
#pragma unroll
        for (int n = 0; n < N / 2; n++) {
            load_b<D>(b, k, key + 16 * n, d);
            mma_bf16(score[2 * n], a, b[0], b[1]);
            mma_bf16(score[2 * n + 1], a, b[2], b[3]);
        }
    }
}

/* Every warp puts the scores of its 16 keys; behind a barrier, all get those of all 64. They lie as they do
 * in registers, so a lane finds at its own place what the same lane of another warp has put. */
TILE_FN void *exchange_at(bf16 *exchange, int n) {
    return (Vec16 *)(void *)exchange + n * WARP + lane_index();
}
TILE_FN void put_scores(bf16 *exchange, const float (&score)[KV_PAGE / WARPS / 8][4]) {
    const int N = KV_PAGE / WARPS / 8;
#pragma unroll
    for (int n = 0; n < N; n++) {
        Vec16 four;
#pragma unroll
        for (int c = 0; c < 4; c++) four.w[c] = __float_as_uint(score[n][c]);
        store16(exchange_at(exchange, warp_index() * N + n), four);
    }
}
TILE_FN void get_scores(bf16 *exchange, float (&score)[KV_PAGE / 8][4]) {
#pragma unroll
    for (int n = 0; n < KV_PAGE / 8; n++) {
        Vec16 four = load16(exchange_at(exchange, n));
#pragma unroll
        for (int c = 0; c < 4; c++) score[n][c] = __uint_as_float(four.w[c]);
    }
}

/* Keys before `from`, and for row i of the pair those from to[i] on, get a score of -inf. */
TILE_FN void hide(float (&score)[KV_PAGE / 8][4], int from, const int (&to)[2]) {
#pragma unroll
    for (int n = 0; n < KV_PAGE / 8; n++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            int key = 8 * n + lane_index() % 4 * 2 + c % 2;
            if (key < from || key >= to[c / 2]) score[n][c] = -INFINITY;
        }
}

/* What a packed row sees of page i, in keys from its first; rows that do not exist see what there is. */
TILE_FN int seen(const Work &w, int row, int i) {
    int hidden = row < w.rows ? reader_of(w, row).hidden : 0;
    return w.item.to - hidden - i * KV_PAGE;
}

TILE_FN void hide_unseen(float (&score)[KV_PAGE / 8][4], const Work &w, int row, int i) {
    int from = w.item.from - i * KV_PAGE, pair = row + lane_index() / 4;
    if (from <= 0 && w.item.to - w.item.hidden - i * KV_PAGE >= KV_PAGE) return;
    hide(score, from, {seen(w, pair, i), seen(w, pair + 8, i)});
}

/* Scores of a page become p, the exponentials in bf16; what o and the pair have summed so far shrinks to
 * match. */
template <int N>
TILE_FN void soften(uint32_t (&p)[KV_PAGE / 16][4], RowPair &pair, float (&o)[N][4],
                    float (&score)[KV_PAGE / 8][4], float rate) {
    float shrink[2];
    row_pair_add(pair, score, rate, shrink);
    row_pair_scale(o, shrink);
#pragma unroll
    for (int k = 0; k < KV_PAGE / 16; k++) pack_a(p[k], score[2 * k], score[2 * k + 1]);
}

/* ---- values ---- */

/* o += p times columns column .. column + 8 N of the values, for each set of 16 packed rows. */
template <int D, int SETS, int N>
TILE_FN void multiply_values(float (&o)[SETS][N][4], const uint32_t (&p)[SETS][KV_PAGE / 16][4], bf16 *v,
                             int column) {
#pragma unroll
    for (int k = 0; k < KV_PAGE / 16; k++)
#pragma unroll
        for (int n = 0; n < N / 2; n++) {
            uint32_t b[4];
            load_b_transposed<D>(b, v, 16 * k, column / 16 + n);
#pragma unroll
            for (int i = 0; i < SETS; i++) {
                mma_bf16(o[i][2 * n], p[i][k], b[0], b[1]);
                mma_bf16(o[i][2 * n + 1], p[i][k], b[2], b[3]);
            }
        }
}

/* ---- parts ---- */

/* Divides by the sum and stores packed rows row .. row + 16, columns column .. column + 8 N, in their slots.
 */
template <int D, int N>
TILE_FN void store_part(const Decode &a, const Work &w, float (&o)[N][4], RowPair &pair, int row,
                        int column) {
    float inverse[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        pair.sum[i] = quad_sum(pair.sum[i]);
        inverse[i] = pair.sum[i] > 0.0f ? 1.0f / pair.sum[i] : 0.0f;
    }
    row_pair_scale(o, inverse);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int r = row + lane_index() / 4 + 8 * i;
        if (r >= w.rows) continue;
        int64_t slot = reader_of(w, r).slot + w.item.chunk, to = slot * a.H + head_of(w, r);
        float *part = a.part + to * D + column + lane_index() % 4 * 2;
#pragma unroll
        for (int n = 0; n < N; n++)
            *(float2 *)(void *)(part + 8 * n) = make_float2(o[n][2 * i], o[n][2 * i + 1]);
        if (column == 0 && lane_index() % 4 == 0)
            a.part_lse[to] =
                pair.sum[i] > 0.0f ? row_base(pair.largest[i], a.rate) + log2f(pair.sum[i]) : -INFINITY;
    }
}

/* Slots of a later wave are those of earlier rows: until these are merged, they are taken. Nobody waits for
 * an item that is not drawn yet: tickets are given in the order of waves. */
TILE_FN void wait_for_slots(const Decode &a, const Work &w) {
    if (w.item.after == 0) return;
    if (threadIdx.x == 0)
        while (load_acquire(&a.sync->merged) < (uint32_t)w.item.after) {
        }
    __syncthreads();
}

/* ---- an item ---- */

/* Many rows: this warp's 16 packed rows of each of SETS times 64. */
template <int D, int SETS> TILE_FN void attend(const Decode &a, const Work &w, bf16 *q) {
    const int row = warp_index() * ROWS;
    const bool busy = row < w.rows;
    float o[SETS][D / 8][4];
    RowPair pair[SETS];
#pragma unroll
    for (int s = 0; s < SETS; s++) {
        clear(o[s]);
        pair[s] = row_pair_new();
    }
    for (int i = 0; i < w.item.pages; i++) {
        uint32_t p[SETS][KV_PAGE / 16][4];
        ring_next<D>(a, w, q, 2 * i);
#pragma unroll
        for (int s = 0; s < SETS; s++) {
            float score[KV_PAGE / 8][4];
            if (!busy) continue;
            multiply_keys<D>(score, q, row + s * WARPS * ROWS, ring_tile<D>(q, 2 * i), 0);
            hide_unseen(score, w, row + s * WARPS * ROWS, i);
            soften(p[s], pair[s], o[s], score, a.rate);
        }
        ring_next<D>(a, w, q, 2 * i + 1);
        if (busy) multiply_values<D>(o, p, ring_tile<D>(q, 2 * i + 1), 0);
    }
    wait_for_slots(a, w);
#pragma unroll
    for (int s = 0; s < SETS; s++)
        if (busy) store_part<D>(a, w, o[s], pair[s], row + s * WARPS * ROWS, 0);
}

/* At most 16 packed rows: this warp's keys of each page, then its columns. */
template <int D> TILE_FN void attend_few(const Decode &a, const Work &w, bf16 *q) {
    const int N = D / WARPS / 8, column = warp_index() * D / WARPS;
    bf16 *exchange = q + ROWS * D; /* behind the 16 rows */
    float o[1][N][4];
    RowPair pair = row_pair_new();
    clear(o[0]);
    for (int i = 0; i < w.item.pages; i++) {
        float own[KV_PAGE / WARPS / 8][4], score[KV_PAGE / 8][4];
        uint32_t p[1][KV_PAGE / 16][4];
        ring_next<D>(a, w, q, 2 * i);
        multiply_keys<D>(own, q, 0, ring_tile<D>(q, 2 * i), warp_index() * KV_PAGE / WARPS);
        put_scores(exchange, own);
        ring_next<D>(a, w, q, 2 * i + 1);
        get_scores(exchange, score);
        hide_unseen(score, w, 0, i);
        soften(p[0], pair, o[0], score, a.rate);
        multiply_values<D>(o, p, ring_tile<D>(q, 2 * i + 1), column);
    }
    wait_for_slots(a, w);
    store_part<D>(a, w, o[0], pair, 0, column);
}

/* ---- merging ---- */

/* Counts the item's parts; complete[reader] says whose last ones these were. */
TILE_FN void arrive(const Decode &a, const Work &w, Merging *m) {
    int32_t thread = (int32_t)threadIdx.x;
    __syncthreads(); /* all parts are stored, and the ring is free */
    if (thread < w.item.readers) {
        DecodeReader r = w.reader[thread];
        uint32_t *arrived = &a.arrived[(int64_t)r.row * a.stripes + w.stripe];
        m->complete[thread] = add_acquire_release(arrived, 1) + 1 == (uint32_t)r.parts;
        if (m->complete[thread]) *arrived = 0;
    }
    __syncthreads();
}

/* How a packed row's parts are weighed, and the log-sum-exp of them all. */
TILE_FN void merge_sums(const Decode &a, const Work &w, Merging *m, int row) {
    DecodeReader r = reader_of(w, row);
    const float *lse = a.part_lse + (int64_t)r.first * a.H + head_of(w, row);
    float largest = -INFINITY, sum = 0.0f;
    for (int i = 0; i < r.parts; i++) largest = fmaxf(largest, lse[(int64_t)i * a.H]);
    float base = largest == -INFINITY ? 0.0f : largest; /* no part has a key: -inf - -inf would be NaN */
    for (int i = 0; i < r.parts; i++) sum += ex2(lse[(int64_t)i * a.H] - base);
    m->base[row] = base;
    m->inverse[row] = sum > 0.0f ? 1.0f / sum : 0.0f;
    if (a.lse)
        a.lse[(int64_t)r.row * a.H + head_of(w, row)] = sum > 0.0f ? (base + log2f(sum)) * LN_2 : -INFINITY;
}

/* o of a packed row by one warp: lane l has columns 2 l and 2 l + 1 of every 64. */
template <int D> TILE_FN void merge_parts(const Decode &a, const Work &w, const Merging *m, int row) {
    const int N = D / (2 * WARP);
    DecodeReader r = reader_of(w, row);
    int64_t first = (int64_t)r.first * a.H + head_of(w, row);
    float2 sum[N];
#pragma unroll
    for (int n = 0; n < N; n++) sum[n] = make_float2(0.0f, 0.0f);
#pragma unroll 4
    for (int i = 0; i < r.parts; i++) {
        int64_t at = first + (int64_t)i * a.H;
        float weight = ex2(a.part_lse[at] - m->base[row]);
        const float2 *part = (const float2 *)(const void *)(a.part + at * D) + lane_index();
#pragma unroll
        for (int n = 0; n < N; n++) {
            float2 two = part[n * WARP];
            sum[n].x += weight * two.x, sum[n].y += weight * two.y;
        }
    }
    uint32_t *o = (uint32_t *)(void *)(a.o + ((int64_t)r.row * a.H + head_of(w, row)) * D) + lane_index();
#pragma unroll
    for (int n = 0; n < N; n++)
        o[n * WARP] = pack_bf16(sum[n].x * m->inverse[row], sum[n].y * m->inverse[row]);
}

template <int D> TILE_FN void merge(const Decode &a, const Work &w, Merging *m) {
    int thread = (int)threadIdx.x;
    arrive(a, w, m);
    if (thread < w.rows && m->complete[thread / w.heads]) merge_sums(a, w, m, thread);
    __syncthreads();
    for (int row = warp_index(); row < w.rows; row += WARPS)
        if (m->complete[row / w.heads]) merge_parts<D>(a, w, m, row);
    __syncthreads(); /* these slots are free */
    if (thread < w.item.readers && m->complete[thread]) add_acquire_release(&a.sync->merged, 1);
}

/* ---- the kernel ---- */

template <int D> TILE_FN void do_work(const Decode &a, const Work &w, bf16 *q) {
    load_queries<D>(a, w, q);
    ring_load<D>(a, w, q, 0);
    ring_load<D>(a, w, q, 1);
    if (w.rows <= ROWS)
        attend_few<D>(a, w, q);
    else if (w.rows <= WARPS * ROWS)
        attend<D, 1>(a, w, q);
    else
        attend<D, DECODE_PACKED / (WARPS * ROWS)>(a, w, q);
    merge<D>(a, w, (Merging *)(void *)ring_tile<D>(q, 0));
}

template <int D>
__global__ void __launch_bounds__(THREADS, BLOCKS) attn_decode(const __grid_constant__ Decode a) {
    DYN_SMEM(smem);
    SHARED_ARRAY(Shared, shared, 1);
    const int32_t all = *a.count * a.stripes;
    int32_t next = 0;
    if (threadIdx.x == 0) next = (int32_t)atomicAdd(&a.sync->ticket, 1u);
    for (;;) {
        if (threadIdx.x == 0) {
            shared->draw = next;
            if (next < all) shared->work = work_of(a, next, KV_PAGE * D);
            next = (int32_t)atomicAdd(&a.sync->ticket, 1u); /* comes while the work is done */
        }
        __syncthreads();
        if (shared->draw >= all) break;
        do_work<D>(a, shared->work, (bf16 *)(void *)smem);
        __syncthreads(); /* the work may be replaced */
    }
    leave(a);
}

/* ---- host ---- */

template <int D> static Status run(CudaStream *s, const Decode *a) {
    size_t smem = sizeof(bf16) * D * (DECODE_PACKED + RING * KV_PAGE);
    static_assert(sizeof(Merging) <= sizeof(bf16) * D * RING * KV_PAGE, "merging fits where the ring was");
    static_assert(sizeof(float) * ROWS * KV_PAGE <= sizeof(bf16) * D * (DECODE_PACKED - ROWS),
                  "exchanged scores fit behind 16 rows of q");
    TRY_LAUNCH("attn", attn_decode<D>, dim3((unsigned)(BLOCKS * s->processors)), dim3(THREADS), smem, s, *a);
    return ST_OK;
}

Status decode_run(CudaStream *s, const CudaPlan *plan, const AttnArgs *args) {
    const DecodeList *l = &plan->decode;
    if (l->items == 0) return ST_OK;
    Decode a = {};
    a.count = l->count.device, a.item = l->item.device, a.reader = l->reader.device;
    a.page = plan->layout.page.device, a.sync = l->sync, a.arrived = l->arrived;
    a.part = l->part, a.part_lse = l->part_lse, a.lse = (float *)args->lse.data;
    a.q = (const bf16 *)args->q.data, a.k = (const bf16 *)args->k.data, a.v = (const bf16 *)args->v.data;
    a.o = (bf16 *)args->o.data;
    a.H = plan->limits.heads, a.G = plan->limits.kv_heads, a.stripes = l->stripes, a.heads = l->heads;
    a.rate = args->scale * LOG2_E;
    return plan->limits.head_dim == 64 ? run<64>(s, &a) : run<128>(s, &a);
}
