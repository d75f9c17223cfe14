/* schedule.h -- the learning rate of each step. */
#ifndef ENGINE_LEARN_SCHEDULE_H
#define ENGINE_LEARN_SCHEDULE_H

#include "engine/learn/trainer.h"

/* 2e-2 at 65,536 supervised tokens a step, falling with the square root of their number. */
double schedule_peak(int32_t step_tokens);

/* Of step 0 .. steps-1. Warm-up rises in equal parts to the peak at its last step; then the schedule falls to
 * lr_end * peak at the run's last step. */
double schedule_rate(const TrainerOptions *o, double peak, int64_t step, int64_t steps);

#endif
