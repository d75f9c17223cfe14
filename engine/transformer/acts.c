/* acts.c -- the memory of a pass, planned once for the largest batch: one function lays everything out and runs twice,
 * to count and to place. */
#include "engine/transformer/acts.h"

#include "engine/transformer/footprint.h"

#include <stdlib.h>
#include <string.h>

/* A layout under way; the first tensor that does not fit is remembered, and later ones are not tried. */
typedef struct Layout { Arena arena; Status st; } Layout;

#define TAKE(l, tensor, type, ...)                                                                           \
    do {                                                                                                     \
        if (!(l)->st) (l)->st = tensor_take(&(tensor), &(l)->arena, (type), __VA_ARGS__);                    \
    } while (0)

/* Statistics and gradients that must not be rounded to bf16. */
static DType real_of(DType act) {
    return act == DT_F64 ? DT_F64 : DT_F32;
}

static void lay_layer(Layout *l, LayerActs *a, Tensor k_raw, const ModelConfig *c, const ActsLimits *m) {
    int64_t T = m->rows, C = c->width, F = c->ffn, H = c->heads, G = c->kv_heads, D = c->head_dim;
    DType real = real_of(m->act);
    TAKE(l, a->x, m->act, T, C);
    TAKE(l, a->q, m->act, T, H, D);
    TAKE(l, a->o, m->act, T, H, D);
    TAKE(l, a->gate, m->act, T, F);
    TAKE(l, a->up, m->act, T, F);
    a->q_raw = a->q; /* normed and rotated in place */
    a->k_raw = k_raw;
    if (!m->training) {
        a->x_mid = a->x; /* one residual stream, updated in place */
        return;
    }
    TAKE(l, a->x_mid, m->act, T, C);
    TAKE(l, a->rstd_attn, real, T);
    TAKE(l, a->rstd_ffn, real, T);
    TAKE(l, a->lse, real, T, H);
    if (!c->qk_norm) return;
    TAKE(l, a->q_raw, m->act, T, H, D);
    TAKE(l, a->k_raw, m->act, T, G, D);
}

static void lay_layers(Layout *l, Acts *a, const ModelConfig *c) {
    for (int32_t i = 0; i < c->layers; i++) {
        if (i && !a->max.training) a->layer[i] = a->layer[0];
        else lay_layer(l, &a->layer[i], a->k_raw, c, &a->max);
    }
    if (a->max.training) TAKE(l, a->hidden, a->max.act, a->max.rows, c->width);
    else a->hidden = a->layer[0].x;
}

static void lay_shared(Layout *l, Acts *a, const ModelConfig *c) {
    int64_t T = a->max.rows;
    TAKE(l, a->normed, a->max.act, T, c->width);
    TAKE(l, a->k_raw, a->max.act, T, c->kv_heads, c->head_dim);
    TAKE(l, a->v, a->max.act, T, c->kv_heads, c->head_dim);
    TAKE(l, a->h, a->max.act, T, c->ffn);
}

static void lay_head(Layout *l, Acts *a, const ModelConfig *c) {
    int64_t n = a->max.logits;
    DType real = real_of(a->max.act);
    TAKE(l, a->rows, DT_I32, n);
    TAKE(l, a->picked, a->max.act, n, c->width);
    TAKE(l, a->picked_normed, a->max.act, n, c->width);
    TAKE(l, a->picked_rstd, real, n);
    TAKE(l, a->logits, real, n, c->vocab);
    if (!a->max.training) return;
    TAKE(l, a->first, DT_I32, n + 1);
    TAKE(l, a->id, DT_I32, n * a->max.candidates);
    TAKE(l, a->logprob, DT_F32, n * a->max.candidates);
    TAKE(l, a->loss, real, n);
    TAKE(l, a->kl, real, n);
    TAKE(l, a->best, DT_I32, n);
    TAKE(l, a->d_picked, a->max.act, n, c->width);
}

static void lay_backward(Layout *l, Acts *a, const ModelConfig *c) {
    int64_t T = a->max.rows, H = c->heads, G = c->kv_heads, D = c->head_dim;
    int64_t own_pages = T / KV_PAGE + a->max.seqs;
    DType act = a->max.act, real = real_of(act);
    TAKE(l, a->d_x, act, T, c->width);
    TAKE(l, a->d_normed, act, T, c->width);
    TAKE(l, a->d_h, act, T, c->ffn);
    TAKE(l, a->d_o, act, T, H, D);
    TAKE(l, a->dq, real, T, H, D);
    TAKE(l, a->dk_own, real, own_pages, G, KV_PAGE, D);
    TAKE(l, a->dv_own, real, own_pages, G, KV_PAGE, D);
    a->dq_raw = a->d_o;
    TAKE(l, a->dk_raw, act, T, G, D);
    TAKE(l, a->dv, act, T, G, D);
}

static Status lay_all(Acts *a, const ModelConfig *c, void *block, size_t size, size_t *used) {
    Layout l = {.st = ST_OK};
    arena_init(&l.arena, block, size);
    lay_shared(&l, a, c);
    lay_layers(&l, a, c);
    lay_head(&l, a, c);
    if (a->max.training) lay_backward(&l, a, c);
    *used = l.arena.used;
    return l.st;
}

/* The reports of a chunk come back to the host as what they are on the device. */
static Status open_host(Acts *a) {
    size_t n = (size_t)a->max.logits;
    double *p = malloc(n * (2 * sizeof(double) + 2 * sizeof(float) + 2 * sizeof(int32_t)) + sizeof(int32_t));
    NEED(p, ST_NOMEM, "no memory for the reports of %zu rows", n);
    a->host = p;
    a->host_loss64 = p, a->host_kl64 = p + n;
    a->host_loss = (float *)(p + 2 * n), a->host_kl = a->host_loss + n;
    a->host_best = (int32_t *)(a->host_kl + n), a->host_first = a->host_best + n;
    return ST_OK;
}

static Status check_limits(const ActsLimits *m) {
    NEED(m->rows >= 1 && m->logits >= 1, ST_ARG, "activations for %d rows and %d rows of logits: wanted at least one each",
         m->rows, m->logits);
    NEED(!m->training || (m->candidates >= 1 && m->seqs >= 1), ST_ARG,
         "training activations for %d candidates and %d sequences: wanted at least one each", m->candidates, m->seqs);
    return ST_OK;
}

Status acts_open(Acts **out, const Model *m, const ActsLimits *limits) {
    *out = NULL;
    TRY(check_limits(limits));
    Status st = ST_OK;
    Acts *a = calloc(1, sizeof *a);
    NEED(a, ST_NOMEM, "no memory for activations");
    a->max = *limits;
    a->ops = m->ops;
    size_t bytes;
    a->layer = calloc((size_t)m->cfg.layers, sizeof *a->layer);
    NEED_TO(failed, a->layer, ST_NOMEM, "no memory for the activations of %d layers", m->cfg.layers);
    TRY_TO(failed, lay_all(a, &m->cfg, NULL, 0, &bytes));
    TRY_TO(failed, m->ops->mem_open(&a->mem, bytes));
    TRY_TO(failed, lay_all(a, &m->cfg, a->mem, bytes, &bytes));
    TRY_TO(failed, open_host(a));
    *out = a;
    return ST_OK;
failed:
    acts_close(a);
    return st;
}

void acts_close(Acts *a) {
    if (!a) return;
    a->ops->mem_close(a->mem);
    free(a->host);
    free(a->layer);
    free(a);
}

size_t acts_bytes(const Model *m, const ActsLimits *limits) {
    Acts a = {.max = *limits, .layer = calloc((size_t)m->cfg.layers, sizeof(LayerActs))};
    size_t bytes = 0;
    if (a.layer) lay_all(&a, &m->cfg, NULL, 0, &bytes);
    free(a.layer);
    return bytes;
}

void footprint_pass(Footprint *out, const Model *m, int32_t pool_pages, const BatchLimits *batch,
                    const ActsLimits *acts) {
    const ModelConfig *c = &m->cfg;
    int32_t width = c->ffn > c->width ? c->ffn : c->width, heads = c->heads * c->head_dim;
    *out = (Footprint){
        .logits = (size_t)acts->logits * (size_t)c->vocab * dtype_bytes(real_of(acts->act)),
        .lists = batch_bytes(batch),
        .stream = {.rows = acts->rows, .width = width > heads ? width : heads, .vocab = c->vocab},
        .plan = batch_plan_limits(m, pool_pages, acts->act, batch, acts->training),
    };
    out->activations = acts_bytes(m, acts) - out->logits;
}

LayerActs *acts_layer(Acts *a, int32_t layer) {
    return &a->layer[layer];
}

Tensor acts_hidden(const Acts *a) {
    return first_rows(a->hidden, a->T);
}

Tensor first_rows(Tensor t, int64_t rows) {
    if (t.data) t.dim[0] = rows;
    return t;
}

LayerActs layer_rows(const LayerActs *l, int64_t T) {
    return (LayerActs){
        .x = first_rows(l->x, T), .rstd_attn = first_rows(l->rstd_attn, T),
        .q_raw = first_rows(l->q_raw, T), .k_raw = first_rows(l->k_raw, T),
        .q = first_rows(l->q, T), .o = first_rows(l->o, T), .lse = first_rows(l->lse, T),
        .x_mid = first_rows(l->x_mid, T), .rstd_ffn = first_rows(l->rstd_ffn, T),
        .gate = first_rows(l->gate, T), .up = first_rows(l->up, T),
    };
}

Tensor flat(Tensor t) {
    return tensor_shape(t, t.dim[0], t.dim[1] * t.dim[2]);
}
