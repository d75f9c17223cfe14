/* metrics.c -- see metrics.h. A line is flushed as soon as it is written, so that the file can be watched; a
 * resumed run cuts off what was written behind its checkpoint and writes those lines again. */
#include "engine/learn/metrics.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct Metrics {
    FILE *file;
    char *path;
    int64_t lines;
};

/* Where line `lines` begins, and how many there are up to there. */
static size_t end_of_lines(const char *text, size_t size, int64_t lines, int64_t *found) {
    size_t at = 0;
    *found = 0;
    while (*found < lines) {
        const char *end = memchr(text + at, '\n', size - at);
        if (!end) break;
        at = (size_t)(end - text) + 1;
        (*found)++;
    }
    return at;
}

static Status cut(const char *path, int64_t lines, int64_t *found) {
    *found = 0;
    if (!file_exists(path)) return ST_OK;
    char *text;
    size_t size;
    TRY(file_read(&text, &size, path));
    size_t at = end_of_lines(text, size, lines, found);
    free(text);
    NEED(truncate(path, (off_t)at) == 0, ST_IO, "%s: cannot be cut back to %" PRId64 " lines: %s", path,
         lines, strerror(errno));
    return ST_OK;
}

Status metrics_open(Metrics **out, const char *path, int64_t lines) {
    *out = NULL;
    int64_t found;
    TRY(cut(path, lines, &found));
    Status st = ST_OK;
    Metrics *m = calloc(1, sizeof *m);
    NEED(m, ST_NOMEM, "%s: no memory to write it", path);
    m->lines = found;
    m->path = strdup(path);
    NEED_TO(failed, m->path, ST_NOMEM, "%s: no memory to write it", path);
    m->file = fopen(path, "a");
    NEED_TO(failed, m->file, ST_IO, "%s: cannot be written: %s", path, strerror(errno));
    *out = m;
    return ST_OK;
failed:
    metrics_close(m);
    return st;
}

void metrics_close(Metrics *m) {
    if (!m) return;
    if (m->file) fclose(m->file);
    free(m->path);
    free(m);
}

int64_t metrics_lines(const Metrics *m) {
    return m->lines;
}

/* ---- lines ---- */

static void add_real(cJSON *o, const char *name, double v) {
    if (isfinite(v)) cJSON_AddNumberToObject(o, name, v);
    else cJSON_AddNullToObject(o, name);
}

static void add_whole(cJSON *o, const char *name, int64_t v) {
    cJSON_AddNumberToObject(o, name, (double)v);
}

/* Writes the object as a line, and deletes it. */
static Status put(Metrics *m, cJSON *o) {
    char *text = o ? cJSON_PrintUnformatted(o) : NULL;
    cJSON_Delete(o);
    NEED(text, ST_NOMEM, "%s: no memory for a line", m->path);
    bool written = fprintf(m->file, "%s\n", text) > 0 && fflush(m->file) == 0;
    int why = errno;
    cJSON_free(text);
    NEED(written, why == ENOSPC ? ST_NOSPACE : ST_IO, "%s: writing failed: %s", m->path, strerror(why));
    m->lines++;
    return ST_OK;
}

Status metrics_step(Metrics *m, const StepReport *r) {
    cJSON *o = cJSON_CreateObject();
    add_whole(o, "step", r->step);
    add_whole(o, "steps", r->steps);
    add_whole(o, "conversations", r->conversations);
    add_whole(o, "rows", r->rows);
    add_whole(o, "supervised", r->supervised);
    add_real(o, "loss", r->loss);
    add_real(o, "kl", r->kl);
    add_real(o, "grad_norm", r->grad_norm);
    add_real(o, "lr", r->lr);
    add_real(o, "seconds", r->seconds);
    return put(m, o);
}

Status metrics_heldout(Metrics *m, int64_t step, const HeldOut *h) {
    cJSON *o = cJSON_CreateObject();
    add_whole(o, "step", step);
    add_real(o, "heldout_loss", h->loss);
    add_real(o, "heldout_kl", h->kl);
    add_real(o, "heldout_agree", h->agree);
    add_whole(o, "conversations", h->conversations);
    add_whole(o, "supervised", h->supervised);
    return put(m, o);
}

Status metrics_note(Metrics *m, int64_t step, const char *note) {
    cJSON *o = cJSON_CreateObject();
    add_whole(o, "step", step);
    cJSON_AddStringToObject(o, "note", note);
    return put(m, o);
}
