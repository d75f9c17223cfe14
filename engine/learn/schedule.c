/* schedule.c -- the learning rate of each step: a function of its number alone, so a resumed run needs no
 * state of it.
 *
 * The default peak: 2e-2 is known to suit steps of 64k tokens and to ruin runs with steps of 1k, where 2e-3
 * is wanted. Adam's update has the size of the rate whatever the gradient, so its noise must fall with the
 * rate: a square root. */
#include "engine/learn/schedule.h"

#include <math.h>

double schedule_peak(int32_t step_tokens) {
    return 2e-2 * sqrt(step_tokens / 65536.0);
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
