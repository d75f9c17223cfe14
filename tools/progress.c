/* progress.c -- see progress.h. The estimate of the time left is that of the current stage: time so far times
 * what is left over what is done. */
#include "tools/progress.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BAR = 20 };
static const double PLAIN_EVERY = 10, TERMINAL_EVERY = 0.1; /* seconds */

static volatile sig_atomic_t interrupts;
static struct {
    bool quiet, terminal, open;
    char stage[40];
    double began, shown;
    int64_t from; /* done when the stage began: a resumed stage is not as fast as it looks */
} state;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void on_signal(int number) {
    if (interrupts++) {
        signal(number, SIG_DFL);
        raise(number);
    }
}

static bool stop(void *user) {
    (void)user;
    return interrupts > 0;
}

bool progress_interrupted(void) {
    return interrupts > 0;
}

static void write_duration(char *out, size_t cap, double seconds) {
    long s = (long)(seconds + 0.5);
    if (s < 60)
        snprintf(out, cap, "%lds", s);
    else if (s < 3600)
        snprintf(out, cap, "%ldm%02lds", s / 60, s % 60);
    else
        snprintf(out, cap, "%ldh%02ldm", s / 3600, s / 60 % 60);
}

static void begin_stage(const char *stage, int64_t done, double t) {
    progress_end();
    snprintf(state.stage, sizeof state.stage, "%s", stage);
    state.began = t;
    state.shown = state.terminal ? 0 : t;
    state.from = done;
}

static void show(int64_t done, int64_t total, const char *detail, double t) {
    char left[24] = "?", bar[BAR + 1];
    int64_t moved = done - state.from;
    int64_t missing = total > done ? total - done : 0; /* a stage may finish more than it was asked for */
    if (moved > 0) write_duration(left, sizeof left, (t - state.began) * (double)missing / (double)moved);
    int filled = total > 0 ? (int)(done * BAR / total) : 0;
    for (int i = 0; i < BAR; i++) bar[i] = i < filled ? '#' : '.';
    bar[BAR] = '\0';
    fprintf(stderr,
            state.terminal ? "\r\033[K%-12s %s %lld/%lld  %s  %s left" : "%-12s %s %lld/%lld  %s  %s left\n",
            state.stage, bar, (long long)done, (long long)total, detail ? detail : "", left);
    state.open = state.terminal;
    state.shown = t;
}

static void progress(void *user, const char *stage, int64_t done, int64_t total, const char *detail) {
    (void)user;
    if (state.quiet) return;
    double t = now();
    if (strncmp(stage, state.stage, sizeof state.stage - 1)) begin_stage(stage, done, t);
    bool last = done >= total;
    if (last || t - state.shown >= (state.terminal ? TERMINAL_EVERY : PLAIN_EVERY))
        show(done, total, detail, t);
}

void progress_end(void) {
    if (state.open) fputc('\n', stderr);
    state.open = false;
    state.stage[0] = '\0';
}

const Watch *progress_start(ProgressMode mode) {
    static const Watch watch = {stop, progress, NULL};
    state.quiet = mode == PROGRESS_NEVER;
    state.terminal = mode == PROGRESS_ALWAYS || isatty(STDERR_FILENO);
    struct sigaction act = {.sa_handler = on_signal};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    return &watch;
}
