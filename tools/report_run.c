/* report_run.c -- see report_run.h. */
#include "tools/report_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "kernels/base/json.h"
#include "tools/report_chart.h"

/* ---- reading ---- */

/* null is how the file writes what is no number. What is too large or too small to be measured is taken as no
 * number and as 0: an axis from 0 to the smallest double has no steps. */
static Status number_or_nan(const cJSON *o, const char *key, double *out, const char *where) {
    static const double most = 1e150, least = 1e-150;
    *out = NAN;
    TRY(json_number_or(o, key, out, where));
    if (fabs(*out) > most) *out = NAN;
    if (fabs(*out) < least) *out = 0;
    return ST_OK;
}

typedef struct Field {
    const char *key;
    double *to; /* the list's entry */
} Field;

static Status read_fields(const cJSON *o, const Field *field, int n, const char *where) {
    for (int i = 0; i < n; i++) TRY(number_or_nan(o, field[i].key, field[i].to, where));
    return ST_OK;
}

static Status read_step(Run *r, const cJSON *o, const char *where) {
    int64_t step;
    int i = r->steps;
    TRY(json_integer(o, "step", 0, (int64_t)1 << 53, &step, where));
    TRY(json_integer_or(o, "steps", 0, (int64_t)1 << 53, &r->planned, where));
    NEED(i == 0 || (double)step > r->step[i - 1], ST_FORMAT,
         "%s: step %lld comes after step %.0f; is this more than one run's file?", where, (long long)step,
         r->step[i - 1]);
    r->step[i] = (double)step;
    const Field field[] = {{"loss", r->loss + i},
                           {"kl", r->kl + i},
                           {"grad_norm", r->grad_norm + i},
                           {"lr", r->lr + i},
                           {"seconds", r->seconds + i},
                           {"rows", r->rows + i},
                           {"supervised", r->supervised + i},
                           {"conversations", r->conversations + i}};
    r->steps++;
    return read_fields(o, field, sizeof field / sizeof *field, where);
}

static Status read_heldout(Run *r, const cJSON *o, const char *where) {
    int i = r->helds;
    const Field field[] = {{"heldout_loss", r->held_loss + i},
                           {"heldout_kl", r->held_kl + i},
                           {"heldout_agree", r->held_agree + i},
                           {"conversations", &r->held_conversations},
                           {"supervised", &r->held_supervised}};
    int64_t step;
    TRY(json_integer(o, "step", 0, (int64_t)1 << 53, &step, where));
    r->held_step[i] = (double)step;
    r->helds++;
    return read_fields(o, field, sizeof field / sizeof *field, where);
}

static Status read_note(Run *r, const cJSON *o, const char *where) {
    const char *note;
    double step;
    TRY(json_string(o, "note", &note, where));
    TRY(json_number(o, "step", &step, where));
    if (r->notes == RUN_NOTES) return ST_OK;
    size_t cap = strlen(note) + 40;
    char *text = malloc(cap);
    NEED(text, ST_NOMEM, "%s: no memory for a note", where);
    snprintf(text, cap, "step %.0f: %s", step, note);
    r->note[r->notes++] = text;
    return ST_OK;
}

static Status read_line(Run *r, const char *line, size_t n, const char *where) {
    cJSON *o;
    TRY(json_parse(&o, line, n, where));
    Status st = ST_OK;
    if (cJSON_HasObjectItem(o, "loss"))
        st = read_step(r, o, where);
    else if (cJSON_HasObjectItem(o, "heldout_loss"))
        st = read_heldout(r, o, where);
    else if (cJSON_HasObjectItem(o, "note"))
        st = read_note(r, o, where);
    else
        st = status_fail(
            ST_FORMAT, __FILE__, __LINE__,
            "%s: has none of loss, heldout_loss and note; wanted a line of a run's metrics.jsonl", where);
    cJSON_Delete(o);
    return st;
}

static int count_lines(const char *text, size_t size) {
    int n = 1;
    for (size_t i = 0; i < size; i++) n += text[i] == '\n';
    return n;
}

/* Every list is as long as the file has lines, in one block; step is its owner. */
static Status open_lists(Run *r, int lines, const char *path) {
    double **list[] = {&r->step,      &r->loss,    &r->kl,         &r->grad_norm,     &r->lr,
                       &r->seconds,   &r->rows,    &r->supervised, &r->conversations, &r->held_step,
                       &r->held_loss, &r->held_kl, &r->held_agree};
    enum { LISTS = sizeof list / sizeof *list };
    double *block = calloc((size_t)lines, LISTS * sizeof *block);
    NEED(block, ST_NOMEM, "%s: no memory for its %d lines", path, lines);
    for (int i = 0; i < LISTS; i++) *list[i] = block + (size_t)i * (size_t)lines;
    return ST_OK;
}

static Status read_lines(Run *r, const char *text, size_t size, const char *path) {
    char where[1200];
    int number = 0;
    for (size_t at = 0; at < size; number++) {
        const char *line = text + at, *end = memchr(line, '\n', size - at);
        size_t n = end ? (size_t)(end - line) : size - at;
        at += n + 1;
        r->cut = !end;
        if (!end || n == 0) continue;
        snprintf(where, sizeof where, "%s, line %d", path, number + 1);
        TRY(read_line(r, line, n, where));
    }
    NEED(r->steps > 0, ST_FORMAT,
         "%s: no step of a training run in it; wanted the metrics.jsonl of a run folder", path);
    return ST_OK;
}

Status run_read(Run *out, const char *path) {
    *out = (Run){.held_conversations = NAN, .held_supervised = NAN};
    char *text;
    size_t size;
    TRY(file_read(&text, &size, path));
    Status st = open_lists(out, count_lines(text, size), path);
    if (!st) st = read_lines(out, text, size, path);
    free(text);
    if (st) run_close(out);
    return st;
}

void run_close(Run *r) {
    free(r->step);
    for (int i = 0; i < r->notes; i++) free(r->note[i]);
    *r = (Run){0};
}

/* ---- figures ---- */

/* A noisy curve: as it is, faint, and its running mean over a twentieth of the run; or only as it is when it
 * is short. */
enum { SMOOTH_FROM = 60 };

static int noisy(const Run *r, const double *y, double *mean, const char *name, int colour, Curve *to) {
    if (r->steps < SMOOTH_FROM) {
        to[0] = (Curve){.name = name, .x = r->step, .y = y, .n = r->steps, .colour = colour};
        return 1;
    }
    curve_smooth(y, r->steps, r->steps / 20, mean);
    to[0] = (Curve){.x = r->step, .y = y, .n = r->steps, .colour = colour, .faint = true};
    to[1] = (Curve){.name = name, .x = r->step, .y = mean, .n = r->steps, .colour = colour};
    return 2;
}

static void figure(Page *p, const char *title, const char *y_name, const Curve *curve, int n, double y_low,
                   bool percent) {
    Plot plot = {.title = title,
                 .x_name = "step",
                 .y_name = y_name,
                 .curve = curve,
                 .n = n,
                 .y_low = y_low,
                 .y_high = NAN,
                 .percent = percent};
    chart_plot(p, &plot);
}

static void noisy_figure(Page *p, const Run *r, const char *title, const char *y_name, const double *y,
                         double *mean, int colour) {
    Curve c[2];
    figure(p, title, y_name, c, noisy(r, y, mean, "running mean", colour, c), 0, false);
}

static void held_figure(Page *p, const Run *r, const char *title, const char *y_name, const double *y,
                        double *mean, const double *held) {
    Curve c[3];
    int n = noisy(r, y, mean, "training", 0, c);
    if (r->helds)
        c[n++] = (Curve){.name = "held-out conversations",
                         .x = r->held_step,
                         .y = held,
                         .n = r->helds,
                         .colour = 1,
                         .dots = true};
    figure(p, title, y_name, c, n, 0, false);
}

static void speeds(const Run *r, double *to) {
    for (int i = 0; i < r->steps; i++) to[i] = r->seconds[i] > 0 ? r->rows[i] / r->seconds[i] : NAN;
}

void run_figures(Page *p, const Run *r) {
    double *scratch = malloc(2 * (size_t)r->steps * sizeof *scratch), *speed = scratch + r->steps;
    if (!scratch) {
        page_note(p, "No memory for the figures.");
        return;
    }
    speeds(r, speed);
    page_figures_open(p);
    held_figure(p, r, "Loss", "nats per supervised token", r->loss, scratch, r->held_loss);
    held_figure(p, r, "Divergence from the teacher", "KL, nats per supervised token", r->kl, scratch,
                r->held_kl);
    Curve agree = {.x = r->held_step, .y = r->held_agree, .n = r->helds, .colour = 1, .dots = true};
    figure(p, "Same most likely token as the teacher", "share of supervised tokens, held-out conversations",
           &agree, 1, NAN, true);
    Curve lr = {.x = r->step, .y = r->lr, .n = r->steps, .colour = 4};
    figure(p, "Learning rate", "per step", &lr, 1, 0, false);
    noisy_figure(p, r, "Speed", "tokens of conversations per second, per step", speed, scratch, 2);
    noisy_figure(p, r, "Gradient", "norm, before clipping", r->grad_norm, scratch, 3);
    page_figures_close(p);
    free(scratch);
}

/* ---- the page of a run ---- */

static double sum_of(const double *v, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        if (isfinite(v[i])) sum += v[i];
    return sum;
}

static int best_of(const Run *r) {
    int best = 0;
    for (int i = 1; i < r->helds; i++)
        if (!(r->held_kl[i] >= r->held_kl[best])) best = i;
    return best;
}

static void tile_of_change(Page *p, const char *label, double from, double to) {
    char value[64], a[32], b[32];
    snprintf(value, sizeof value, "%s → %s", number_text(a, from, 3), number_text(b, to, 3));
    page_tile(p, value, label);
}

static void tiles(Page *p, const Run *r) {
    char value[80], label[120], a[32], b[32];
    int last = r->steps - 1;
    double seconds = sum_of(r->seconds, r->steps), rows = sum_of(r->rows, r->steps);
    page_tiles_open(p);
    snprintf(value, sizeof value, "%s", number_text(a, r->step[last], 0));
    snprintf(label, sizeof label, "steps of %s", number_text(a, (double)r->planned, 0));
    page_tile(p, value, label);
    tile_of_change(p, "loss, first and last step", r->loss[0], r->loss[last]);
    if (r->helds) {
        int best = best_of(r);
        snprintf(label, sizeof label, "held-out KL, first and best (step %s)",
                 number_text(a, r->held_step[best], 0));
        tile_of_change(p, label, r->held_kl[0], r->held_kl[best]);
    }
    duration_text(a, seconds);
    snprintf(value, sizeof value, "%s", a);
    snprintf(label, sizeof label, "in training steps, %s tokens per second",
             number_text(a, seconds > 0 ? rows / seconds : NAN, 0));
    page_tile(p, value, label);
    snprintf(label, sizeof label, "supervised tokens, in %s conversations",
             number_text(b, sum_of(r->conversations, r->steps), 0));
    page_tile(p, number_text(a, sum_of(r->supervised, r->steps), 0), label);
    page_tiles_close(p);
}

static void held_table(Page *p, const Run *r) {
    static const char *const head[] = {"after step", "loss", "KL", "same token"};
    char cell[4][32];
    const char *row[] = {cell[0], cell[1], cell[2], cell[3]};
    page_section(p, "Held-out conversations");
    page_paragraph(p, "%.0f conversations with %.0f supervised tokens, never trained on.",
                   r->held_conversations, r->held_supervised);
    page_table_open(p, head, 4);
    for (int i = 0; i < r->helds; i++) {
        number_text(cell[0], r->held_step[i], 0);
        number_text(cell[1], r->held_loss[i], 4);
        number_text(cell[2], r->held_kl[i], 4);
        snprintf(cell[3], sizeof cell[3], "%.1f%%", 100 * r->held_agree[i]);
        page_table_row(p, row, 4);
    }
    page_table_close(p);
}

static void notes(Page *p, const Run *r) {
    if (!r->notes && !r->cut) return;
    page_section(p, "Remarks");
    page_markup(p, "<ul>\n");
    for (int i = 0; i < r->notes; i++) {
        page_markup(p, "<li>");
        page_text(p, r->note[i]);
        page_markup(p, "</li>\n");
    }
    if (r->cut) page_markup(p, "<li>The last line of the file is not complete and was left out.</li>\n");
    page_markup(p, "</ul>\n");
}

Status run_report(const Run *r, const char *name, const char *path) {
    char title[300];
    Page *p;
    snprintf(title, sizeof title, "Training run %s", name);
    Status st = page_open(
        &p, title, "Conversations in, a better cartridge out: what metrics.jsonl says about this run.");
    if (!st) {
        tiles(p, r);
        page_section(p, "Curves");
        page_paragraph(
            p, "Of loss and divergence less is better. The teacher is the same model with the text in "
               "its context; a divergence of 0 would be its very probabilities.");
        run_figures(p, r);
        if (r->helds) held_table(p, r);
        notes(p, r);
        st = page_write(p, path);
    }
    page_close(p);
    return st;
}
