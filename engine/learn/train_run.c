/* train_run.c -- the whole run: evaluate, save, step, until the steps are done or held-out KL has stopped
 * falling.
 *
 * A run can be stopped between any two micro-batches. A step in work is then given up, so that the checkpoint
 * always stands between two steps, where rows, moments and counters say everything; the resumed run takes
 * that step again. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/learn/metrics.h"
#include "engine/learn/trainer_state.h"

typedef struct Run {
    Trainer *t;
    const Watch *watch;
    Metrics *metrics;           /* NULL: none are written here */
    char checkpoint[PATH_MAX];  /* "": no folder */
    int64_t saved;              /* the step of the last checkpoint, -1: none */
} Run;

/* ---- files ---- */

static bool writes(const Run *r) {
    return r->checkpoint[0] && ranks_me(r->t->ranks) == 0;
}

/* What the writing rank met, all ranks must hear: else they wait for it for ever. */
static Status agree(const Run *r, Status st) {
    double failed = st ? 1 : 0;
    TRY(ranks_sum_host(r->t->ranks, &failed, 1));
    if (st || failed == 0) return st;
    FAIL(ST_COMM, "another rank failed; it says why");
}

static Status save(Run *r) {
    if (r->checkpoint[0] == '\0' || r->saved == r->t->at.step) return ST_OK;
    if (r->metrics) r->t->at.metrics = metrics_lines(r->metrics);
    TRY(agree(r, writes(r) ? trainer_save(r->t, r->checkpoint) : ST_OK));
    r->saved = r->t->at.step;
    return ST_OK;
}

static Status make_folder(const char *path) {
    NEED(mkdir(path, 0777) == 0 || errno == EEXIST, errno == ENOSPC ? ST_NOSPACE : ST_IO,
         "%s: cannot be made: %s", path, strerror(errno));
    NEED(file_is_folder(path), ST_ARG, "%s: is not a folder; name one for checkpoint and metrics", path);
    return ST_OK;
}

/* The machine differs: announced, because last bits may. */
static Status compare_machines(Run *r, const char *there) {
    char here[160], note[400];
    trainer_machine(r->t, here, sizeof here);
    if (!strcmp(there, here)) return ST_OK;
    snprintf(note, sizeof note,
             "resumed with other machine settings: %s before, %s now; last digits may differ", there, here);
    watch_progress(r->watch, "train", r->t->at.step, r->t->visits.steps, note);
    return r->metrics ? metrics_note(r->metrics, r->t->at.step, note) : ST_OK;
}

static Status open_files(Run *r, bool resume) {
    Trainer *t = r->t;
    char metrics[PATH_MAX], there[160] = "";
    if (!t->o.run_dir) return ST_OK;
    TRY(make_folder(t->o.run_dir));
    TRY(file_join(r->checkpoint, sizeof r->checkpoint, t->o.run_dir, "checkpoint.safetensors"));
    TRY(file_join(metrics, sizeof metrics, t->o.run_dir, "metrics.jsonl"));
    bool found = file_exists(r->checkpoint);
    NEED(resume || !found, ST_ARG,
         "%s: a run has left its checkpoint there; resume it, or name another folder", r->checkpoint);
    if (found) {
        TRY(trainer_load(t, r->checkpoint));
        TRY(trainer_saved_machine(r->checkpoint, there, sizeof there));
        r->saved = t->at.step;
    }
    if (writes(r)) TRY(metrics_open(&r->metrics, metrics, t->at.metrics));
    return found ? compare_machines(r, there) : ST_OK;
}

/* ---- the parts of a run ---- */

static Status evaluate_rows(Run *r) {
    Trainer *t = r->t;
    Progress *at = &t->at;
    HeldOut h;
    TRY(trainer_heldout_watched(t, t->c->prefix, r->watch, &h));
    bool better = at->evaluated < 0 || h.kl < at->best.kl;
    if (at->evaluated < 0) at->first = h;
    if (better) {
        TRY(working_keep(&t->work));
        at->best = h;
        at->best_step = at->step;
    }
    at->worse = better ? 0 : at->worse + 1;
    at->evaluated = at->step;
    r->saved = -1; /* the checkpoint of this step does not know */
    char detail[96];
    snprintf(detail, sizeof detail, "held-out kl %.4f, agree %.3f", h.kl, h.agree);
    watch_progress(r->watch, "train", at->step, t->visits.steps, detail);
    return r->metrics ? metrics_heldout(r->metrics, at->step, &h) : ST_OK;
}

static bool finished(const Trainer *t) {
    return t->at.step >= t->visits.steps || (t->o.patience > 0 && t->at.worse >= t->o.patience);
}

static bool evaluation_due(const Trainer *t) {
    if (t->visits.heldouts == 0 || t->at.evaluated == t->at.step) return false;
    return t->at.step % t->eval_every == 0 || t->at.step >= t->visits.steps;
}

static bool save_due(const Trainer *t) {
    return t->o.save_every > 0 && t->at.step > 0 && t->at.step % t->o.save_every == 0;
}

static Status one_step(Run *r) {
    StepReport report;
    TRY(trainer_step_watched(r->t, r->watch, &report));
    char detail[96];
    snprintf(detail, sizeof detail, "loss %.4f, kl %.4f", report.loss, report.kl);
    watch_progress(r->watch, "train", report.step, report.steps, detail);
    return r->metrics ? metrics_step(r->metrics, &report) : ST_OK;
}

/* Any rank's wish to stop is everybody's. */
static Status stop_if_asked(Run *r) {
    double wish = watch_stop(r->watch) ? 1 : 0;
    TRY(ranks_sum_host(r->t->ranks, &wish, 1));
    if (wish == 0) return ST_OK;
    FAIL(ST_STOPPED, "stopped after step %" PRId64 " of %" PRId64, r->t->at.step, r->t->visits.steps);
}

static Status run_all(Run *r) {
    Trainer *t = r->t;
    for (;;) {
        TRY(stop_if_asked(r));
        if (evaluation_due(t)) TRY(evaluate_rows(r));
        if (finished(t)) return save(r);
        if (save_due(t)) TRY(save(r));
        TRY(one_step(r));
    }
}

/* ---- the whole ---- */

static Status leave_best(Trainer *t) {
    CartridgeInfo *info = &t->c->info;
    const Progress *at = &t->at;
    if (t->visits.heldouts == 0) TRY(working_keep(&t->work));
    TRY(working_show(&t->work, t->work.best));
    info->steps = at->step;
    info->conversations = at->visits;
    info->supervised_tokens = at->supervised;
    info->learning_rate = t->peak;
    info->loss_first = at->loss_first;
    info->loss_last = at->loss_last;
    info->kl_heldout = at->best.kl;
    info->seed = t->o.seed;
    return ST_OK;
}

Status trainer_run(Trainer *t, bool resume, const Watch *watch, HeldOut *first, HeldOut *best) {
    Run r = {.t = t, .watch = watch, .saved = -1};
    Status st = agree(&r, open_files(&r, resume));
    if (!st) st = run_all(&r);
    if (st == ST_STOPPED) {
        Status kept = save(&r);
        st = kept ? kept
                  : status_fail(ST_STOPPED, __FILE__, __LINE__,
                                "stopped after step %" PRId64 " of %" PRId64 "%s", t->at.step,
                                t->visits.steps, r.checkpoint[0] ? "; resume goes on from there" : "");
    }
    if (!st) st = leave_best(t);
    if (!st && first) *first = t->at.first;
    if (!st && best) *best = t->at.best;
    metrics_close(r.metrics);
    return st;
}
