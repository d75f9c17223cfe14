/* attn_plan.cu -- see attn_plan.cuh. Arrays are taken once, for the largest batch; a batch's lists are built
 * in pinned memory and brought over by copies that the device makes when it gets there, so planning never
 * waits for a pass that is still running: only for the previous plan's copies. */
#include <stdlib.h>
#include <string.h>

#include "kernels/attn_plan.cuh"

extern "C" {
#include "kernels/cuda_device.h"
}

/* ---- memory ---- */

static void place_layout(LayoutArrays *l, const AttnLimits *m, PlanMemory *memory) {
    plan_take(&l->row, memory, m->seqs + 1);
    plan_take(&l->seg, memory, m->seqs + 1);
    plan_take(&l->segment, memory, m->segments);
    plan_take(&l->page, memory, m->entries);
    plan_take(&l->own_grad, memory, m->pages);
    plan_take(&l->learned_grad, memory, m->pages);
    plan_take(&l->sequence, memory, m->rows);
}

static void place(CudaPlan *p, PlanMemory *memory) {
    place_layout(&p->layout, &p->limits, memory);
    prefill_place(&p->prefill, &p->limits, memory);
    decode_place(&p->decode, &p->limits, memory);
    if (p->limits.backward) back_place(&p->back, &p->limits, memory);
}

static PlanMemory count_memory(CudaPlan *p) {
    PlanMemory memory;
    arena_init(&memory.host, NULL, 0);
    arena_init(&memory.device, NULL, 0);
    place(p, &memory);
    return memory;
}

size_t cuda_plan_bytes(const AttnLimits *limits) {
    CudaPlan p;
    memset(&p, 0, sizeof p);
    p.limits = *limits;
    return count_memory(&p).device.used;
}

static Status open_memory(CudaPlan *p) {
    PlanMemory memory = count_memory(p);
    size_t host = memory.host.used, on_device = memory.device.used;
    TRY_CUDA("attn_plan", cudaMallocHost(&p->host, host));
    TRY(mem_open_cuda(&p->device, on_device));
    TRY_CUDA("attn_plan", cudaMemset(p->device, 0, on_device)); /* counters start at zero */
    TRY_CUDA("attn_plan", cudaEventCreateWithFlags(&p->uploaded, cudaEventDisableTiming));
    arena_init(&memory.host, p->host, host);
    arena_init(&memory.device, p->device, on_device);
    place(p, &memory);
    return ST_OK;
}

Status plan_open_cuda(AttnPlan **out, const AttnLimits *limits) {
    *out = NULL;
    NEED(limits->heads >= 1 && limits->kv_heads >= 1 && limits->heads % limits->kv_heads == 0, ST_ARG,
         "attn: %d query heads over %d key heads is no whole number", limits->heads, limits->kv_heads);
    CudaPlan *p = (CudaPlan *)calloc(1, sizeof *p);
    NEED(p, ST_NOMEM, "attn: no memory for a plan");
    p->limits = *limits;
    Status st = open_memory(p);
    if (st)
        plan_close_cuda((AttnPlan *)(void *)p);
    else
        *out = (AttnPlan *)(void *)p;
    return st;
}

void plan_close_cuda(AttnPlan *plan) {
    CudaPlan *p = (CudaPlan *)(void *)plan;
    if (!p) return;
    if (p->uploaded) cudaEventDestroy(p->uploaded);
    mem_close_cuda(p->device);
    cudaFreeHost(p->host);
    free(p);
}

/* ---- a batch ---- */

static Status upload_ints(CudaStream *s, PlanArray<int32_t> *a, const int32_t *from, int64_t n) {
    if (from)
        memcpy(a->host, from, sizeof *from * (size_t)n);
    else
        memset(a->host, 0xFF, sizeof *from * (size_t)n); /* an absent map: all -1 */
    return plan_upload(s, a, n);
}

static Status upload_layout(CudaStream *s, LayoutArrays *to, const AttnLayout *l) {
    TRY(upload_ints(s, &to->row, l->row, l->S + 1));
    TRY(upload_ints(s, &to->seg, l->seg, l->S + 1));
    TRY(upload_ints(s, &to->page, l->page, l->entries));
    TRY(upload_ints(s, &to->own_grad, l->own_grad, l->pages));
    TRY(upload_ints(s, &to->learned_grad, l->learned_grad, l->pages));
    memcpy(to->segment.host, l->segment, sizeof(Segment) * (size_t)l->seg[l->S]);
    TRY(plan_upload(s, &to->segment, l->seg[l->S]));
    for (int32_t i = 0; i < l->S; i++)
        for (int32_t t = l->row[i]; t < l->row[i + 1]; t++) to->sequence.host[t] = i;
    return plan_upload(s, &to->sequence, l->T);
}

Status attn_plan_cuda(Stream *stream, AttnPlan *plan, const AttnLayout *l) {
    CudaStream *s = cuda_stream(stream);
    CudaPlan *p = (CudaPlan *)(void *)plan;
    TRY(layout_check(l, &p->limits));
    TRY_CUDA("attn_plan", cudaEventSynchronize(p->uploaded));
    p->T = l->T, p->S = l->S, p->pages = l->pages;
    TRY(upload_layout(s, &p->layout, l));
    TRY(prefill_build(&p->prefill, &p->limits, l, s));
    TRY(decode_build(&p->decode, &p->limits, l, s));
    if (p->limits.backward) TRY(back_build(&p->back, &p->limits, l, s));
    return cuda_status("attn_plan", cudaEventRecord(p->uploaded, s->queue));
}
