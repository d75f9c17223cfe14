/* speed.c -- see speed.h. What is timed is decoding alone: from the pass after which every user has a first
 * token. */
#include "tools/demo/speed.h"

#include <time.h>

double clock_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void count(void *user, const Delivery *d) {
    int64_t *tokens = user;
    *tokens += d->id >= 0;
}

static Status ask(Session *s, const Prefix *const *prefix, const char *question, int32_t tokens,
                  int64_t *counter) {
    Message m = {ROLE_USER, bytes_of(question)};
    TokenVec v = {0};
    uint64_t ticket;
    Status st = chat_messages(s->chat, &m, 1, true, &v);
    Request r = {.prefix = prefix,
                 .prefixes = 1,
                 .token = v.v,
                 .n = v.n,
                 .pos = -1,
                 .new_max = tokens,
                 .sampling = {.top_p = 1},
                 .deliver = count,
                 .user = counter};
    if (!st) st = scheduler_submit(s->scheduler, &r, &ticket);
    tokens_close(&v);
    return st;
}

static Status decode(Session *s, int32_t users, int64_t *counter, Rate *out) {
    int32_t active = 1, free_pages = pool_free(s->pool);
    while (*counter < users) TRY(scheduler_step(s->scheduler, &active));
    out->own_pages = free_pages - pool_free(s->pool);
    double began = clock_seconds();
    int64_t before = *counter;
    while (active) TRY(scheduler_step(s->scheduler, &active));
    out->seconds = clock_seconds() - began;
    out->tokens_per_second = (double)(*counter - before) / out->seconds;
    return ST_OK;
}

Status speed_measure(Rate *out, Session *s, const Prefix *const *prefix, int32_t users,
                     const QuestionSet *set, int32_t tokens) {
    int64_t counter = 0;
    for (int32_t i = 0; i < users; i++)
        TRY(ask(s, prefix + i, set->q[i % set->n].question, tokens, &counter));
    return decode(s, users, &counter, out);
}
