/* host.h -- what the host backends share: memory, with the hooks that tests need. */
#ifndef KERNELS_HOST_H
#define KERNELS_HOST_H

#include "kernels/ops.h"

Status host_mem_open(void **out, size_t bytes);
void host_mem_close(void *mem);
void host_mem_filled(void *mem, size_t bytes);
Status host_copy(Stream *s, void *to, const void *from, size_t bytes);
Status host_zero(Stream *s, Tensor t);
Status host_sync(Stream *s);

/* For tests. How often mem_open succeeded, how many blocks live (a pass must change neither), and the bytes that all
 * these calls asked for together: what a plan must foretell. */
int64_t host_mem_opens(void);
int64_t host_mem_live(void);
int64_t host_mem_asked(void);
/* The n-th mem_open from now on fails with ST_NOMEM; 0: none. */
void host_mem_fail_at(int64_t n);

#endif
