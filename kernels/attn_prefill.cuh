/* attn_prefill.cuh -- the list of work that attn_prefill.cu walks; included by attn_plan.cuh. */
#ifndef KERNELS_ATTN_PREFILL_CUH
#define KERNELS_ATTN_PREFILL_CUH

struct CudaPlan;

/* One tile of rows of one sequence, for all key heads. Rows are packed: row r of a key head is token r /
 * group of the sequence, and of the `group` query heads that share the keys the one numbered r % group. */
struct PrefillItem {
    int32_t first;                 /* packed row of the tile's first row */
    int32_t token, tokens;         /* the sequence's first row in the batch, and how many it has */
    int32_t segment, segments_end; /* its segments; the last one is its own */
    int32_t pages;                 /* that the tile walks: what it costs */
};

struct PrefillList {
    PlanArray<PrefillItem> item; /* longest first, so that the last blocks to start are short ones */
    int32_t items;
};

/* Takes the arrays for the largest batch. Runs twice: to count, and to place. */
void prefill_place(PrefillList *list, const AttnLimits *limits, PlanMemory *memory);
/* Builds the list of a checked layout and queues its upload. */
Status prefill_build(PrefillList *list, const AttnLimits *limits, const AttnLayout *layout, CudaStream *s);
/* o and lse of the rows in the list. Head sizes with tiles (head_has_tiles), scale > 0, everything bf16 but
 * lse, which may be absent. */
Status prefill_run(CudaStream *s, const CudaPlan *plan, const AttnArgs *a);

#endif
