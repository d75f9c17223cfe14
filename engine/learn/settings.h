/* settings.h -- two runs' settings compared, each a JSON object. */
#ifndef ENGINE_LEARN_SETTINGS_H
#define ENGINE_LEARN_SETTINGS_H

#include "kernels/base/status.h"

/* ST_MISMATCH names the first setting that differs, with both values. */
Status settings_same(const char *path, const char *there, const char *here);

#endif
