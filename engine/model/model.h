/* model.h -- the frozen transformer: its sizes and its weights, nothing else.
 *
 * Read from a Hugging Face folder as it is: config.json, model.safetensors or its shards with an index. Families:
 * Llama (SmolLM2, Llama 3.x with its rope scaling), Qwen2 / 2.5 (biases on q, k, v), Qwen3 (norm on each head's q
 * and k). Whatever config.json asks for beyond that (another rope type, sliding windows in use, an activation other
 * than silu) is an error that names it. */
#ifndef ENGINE_MODEL_MODEL_H
#define ENGINE_MODEL_MODEL_H

#include "kernels/base/file.h"
#include "kernels/ops.h"

typedef struct ModelConfig {
    int32_t layers, width, ffn, heads, kv_heads, head_dim, vocab, context_max;
    float norm_eps;
    double rope_theta;
    bool qk_norm, qkv_bias, tied_head;
    /* llama3 rope scaling; factor 0: none */
    double rope_factor, rope_low, rope_high;
    int32_t rope_original;
} ModelConfig;

typedef struct Layer {
    Tensor norm_attn;            /* [C] */
    Tensor wq, wk, wv, wo;       /* [H*D,C] [G*D,C] [G*D,C] [C,H*D] */
    Tensor bq, bk, bv;           /* absent unless qkv_bias */
    Tensor norm_q, norm_k;       /* [D], absent unless qk_norm */
    Tensor norm_ffn;             /* [C] */
    Tensor w_gate, w_up, w_down; /* [F,C] [F,C] [C,F] */
} Layer;

typedef struct Model {
    ModelConfig cfg;
    Tensor embed, norm_out, head; /* [V,C] [C] [V,C]; head is embed where tied */
    Tensor rope_freq;             /* [D/2] f32, radians per position, scaling included */
    float attn_scale;             /* 1/sqrt(D) */
    Layer *layer;                 /* [L] */
    const Ops *ops;
    char fingerprint[65];         /* SHA-256 over the sizes, the rope settings and every weight: ties cartridges to it */
    void *mem;                    /* owned: the one block that all of the above points into */
} Model;

/* Weights become bf16 (f32 and f16 checkpoints are rounded once, here). ST_NOTFOUND, ST_FORMAT (names file and
 * tensor), ST_UNSUPPORTED (names the setting), ST_NOMEM (asked and free). */
Status model_open(Model **out, const char *folder, const Ops *ops);
void model_close(Model *m);

/* Only config.json; what `inspect` and plans need. */
Status model_config_read(ModelConfig *out, const char *folder);
/* Bytes that model_open would take of the device for a model of these sizes. */
size_t model_bytes(const ModelConfig *c);
/* Bytes of keys and values of one row, all layers. */
int64_t model_row_bytes(const ModelConfig *c, DType type);

#endif
