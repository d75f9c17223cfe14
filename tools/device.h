/* device.h -- which backend this process computes with. */
#ifndef TOOLS_DEVICE_H
#define TOOLS_DEVICE_H

#include "kernels/ops.h"

/* "cpu", "cuda" (the first device), "cuda:N", or "auto": the first device where there is one, else the CPU. A device that
 * is asked for and not there, or is there and not asked for but too old, costs a line on stderr, and then it is the CPU.
 * ST_ARG for any other name; ST_UNSUPPORTED for a card that was asked for and is too old. To be called once, before
 * anything is opened. */
Status device_choose(const char *name);

/* Which CUDA device such a name means, whether or not it is there; -1: the CPU. ST_ARG. */
Status device_index(const char *name, int32_t *index);

const Ops *device_ops(void); /* of device_choose; the CPU before it was called */

#endif
