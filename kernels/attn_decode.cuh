/* attn_decode.cuh -- the list of work that attn_decode.cu walks; included by attn_plan.cuh.
 *
 * The words, from large to small:
 *
 *   range    pages that are read as one: a prefix, with all sequences that read it, or a sequence's own keys
 *   chunk    pages of a range. A range of n pages is cut every 2^ceil(log4 n) pages, at least every 4: up to
 *            1024 keys make at most 4 chunks, and there are never more chunks than a chunk has pages
 *   reader   a row of the batch (a token) that reads a range
 *   stripe   the query heads of one key head, at most DECODE_PACKED. A reader's heads of a stripe are
 *            neighbouring packed rows: so any number of heads fills the rows of a matrix instruction
 *   item     a chunk and as many readers of its range as fit DECODE_PACKED packed rows
 *   part     what an item finds for one of its readers: o over the chunk's keys alone, and its log-sum-exp
 *   slot     a place for a part. Those of a row are neighbours, in the order in which its sequence lists its
 *            segments, chunk by chunk: the order in which they are merged
 *   wave     rows whose parts fit the slots together: one wave, but for batches larger than most
 *
 *     a range of 11 pages      its readers        items              slots of row 7: the prefix, its own
 *     | chunk 0 | 1 | 2 |   x   rows 3 4 7   ->   3, times stripes   | c0 | c1 | c2 | own c0 | */
#ifndef KERNELS_ATTN_DECODE_CUH
#define KERNELS_ATTN_DECODE_CUH

struct CudaPlan;

enum { DECODE_PACKED = 128 };

struct DecodeItem {
    int32_t entry, pages;    /* where the page list has the chunk's pages */
    int32_t from, to;        /* keys of the range, from the chunk's first row on; to may lie beyond it */
    int32_t hidden;          /* the most keys that one of its readers does not see */
    int32_t reader, readers; /* in the list of readers */
    int32_t chunk;           /* which one of the range */
    int32_t wave, after;     /* stripes of rows in earlier waves: must be merged before parts are stored */
};

struct DecodeReader {
    int32_t row;          /* of the batch */
    int32_t first, parts; /* its slots */
    int32_t slot;         /* the one of the range's chunk 0 */
    int32_t hidden;       /* keys at the range's end that the row does not see: of its own, those after it */
};

/* Zero between two launches. */
struct DecodeSync {
    uint32_t ticket;   /* items drawn */
    uint32_t merged;   /* stripes of rows that are finished */
    uint32_t finished; /* blocks that found no more item */
};

/* Host only, while a list is built. */
struct DecodeRange {
    int32_t entry, pages, from, to;
    int32_t next;      /* another range that begins with the same page, or -1 */
    int32_t use, uses; /* in the list of uses */
    bool own;
};
/* part: the sequence's parts before this segment's */
struct DecodeUse {
    int32_t sequence, part;
};
struct DecodePlace {
    int32_t first, wave, after;
};

struct DecodeList {
    int32_t items;          /* of the batch; times stripes */
    int32_t heads, stripes; /* query heads in a stripe; stripes of all key heads */
    int32_t slots;
    PlanArray<DecodeItem> item;
    PlanArray<DecodeReader> reader;
    PlanArray<int32_t> count; /* [1] items: kernels of a captured graph find the next batch's here */
    uint32_t *arrived;        /* device [rows, stripes]: parts that are there; zero between launches */
    DecodeSync *sync;         /* device */
    float *part, *part_lse;   /* device [slots, H, D], [slots, H]: base 2 */
    DecodeRange *range;       /* and the rest on the host */
    DecodeUse *use;
    DecodePlace *place; /* [rows] */
    DecodeItem *draft;
    int32_t *range_of, *begins_with, *parts, *bucket; /* [segments] [pages] [seqs] [rows] */
};

/* Takes the arrays for the largest batch. Runs twice: to count, and to place. */
void decode_place(DecodeList *list, const AttnLimits *limits, PlanMemory *memory);
/* Builds the list of a checked layout and queues its upload. ST_UNSUPPORTED when a row has more parts than
 * there are slots, which takes hundreds of prefixes in one sequence, or more items than planned for. */
Status decode_build(DecodeList *list, const AttnLimits *limits, const AttnLayout *layout, CudaStream *s);
/* o and lse of the rows in the list. Head sizes with tiles (head_has_tiles), scale > 0, everything bf16 but
 * lse, which may be absent. */
Status decode_run(CudaStream *s, const CudaPlan *plan, const AttnArgs *a);

#endif
