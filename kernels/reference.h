/* reference.h -- what the reference operations share: elements of any float type as doubles.
 *
 * ops_ref is the definition of every operation and the oracle of every test, so it is written to be believed: plain
 * loops, sums in double, one rounding when a result is stored. Threads only ever take whole rows of a result, so their
 * number changes nothing. */
#ifndef KERNELS_REFERENCE_H
#define KERNELS_REFERENCE_H

#include "kernels/checks.h"
#include "kernels/host.h"

static inline double get(Tensor t, int64_t i) {
    switch (t.dtype) {
    case DT_F32: return ((const float *)t.data)[i];
    case DT_F64: return ((const double *)t.data)[i];
    case DT_BF16: return bf16_to_f32(((const uint16_t *)t.data)[i]);
    case DT_F16: return f16_to_f32(((const uint16_t *)t.data)[i]);
    default: return ((const int32_t *)t.data)[i];
    }
}

static inline void put(Tensor t, int64_t i, double v) {
    switch (t.dtype) {
    case DT_F32: ((float *)t.data)[i] = (float)v; break;
    case DT_F64: ((double *)t.data)[i] = v; break;
    /* Through f32: rounding twice can differ from rounding once in the last bit of a tie, and is what devices do. */
    case DT_BF16: ((uint16_t *)t.data)[i] = f32_to_bf16((float)v); break;
    default: ((int32_t *)t.data)[i] = (int32_t)v; break;
    }
}

static inline int32_t geti(Tensor t, int64_t i) {
    return ((const int32_t *)t.data)[i];
}

/* sum over i < n of a[ia + i] * b[ib + i] */
static inline double dot(Tensor a, int64_t ia, Tensor b, int64_t ib, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += get(a, ia + i) * get(b, ib + i);
    return sum;
}

Status gather_ref(Stream *s, const GatherArgs *a);
Status scatter_ref(Stream *s, const ScatterArgs *a);
Status norm_ref(Stream *s, const NormArgs *a);
Status norm_back_ref(Stream *s, const NormBackArgs *a);
Status linear_ref(Stream *s, const LinearArgs *a);
Status linear_back_ref(Stream *s, const LinearBackArgs *a);
Status heads_ref(Stream *s, const HeadsArgs *a);
Status heads_back_ref(Stream *s, const HeadsBackArgs *a);
Status swiglu_ref(Stream *s, const SwigluArgs *a);
Status swiglu_back_ref(Stream *s, const SwigluBackArgs *a);
Status plan_open_ref(AttnPlan **out, const AttnLimits *limits);
void plan_close_ref(AttnPlan *plan);
Status attn_plan_ref(Stream *s, AttnPlan *plan, const AttnLayout *layout);
Status attn_ref(Stream *s, const AttnArgs *a);
Status attn_back_ref(Stream *s, const AttnBackArgs *a);
Status distill_ref(Stream *s, const DistillArgs *a);
Status topk_ref(Stream *s, const TopkArgs *a);
Status sample_ref(Stream *s, const SampleArgs *a);
Status adam_ref(Stream *s, const AdamArgs *a);
Status squared_norm_ref(Stream *s, const SquaredNormArgs *a);

#endif
