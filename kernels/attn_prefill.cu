/* attn_prefill.cu -- its list is empty until its kernel exists. */
#include "kernels/attn_plan.cuh"

void prefill_place(PrefillList *list, const AttnLimits *limits, PlanMemory *memory) {
    (void)limits, (void)memory;
    list->items = 0;
}

Status prefill_build(PrefillList *list, const AttnLimits *limits, const AttnLayout *layout, CudaStream *s) {
    (void)list, (void)limits, (void)layout, (void)s;
    return ST_OK;
}

Status prefill_run(CudaStream *s, const CudaPlan *plan, const AttnArgs *a) {
    (void)s, (void)plan, (void)a;
    FAIL(ST_UNSUPPORTED, "attention: no kernel for these rows");
}
