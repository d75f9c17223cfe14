/* stream_ref.h -- scratch of the reference: one ranked row of the vocabulary. */
#ifndef KERNELS_STREAM_REF_H
#define KERNELS_STREAM_REF_H

#include <stdint.h>

typedef struct Ranked { double weight; int32_t id; } Ranked;
typedef struct RefStream { int32_t vocab; Ranked *ranked; /* owned, [vocab] */ } RefStream;

#endif
