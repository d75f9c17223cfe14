/* attn_back.cuh -- the lists of work that attn_back.cu walks; included by attn_plan.cuh.
 *
 * Of packed rows: row t * group + h of key head g is head g * group + h of token t, so all rows that may see
 * a head's keys are numbered 0 .. T * group, tokens one after the other.
 *
 *     BackItem    a page, and with it a stretch of the walk over all rows that see one of its keys
 *     BackVisit   one stop of that walk: a sequence in one of whose segments the page stands
 *     BackTile    ROWS packed rows of one sequence, for dq; they walk the pages of its segments
 *
 * A page that many rows see is split into several items of about equal length when there would otherwise be
 * too few to fill a chip. Each leaves partial sums, and the last one to come adds them up in their order. */
#ifndef KERNELS_ATTN_BACK_CUH
#define KERNELS_ATTN_BACK_CUH

struct CudaPlan;

enum {
    BACK_STEP = 32, /* packed rows that an item takes at a time */
    BACK_ROWS = 64  /* packed rows of a BackTile */
};

/* Key c of the page, key_from <= c < key_to, is seen by the packed rows from (diagonal + c) * group on, but
 * not before row_from nor after row_to. row_from is where the walk begins: the first row that sees any key.
 */
struct alignas(16) BackVisit {
    int32_t row_from, row_to;
    int32_t diagonal; /* a token */
    int16_t key_from, key_to;
};

/* Steps `skip` .. `skip + steps` of the walk over visits from `visit` on (skip < the first visit's steps). */
struct BackItem {
    int32_t page, grad; /* of the pool, of dk and dv */
    int32_t visit, skip, steps;
    int32_t part, parts, slot; /* partial sums of part 0 lie in `slot`; parts 1: there are none */
};

struct BackTile {
    int32_t sequence, row; /* the first packed row */
    int32_t keys;          /* that its last token sees */
};

struct BackList {
    bool fits; /* false: more visits than there is room for; the plain kernels serve the batch */
    int32_t learned, own, tiles; /* items of learned pages come first */
    PlanArray<BackItem> item;
    PlanArray<BackVisit> visit;
    PlanArray<BackTile> tile;
    int32_t visits;
    int32_t *end, *steps; /* [pages] host: where a page's visits end; the steps of its whole walk */
    float2 *row;          /* [G,T * group, made even] device: lse (base 2) and delta of packed rows */
    float *partial;       /* [slots,G,2,KV_PAGE,D] device */
    uint32_t *ticket;     /* [slots,G] device: how many parts have come; zero between two passes */
};

/* What the tiled kernels are given. */
struct BackPass {
    const bf16 *q, *k, *v, *d_o;
    float *dq, *dk_own, *dv_own, *dk_learned, *dv_learned;
    float2 *row;    /* as in BackList */
    int64_t packed; /* rows of one head in it: T * group, made even */
    int32_t H, G, group;
    float scale, rate; /* rate: scale * log2(e) */
};

/* Takes the arrays for the largest batch. Runs twice: to count, and to place. */
void back_place(BackList *list, const AttnLimits *limits, PlanMemory *memory);
/* Builds the lists of a checked layout and queues their upload. */
Status back_build(BackList *list, const AttnLimits *limits, const AttnLayout *layout, CudaStream *s);
/* All gradients asked for, by tiles (head_has_tiles, list.fits); q, k, v, o, d_o bf16. */
Status back_run(CudaStream *s, const CudaPlan *plan, const AttnBackArgs *a);
/* Their parts: dk and dv of items from .. to; dq. `row` has been filled. */
Status back_keys_run(CudaStream *s, const BackList *list, const BackPass *pass, int32_t D, int32_t from,
                     int32_t to);
Status back_queries_run(CudaStream *s, const CudaPlan *plan, const BackPass *pass);
/* All gradients asked for, any head size up to 256; q, k, v, o, d_o of one type, f32 or bf16. */
Status back_plain_run(CudaStream *s, const CudaPlan *plan, const AttnBackArgs *a);

#endif
