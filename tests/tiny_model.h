/* tiny_model.h -- small random models for tests, built in memory: any sizes, weights from a seed.
 *
 * Weights are scaled so that every part of a layer matters: attention is neither flat nor one-hot, biases and
 * norm weights differ from zero and one. The same sizes and seed give the same model on every backend. */
#ifndef TESTS_TINY_MODEL_H
#define TESTS_TINY_MODEL_H

#include "engine/model/model.h"

/* The families that differ in the layer: plain; q/k/v bias; qk-norm. Each with its own grouping of heads. */
typedef enum TinyFamily { TINY_LLAMA, TINY_QWEN2, TINY_QWEN3, TINY_FAMILIES } TinyFamily;

ModelConfig tiny_config(TinyFamily family);
/* bf16 weights. No rope scaling: rope_factor must be 0. */
Status tiny_model_open(Model **out, const ModelConfig *cfg, const Ops *ops, uint64_t seed);
void tiny_model_close(Model *m); /* fine on NULL */

#endif
