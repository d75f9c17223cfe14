/* schedule.c -- the learning rate of each step: a function of its number alone, so a resumed run needs no
 * state of it.
 *
 * The default peak is 2e-2, which the published recipes use for large steps; for small steps it falls with the square
 * root of their supervised tokens, because Adam's update has the size of the rate whatever the gradient, and its noise
 * must fall with the step. Where it begins to fall was measured on SmolLM2-135M: docs/decisions.md. */
#include "engine/learn/schedule.h"

#include <math.h>

static const double PEAK = 2e-2, FULL_STEP = 1536; /* supervised tokens from which the peak holds */

double schedule_peak(int32_t step_tokens) {
    return step_tokens < FULL_STEP ? PEAK * sqrt(step_tokens / FULL_STEP) : PEAK;
}

/* 1 at the first step after warm-up, 0 at the last step of all. */
static double remaining(int64_t step, int64_t warmup, int64_t steps) {
    int64_t last = steps - 1;
    return last > warmup ? (double)(last - step) / (double)(last - warmup) : 1;
}

double schedule_rate(const TrainerOptions *o, double peak, int64_t step, int64_t steps) {
    const double pi = 3.14159265358979323846;
    int64_t warmup = o->warmup < steps / 2 ? o->warmup : steps / 2;
    if (step < warmup) return peak * (double)(step + 1) / (double)warmup;
    double left = remaining(step, warmup, steps), share = 1;
    if (o->schedule == SCHEDULE_LINEAR) share = left;
    if (o->schedule == SCHEDULE_COSINE) share = 0.5 - 0.5 * cos(pi * left);
    return peak * (o->lr_end + (1 - o->lr_end) * share);
}
