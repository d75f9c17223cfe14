/* forward.c -- tokens to logits. A layer, with x the residual stream:
 *
 *   n = norm(x)      q,k,v = n Wq, n Wk, n Wv      heads: (norm q,k), rotate q,k by position, k,v -> pages
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
    LayerActs kept;      /* this layer's, cut to the batch */
    Tensor normed, v, h;
    Stream *s;
} Pass;

static Pass pass_of(const Model *m, const Batch *b, Acts *a, int32_t layer, Stream *s) {
    return (Pass){
        .m = m, .op = m->ops, .w = &m->layer[layer], .b = b, .s = s,
        .kept = layer_rows(&a->layer[layer], b->T),
        .normed = first_rows(a->normed, b->T), .v = first_rows(a->v, b->T), .h = first_rows(a->h, b->T),
    };
}

static Status norm(const Pass *p, Tensor rstd, Tensor x, Tensor w) {
    float eps = p->m->cfg.norm_eps;
    return p->op->norm(p->s, &(NormArgs){.y = p->normed, .rstd = rstd, .x = x, .w = w, .eps = eps});
}

/* y = n w^T + b */
static Status project(const Pass *p, Tensor y, Tensor w, Tensor b) {
    return p->op->linear(p->s, &(LinearArgs){.y = y, .x = p->normed, .w = w, .b = b});
}

/* to = from + x w^T; when serving both are one stream. */
static Status add_to_stream(const Pass *p, Tensor to, Tensor from, Tensor x, Tensor w) {
    return p->op->linear(p->s, &(LinearArgs){.y = to, .x = x, .w = w, .residual = from});
}

static Status attention(const Pass *p, int32_t layer) {
    const LayerActs *a = &p->kept;
    const Layer *w = p->w;
    Tensor keys = pool_keys(p->b->pool, layer), values = pool_values(p->b->pool, layer);
    TRY(norm(p, a->rstd_attn, a->x, w->norm_attn));
    TRY(project(p, flat(a->q_raw), w->wq, w->bq));
    TRY(project(p, flat(a->k_raw), w->wk, w->bk));
    TRY(project(p, flat(p->v), w->wv, w->bv));
    TRY(p->op->heads(p->s, &(HeadsArgs){
        .q = a->q, .k_pool = keys, .v_pool = values, .q_raw = a->q_raw, .k_raw = a->k_raw, .v = p->v,
        .w_q = w->norm_q, .w_k = w->norm_k, .eps = p->m->cfg.norm_eps,
        .pos = p->b->d_pos, .slot = p->b->d_slot, .freq = p->m->rope_freq}));
    TRY(p->op->attn(p->s, &(AttnArgs){.o = a->o, .lse = a->lse, .q = a->q, .k = keys, .v = values,
                                      .plan = p->b->plan, .scale = p->m->attn_scale}));
    return add_to_stream(p, a->x_mid, a->x, flat(a->o), w->wo);
}

static Status feed_forward(const Pass *p, Tensor x_next) {
    const LayerActs *a = &p->kept;
    const Layer *w = p->w;
    Tensor no_bias = {0};
    TRY(norm(p, a->rstd_ffn, a->x_mid, w->norm_ffn));
    TRY(project(p, a->gate, w->w_gate, no_bias));
    TRY(project(p, a->up, w->w_up, no_bias));
    TRY(p->op->swiglu(p->s, &(SwigluArgs){.y = p->h, .gate = a->gate, .up = a->up}));
    return add_to_stream(p, x_next, a->x_mid, p->h, w->w_down);
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
