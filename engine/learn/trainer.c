/* trainer.c -- one step, one evaluation, and what both need.
 *
 * A step is planned before its first row runs: which conversations, and how many supervised tokens they have.
 * So every micro-batch already scales its gradient by the whole step's count, and how conversations fall into
 * micro-batches, or onto ranks, only changes the order of additions. Every rank plans the same step, takes
 * each n-th conversation of it, and applies the same update to its own copy of the rows. */
#include "engine/learn/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/learn/schedule.h"
#include "engine/learn/trainer_state.h"
#include "kernels/machine.h"

enum { LOGITS_BYTES = 64 << 20, LOGITS_LEAST = 16, SEQ_ROWS = 32 };

TrainerOptions trainer_defaults(void) {
    return (TrainerOptions){.rows_max = 1024,
                            .step_tokens = 2048,
                            .epochs = 2,
                            .schedule = SCHEDULE_LINEAR,
                            .lr_end = 0.02,
                            .warmup = 8,
                            .beta1 = 0.9,
                            .beta2 = 0.99,
                            .eps = 1e-8,
                            .clip = 1,
                            .heldout = 0.05};
}

static PackLimits pack_limits(const TrainerOptions *o, int32_t candidates, int32_t prefix_pages) {
    return (PackLimits){.rows = o->rows_max, .seqs = o->rows_max / SEQ_ROWS + 1, .candidates = candidates,
                        .prefix_pages = prefix_pages};
}

int32_t trainer_pages(const TrainerOptions *o) {
    PackLimits limits = pack_limits(o, 0, 0);
    return pack_pages(&limits);
}

/* ---- open ---- */

static Status check_options(const TrainerOptions *o) {
    NEED(o->rows_max >= 1 && o->step_tokens >= 1, ST_ARG,
         "micro-batches of %d rows and steps of %d tokens: at least 1", o->rows_max, o->step_tokens);
    NEED(o->steps > 0 || o->epochs > 0, ST_ARG, "%g epochs and %" PRId64 " steps: one of them above 0",
         o->epochs, o->steps);
    NEED(o->lr >= 0 && isfinite(o->lr) && o->lr_end >= 0 && o->lr_end <= 1, ST_ARG,
         "learning rate %g, falling to %g of it: at least 0, and 0 to 1", o->lr, o->lr_end);
    NEED(o->warmup >= 0 && o->eval_every >= 0 && o->save_every >= 0 && o->patience >= 0 && o->spread >= 0,
         ST_ARG,
         "warm-up %" PRId64 ", evaluation every %" PRId64 ", saving every %" PRId64
         ", patience %d, spread %d: at least 0",
         o->warmup, o->eval_every, o->save_every, o->patience, o->spread);
    NEED(o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1 && o->eps > 0 && o->clip >= 0, ST_ARG,
         "beta1 %g, beta2 %g, eps %g, clip %g: wanted 0 to below 1, 0 to below 1, above 0, at least 0",
         o->beta1, o->beta2, o->eps, o->clip);
    NEED(o->heldout >= 0 && o->heldout <= 0.5, ST_ARG, "%g of the conversations held out: 0 to 0.5",
         o->heldout);
    return ST_OK;
}

static Status same(const char *what, const char *data, const char *cartridge, int32_t i) {
    NEED(
        !cartridge || !strcmp(data, cartridge), ST_MISMATCH,
        "dataset %d was made with another %s: %.12s there, %.12s for the cartridge; make one with this model",
        i + 1, what, data, cartridge);
    return ST_OK;
}

static Status check_data(const Model *m, const CartridgeInfo *c, Dataset *const *data, int32_t datasets) {
    NEED(datasets >= 1, ST_ARG, "no dataset to train on");
    for (int32_t i = 0; i < datasets; i++) {
        const DatasetInfo *d = dataset_info(data[i]);
        TRY(same("model", d->model, m->fingerprint, i));
        TRY(same("tokenizer", d->tokenizer, c->tokenizer, i));
        TRY(same("template", d->template_family, c->template_family, i));
    }
    return ST_OK;
}

static Status check_cartridge(const Model *m, const Cartridge *c) {
    TRY(cartridge_fits(&c->info, m, NULL, NULL));
    NEED(c->info.frozen >= 0 && c->info.frozen < c->prefix->rows, ST_ARG,
         "a cartridge of %d rows with %d frozen: none is left to learn", c->prefix->rows, c->info.frozen);
    return ST_OK;
}

static Status copy_arguments(Trainer *t, Dataset *const *data, int32_t datasets) {
    t->data = malloc(sizeof *t->data * (size_t)datasets);
    NEED(t->data, ST_NOMEM, "no memory for a list of %d datasets", datasets);
    memcpy(t->data, data, sizeof *data * (size_t)datasets);
    if (!t->o.run_dir) return ST_OK;
    t->o.run_dir = strdup(t->o.run_dir);
    NEED(t->o.run_dir, ST_NOMEM, "no memory for the name of the run's folder");
    return ST_OK;
}

static Status open_visits(Trainer *t, int32_t datasets) {
    const Prefix *p = t->c->prefix;
    VisitLimits limits = {t->o.rows_max, t->m->cfg.vocab,
                          t->m->cfg.context_max - prefix_start(&p, 1) - t->o.spread};
    TRY(visits_open(&t->visits, t->data, datasets, &t->o, &limits));
    int64_t tenth = t->visits.steps / 10;
    t->eval_every = t->o.eval_every > 0 ? t->o.eval_every : tenth > 0 ? tenth : 1;
    t->peak = t->o.lr > 0 ? t->o.lr : schedule_peak(t->o.step_tokens);
    return ST_OK;
}

/* The logits of a chunk of the loss are the largest thing of all where vocabularies are large. */
static int32_t logit_rows(int32_t vocab, int32_t rows_max) {
    int32_t n = LOGITS_BYTES / (4 * vocab);
    if (n < LOGITS_LEAST) n = LOGITS_LEAST;
    return n < rows_max ? n : rows_max;
}

static ActsLimits acts_limits(const Model *m, const PackLimits *pack) {
    return (ActsLimits){.rows = pack->rows,
                        .logits = logit_rows(m->cfg.vocab, pack->rows),
                        .candidates = pack->candidates,
                        .seqs = pack->seqs,
                        .training = true,
                        .act = m->ops->act};
}

void trainer_footprint(Footprint *out, const Model *m, int32_t pool_pages, int32_t rows, int32_t candidates,
                       const TrainerOptions *o) {
    PackLimits pack = pack_limits(o, candidates, pages_for(rows));
    BatchLimits batch = pack_batch(&pack, pool_pages);
    ActsLimits acts = acts_limits(m, &pack);
    footprint_pass(out, m, pool_pages, &batch, &acts);
    out->learning = working_bytes(&m->cfg, rows);
}

static Status open_memory(Trainer *t) {
    PackLimits pack = pack_limits(&t->o, t->visits.candidates, t->c->prefix->pages);
    ActsLimits acts = acts_limits(t->m, &pack);
    Footprint f;
    Digest start;
    trainer_footprint(&f, t->m, pool_pages(t->pool), t->c->prefix->rows, pack.candidates, &t->o);
    TRY(t->m->ops->stream_open(&t->s, &f.stream));
    TRY(pack_open(&t->pack, t->m, t->pool, &pack));
    TRY(acts_open(&t->acts, t->m, &acts));
    TRY(working_open(&t->work, t->m->ops, t->c->prefix, t->c->info.frozen, t->s, &start));
    batch_learn(t->pack.batch, t->c->prefix, 0);
    digest_hex(start, t->start);
    return ST_OK;
}

static const HeldOut UNKNOWN = {.loss = (double)NAN, .kl = (double)NAN, .agree = (double)NAN};

Status trainer_open(Trainer **out, const Model *m, PagePool *pool, Cartridge *c, Dataset *const *data,
                    int32_t datasets, Ranks *ranks, const TrainerOptions *o) {
    *out = NULL;
    TRY(check_options(o));
    TRY(check_cartridge(m, c));
    TRY(check_data(m, &c->info, data, datasets));
    Status st = ST_OK;
    Trainer *t = calloc(1, sizeof *t);
    NEED(t, ST_NOMEM, "no memory for a trainer");
    *t = (Trainer){.m = m, .pool = pool, .c = c, .ranks = ranks, .o = *o};
    t->at = (Progress){.evaluated = -1,
                       .loss_first = (double)NAN,
                       .loss_last = (double)NAN,
                       .first = UNKNOWN,
                       .best = UNKNOWN};
    TRY_TO(failed, copy_arguments(t, data, datasets));
    TRY_TO(failed, open_visits(t, datasets));
    TRY_TO(failed, open_memory(t));
    *out = t;
    return ST_OK;
failed:
    trainer_close(t);
    return st;
}

void trainer_close(Trainer *t) {
    if (!t) return;
    working_close(&t->work);
    acts_close(t->acts);
    pack_close(&t->pack);
    if (t->s) t->m->ops->stream_close(t->s);
    visits_close(&t->visits);
    if (t->data) free((void *)(uintptr_t)t->o.run_dir); /* copied after the list */
    free(t->data);
    free(t);
}

void trainer_machine(const Trainer *t, char *out, size_t cap) {
    char host[96];
    machine_settings(host, sizeof host);
    snprintf(out, cap, "%s, device %s, %d rank%s", host, t->m->ops->name, ranks_count(t->ranks),
             ranks_count(t->ranks) == 1 ? "" : "s");
}

/* ---- passes ---- */

/* Conversations on their way through the model, packed as they come. */
typedef struct Pass {
    const Prefix *prefix; /* NULL: none */
    float scale;          /* of the gradient; 0: none is wanted */
    const Watch *watch;
    LossSums sums;
} Pass;

/* With several ranks a rank must not leave alone; they agree between steps. */
static bool may_stop(const Trainer *t, const Watch *watch) {
    return ranks_count(t->ranks) == 1 && watch_stop(watch);
}

static Status pass_flush(Trainer *t, Pass *p) {
    Pack *pack = &t->pack;
    if (pack->batch->T == 0) return ST_OK;
    if (may_stop(t, p->watch)) FAIL(ST_STOPPED, "stopped within a step; it was not applied");
    Targets targets = pack_targets(pack);
    KvGrad grad = {t->work.g};
    TRY(batch_upload(pack->batch, t->s));
    TRY(forward(t->m, pack->batch, t->acts, t->s));
    TRY(distill(t->m, t->acts, &targets, p->scale, p->scale > 0, &p->sums, t->s));
    if (p->scale > 0) TRY(backward(t->m, pack->batch, t->acts, &grad, t->s));
    pack_clear(pack);
    return ST_OK;
}

static Status pass_add(Trainer *t, Pass *p, int64_t which, int32_t shift) {
    const VisitSize *size = &t->visits.size[which];
    Conversation c;
    bool fits;
    TRY(dataset_get(t->data[size->data], size->i, &c));
    TRY(pack_add(&t->pack, p->prefix, &c, shift, &fits));
    if (fits) return ST_OK;
    TRY(pass_flush(t, p));
    TRY(pack_add(&t->pack, p->prefix, &c, shift, &fits));
    NEED(fits, ST_ARG, "conversation %" PRId64 " does not fit a micro-batch of %d rows", c.number,
         t->o.rows_max);
    return ST_OK;
}

static bool is_mine(const Trainer *t, int64_t i) {
    return i % ranks_count(t->ranks) == ranks_me(t->ranks);
}

/* ---- one step ---- */

static Status gather_gradient(Trainer *t, const VisitStep *step, const Watch *watch, LossSums *sums) {
    Pass p = {.prefix = t->c->prefix, .scale = 1.0f / (float)step->supervised, .watch = watch};
    pack_clear(&t->pack);
    for (int64_t i = 0; i < step->visits; i++) {
        int64_t visit = t->at.visits + i;
        if (is_mine(t, i))
            TRY(pass_add(t, &p, visits_at(&t->visits, visit), visits_shift(&t->visits, visit)));
    }
    TRY(pass_flush(t, &p));
    TRY(ranks_sum(t->ranks, t->m->ops, t->s, t->work.g));
    *sums = p.sums;
    return ST_OK;
}

/* Sums over all ranks, and the means that are reported. */
static Status reduce(Trainer *t, const LossSums *sums, HeldOut *out) {
    double v[4] = {sums->loss, sums->kl, (double)sums->agree, (double)sums->rows};
    TRY(ranks_sum_host(t->ranks, v, 4));
    *out =
        (HeldOut){.loss = v[0] / v[3], .kl = v[1] / v[3], .agree = v[2] / v[3], .supervised = (int64_t)v[3]};
    return ST_OK;
}

static double now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static Status check_finite(const Trainer *t, const StepReport *r) {
    NEED(isfinite(r->loss) && isfinite(r->grad_norm), ST_DIVERGED,
         "step %" PRId64
         " diverged: loss %g, gradient norm %g at learning rate %.3g; rows and moments are as before it; "
         "start again with a smaller rate than %.3g",
         r->step, r->loss, r->grad_norm, r->lr, t->peak);
    return ST_OK;
}

static Status apply(Trainer *t, const StepReport *r) {
    AdamRule rule = {t->o.beta1, t->o.beta2, t->o.eps};
    double scale = t->o.clip > 0 && r->grad_norm > t->o.clip ? t->o.clip / r->grad_norm : 1;
    return working_update(&t->work, &rule, r->lr, r->step, scale);
}

static Status run_step(Trainer *t, const VisitStep *step, const Watch *watch, StepReport *r) {
    LossSums sums;
    HeldOut mean;
    TRY(gather_gradient(t, step, watch, &sums));
    TRY(reduce(t, &sums, &mean));
    TRY(working_norm(&t->work, &r->grad_norm));
    r->loss = mean.loss, r->kl = mean.kl;
    TRY(check_finite(t, r));
    return apply(t, r);
}

Status trainer_step_watched(Trainer *t, const Watch *watch, StepReport *out) {
    Visits *v = &t->visits;
    Progress *at = &t->at;
    double from = now();
    NEED(at->step < v->steps, ST_ARG, "all %" PRId64 " steps are done", v->steps);
    VisitStep step = visits_step(v, at->visits);
    *out = (StepReport){.step = at->step + 1,
                        .steps = v->steps,
                        .conversations = step.visits,
                        .rows = step.rows,
                        .supervised = step.supervised,
                        .lr = schedule_rate(&t->o, t->peak, at->step, v->steps)};
    Status st = run_step(t, &step, watch, out);
    out->seconds = now() - from;
    if (st) { /* a gradient half gathered must not flow into the next step */
        working_forget(&t->work);
        return st;
    }
    at->step++;
    at->visits += step.visits;
    at->supervised += step.supervised;
    if (at->step == 1) at->loss_first = out->loss;
    at->loss_last = out->loss;
    return ST_OK;
}

Status trainer_step(Trainer *t, StepReport *out) {
    return trainer_step_watched(t, NULL, out);
}

/* ---- held out ---- */

Status trainer_heldout_watched(Trainer *t, const Prefix *prefix, const Watch *watch, HeldOut *out) {
    Pass p = {.prefix = prefix, .watch = watch};
    pack_clear(&t->pack);
    for (int64_t i = 0; i < t->visits.heldouts; i++)
        if (is_mine(t, i)) TRY(pass_add(t, &p, t->visits.heldout[i], 0));
    TRY(pass_flush(t, &p));
    TRY(reduce(t, &p.sums, out));
    out->conversations = t->visits.heldouts;
    return ST_OK;
}

Status trainer_heldout_behind(Trainer *t, const Prefix *p, HeldOut *out) {
    return trainer_heldout_watched(t, p, NULL, out);
}

Status trainer_heldout(Trainer *t, HeldOut *out) {
    return trainer_heldout_watched(t, t->c->prefix, NULL, out);
}
