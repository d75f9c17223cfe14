/* tiny_model.c -- see tiny_model.h. One function names every weight; it runs once to count, once to fill a
 * block on the host, and once to place the tensors in the backend's memory, where the block is then copied.
 */
#include "tests/tiny_model.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/base/random.h"

ModelConfig tiny_config(TinyFamily family) {
    static const ModelConfig config[TINY_FAMILIES] = {
        [TINY_LLAMA] = {.layers = 2,
                        .width = 48,
                        .ffn = 80,
                        .heads = 6,
                        .kv_heads = 2,
                        .head_dim = 32,
                        .vocab = 101,
                        .tied_head = true},
        [TINY_QWEN2] = {.layers = 3,
                        .width = 40,
                        .ffn = 56,
                        .heads = 3,
                        .kv_heads = 1,
                        .head_dim = 32,
                        .vocab = 67,
                        .qkv_bias = true},
        [TINY_QWEN3] = {.layers = 2,
                        .width = 56,
                        .ffn = 64,
                        .heads = 4,
                        .kv_heads = 4,
                        .head_dim = 32,
                        .vocab = 83,
                        .qk_norm = true,
                        .tied_head = true},
    };
    ModelConfig c = config[family];
    c.context_max = 2048;
    c.norm_eps = 1e-5f;
    c.rope_theta = 10000;
    return c;
}

typedef struct Weights {
    Arena *arena;
    bool fill;
    uint64_t seed, stream;
} Weights;

static void put_weight(Tensor t, int64_t i, float v) {
    if (t.dtype == DT_F32)
        ((float *)t.data)[i] = v;
    else
        ((uint16_t *)t.data)[i] = f32_to_bf16(v);
}

/* One tensor of normal numbers around `mean`. */
static Status weight(Weights *w, Tensor *t, float mean, float deviation, int64_t rows, int64_t columns) {
    if (columns)
        TRY(tensor_take(t, w->arena, DT_BF16, rows, columns));
    else
        TRY(tensor_take(t, w->arena, DT_BF16, rows));
    uint64_t stream = w->stream++;
    for (int64_t i = 0; w->fill && i < tensor_count(*t); i++)
        put_weight(*t, i, mean + deviation * random_normal(w->seed, stream, (uint64_t)i));
    return ST_OK;
}

static Status matrix(Weights *w, Tensor *t, int64_t out, int64_t in) {
    return weight(w, t, 0, 1 / sqrtf((float)in), out, in);
}

static Status layer_weights(Weights *w, const ModelConfig *c, Layer *l) {
    int64_t q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    TRY(weight(w, &l->norm_attn, 1.2f, 0.3f, c->width, 0));
    TRY(matrix(w, &l->wq, q, c->width));
    TRY(matrix(w, &l->wk, kv, c->width));
    TRY(matrix(w, &l->wv, kv, c->width));
    TRY(matrix(w, &l->wo, c->width, q));
    if (c->qkv_bias) {
        TRY(weight(w, &l->bq, 0, 0.3f, q, 0));
        TRY(weight(w, &l->bk, 0, 0.3f, kv, 0));
        TRY(weight(w, &l->bv, 0, 0.3f, kv, 0));
    }
    if (c->qk_norm) {
        TRY(weight(w, &l->norm_q, 1.2f, 0.3f, c->head_dim, 0));
        TRY(weight(w, &l->norm_k, 1.2f, 0.3f, c->head_dim, 0));
    }
    TRY(weight(w, &l->norm_ffn, 1.2f, 0.3f, c->width, 0));
    TRY(matrix(w, &l->w_gate, c->ffn, c->width));
    TRY(matrix(w, &l->w_up, c->ffn, c->width));
    return matrix(w, &l->w_down, c->width, c->ffn);
}

static Status rope_freq(Weights *w, const ModelConfig *c, Tensor *t) {
    TRY(tensor_take(t, w->arena, DT_F32, c->head_dim / 2));
    for (int32_t i = 0; w->fill && i < c->head_dim / 2; i++)
        put_weight(*t, i, (float)pow(c->rope_theta, -2.0 * i / c->head_dim));
    return ST_OK;
}

static Status all_weights(Weights *w, Model *m) {
    const ModelConfig *c = &m->cfg;
    TRY(weight(w, &m->embed, 0, 1, c->vocab, c->width));
    for (int32_t l = 0; l < c->layers; l++) TRY(layer_weights(w, c, &m->layer[l]));
    TRY(weight(w, &m->norm_out, 1.2f, 0.3f, c->width, 0));
    m->head = m->embed;
    if (!c->tied_head) TRY(matrix(w, &m->head, c->vocab, c->width));
    return rope_freq(w, c, &m->rope_freq);
}

static Status upload(Model *m, const void *host, size_t bytes) {
    Stream *s;
    TRY(m->ops->stream_open(&s, &(StreamLimits){1, m->cfg.width, m->cfg.vocab}));
    Status st = m->ops->copy(s, m->mem, host, bytes);
    if (!st) st = m->ops->sync(s);
    m->ops->stream_close(s);
    return st;
}

static Status build(Model *m, uint64_t seed) {
    Arena count, mem;
    arena_init(&count, NULL, 0);
    TRY(all_weights(&(Weights){.arena = &count}, m));
    void *host = calloc(1, count.used); /* the gaps too count in the fingerprint */
    NEED(host, ST_NOMEM, "no memory for a tiny model of %zu bytes", count.used);
    Status st = ST_OK;
    arena_init(&mem, host, count.used);
    TRY_TO(done, all_weights(&(Weights){.arena = &mem, .fill = true, .seed = seed}, m));
    digest_hex(sha256_of(host, count.used), m->fingerprint);
    TRY_TO(done, m->ops->mem_open(&m->mem, count.used));
    arena_init(&mem, m->mem, count.used);
    TRY_TO(done, all_weights(&(Weights){.arena = &mem}, m));
    TRY_TO(done, upload(m, host, count.used));
done:
    free(host);
    return st;
}

Status tiny_model_open(Model **out, const ModelConfig *cfg, const Ops *ops, uint64_t seed) {
    *out = NULL;
    assert(cfg->rope_factor == 0);
    Status st = ST_OK;
    Model *m = calloc(1, sizeof *m);
    NEED(m, ST_NOMEM, "no memory for a tiny model");
    m->cfg = *cfg;
    m->ops = ops;
    m->attn_scale = 1 / sqrtf((float)cfg->head_dim);
    m->layer = calloc((size_t)cfg->layers, sizeof *m->layer);
    NEED_TO(done, m->layer, ST_NOMEM, "no memory for %d layers", cfg->layers);
    TRY_TO(done, build(m, seed));
    *out = m;
    m = NULL;
done:
    tiny_model_close(m);
    return st;
}

void tiny_model_close(Model *m) {
    if (!m) return;
    if (m->mem) m->ops->mem_close(m->mem);
    free(m->layer);
    free(m);
}
