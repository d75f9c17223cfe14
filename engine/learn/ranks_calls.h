/* ranks_calls.h -- inside ranks: what a way to reach the other ranks must provide. */
#ifndef ENGINE_LEARN_RANKS_CALLS_H
#define ENGINE_LEARN_RANKS_CALLS_H

#include "engine/learn/ranks.h"

typedef struct RanksCalls {
    Status (*sum)(Ranks *r, const Ops *ops, Stream *s, Tensor t);
    Status (*share)(Ranks *r, void *host, size_t bytes, int32_t from);
    void (*close)(Ranks *r);
} RanksCalls;

struct Ranks {
    int32_t me, count;
    const RanksCalls *call; /* NULL: nobody else is there */
    void *state;            /* owned by whoever provides the calls */
};

#endif
