/* recorded.c -- see recorded.h. A recording is made when its number of rows first comes, so a server that
 * never sees 50 users at once never records a pass for them. */
#include "engine/transformer/recorded.h"

#include <stdlib.h>

#include "engine/transformer/acts.h"

struct Recorded {
    const Model *m; /* borrowed */
    int32_t rows;
    Recording **pass; /* [rows + 1] owned, by rows; NULL: not recorded yet */
};

Status recorded_open(Recorded **out, const Model *m, int32_t rows) {
    *out = NULL;
    Recorded *r = calloc(1, sizeof *r);
    NEED(r, ST_NOMEM, "no memory for recordings");
    *r = (Recorded){m, rows, calloc((size_t)rows + 1, sizeof *r->pass)};
    if (r->pass) {
        *out = r;
        return ST_OK;
    }
    free(r);
    FAIL(ST_NOMEM, "no memory for recordings of up to %d rows", rows);
}

void recorded_close(Recorded *r) {
    if (!r) return;
    for (int32_t i = 0; i <= r->rows; i++)
        if (r->pass[i]) r->m->ops->recording_close(r->pass[i]);
    free(r->pass);
    free(r);
}

/* What was noted before a failure is thrown away; the failure is what the caller hears of. */
static Status record(Recorded *r, const Batch *b, Acts *a, Stream *s) {
    const Ops *op = r->m->ops;
    Recording *made;
    TRY(op->record(s));
    Status st = forward(r->m, b, a, s), end = op->record_end(s, &made);
    if (st && !end) op->recording_close(made);
    if (st || end) return st ? st : end;
    r->pass[b->T] = made;
    return ST_OK;
}

Status recorded_forward(Recorded *r, const Batch *b, Acts *a, Stream *s) {
    const Ops *op = r->m->ops;
    if (!op->record || b->T > r->rows || !op->plan_records(b->plan)) return forward(r->m, b, a, s);
    if (!r->pass[b->T]) TRY(record(r, b, a, s));
    a->T = b->T;
    return op->replay(s, r->pass[b->T]);
}
