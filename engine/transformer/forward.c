/* forward.c -- tokens to logits. A layer, with x the residual stream:
 *
 *   n = norm(x)      q,k,v = n Wq, n Wk, n Wv      (qk-norm)      rotate q,k by position      k,v -> pages
 *   x = x + attention(q over prefixes and own pages) Wo
 *   n = norm(x)      x = x + (silu(n Wgate) * n Wup) Wdown
 *
 * Keys and values go to the pages before attention runs, so a row finds its own key there like all others. */
#include "engine/transformer/acts.h"

/* One layer's pass: what all of its steps need. */
typedef struct Pass {
    const Model *m;
    const Ops *op;
    const Layer *w;
    const Batch *b;
    Acts *a;
    LayerActs kept;      /* this layer's, cut to the batch */
    Tensor normed, k, v, h;
    Stream *s;
} Pass;

static Pass pass_of(const Model *m, const Batch *b, Acts *a, int32_t layer, Stream *s) {
    return (Pass){
        .m = m, .op = m->ops, .w = &m->layer[layer], .b = b, .a = a, .s = s,
        .kept = layer_rows(&a->layer[layer], &m->cfg, b->T),
        .normed = first_rows(a->normed, b->T), .k = first_rows(a->k, b->T), .v = first_rows(a->v, b->T),
        .h = first_rows(a->h, b->T),
    };
}

/* y = norm over each head; without qk-norm the projection wrote y itself. */
static Status norm_heads(const Pass *p, Tensor y, Tensor raw, Tensor rstd, Tensor w) {
    if (!w.data) return ST_OK;
    Tensor x = raw.data ? raw : y; /* serving keeps no raw copy */
    return p->op->norm(p->s, &(NormArgs){.y = y, .rstd = rstd, .x = x, .w = w, .eps = p->m->cfg.norm_eps});
}

static Status project(const Pass *p) {
    const Layer *w = p->w;
    const LayerActs *a = &p->kept;
    Tensor q = a->q_raw.data ? a->q_raw : a->q, k = a->k_raw.data ? a->k_raw : p->k;
    TRY(p->op->linear(p->s, &(LinearArgs){.y = flat(q), .x = p->normed, .w = w->wq, .b = w->bq}));
    TRY(p->op->linear(p->s, &(LinearArgs){.y = flat(k), .x = p->normed, .w = w->wk, .b = w->bk}));
    TRY(p->op->linear(p->s, &(LinearArgs){.y = flat(p->v), .x = p->normed, .w = w->wv, .b = w->bv}));
    TRY(norm_heads(p, a->q, a->q_raw, a->rstd_q, w->norm_q));
    return norm_heads(p, p->k, a->k_raw, a->rstd_k, w->norm_k);
}

static Status rotate_and_store(const Pass *p, int32_t layer) {
    Tensor freq = p->m->rope_freq, pos = p->b->d_pos;
    TRY(p->op->rope(p->s, &(RopeArgs){.x = p->kept.q, .pos = pos, .freq = freq, .sign = 1}));
    TRY(p->op->rope(p->s, &(RopeArgs){.x = p->k, .pos = pos, .freq = freq, .sign = 1}));
    return p->op->page_store(p->s, &(PageStoreArgs){.k_pool = pool_keys(p->b->pool, layer),
                                                    .v_pool = pool_values(p->b->pool, layer),
                                                    .k = p->k, .v = p->v, .slot = p->b->d_slot});
}

/* to = from + x w^T; when serving both are one stream. */
static Status add_to_stream(const Pass *p, Tensor to, Tensor from, Tensor x, Tensor w) {
    if (to.data != from.data) TRY(p->op->copy(p->s, to.data, from.data, tensor_bytes(to)));
    return p->op->linear(p->s, &(LinearArgs){.y = to, .x = x, .w = w, .accumulate = true});
}

static Status attention(const Pass *p, int32_t layer) {
    const LayerActs *a = &p->kept;
    TRY(p->op->norm(p->s, &(NormArgs){.y = p->normed, .rstd = a->rstd_attn, .x = a->x, .w = p->w->norm_attn,
                                      .eps = p->m->cfg.norm_eps}));
    TRY(project(p));
    TRY(rotate_and_store(p, layer));
    TRY(p->op->attn(p->s, &(AttnArgs){.o = a->o, .lse = a->lse, .q = a->q, .k = pool_keys(p->b->pool, layer),
                                      .v = pool_values(p->b->pool, layer), .plan = p->b->plan,
                                      .scale = p->m->attn_scale}));
    return add_to_stream(p, a->x_mid, a->x, flat(a->o), p->w->wo);
}

static Status feed_forward(const Pass *p, Tensor x_next) {
    const LayerActs *a = &p->kept;
    TRY(p->op->norm(p->s, &(NormArgs){.y = p->normed, .rstd = a->rstd_ffn, .x = a->x_mid, .w = p->w->norm_ffn,
                                      .eps = p->m->cfg.norm_eps}));
    TRY(p->op->linear(p->s, &(LinearArgs){.y = a->gate, .x = p->normed, .w = p->w->w_gate}));
    TRY(p->op->linear(p->s, &(LinearArgs){.y = a->up, .x = p->normed, .w = p->w->w_up}));
    TRY(p->op->swiglu(p->s, &(SwigluArgs){.y = p->h, .gate = a->gate, .up = a->up}));
    return add_to_stream(p, x_next, a->x_mid, p->h, p->w->w_down);
}

Status forward(const Model *m, const Batch *b, Acts *a, Stream *s) {
    NEED(b->T <= a->max.rows, ST_ARG, "a batch of %d rows, activations were planned for %d", b->T, a->max.rows);
    int32_t L = m->cfg.layers;
    a->T = b->T;
    Tensor x0 = first_rows(a->layer[0].x, b->T);
    TRY(m->ops->gather(s, &(GatherArgs){.y = x0, .table = m->embed, .id = b->d_token}));
    for (int32_t l = 0; l < L; l++) {
        Pass p = pass_of(m, b, a, l, s);
        Tensor x_next = first_rows(l + 1 < L ? a->layer[l + 1].x : a->hidden, b->T);
        TRY(attention(&p, l));
        TRY(feed_forward(&p, x_next));
    }
    return ST_OK;
}

/* Only rows somebody asked for meet the vocabulary: it is the largest matrix of a small model. */
Status forward_logits(const Model *m, Acts *a, const int32_t *row, int32_t n, Tensor *logits, Stream *s) {
    NEED(n >= 1 && n <= a->max.logits, ST_ARG, "logits of %d rows, planned for %d", n, a->max.logits);
    Tensor rows = first_rows(a->rows, n), x = first_rows(a->picked, n), y = first_rows(a->picked_normed, n);
    *logits = first_rows(a->logits, n);
    TRY(m->ops->copy(s, rows.data, row, sizeof *row * (size_t)n));
    TRY(m->ops->gather(s, &(GatherArgs){.y = x, .table = acts_hidden(a), .id = rows}));
    TRY(m->ops->norm(s, &(NormArgs){.y = y, .rstd = first_rows(a->picked_rstd, n), .x = x, .w = m->norm_out,
                                    .eps = m->cfg.norm_eps}));
    return m->ops->linear(s, &(LinearArgs){.y = *logits, .x = y, .w = m->head});
}
