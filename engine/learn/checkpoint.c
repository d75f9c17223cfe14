/* checkpoint.c -- a training run in a file, so that it can go on as if it had not stopped.
 *
 * A sealed safetensors file: "master", "m", "v" and "best" in the shape of pages, and as metadata three JSON
 * objects: "settings" (a run that goes on must have the same), "progress", and the text "machine" (a
 * difference changes last bits and is announced, not refused). There is no state of a random generator: all
 * draws are functions of the seed. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/learn/settings.h"
#include "engine/learn/trainer_state.h"
#include "kernels/base/json.h"

enum { ROWS = 4 };
static const char *const rows_name[ROWS] = {"master", "m", "v", "best"};

static void rows_of(const Trainer *t, Tensor out[ROWS]) {
    const Working *w = &t->work;
    out[0] = w->master, out[1] = w->m, out[2] = w->v, out[3] = w->best;
}

/* ---- JSON ---- */

/* All 17 digits: what is read must be what was written. */
static void add_real(cJSON *o, const char *name, double v) {
    char text[32];
    snprintf(text, sizeof text, "%.17g", v);
    if (isfinite(v)) cJSON_AddRawToObject(o, name, text);
    else cJSON_AddNullToObject(o, name);
}

static void add_whole(cJSON *o, const char *name, int64_t v) {
    cJSON_AddNumberToObject(o, name, (double)v);
}

static Status print(cJSON *o, char **out) {
    *out = o ? cJSON_PrintUnformatted(o) : NULL;
    cJSON_Delete(o);
    NEED(*out, ST_NOMEM, "no memory for the description of a checkpoint");
    return ST_OK;
}

static void add_inputs(cJSON *o, const Trainer *t) {
    char data[65], seed[24];
    digest_hex(t->visits.data, data);
    snprintf(seed, sizeof seed, "%" PRIu64, t->o.seed);
    cJSON_AddStringToObject(o, "model", t->m->fingerprint);
    cJSON_AddStringToObject(o, "data", data);
    cJSON_AddStringToObject(o, "start", t->start);
    add_whole(o, "rows", t->c->prefix->rows);
    add_whole(o, "frozen", t->c->info.frozen);
    cJSON_AddStringToObject(o, "seed", seed);
}

static Status settings_json(const Trainer *t, char **out) {
    static const char *const schedule[] = {"constant", "linear", "cosine"};
    const TrainerOptions *s = &t->o;
    cJSON *o = cJSON_CreateObject();
    add_inputs(o, t);
    add_whole(o, "rows_max", s->rows_max);
    add_whole(o, "step_tokens", s->step_tokens);
    add_whole(o, "steps", t->visits.steps);
    add_real(o, "lr", t->peak);
    cJSON_AddStringToObject(o, "schedule", schedule[s->schedule]);
    add_real(o, "lr_end", s->lr_end);
    add_whole(o, "warmup", s->warmup);
    add_real(o, "beta1", s->beta1);
    add_real(o, "beta2", s->beta2);
    add_real(o, "eps", s->eps);
    add_real(o, "clip", s->clip);
    add_whole(o, "spread", s->spread);
    add_real(o, "heldout", s->heldout);
    add_whole(o, "eval_every", t->eval_every);
    add_whole(o, "patience", s->patience);
    return print(o, out);
}

static void add_heldout(cJSON *o, const char *name, const HeldOut *h) {
    cJSON *to = cJSON_AddObjectToObject(o, name);
    add_real(to, "loss", h->loss);
    add_real(to, "kl", h->kl);
    add_real(to, "agree", h->agree);
    add_whole(to, "conversations", h->conversations);
    add_whole(to, "supervised", h->supervised);
}

static Status progress_json(const Progress *p, char **out) {
    cJSON *o = cJSON_CreateObject();
    add_whole(o, "step", p->step);
    add_whole(o, "visits", p->visits);
    add_whole(o, "supervised", p->supervised);
    add_real(o, "loss_first", p->loss_first);
    add_real(o, "loss_last", p->loss_last);
    add_whole(o, "evaluated", p->evaluated);
    add_whole(o, "best_step", p->best_step);
    add_whole(o, "worse", p->worse);
    add_heldout(o, "first", &p->first);
    add_heldout(o, "best", &p->best);
    add_whole(o, "metrics", p->metrics);
    return print(o, out);
}

static Status read_whole(const cJSON *o, const char *name, int64_t low, int64_t *out, const char *path) {
    return json_integer(o, name, low, INT64_MAX, out, path);
}

static Status read_heldout(const cJSON *o, const char *name, HeldOut *out, const char *path) {
    const cJSON *from = cJSON_GetObjectItemCaseSensitive(o, name);
    *out = (HeldOut){.loss = (double)NAN, .kl = (double)NAN, .agree = (double)NAN};
    TRY(json_number_or(from, "loss", &out->loss, path));
    TRY(json_number_or(from, "kl", &out->kl, path));
    TRY(json_number_or(from, "agree", &out->agree, path));
    TRY(read_whole(from, "conversations", 0, &out->conversations, path));
    return read_whole(from, "supervised", 0, &out->supervised, path);
}

static Status read_progress(const cJSON *o, Progress *p, const char *path) {
    *p = (Progress){.loss_first = (double)NAN, .loss_last = (double)NAN};
    TRY(read_whole(o, "step", 0, &p->step, path));
    TRY(read_whole(o, "visits", 0, &p->visits, path));
    TRY(read_whole(o, "supervised", 0, &p->supervised, path));
    TRY(json_number_or(o, "loss_first", &p->loss_first, path));
    TRY(json_number_or(o, "loss_last", &p->loss_last, path));
    TRY(read_whole(o, "evaluated", -1, &p->evaluated, path));
    TRY(read_whole(o, "best_step", 0, &p->best_step, path));
    TRY(read_whole(o, "worse", 0, &p->worse, path));
    TRY(read_heldout(o, "first", &p->first, path));
    TRY(read_heldout(o, "best", &p->best, path));
    return read_whole(o, "metrics", 0, &p->metrics, path);
}

/* ---- save ---- */

/* The rows, one kind after the other in one block of host memory; taken only while saving. */
static Status read_rows(const Trainer *t, SafeEntry entry[ROWS], void **block) {
    const Working *w = &t->work;
    Tensor rows[ROWS];
    rows_of(t, rows);
    size_t bytes = tensor_bytes(rows[0]);
    *block = malloc(ROWS * bytes);
    NEED(*block, ST_NOMEM, "no memory for a checkpoint of %zu bytes", ROWS * bytes);
    for (int i = 0; i < ROWS; i++) {
        entry[i] = (SafeEntry){rows_name[i], rows[i]};
        entry[i].t.data = (char *)*block + (size_t)i * bytes;
        TRY(w->ops->copy(w->s, entry[i].t.data, rows[i].data, bytes));
    }
    return w->ops->sync(w->s);
}

Status trainer_save(const Trainer *t, const char *path) {
    char machine[160], *settings = NULL, *progress = NULL;
    void *block = NULL;
    SafeEntry entry[ROWS];
    Status st = ST_OK;
    trainer_machine(t, machine, sizeof machine);
    TRY_TO(done, settings_json(t, &settings));
    TRY_TO(done, progress_json(&t->at, &progress));
    TRY_TO(done, read_rows(t, entry, &block));
    const SafeMeta meta[] = {{"settings", settings}, {"progress", progress}, {"machine", machine}};
    TRY_TO(done, safe_write(path, entry, ROWS, meta, 3, true));
done:
    cJSON_free(settings);
    cJSON_free(progress);
    free(block);
    return st;
}

/* ---- load ---- */

static Status open_checkpoint(SafeFile **out, const char *path) {
    SafeFile *f;
    TRY(safe_open(&f, path));
    Status st = safe_verify(f);
    bool whole = safe_meta(f, "settings") && safe_meta(f, "progress") && safe_meta(f, "machine");
    if (!st && !whole)
        st = status_fail(ST_FORMAT, __FILE__, __LINE__,
                         "%s: is a safetensors file, but not a checkpoint of training", path);
    if (st) {
        safe_close(f);
        return st;
    }
    *out = f;
    return ST_OK;
}

static Status check_settings(const Trainer *t, const SafeFile *f, const char *path) {
    char *here;
    TRY(settings_json(t, &here));
    Status st = settings_same(path, safe_meta(f, "settings"), here);
    cJSON_free(here);
    return st;
}

static Status parse_progress(const SafeFile *f, Progress *out, const char *path) {
    const char *text = safe_meta(f, "progress");
    cJSON *o;
    TRY(json_parse(&o, text, strlen(text), path));
    Status st = read_progress(o, out, path);
    cJSON_Delete(o);
    return st;
}

static Status find_rows(const Trainer *t, const SafeFile *f, Tensor out[ROWS], const char *path) {
    const int64_t *d = t->work.master.dim;
    for (int i = 0; i < ROWS; i++) {
        TRY(safe_find(f, rows_name[i], &out[i]));
        NEED(tensor_is(out[i], DT_F32, d[0], d[1], d[2], d[3], d[4]), ST_FORMAT,
             "%s: \"%s\" has not the shape of this run's "
             "rows",
             path, rows_name[i]);
    }
    return ST_OK;
}

static Status write_rows(Trainer *t, const Tensor from[ROWS]) {
    Working *w = &t->work;
    Tensor rows[ROWS];
    rows_of(t, rows);
    for (int i = 0; i < ROWS; i++) TRY(w->ops->copy(w->s, rows[i].data, from[i].data, tensor_bytes(rows[i])));
    TRY(w->ops->sync(w->s));
    return working_show(w, w->master);
}

/* Everything is checked before anything changes. */
Status trainer_load(Trainer *t, const char *path) {
    SafeFile *f;
    Tensor rows[ROWS];
    Progress at;
    TRY(open_checkpoint(&f, path));
    Status st = ST_OK;
    TRY_TO(done, check_settings(t, f, path));
    TRY_TO(done, parse_progress(f, &at, path));
    TRY_TO(done, find_rows(t, f, rows, path));
    TRY_TO(done, write_rows(t, rows));
    t->at = at;
done:
    safe_close(f);
    return st;
}

Status trainer_saved_machine(const char *path, char *out, size_t cap) {
    SafeFile *f;
    TRY(open_checkpoint(&f, path));
    snprintf(out, cap, "%s", safe_meta(f, "machine"));
    safe_close(f);
    return ST_OK;
}
