/* attn_back.cu -- gradients of attention. Contract: AttnBackArgs in ops.h; reference: attn_back.c. */
#include "kernels/attn_plan.cuh"

static Status check_types(const AttnBackArgs *a) {
    TRY(cuda_float("attn_back", "q", a->q));
    TRY(cuda_type("attn_back", "k", a->k, a->q.dtype));
    TRY(cuda_type("attn_back", "v", a->v, a->q.dtype));
    TRY(cuda_type("attn_back", "o", a->o, a->q.dtype));
    TRY(cuda_type("attn_back", "d_o", a->d_o, a->q.dtype));
    TRY(cuda_type("attn_back", "lse", a->lse, DT_F32));
    TRY(cuda_type("attn_back", "dq", a->dq, DT_F32));
    TRY(cuda_type("attn_back", "dk_own", a->dk_own, DT_F32));
    TRY(cuda_type("attn_back", "dv_own", a->dv_own, DT_F32));
    TRY(cuda_type("attn_back", "dk_learned", a->dk_learned, DT_F32));
    return cuda_type("attn_back", "dv_learned", a->dv_learned, DT_F32);
}

Status attn_back_cuda(Stream *stream, const AttnBackArgs *a) {
    CudaStream *s = cuda_stream(stream);
    const CudaPlan *p = cuda_plan(a->plan);
    TRY(attn_back_check(a, &p->limits, p->T));
    TRY(check_types(a));
    TRY(cuda_begin(s, "attn_back"));
    return back_plain_run(s, p, a);
}
