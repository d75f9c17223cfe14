/* attn_decode.cuh -- the list of work that attn_decode.cu walks; included by attn_plan.cuh. */
#ifndef KERNELS_ATTN_DECODE_CUH
#define KERNELS_ATTN_DECODE_CUH

struct CudaPlan;

struct DecodeList { int32_t items; };

/* Takes the arrays for the largest batch. Runs twice: to count, and to place. */
void decode_place(DecodeList *list, const AttnLimits *limits, PlanMemory *memory);
/* Builds the list of a checked layout and queues its upload. ST_ARG when it exceeds what was planned for. */
Status decode_build(DecodeList *list, const AttnLimits *limits, const AttnLayout *layout, CudaStream *s);
/* o and lse of the rows in the list. Head sizes with tiles (head_has_tiles), everything bf16 but lse. */
Status decode_run(CudaStream *s, const CudaPlan *plan, const AttnArgs *a);

#endif
