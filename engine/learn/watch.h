/* watch.h -- how long work reports and is asked to stop, without printing and without signals of its own. */
#ifndef ENGINE_LEARN_WATCH_H
#define ENGINE_LEARN_WATCH_H

#include <stdbool.h>
#include <stdint.h>

typedef struct Watch {
    bool (*stop)(void *user); /* polled often; true: finish or roll back the piece in work, return ST_STOPPED */
    void (*progress)(void *user, const char *stage, int64_t done, int64_t total, const char *detail);
    void *user;
} Watch; /* NULL functions, or a NULL Watch: nobody watches */

static inline bool watch_stop(const Watch *w) {
    return w && w->stop && w->stop(w->user);
}
static inline void watch_progress(const Watch *w, const char *stage, int64_t done, int64_t total, const char *detail) {
    if (w && w->progress) w->progress(w->user, stage, done, total, detail);
}

#endif
