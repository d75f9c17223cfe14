/* capture.c -- prefill in pieces, then keep the pages: the sequence's own pages become the prefix, nothing is copied. */
#include "engine/transformer/capture.h"

#include <string.h>

Digest capture_identity(const Model *m, const Prefix *const *parent, int32_t parents, const int32_t *token, int32_t n) {
    Sha256 *h;
    Digest d = {{0}};
    if (sha256_open(&h)) return d;
    int32_t start = prefix_start(parent, parents);
    sha256_add(h, m->fingerprint, strlen(m->fingerprint));
    sha256_add(h, &parents, sizeof parents);
    for (int32_t i = 0; i < parents; i++) sha256_add(h, parent[i]->identity.byte, sizeof parent[i]->identity.byte);
    sha256_add(h, &start, sizeof start);
    sha256_add(h, token, sizeof *token * (size_t)n);
    return sha256_finish(&h);
}

static Status prefill(const CaptureTools *c, const Prefix *const *parent, int32_t parents, Sequence *q,
                      const int32_t *token, int32_t n) {
    for (int32_t done = 0; done < n;) {
        int32_t piece = n - done < c->batch->max.rows ? n - done : c->batch->max.rows;
        bool fits;
        batch_clear(c->batch);
        TRY(batch_add(c->batch, parent, parents, q, token + done, piece, &fits));
        NEED(fits, ST_ARG, "a capture of %d tokens behind %d prefixes does not fit a batch of %d page entries", n, parents,
             c->batch->max.entries);
        TRY(batch_upload(c->batch, c->stream));
        TRY(forward(c->model, c->batch, c->acts, c->stream));
        done += piece;
    }
    return c->model->ops->sync(c->stream);
}

Status capture(Prefix **out, const CaptureTools *c, const Prefix *const *parent, int32_t parents, const int32_t *token,
               int32_t n) {
    *out = NULL;
    int32_t start = prefix_start(parent, parents), context = c->model->cfg.context_max;
    NEED(n >= 1, ST_ARG, "a capture of %d tokens: wanted at least one", n);
    NEED((int64_t)start + n <= context, ST_NOSPACE, "%d tokens from position %d: the model's context holds %d", n, start,
         context);
    Sequence q = {0};
    Status st = ST_OK;
    TRY_TO(done, sequence_open(&q, n, start));
    TRY_TO(done, sequence_reserve(&q, c->pool, n));
    TRY_TO(done, prefill(c, parent, parents, &q, token, n));
    TRY_TO(done, prefix_of_pages(out, c->pool, q.page, n, start));
    (*out)->identity = capture_identity(c->model, parent, parents, token, n);
done:
    sequence_close(&q, c->pool);
    return st;
}
