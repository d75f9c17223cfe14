/* attn_back.cuh -- the list of work that attn_back.cu walks; included by attn_plan.cuh. */
#ifndef KERNELS_ATTN_BACK_CUH
#define KERNELS_ATTN_BACK_CUH

struct CudaPlan;

struct BackList { int32_t items; };

/* Takes the arrays for the largest batch. Runs twice: to count, and to place. */
void back_place(BackList *list, const AttnLimits *limits, PlanMemory *memory);
/* Builds the list of a checked layout and queues its upload. ST_ARG when it exceeds what was planned for. */
Status back_build(BackList *list, const AttnLimits *limits, const AttnLayout *layout, CudaStream *s);
/* All gradients asked for, by tiles (head_has_tiles); q, k, v, o, d_o bf16. */
Status back_run(CudaStream *s, const CudaPlan *plan, const AttnBackArgs *a);

#endif
