/* attn_prefill.cuh -- the list of work that attn_prefill.cu walks; included by attn_plan.cuh. */
#ifndef KERNELS_ATTN_PREFILL_CUH
#define KERNELS_ATTN_PREFILL_CUH

struct CudaPlan;

struct PrefillList { int32_t items; };

/* Takes the arrays for the largest batch. Runs twice: to count, and to place. */
void prefill_place(PrefillList *list, const AttnLimits *limits, PlanMemory *memory);
/* Builds the list of a checked layout and queues its upload. ST_ARG when it exceeds what was planned for. */
Status prefill_build(PrefillList *list, const AttnLimits *limits, const AttnLayout *layout, CudaStream *s);
/* o and lse of the rows in the list. Head sizes with tiles (head_has_tiles), everything bf16 but lse. */
Status prefill_run(CudaStream *s, const CudaPlan *plan, const AttnArgs *a);

#endif
