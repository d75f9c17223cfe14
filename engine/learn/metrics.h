/* metrics.h -- metrics.jsonl of a run: one JSON object per step, per evaluation and per remark. */
#ifndef ENGINE_LEARN_METRICS_H
#define ENGINE_LEARN_METRICS_H

#include "engine/learn/trainer.h"

typedef struct Metrics Metrics;
/* Keeps the first `lines` lines of what is there; 0 starts anew. */
Status metrics_open(Metrics **out, const char *path, int64_t lines);
void metrics_close(Metrics *m); /* fine on NULL */
int64_t metrics_lines(const Metrics *m);

Status metrics_step(Metrics *m, const StepReport *r);
Status metrics_heldout(Metrics *m, int64_t step, const HeldOut *h);
Status metrics_note(Metrics *m, int64_t step, const char *note);

#endif
