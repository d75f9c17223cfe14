/* recording.cu -- a pass of many small operations as one CUDA graph.
 *
 * Starting a kernel costs the host a few microseconds, and a pass of decoding has hundreds of kernels that
 * run no longer than that. Recorded, they are started by one call. The graph keeps every argument as it was:
 * sizes, and where things lie. What changes from pass to pass (tokens, positions, lengths, who shares what)
 * lies in device memory that the kernels read, the attention plan above all; see plan_records_cuda for what a
 * plan may change. */
#include <stdlib.h>

#include "kernels/attn_plan.cuh"

struct CudaRecording {
    cudaGraphExec_t graph;
};

static CudaRecording *cuda_recording(Recording *r) {
    return (CudaRecording *)(void *)r;
}

/* Decoding alone is one launch whose grid does not depend on the batch: it finds its list, and the list's
 * length, in device memory. Prefill's grid is its list's length. */
bool plan_records_cuda(const AttnPlan *plan) {
    const CudaPlan *p = cuda_plan(plan);
    return head_has_tiles(p->limits.head_dim) && p->prefill.items == 0 && p->decode.items > 0;
}

Status record_cuda(Stream *stream) {
    CudaStream *s = cuda_stream(stream);
    TRY_CUDA("record", cudaStreamBeginCapture(s->queue, cudaStreamCaptureModeThreadLocal));
    s->recording = true;
    return ST_OK;
}

static Status instantiate(CudaRecording *r, cudaGraph_t graph) {
    Status st = cuda_status("record", cudaGraphInstantiate(&r->graph, graph, 0));
    cudaGraphDestroy(graph);
    return st;
}

Status record_end_cuda(Stream *stream, Recording **out) {
    CudaStream *s = cuda_stream(stream);
    cudaGraph_t graph;
    *out = NULL;
    s->recording = false;
    TRY_CUDA("record", cudaStreamEndCapture(s->queue, &graph));
    CudaRecording *r = (CudaRecording *)calloc(1, sizeof *r);
    if (!r) cudaGraphDestroy(graph);
    NEED(r, ST_NOMEM, "no memory for a recording");
    Status st = instantiate(r, graph);
    if (st)
        free(r);
    else
        *out = (Recording *)(void *)r;
    return st;
}

Status replay_cuda(Stream *stream, Recording *recording) {
    CudaStream *s = cuda_stream(stream);
    TRY(cuda_begin(s, "a recorded pass"));
    return cuda_status("replay", cudaGraphLaunch(cuda_recording(recording)->graph, s->queue));
}

void recording_close_cuda(Recording *recording) {
    CudaRecording *r = cuda_recording(recording);
    if (!r) return;
    cudaGraphExecDestroy(r->graph);
    free(r);
}
