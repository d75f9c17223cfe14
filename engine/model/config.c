/* config.c -- config.json to ModelConfig. What a checkpoint asks for and this engine does not do is an error that names
 * the setting: a model that runs with half of its settings gives plausible nonsense. */
#include "engine/model/config.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "kernels/base/json.h"

typedef struct Reader { const cJSON *o; const char *path; } Reader;

enum { LAYERS_MAX = 1 << 12, DIM_MAX = 1 << 24, QWEN3_HEAD_DIM = 128 };

static Status whole(const Reader *r, const char *key, int64_t high, int32_t *out) {
    int64_t v;
    TRY(json_integer(r->o, key, 1, high, &v, r->path));
    *out = (int32_t)v;
    return ST_OK;
}

static Status whole_or(const Reader *r, const char *key, int32_t fallback, int32_t *out) {
    int64_t v = fallback;
    TRY(json_integer_or(r->o, key, 1, DIM_MAX, &v, r->path));
    *out = (int32_t)v;
    return ST_OK;
}

static Status read_family(const Reader *r, ModelConfig *c) {
    const char *type;
    TRY(json_string(r->o, "model_type", &type, r->path));
    bool llama = !strcmp(type, "llama"), qwen2 = !strcmp(type, "qwen2"), qwen3 = !strcmp(type, "qwen3");
    NEED(llama || qwen2 || qwen3, ST_UNSUPPORTED, "%s: model_type \"%.40s\"; known are llama, qwen2, qwen3", r->path, type);
    c->qkv_bias = qwen2;
    c->qk_norm = qwen3;
    return ST_OK;
}

static Status read_sizes(const Reader *r, ModelConfig *c) {
    TRY(whole(r, "num_hidden_layers", LAYERS_MAX, &c->layers));
    TRY(whole(r, "hidden_size", DIM_MAX, &c->width));
    TRY(whole(r, "intermediate_size", DIM_MAX, &c->ffn));
    TRY(whole(r, "num_attention_heads", DIM_MAX, &c->heads));
    TRY(whole_or(r, "num_key_value_heads", c->heads, &c->kv_heads));
    TRY(whole_or(r, "head_dim", c->qk_norm ? QWEN3_HEAD_DIM : c->width / c->heads, &c->head_dim));
    TRY(whole(r, "vocab_size", DIM_MAX, &c->vocab));
    TRY(whole(r, "max_position_embeddings", DIM_MAX, &c->context_max));
    NEED(c->heads % c->kv_heads == 0, ST_UNSUPPORTED, "%s: %d query heads over %d key/value heads is no whole number",
         r->path, c->heads, c->kv_heads);
    int32_t D = c->head_dim;
    NEED(D == 32 || D == 64 || D == 96 || D == 128 || D == 256, ST_UNSUPPORTED,
         "%s: head_dim %d; possible are 32, 64, 96, 128, 256", r->path, D);
    NEED(c->heads <= DIM_MAX / D, ST_UNSUPPORTED, "%s: %d heads of %d make rows of more than %d numbers", r->path,
         c->heads, D, DIM_MAX);
    return ST_OK;
}

static Status refuse(const Reader *r, const char *key, bool fallback, bool only) {
    bool v = fallback;
    TRY(json_bool_or(r->o, key, &v, r->path));
    NEED(v == only, ST_UNSUPPORTED, "%s: %s is %s, which is not implemented", r->path, key, v ? "true" : "false");
    return ST_OK;
}

/* Newer files say of each layer how it attends. */
static Status read_layer_types(const Reader *r) {
    const cJSON *types = cJSON_GetObjectItemCaseSensitive(r->o, "layer_types"), *t;
    cJSON_ArrayForEach(t, types) {
        const char *type = cJSON_IsString(t) ? t->valuestring : "not a string";
        NEED(!strcmp(type, "full_attention"), ST_UNSUPPORTED, "%s: layer_types has \"%.40s\"; known is full_attention",
             r->path, type);
    }
    return ST_OK;
}

static Status refuse_quantised(const Reader *r) {
    const cJSON *q = cJSON_GetObjectItemCaseSensitive(r->o, "quantization_config");
    NEED(!q || cJSON_IsNull(q), ST_UNSUPPORTED,
         "%s: has a quantization_config; weights must be bf16, f16 or f32: take the unquantised checkpoint", r->path);
    return ST_OK;
}

static Status read_switches(const Reader *r, ModelConfig *c) {
    double eps = 1e-6;
    TRY(json_number_or(r->o, "rms_norm_eps", &eps, r->path));
    c->norm_eps = (float)eps;
    TRY(json_bool_or(r->o, "tie_word_embeddings", &c->tied_head, r->path));
    /* qwen2 always has biases on q, k, v and says nothing; for the others the setting would add one on o as well */
    if (!c->qkv_bias) TRY(refuse(r, "attention_bias", false, false));
    TRY(refuse(r, "mlp_bias", false, false));
    TRY(refuse(r, "use_sliding_window", false, false));
    const char *act = "silu";
    if (cJSON_HasObjectItem(r->o, "hidden_act")) TRY(json_string(r->o, "hidden_act", &act, r->path));
    NEED(!strcmp(act, "silu"), ST_UNSUPPORTED, "%s: hidden_act \"%.40s\"; known is silu", r->path, act);
    TRY(refuse_quantised(r));
    return read_layer_types(r);
}

static Status rope_type(const Reader *r, const char **out) {
    *out = "default";
    const char *key = cJSON_HasObjectItem(r->o, "rope_type") ? "rope_type" : "type"; /* the older name */
    if (cJSON_HasObjectItem(r->o, key)) TRY(json_string(r->o, key, out, r->path));
    return ST_OK;
}

static Status read_llama3(const Reader *r, ModelConfig *c) {
    int64_t original;
    TRY(json_number(r->o, "factor", &c->rope_factor, r->path));
    TRY(json_number(r->o, "low_freq_factor", &c->rope_low, r->path));
    TRY(json_number(r->o, "high_freq_factor", &c->rope_high, r->path));
    TRY(json_integer(r->o, "original_max_position_embeddings", 1, DIM_MAX, &original, r->path));
    c->rope_original = (int32_t)original;
    NEED(c->rope_factor >= 1 && c->rope_low > 0 && c->rope_high > c->rope_low, ST_FORMAT,
         "%s: rope scaling with factor %g, low %g, high %g makes no sense", r->path, c->rope_factor, c->rope_low,
         c->rope_high);
    return ST_OK;
}

static Status refuse_partial(const Reader *r) {
    double share = 1;
    TRY(json_number_or(r->o, "partial_rotary_factor", &share, r->path));
    NEED(share == 1, ST_UNSUPPORTED, "%s: partial_rotary_factor %g; only whole heads are rotated", r->path, share);
    return ST_OK;
}

/* Older files have rope_theta and rope_scaling side by side, newer ones both in rope_parameters. */
static Status read_rope(const Reader *r, ModelConfig *c) {
    const cJSON *newer = cJSON_GetObjectItemCaseSensitive(r->o, "rope_parameters");
    const cJSON *older = cJSON_GetObjectItemCaseSensitive(r->o, "rope_scaling");
    Reader scaling = {cJSON_IsObject(newer) ? newer : older, r->path};
    c->rope_theta = 10000;
    TRY(json_number_or(r->o, "rope_theta", &c->rope_theta, r->path));
    TRY(refuse_partial(r));
    if (cJSON_IsObject(scaling.o)) {
        const char *type;
        TRY(json_number_or(scaling.o, "rope_theta", &c->rope_theta, r->path));
        TRY(refuse_partial(&scaling));
        TRY(rope_type(&scaling, &type));
        if (!strcmp(type, "llama3")) TRY(read_llama3(&scaling, c));
        else NEED(!strcmp(type, "default"), ST_UNSUPPORTED, "%s: rope type \"%.40s\"; known are default, llama3", r->path, type);
    }
    NEED(isfinite(c->rope_theta) && c->rope_theta > 1, ST_FORMAT, "%s: rope_theta is %g", r->path, c->rope_theta);
    return ST_OK;
}

static Status read_all(const Reader *r, ModelConfig *c) {
    NEED(cJSON_IsObject(r->o), ST_FORMAT, "%s: is not a JSON object", r->path);
    TRY(read_family(r, c));
    TRY(read_sizes(r, c));
    TRY(read_switches(r, c));
    return read_rope(r, c);
}

Status model_config_read(ModelConfig *out, const char *folder) {
    *out = (ModelConfig){0};
    char path[PATH_MAX];
    cJSON *o;
    NEED(file_is_folder(folder), ST_NOTFOUND, "%s: is not a model folder; it needs config.json, tokenizer.json and "
         "safetensors files", folder);
    TRY(file_join(path, sizeof path, folder, "config.json"));
    TRY(json_load(&o, path));
    Status st = read_all(&(Reader){o, path}, out);
    cJSON_Delete(o);
    return st;
}

int64_t model_row_bytes(const ModelConfig *c, DType type) {
    return (int64_t)c->layers * 2 * c->kv_heads * c->head_dim * (int64_t)dtype_bytes(type);
}

/* Llama 3's scaling: wavelengths beyond the original context are stretched by the factor, short ones stay, and between
 * the two the change is gradual. */
static double scaled(const ModelConfig *c, double freq) {
    if (c->rope_factor == 0) return freq;
    double wavelength = 2 * 3.14159265358979323846 / freq;
    double low = c->rope_original / c->rope_low, high = c->rope_original / c->rope_high;
    if (wavelength > low) return freq / c->rope_factor;
    if (wavelength < high) return freq;
    double smooth = (c->rope_original / wavelength - c->rope_low) / (c->rope_high - c->rope_low);
    return (1 - smooth) * freq / c->rope_factor + smooth * freq;
}

void model_rope_freq(const ModelConfig *c, float *freq) {
    for (int32_t i = 0; i < c->head_dim / 2; i++)
        freq[i] = (float)scaled(c, pow(c->rope_theta, -2.0 * i / c->head_dim));
}
