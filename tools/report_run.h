/* report_run.h -- a training run as its metrics.jsonl tells it (engine/learn/metrics.h), and its curves. */
#ifndef TOOLS_REPORT_RUN_H
#define TOOLS_REPORT_RUN_H

#include "tools/report.h"

enum { RUN_NOTES = 20 };

typedef struct Run {
    /* One entry per step; NaN where the file says null. */
    double *step, *loss, *kl, *grad_norm, *lr, *seconds, *rows, *supervised, *conversations;
    int steps;
    int64_t planned; /* steps of the whole run */
    /* One entry per evaluation on held-out conversations. */
    double *held_step, *held_loss, *held_kl, *held_agree;
    int helds;
    double held_conversations, held_supervised; /* of the last */
    char *note[RUN_NOTES];                      /* "step 12: ..."; the first ones */
    int notes;
    bool cut; /* the last line is not complete and was left out: somebody is writing, or was stopped */
} Run;

/* ST_NOTFOUND; ST_FORMAT names the line and what is wrong with it; a file without a step is ST_FORMAT. */
Status run_read(Run *out, const char *path);
void run_close(Run *r); /* fine on a zeroed one */

/* Loss, divergence, held-out agreement, learning rate, tokens per second, gradient: what the run has of them.
 */
void run_figures(Page *p, const Run *r);
/* The whole page. `name` is what the run is called in its title. */
Status run_report(const Run *r, const char *name, const char *path);

#endif
