/* checks.h -- each operation's contract as a function, shared by all backends: shapes and types of ops.h, nothing
 * about what a backend can do. A failure names operation, argument, what was seen and what was wanted (ST_ARG). */
#ifndef KERNELS_CHECKS_H
#define KERNELS_CHECKS_H

#include "kernels/ops.h"

Status gather_check(const GatherArgs *a);
Status scatter_check(const ScatterArgs *a);
Status norm_check(const NormArgs *a);
Status norm_back_check(const NormBackArgs *a);
Status linear_check(const LinearArgs *a);
Status linear_back_check(const LinearBackArgs *a);
Status heads_check(const HeadsArgs *a);
Status heads_back_check(const HeadsBackArgs *a);
Status swiglu_check(const SwigluArgs *a);
Status swiglu_back_check(const SwigluBackArgs *a);
Status layout_check(const AttnLayout *layout, const AttnLimits *limits);
/* T and pages: of the layout the plan was made for. */
Status attn_check(const AttnArgs *a, const AttnLimits *limits, int32_t T);
Status attn_back_check(const AttnBackArgs *a, const AttnLimits *limits, int32_t T);
Status distill_check(const DistillArgs *a);
Status topk_check(const TopkArgs *a);
Status sample_check(const SampleArgs *a);
Status adam_check(const AdamArgs *a);
Status squared_norm_check(const SquaredNormArgs *a);

/* Elements of all dimensions but the last: the rows of a norm. */
int64_t tensor_rows_count(Tensor t);

#endif
