/* rows.c -- moving rows: gather and scatter. */
#include "kernels/reference.h"

Status gather_ref(Stream *s, const GatherArgs *a) {
    (void)s;
    TRY(gather_check(a));
    int64_t T = a->y.dim[0], C = a->y.dim[1];
    for (int64_t t = 0; t < T; t++)
        for (int64_t c = 0; c < C; c++) put(a->y, t * C + c, get(a->table, geti(a->id, t) * C + c));
    return ST_OK;
}

Status scatter_ref(Stream *s, const ScatterArgs *a) {
    (void)s;
    TRY(scatter_check(a));
    int64_t T = a->x.dim[0], C = a->x.dim[1];
    for (int64_t t = 0; t < T; t++)
        for (int64_t c = 0; c < C; c++) put(a->y, geti(a->id, t) * C + c, get(a->x, t * C + c));
    return ST_OK;
}
