/* demo_model.h -- the demo's model with what it takes to let it talk, and its thoughts token by token, for
 * tests that compare them with what the engine says. */
#ifndef TESTS_DEMO_MODEL_H
#define TESTS_DEMO_MODEL_H

#include "engine/run/scheduler.h"
#include "engine/text/chat.h"
#include "engine/transformer/capture.h"

#define DEMO_MODEL CARTRIDGE_SOURCE_DIR "/tools/demo/model"

typedef struct Demo {
    Model *m;
    PagePool *pool; /* f32 */
    Tokenizer *t;
    Chat *chat;
    Scheduler *s;
} Demo;

void demo_open(Demo *d, const Ops *ops, int32_t pages, const SchedulerLimits *limits);
void demo_close(Demo *d);

/* A text in a system turn, as what follows sees it. */
Prefix *demo_capture(Demo *d, const char *text);

/* The sequence's next token behind the prefix, in a batch of its own: the logits of what comes after it. Good
 * until the next call. */
const float *demo_next(Demo *d, const Prefix *p, Sequence *q, int32_t token);
/* Of a token among those logits. */
double demo_logprob(const Demo *d, const float *logits, int32_t id);

/* Watch.stop: true when it has been asked as often as the int at `left` says. */
bool stop_later(void *left);

#endif
