/* ranks.c -- one rank talks to nobody; more of them go through the calls of their kind. */
#include <stdlib.h>

#include "engine/learn/ranks_calls.h"
#include "kernels/host.h"

Status ranks_solo(Ranks **out) {
    *out = calloc(1, sizeof **out);
    NEED(*out, ST_NOMEM, "no memory for one rank");
    (*out)->count = 1;
    return ST_OK;
}

void ranks_close(Ranks *r) {
    if (r && r->call) r->call->close(r);
    free(r);
}

int32_t ranks_me(const Ranks *r) {
    return r->me;
}

int32_t ranks_count(const Ranks *r) {
    return r->count;
}

Status ranks_sum(Ranks *r, const Ops *ops, Stream *s, Tensor t) {
    NEED(t.dtype == DT_F32 || t.dtype == DT_F64, ST_ARG, "a sum over ranks of %s; wanted f32 or f64",
         dtype_name(t.dtype));
    return r->call ? r->call->sum(r, ops, s, t) : ST_OK;
}

/* Numbers on the host go the way of a tensor that lies there. */
Status ranks_sum_host(Ranks *r, double *v, int32_t n) {
    static const Ops host = {.name = "host", .copy = host_copy, .sync = host_sync};
    return ranks_sum(r, &host, NULL, tensor_of(v, DT_F64, n));
}

Status ranks_share(Ranks *r, void *host, size_t bytes, int32_t from) {
    NEED(from >= 0 && from < r->count, ST_ARG, "a block shared by rank %d of %d", from, r->count);
    return r->call ? r->call->share(r, host, bytes, from) : ST_OK;
}
