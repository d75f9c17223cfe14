/* config.h -- inside engine/model: what config.c gives to model.c beside model.h. */
#ifndef ENGINE_MODEL_CONFIG_H
#define ENGINE_MODEL_CONFIG_H

#include "engine/model/model.h"

/* freq: [D/2] radians per position, rope scaling included. */
void model_rope_freq(const ModelConfig *c, float *freq);

#endif
