/* scheduler.h -- many requests, one forward pass at a time.
 *
 * Nothing happens in reaction to a request: it waits in a bounded queue, and scheduler_step() runs at its own
 * pace: admit, build one batch (decoding sequences first, then pieces of prompts), forward, sample, deliver.
 * Self-study, evaluation, chat and the server share it. Admission reserves a request's maximum of pages, so a
 * running request never runs out. */
#ifndef ENGINE_RUN_SCHEDULER_H
#define ENGINE_RUN_SCHEDULER_H

#include "engine/run/sampler.h"
#include "engine/transformer/footprint.h"
#include "engine/transformer/transformer.h"

typedef enum Finish { RUNNING, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_FAILED } Finish;

typedef struct Delivery {
    int32_t id;            /* the new token; a stop token is delivered too (finish says so); -1: none */
    float logprob;         /* its raw log-probability */
    const int32_t *top_id; /* [topk], best first, from the very logits that chose id; NULL when topk is 0 */
    const float *top_logprob; /* [topk], natural log */
    Finish finish;
} Delivery;

typedef struct Request {
    const Prefix *const *prefix; /* [prefixes], ordered; held by the scheduler until it is done */
    int32_t prefixes;
    const int32_t *token; /* [n] prompt behind them, copied; n >= 1 */
    int32_t n;
    int32_t pos;     /* position of the first token, not below prefix_start(); -1: prefix_start() */
    int32_t new_max; /* >= 1 */
    int32_t topk;    /* log-probabilities wanted per new token */
    Sampling sampling;
    const int32_t *stop; /* [stops], copied */
    int32_t stops;
    /* From scheduler_step, once per new token; may submit and cancel. */
    void (*deliver)(void *user, const Delivery *d);
    void *user;
} Request;

typedef struct SchedulerLimits {
    int32_t rows;     /* of one pass, at least seqs */
    int32_t seqs;     /* running at once */
    int32_t queue;    /* waiting at most */
    int32_t topk;     /* largest */
    int32_t prefixes; /* per request, at most */
} SchedulerLimits;

typedef struct Scheduler Scheduler;
Status scheduler_open(Scheduler **out, const Model *m, PagePool *pool, const SchedulerLimits *limits);
/* What scheduler_open would take of the device beside the pool. */
void scheduler_footprint(Footprint *out, const Model *m, int32_t pool_pages, const SchedulerLimits *limits);
void scheduler_close(Scheduler *s); /* drops whatever still runs, without deliveries */
/* ST_FULL: the queue is full; ST_ARG: can never run (prompt plus new_max beyond context or pool: the
 * numbers). */
Status scheduler_submit(Scheduler *s, const Request *r, uint64_t *ticket);
/* Queued or running: the next step delivers FINISH_CANCELLED and nothing else comes; unknown or done:
 * nothing. */
void scheduler_cancel(Scheduler *s, uint64_t ticket);
/* One pass; *active: requests left, queued ones included. ST_FULL: nothing runs, and what others hold leaves
 * too few pages for the request at the head of the queue; it stays there. When the pass itself fails,
 * everything that ran is delivered FINISH_FAILED and the queue is kept. */
Status scheduler_step(Scheduler *s, int32_t *active);

SchedulerLimits scheduler_limits(const Scheduler *s);
/* The scheduler's own batch, activations (limits.seqs rows of logits at a time) and stream, for a capture or
 * a forward pass of one's own between two steps. */
struct CaptureTools;
void scheduler_capture_tools(Scheduler *s, struct CaptureTools *out);

typedef struct SchedulerCounts {
    int64_t steps, rows, tokens, requests, cancelled;
} SchedulerCounts;
SchedulerCounts scheduler_counts(const Scheduler *s);

#endif
