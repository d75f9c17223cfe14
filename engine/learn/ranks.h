/* ranks.h -- the processes of one training run and the few things they say to each other. */
#ifndef ENGINE_LEARN_RANKS_H
#define ENGINE_LEARN_RANKS_H

#include "kernels/ops.h"

typedef struct Ranks Ranks;
Status ranks_solo(Ranks **out);                  /* one rank; every call returns at once */
Status ranks_mpi(Ranks **out);                   /* all of MPI_COMM_WORLD; ST_UNSUPPORTED when built without MPI */
void ranks_close(Ranks *r);
int32_t ranks_me(const Ranks *r);
int32_t ranks_count(const Ranks *r);
Status ranks_sum(Ranks *r, const Ops *ops, Stream *s, Tensor t);   /* in place; f32 or f64; in rank order: reproducible */
Status ranks_sum_host(Ranks *r, double *v, int32_t n);             /* the same on host numbers */
Status ranks_share(Ranks *r, void *host, size_t bytes, int32_t from); /* a host block from one rank to all */

#endif
