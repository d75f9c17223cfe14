/* visits.c -- see visits.h. */
#include "engine/learn/visits.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/random.h"

enum { HELDOUT_LEAST = 32 };
/* Streams of the seed; an epoch's number is added to the latter two. */
static const uint64_t HELDOUT_STREAM = 31, ORDER_STREAM = 1ull << 32, SHIFT_STREAM = 2ull << 32;

/* ---- sizes ---- */

static int32_t supervised_in(const Conversation *c, int32_t *candidates) {
    int32_t n = 0;
    for (int32_t j = 0; j < c->targets; j++) {
        int32_t kept = c->first[j + 1] - c->first[j];
        n += kept > 0;
        if (kept > *candidates) *candidates = kept;
    }
    return n;
}

static int32_t largest(const int32_t *v, int32_t n) {
    int32_t most = 0;
    for (int32_t i = 0; i < n; i++)
        if (v[i] > most) most = v[i];
    return most;
}

static Status check_fits(const Conversation *c, const VisitLimits *l) {
    int32_t rows = c->n - 1, token = largest(c->token, c->n), id = largest(c->id, c->first[c->targets]);
    NEED(rows <= l->rows, ST_ARG,
         "conversation %" PRId64 " has %d rows, a micro-batch has %d, and answers are never cut; "
         "raise the rows of a micro-batch to %d",
         c->number, rows, l->rows, rows);
    NEED(rows <= l->positions, ST_ARG,
         "conversation %" PRId64 " has %d rows, behind the prefix and its spread the model's "
         "context leaves %d",
         c->number, rows, l->positions);
    NEED(token < l->vocab && id<l->vocab, ST_MISMATCH,
                                "conversation %" PRId64 " has the token %d, the model's vocabulary "
                                "ends at %d",
                                c->number, token>
                                 id
             ? token
             : id,
         l->vocab - 1);
    return ST_OK;
}

static void hash_conversation(Sha256 *h, const Conversation *c) {
    sha256_add(h, &c->n, sizeof c->n);
    sha256_add(h, &c->targets, sizeof c->targets);
    sha256_add(h, c->token, sizeof *c->token * (size_t)c->n);
    sha256_add(h, c->at, sizeof *c->at * (size_t)c->targets);
    sha256_add(h, c->first, sizeof *c->first * ((size_t)c->targets + 1));
    sha256_add(h, c->id, sizeof *c->id * (size_t)c->first[c->targets]);
    sha256_add(h, c->logprob, sizeof *c->logprob * (size_t)c->first[c->targets]);
}

static Status read_sizes(Visits *v, Dataset *const *data, int32_t datasets, const VisitLimits *l, Sha256 *h) {
    int64_t at = 0;
    for (int32_t d = 0; d < datasets; d++)
        for (int64_t i = 0; i < dataset_count(data[d]); i++) {
            Conversation c;
            TRY(dataset_get(data[d], i, &c));
            TRY(check_fits(&c, l));
            hash_conversation(h, &c);
            v->size[at++] = (VisitSize){d, i, c.n - 1, supervised_in(&c, &v->candidates)};
        }
    return ST_OK;
}

/* ---- choices ---- */

static void shuffle(int64_t *list, int64_t n, uint64_t seed, uint64_t stream) {
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)random_below(seed, stream, (uint64_t)i, (uint64_t)i + 1), kept = list[i];
        list[i] = list[j];
        list[j] = kept;
    }
}

static int64_t heldout_wanted(int64_t count, double share) {
    if (share <= 0) return 0;
    int64_t n = llround(share * (double)count);
    if (n < HELDOUT_LEAST) n = HELDOUT_LEAST;
    return n < count / 2 ? n : count / 2;
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* The first of a shuffled list are held out, the rest trained on. */
static void choose_heldout(Visits *v, double share, int64_t *list) {
    for (int64_t i = 0; i < v->count; i++) list[i] = i;
    shuffle(list, v->count, v->seed, HELDOUT_STREAM);
    v->heldouts = heldout_wanted(v->count, share);
    v->trains = v->count - v->heldouts;
    memcpy(v->heldout, list, sizeof *list * (size_t)v->heldouts);
    memcpy(v->train, list + v->heldouts, sizeof *list * (size_t)v->trains);
    qsort(v->heldout, (size_t)v->heldouts, sizeof *list, by_value);
    qsort(v->train, (size_t)v->trains, sizeof *list, by_value);
}

/* ---- order ---- */

int64_t visits_at(Visits *v, int64_t visit) {
    int64_t epoch = visit / v->trains;
    if (epoch != v->epoch) {
        memcpy(v->order, v->train, sizeof *v->order * (size_t)v->trains);
        shuffle(v->order, v->trains, v->seed, ORDER_STREAM + (uint64_t)epoch);
        v->epoch = epoch;
    }
    return v->order[visit % v->trains];
}

int32_t visits_shift(const Visits *v, int64_t visit) {
    uint64_t stream = SHIFT_STREAM + (uint64_t)(visit / v->trains), place = (uint64_t)(visit % v->trains);
    return (int32_t)random_below(v->seed, stream, place, (uint64_t)v->spread + 1);
}

/* Grows the step, visit by visit, until it has so many supervised tokens or the run ends. */
static void grow(Visits *v, int64_t visit, int64_t tokens, VisitStep *step) {
    while (visit + step->visits < v->total && step->supervised < tokens) {
        const VisitSize *size = &v->size[visits_at(v, visit + step->visits)];
        step->visits++;
        step->rows += size->rows;
        step->supervised += size->supervised;
    }
}

/* Adam's update is as large for a step of five conversations as for one of a hundred: what is left at the end of a
 * run and makes less than half a step joins the last one. */
VisitStep visits_step(Visits *v, int64_t visit) {
    VisitStep step = {0};
    grow(v, visit, v->step_tokens, &step);
    int64_t half = (v->step_tokens + 1) / 2;
    VisitStep further = step;
    grow(v, visit, step.supervised + half, &further);
    return further.supervised < step.supervised + half ? further : step;
}

/* How many steps, either asked for or what the epochs come to. */
static void count_steps(Visits *v, const TrainerOptions *o) {
    v->total = INT64_MAX;
    v->steps = o->steps;
    if (o->steps > 0) return;
    v->total = llround(o->epochs * (double)v->trains);
    if (v->total < 1) v->total = 1;
    v->steps = 0;
    for (int64_t at = 0; at < v->total; v->steps++) at += visits_step(v, at).visits;
}

/* ---- open, close ---- */

static Status check_trainable(const Visits *v) {
    int64_t supervised = 0;
    for (int64_t i = 0; i < v->trains; i++) supervised += v->size[v->train[i]].supervised;
    NEED(supervised > 0, ST_ARG,
         "%" PRId64 " conversations to train on, with %" PRId64 " supervised tokens: nothing to learn "
         "from; make more by self-study",
         v->trains, supervised);
    return ST_OK;
}

static Status fill(Visits *v, Dataset *const *data, int32_t datasets, const TrainerOptions *o,
                   const VisitLimits *limits) {
    Sha256 *h;
    TRY(sha256_open(&h));
    Status st = read_sizes(v, data, datasets, limits, h);
    v->data = sha256_finish(&h);
    TRY(st);
    choose_heldout(v, o->heldout, v->order);
    TRY(check_trainable(v));
    count_steps(v, o);
    return ST_OK;
}

Status visits_open(Visits *out, Dataset *const *data, int32_t datasets, const TrainerOptions *o,
                   const VisitLimits *limits) {
    *out = (Visits){
        .epoch = -1, .step_tokens = o->step_tokens, .spread = o->spread, .seed = o->seed, .candidates = 1};
    for (int32_t d = 0; d < datasets; d++) out->count += dataset_count(data[d]);
    size_t n = (size_t)out->count + 1;
    out->size = calloc(n, sizeof *out->size);
    out->heldout = calloc(n, sizeof *out->heldout);
    out->train = calloc(n, sizeof *out->train);
    out->order = calloc(n, sizeof *out->order);
    Status st = ST_OK;
    NEED_TO(failed, out->size && out->heldout && out->train && out->order, ST_NOMEM,
            "no memory for a list of %" PRId64 " conversations", out->count);
    TRY_TO(failed, fill(out, data, datasets, o, limits));
    return ST_OK;
failed:
    visits_close(out);
    return st;
}

void visits_close(Visits *v) {
    free(v->size);
    free(v->heldout);
    free(v->train);
    free(v->order);
    *v = (Visits){0};
}
