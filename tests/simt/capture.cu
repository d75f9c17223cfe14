/* capture.cu -- see capture.h. */
#include "tests/simt/capture.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda_stream.cuh"

static void must(cudaError_t e) {
    if (e == cudaSuccess) return;
    printf("# %s\n", cudaGetErrorString(e));
    exit(1);
}

static cudaGraphExec_t exec_of(Capture *c) {
    return (cudaGraphExec_t)(void *)c;
}

void capture_begin(Stream *s) {
    must(cudaStreamBeginCapture(cuda_stream(s)->queue, cudaStreamCaptureModeThreadLocal));
}

Capture *capture_end(Stream *s) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaStreamEndCapture(cuda_stream(s)->queue, &graph));
    must(cudaGraphInstantiate(&exec, graph, 0));
    must(cudaGraphDestroy(graph));
    return (Capture *)(void *)exec;
}

void capture_replay(Capture *c, Stream *s) {
    must(cudaGraphLaunch(exec_of(c), cuda_stream(s)->queue));
}

void capture_close(Capture *c) {
    must(cudaGraphExecDestroy(exec_of(c)));
}
