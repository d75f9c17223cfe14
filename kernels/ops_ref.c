/* ops_ref.c -- the table of the reference. */
#include <stdlib.h>

#include "kernels/reference.h"
#include "kernels/stream_ref.h"

static Status stream_open_ref(Stream **out, const StreamLimits *limits) {
    *out = NULL;
    RefStream *r = calloc(1, sizeof *r);
    NEED(r, ST_NOMEM, "no memory for a stream");
    void *ranked;
    Status st = host_mem_open(&ranked, sizeof(Ranked) * (size_t)limits->vocab);
    if (st) {
        free(r);
        return st;
    }
    *r = (RefStream){limits->vocab, ranked};
    *out = (Stream *)(void *)r;
    return ST_OK;
}

static void stream_close_ref(Stream *s) {
    RefStream *r = (RefStream *)(void *)s;
    if (!r) return;
    host_mem_close(r->ranked);
    free(r);
}

const Ops ops_ref = {
    .name = "ref",
    .act = DT_F32,
    .mem_open = host_mem_open,
    .mem_close = host_mem_close,
    .stream_open = stream_open_ref,
    .stream_close = stream_close_ref,
    .plan_open = plan_open_ref,
    .plan_close = plan_close_ref,
    .copy = host_copy,
    .zero = host_zero,
    .sync = host_sync,
    .gather = gather_ref,
    .scatter = scatter_ref,
    .norm = norm_ref,
    .norm_back = norm_back_ref,
    .linear = linear_ref,
    .linear_back = linear_back_ref,
    .heads = heads_ref,
    .heads_back = heads_back_ref,
    .swiglu = swiglu_ref,
    .swiglu_back = swiglu_back_ref,
    .attn_plan = attn_plan_ref,
    .attn = attn_ref,
    .attn_back = attn_back_ref,
    .distill = distill_ref,
    .topk = topk_ref,
    .sample = sample_ref,
    .adam = adam_ref,
    .squared_norm = squared_norm_ref,
};
