/* capture.h -- CUDA graphs for tests in C: what a stream does between the two calls is recorded, not done. */
#ifndef TESTS_SIMT_CAPTURE_H
#define TESTS_SIMT_CAPTURE_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Capture Capture;

void capture_begin(Stream *s);
Capture *capture_end(Stream *s);
void capture_replay(Capture *c, Stream *s);
void capture_close(Capture *c);

#ifdef __cplusplus
}
#endif

#endif
