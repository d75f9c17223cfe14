/* backward.c -- from the loss to the cartridge. Weights are frozen, so each matrix product has one way back (to its
 * input) and the only gradients kept are those of the prefix rows that learn. Read it beside forward.c: the same steps
 * in reverse. d is the gradient of the residual stream; it passes every residual connection unchanged, and each half
 * layer adds its own share to it.
 *
 * The first layer stops early: below its attention nothing learns, so only its prefix rows are asked for. */
#include "engine/transformer/acts.h"

typedef struct BackPass {
    const Model *m;
    const Ops *op;
    const Layer *w;
    const Batch *b;
    LayerActs kept;
    Tensor d, d_normed, d_h, d_o, dq, dq_raw, dk_raw, dv; /* cut to the batch */
    Tensor dk_own, dv_own;                                /* this batch's own gradient pages */
    Stream *s;
} BackPass;

static BackPass back_pass_of(const Model *m, const Batch *b, Acts *a, int32_t layer, Stream *s) {
    int64_t T = b->T;
    return (BackPass){
        .m = m, .op = m->ops, .w = &m->layer[layer], .b = b, .s = s,
        .kept = layer_rows(&a->layer[layer], T),
        .d = first_rows(a->d_x, T), .d_normed = first_rows(a->d_normed, T), .d_h = first_rows(a->d_h, T),
        .d_o = first_rows(a->d_o, T), .dq = first_rows(a->dq, T), .dq_raw = first_rows(a->dq_raw, T),
        .dk_raw = first_rows(a->dk_raw, T), .dv = first_rows(a->dv, T),
        .dk_own = first_rows(a->dk_own, b->own_grads), .dv_own = first_rows(a->dv_own, b->own_grads),
    };
}

/* dx (+)= dy w */
static Status back(const BackPass *p, Tensor dx, Tensor dy, Tensor w, bool accumulate) {
    return p->op->linear_back(p->s, &(LinearBackArgs){.dx = dx, .dy = dy, .w = w, .accumulate = accumulate});
}

/* d += d(norm) */
static Status add_through_norm(const BackPass *p, Tensor x, Tensor w, Tensor rstd) {
    return p->op->norm_back(p->s, &(NormBackArgs){.dx = p->d, .dy = p->d_normed, .x = x, .w = w, .rstd = rstd,
                                                  .accumulate = true});
}

static Status feed_forward_back(const BackPass *p) {
    const LayerActs *a = &p->kept;
    TRY(back(p, p->d_h, p->d, p->w->w_down, false));
    /* gate and up are not needed again: their gradients take their place */
    TRY(p->op->swiglu_back(p->s, &(SwigluBackArgs){.dgate = a->gate, .dup = a->up, .dy = p->d_h, .gate = a->gate,
                                                   .up = a->up}));
    TRY(back(p, p->d_normed, a->gate, p->w->w_gate, false));
    TRY(back(p, p->d_normed, a->up, p->w->w_up, true));
    return add_through_norm(p, a->x_mid, p->w->norm_ffn, a->rstd_ffn);
}

/* Gradients of this layer's keys and values go three ways: learned pages add up in g, own pages flow on into the
 * residual stream, and pages of read-only prefixes are dropped. */
static Status attention_core_back(const BackPass *p, int32_t layer, const KvGrad *g, bool first) {
    const LayerActs *a = &p->kept;
    Tensor none = {0};
    TRY(back(p, flat(p->d_o), p->d, p->w->wo, false));
    return p->op->attn_back(p->s, &(AttnBackArgs){
        .dq = first ? none : p->dq, .dk_own = first ? none : p->dk_own, .dv_own = first ? none : p->dv_own,
        .dk_learned = g->all.data ? tensor_at(g->all, 2 * layer) : none,
        .dv_learned = g->all.data ? tensor_at(g->all, 2 * layer + 1) : none,
        .d_o = p->d_o, .o = a->o, .lse = a->lse, .q = a->q,
        .k = pool_keys(p->b->pool, layer), .v = pool_values(p->b->pool, layer),
        .plan = p->b->plan, .scale = p->m->attn_scale});
}

static Status projections_back(const BackPass *p) {
    const LayerActs *a = &p->kept;
    TRY(p->op->heads_back(p->s, &(HeadsBackArgs){
        .dq_raw = p->dq_raw, .dk_raw = p->dk_raw, .dv = p->dv,
        .dq = p->dq, .dk_pool = p->dk_own, .dv_pool = p->dv_own, .q_raw = a->q_raw, .k_raw = a->k_raw,
        .w_q = p->w->norm_q, .w_k = p->w->norm_k, .eps = p->m->cfg.norm_eps,
        .pos = p->b->d_pos, .slot = p->b->d_grad_slot, .freq = p->m->rope_freq}));
    TRY(back(p, p->d_normed, flat(p->dq_raw), p->w->wq, false));
    TRY(back(p, p->d_normed, flat(p->dk_raw), p->w->wk, true));
    TRY(back(p, p->d_normed, flat(p->dv), p->w->wv, true));
    return add_through_norm(p, a->x, p->w->norm_attn, a->rstd_attn);
}

Status backward(const Model *m, const Batch *b, Acts *a, KvGrad *g, Stream *s) {
    NEED(a->max.training && b->T == a->T, ST_ARG, "backward of %d rows after a %s pass of %d", b->T,
         a->max.training ? "training" : "serving", a->T);
    NEED(b->own_grads <= a->dk_own.dim[0], ST_ARG,
         "backward of a batch with %d own pages, planned for %lld: train sequences whole, not from the middle",
         b->own_grads, (long long)a->dk_own.dim[0]);
    for (int32_t l = m->cfg.layers - 1; l >= 0; l--) {
        BackPass p = back_pass_of(m, b, a, l, s);
        TRY(feed_forward_back(&p));
        TRY(attention_core_back(&p, l, g, l == 0));
        if (l > 0) TRY(projections_back(&p));
    }
    return ST_OK;
}
