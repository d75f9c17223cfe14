/* model.c -- weights from safetensors files into one block of device memory, as bf16.
 *
 * One function walks all weights of the family in a fixed order; it runs three times: to count memory (and hold the
 * files' shapes against config.json, before much of it is asked for), to place the tensors, to load and hash them. */
#include "engine/model/config.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/safetensors.h"
#include "kernels/base/json.h"

enum { SHARDS_MAX = 512 };

/* ---- the files of a folder ---- */

typedef struct Shards { SafeFile *file[SHARDS_MAX]; int32_t n; } Shards;

static void shards_close(Shards *s) {
    for (int32_t i = 0; i < s->n; i++) safe_close(s->file[i]);
    s->n = 0;
}

static Status add_shard(Shards *s, const char *folder, const char *name) {
    char path[PATH_MAX];
    NEED(s->n < SHARDS_MAX, ST_UNSUPPORTED, "%s: more than %d shards", folder, SHARDS_MAX);
    NEED(!strchr(name, '/'), ST_FORMAT, "%s: the index names a file outside the folder: %.80s", folder, name);
    TRY(file_join(path, sizeof path, folder, name));
    TRY(safe_open(&s->file[s->n], path));
    s->n++;
    return ST_OK;
}

/* weight_map: tensor -> file. Every file once. */
static Status open_indexed(Shards *s, const char *folder, const char *index) {
    cJSON *o;
    Status st = ST_OK;
    TRY(json_load(&o, index));
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(o, "weight_map"), *m;
    NEED_TO(done, cJSON_IsObject(map), ST_FORMAT, "%s: has no weight_map", index);
    const char *seen[SHARDS_MAX];
    int32_t known = 0;
    cJSON_ArrayForEach(m, map) {
        NEED_TO(done, cJSON_IsString(m), ST_FORMAT, "%s: \"%s\" names no file", index, m->string);
        int32_t i = 0;
        while (i < known && strcmp(seen[i], m->valuestring)) i++;
        if (i < known) continue;
        TRY_TO(done, add_shard(s, folder, m->valuestring));
        seen[known++] = m->valuestring;
    }
done:
    cJSON_Delete(o);
    return st;
}

static Status shards_open(Shards *s, const char *folder) {
    char index[PATH_MAX];
    TRY(file_join(index, sizeof index, folder, "model.safetensors.index.json"));
    return file_exists(index) ? open_indexed(s, folder, index) : add_shard(s, folder, "model.safetensors");
}

static const SafeFile *shard_with(const Shards *s, const char *name) {
    for (int32_t i = 0; i < s->n; i++)
        if (safe_has(s->file[i], name)) return s->file[i];
    return NULL;
}

/* ---- the walk over all weights ---- */

typedef struct Walk {
    Model *m;
    enum { WALK_CHECK, WALK_PLACE, WALK_LOAD } pass;
    Arena arena;
    const char *folder; /* for messages */
    const Shards *shards;
    Stream *stream;
    Sha256 *hash;
    Tensor staging; /* bf16 host memory for weights that must be converted */
} Walk;

/* A weight as bf16 in host memory: the file's own bytes where they are bf16 already. */
static Status as_bf16(const Walk *w, Tensor file, Tensor *out) {
    if (file.dtype == DT_BF16) {
        *out = file;
        return ST_OK;
    }
    Tensor t = tensor_rows(w->staging, 0, tensor_count(file));
    tensor_convert(t, 0, file, 0, tensor_count(file));
    *out = t;
    return ST_OK;
}

static Status check_weight(const Walk *w, Tensor t, const char *name) {
    const SafeFile *shard = shard_with(w->shards, name);
    Tensor file;
    char seen[96], want[96];
    NEED(shard, ST_FORMAT, "%s: no safetensors file has the tensor \"%s\"", w->folder, name);
    TRY(safe_find(shard, name, &file));
    tensor_print(file, seen, sizeof seen);
    tensor_print(t, want, sizeof want);
    NEED(tensor_matches(file, file.dtype, t.ndim, t.dim) && file.dtype != DT_I32, ST_FORMAT,
         "%s: \"%s\" is %s, config.json wants %s", safe_path(shard), name, seen, want);
    return ST_OK;
}

static Status load_weight(const Walk *w, Tensor t, const char *name) {
    Tensor file, host;
    TRY(safe_find(shard_with(w->shards, name), name, &file));
    TRY(as_bf16(w, file, &host));
    sha256_add(w->hash, host.data, tensor_bytes(host));
    TRY(w->m->ops->copy(w->stream, t.data, host.data, tensor_bytes(t)));
    return w->m->ops->sync(w->stream); /* the staging memory is about to be used again */
}

static Status weight(Walk *w, Tensor *t, const char *name, int32_t ndim, const int64_t *dim) {
    if (w->pass == WALK_LOAD) return load_weight(w, *t, name);
    TRY(tensor_place(t, &w->arena, DT_BF16, ndim, dim));
    return w->pass == WALK_CHECK ? check_weight(w, *t, name) : ST_OK;
}

/* WEIGHT(w, &layer->wq, rows, columns, "model.layers.%d.self_attn.q_proj.weight", i) */
#define VECTOR(w, t, n, ...)                                                                                 \
    do {                                                                                                     \
        char name_[96];                                                                                      \
        snprintf(name_, sizeof name_, __VA_ARGS__);                                                          \
        TRY(weight((w), (t), name_, TENSOR_SHAPE(n)));                                                       \
    } while (0)
#define MATRIX(w, t, rows, columns, ...)                                                                     \
    do {                                                                                                     \
        char name_[96];                                                                                      \
        snprintf(name_, sizeof name_, __VA_ARGS__);                                                          \
        TRY(weight((w), (t), name_, TENSOR_SHAPE(rows, columns)));                                           \
    } while (0)

static Status walk_layer(Walk *w, Layer *l, int32_t i) {
    const ModelConfig *c = &w->m->cfg;
    int64_t C = c->width, F = c->ffn, Q = (int64_t)c->heads * c->head_dim, K = (int64_t)c->kv_heads * c->head_dim;
    VECTOR(w, &l->norm_attn, C, "model.layers.%d.input_layernorm.weight", i);
    MATRIX(w, &l->wq, Q, C, "model.layers.%d.self_attn.q_proj.weight", i);
    MATRIX(w, &l->wk, K, C, "model.layers.%d.self_attn.k_proj.weight", i);
    MATRIX(w, &l->wv, K, C, "model.layers.%d.self_attn.v_proj.weight", i);
    MATRIX(w, &l->wo, C, Q, "model.layers.%d.self_attn.o_proj.weight", i);
    if (c->qkv_bias) {
        VECTOR(w, &l->bq, Q, "model.layers.%d.self_attn.q_proj.bias", i);
        VECTOR(w, &l->bk, K, "model.layers.%d.self_attn.k_proj.bias", i);
        VECTOR(w, &l->bv, K, "model.layers.%d.self_attn.v_proj.bias", i);
    }
    if (c->qk_norm) {
        VECTOR(w, &l->norm_q, c->head_dim, "model.layers.%d.self_attn.q_norm.weight", i);
        VECTOR(w, &l->norm_k, c->head_dim, "model.layers.%d.self_attn.k_norm.weight", i);
    }
    VECTOR(w, &l->norm_ffn, C, "model.layers.%d.post_attention_layernorm.weight", i);
    MATRIX(w, &l->w_gate, F, C, "model.layers.%d.mlp.gate_proj.weight", i);
    MATRIX(w, &l->w_up, F, C, "model.layers.%d.mlp.up_proj.weight", i);
    MATRIX(w, &l->w_down, C, F, "model.layers.%d.mlp.down_proj.weight", i);
    return ST_OK;
}

static Status walk_model(Walk *w) {
    Model *m = w->m;
    int64_t V = m->cfg.vocab, C = m->cfg.width;
    MATRIX(w, &m->embed, V, C, "model.embed_tokens.weight");
    for (int32_t i = 0; i < m->cfg.layers; i++) TRY(walk_layer(w, &m->layer[i], i));
    VECTOR(w, &m->norm_out, C, "model.norm.weight");
    if (m->cfg.tied_head) m->head = m->embed;
    else MATRIX(w, &m->head, V, C, "lm_head.weight");
    if (w->pass != WALK_LOAD) TRY(tensor_take(&m->rope_freq, &w->arena, DT_F32, m->cfg.head_dim / 2));
    return ST_OK;
}

/* ---- opening ---- */

size_t model_bytes(const ModelConfig *c) {
    Model m = {.cfg = *c, .layer = calloc((size_t)c->layers, sizeof(Layer))};
    Walk w = {.m = &m, .pass = WALK_PLACE};
    arena_init(&w.arena, NULL, 0);
    Status st = m.layer ? walk_model(&w) : ST_NOMEM;
    free(m.layer);
    return st ? 0 : w.arena.used;
}

static Status take_memory(Model *m, const char *folder, const Shards *shards) {
    Walk w = {.m = m, .pass = WALK_CHECK, .folder = folder, .shards = shards};
    arena_init(&w.arena, NULL, 0);
    TRY(walk_model(&w));
    size_t bytes = w.arena.used;
    Status st = m->ops->mem_open(&m->mem, bytes);
    if (st) return status_prefix(st, "weights");
    if (m->ops->mem_filled) m->ops->mem_filled(m->mem, bytes);
    arena_init(&w.arena, m->mem, bytes);
    w.pass = WALK_PLACE;
    return walk_model(&w);
}

/* Sizes and rope settings first: two models with equal weights and another rope are not the same. */
static void hash_config(Sha256 *h, const ModelConfig *c) {
    char text[256];
    int n = snprintf(text, sizeof text, "%d %d %d %d %d %d %d %d %d %d %.9g %.17g %.17g %.17g %.17g %d", c->layers, c->width,
                     c->ffn, c->heads, c->kv_heads, c->head_dim, c->vocab, c->qk_norm, c->qkv_bias, c->tied_head,
                     (double)c->norm_eps, c->rope_theta, c->rope_factor, c->rope_low, c->rope_high, c->rope_original);
    sha256_add(h, text, (size_t)n);
}

static int64_t largest_weight(const ModelConfig *c) {
    int64_t embed = (int64_t)c->vocab * c->width, ffn = (int64_t)c->ffn * c->width;
    int64_t q = (int64_t)c->heads * c->head_dim * c->width, most = embed > ffn ? embed : ffn;
    return most > q ? most : q;
}

static bool all_bf16(const Shards *s) {
    Tensor t;
    for (int32_t i = 0; i < s->n; i++)
        for (int32_t j = 0; j < safe_count(s->file[i]); j++)
            if (!safe_find(s->file[i], safe_name(s->file[i], j), &t) && t.dtype != DT_BF16) return false;
    return true;
}

static Status load(Model *m, const char *folder, const Shards *shards, Stream *stream) {
    Walk w = {.m = m, .pass = WALK_LOAD, .folder = folder, .shards = shards, .stream = stream};
    Status st = ST_OK;
    if (!all_bf16(shards)) {
        w.staging = tensor_of(&w, DT_BF16, largest_weight(&m->cfg));
        w.staging.data = malloc(tensor_bytes(w.staging));
        NEED(w.staging.data, ST_NOMEM, "%s: no memory to convert its weights", folder);
    }
    TRY_TO(done, sha256_open(&w.hash));
    hash_config(w.hash, &m->cfg);
    st = walk_model(&w);
    digest_hex(sha256_finish(&w.hash), m->fingerprint);
done:
    free(w.staging.data);
    return st;
}

static Status load_rope(Model *m, Stream *stream) {
    float freq[128];
    model_rope_freq(&m->cfg, freq);
    TRY(m->ops->copy(stream, m->rope_freq.data, freq, tensor_bytes(m->rope_freq)));
    return m->ops->sync(stream);
}

Status model_open(Model **out, const char *folder, const Ops *ops) {
    *out = NULL;
    Status st = ST_OK;
    Shards shards = {.n = 0};
    Stream *stream = NULL;
    Model *m = calloc(1, sizeof *m);
    NEED(m, ST_NOMEM, "%s: no memory to open it", folder);
    m->ops = ops;
    TRY_TO(failed, model_config_read(&m->cfg, folder));
    m->attn_scale = 1.0f / __builtin_sqrtf((float)m->cfg.head_dim);
    m->layer = calloc((size_t)m->cfg.layers, sizeof *m->layer);
    NEED_TO(failed, m->layer, ST_NOMEM, "%s: no memory for %d layers", folder, m->cfg.layers);
    TRY_TO(failed, shards_open(&shards, folder));
    TRY_TO(failed, take_memory(m, folder, &shards));
    TRY_TO(failed, ops->stream_open(&stream, &(StreamLimits){1, 1, 1}));
    TRY_TO(failed, load(m, folder, &shards, stream));
    TRY_TO(failed, load_rope(m, stream));
    *out = m;
    m = NULL;
failed:
    if (stream) ops->stream_close(stream);
    shards_close(&shards);
    model_close(m);
    return st;
}

void model_close(Model *m) {
    if (!m) return;
    m->ops->mem_close(m->mem);
    free(m->layer);
    free(m);
}
