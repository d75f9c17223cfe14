/* cmd_demo.c -- the whole path on a model that lies inside the program: a text of made-up facts, self-study
 * by the model itself, cartridges of several sizes, a table with a bar that the cartridge must reach, and a
 * page that shows all of it. Then the same with a text that is longer than the model's context. Everything it
 * makes stays in its folder, the model too, so that the other commands can be tried on it. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kernels/base/file.h"
#include "tools/command.h"
#include "tools/demo/files.h"
#include "tools/demo/lesson.h"
#include "tools/demo/page.h"
#include "tools/job.h"
#include "tools/progress.h"

typedef struct Args {
    const char *out;
    int64_t facts, rows;
    bool quick;
} Args;
#define AT(field) offsetof(Args, field)

static const Option rows[] = {
    {"out", 'o', OPTION_TEXT, "DIR", "demo", 0, 0, "demo",
     "folder for the model, the texts, the cartridges, the page", AT(out), false},
    {"facts", 0, OPTION_WHOLE, "N", "64", 8, FACTS_MAX, "demo",
     "facts in the first text, eight for each name", AT(facts), false},
    {"tokens", 'p', OPTION_WHOLE, "N", "16", 2, 1024, "demo", "rows of the cartridge", AT(rows), false},
    {"quick", 0, OPTION_FLAG, NULL, NULL, 0, 0, "demo", "16 facts in 8 rows and no second text, in seconds",
     AT(quick), false},
};

static const double BAR = 0.95; /* of the accuracy with the whole text in context */

typedef struct Job {
    const Args *a;
    const Common *common;
    const Watch *watch;
    char model[PATH_MAX], page[PATH_MAX];
    LessonPlan plan, longer_plan;
    Lesson facts, longer;
} Job;

/* ---- plans ---- */

static void tell(void *user, const char *stage, const char *what) {
    const Job *j = user;
    progress_end();
    if (!j->common->quiet && !j->common->json) printf("%-10s %s\n", stage, what), fflush(stdout);
}

/* Into the rising list, once, if the text has as many rows. */
static void add_size(LessonPlan *p, int32_t size) {
    int i = 0;
    while (i < p->sizes && p->size[i] < size) i++;
    if (i < p->sizes && p->size[i] == size) return;
    memmove(p->size + i + 1, p->size + i, (size_t)(p->sizes - i) * sizeof *p->size);
    p->size[i] = size;
    p->sizes++;
}

static LessonPlan plan_of(Job *j, const char *name, int32_t facts, int32_t main_rows) {
    LessonPlan p = {.model = j->model,
                    .folder = j->a->out,
                    .name = name,
                    .facts = facts,
                    .chapters = 1,
                    .tellings = 1,
                    .conversations = 16 * facts,
                    .steps = 300,
                    .speed_tokens = 33,
                    .speed_seconds = 0.3,
                    .seed = (uint64_t)j->common->seed,
                    .watch = j->watch,
                    .tell = tell,
                    .user = j};
    add_size(&p, main_rows);
    return p;
}

static void set_main(LessonPlan *p, int32_t rows_) {
    for (p->main = 0; p->size[p->main] != rows_; p->main++) {
    }
}

static void plan_first(Job *j) {
    static const int32_t sizes[] = {2, 4, 8, 16, 32, 64}, quick_sizes[] = {4, 8};
    const Args *a = j->a;
    int32_t facts = a->quick ? 16 : (int32_t)a->facts, rows_ = a->quick ? 8 : (int32_t)a->rows;
    j->plan = plan_of(j, "facts", facts, rows_);
    for (int i = 0; i < (a->quick ? 2 : 6); i++) {
        int32_t size = a->quick ? quick_sizes[i] : sizes[i];
        if (size < 4 * facts) add_size(&j->plan, size);
    }
    set_main(&j->plan, rows_);
    if (a->quick) j->plan.steps = 100, j->plan.speed_tokens = 17, j->plan.speed_seconds = 0.03;
}

/* All facts that the language has, each told three times in its chapter: longer than the context of the
 * model. */
static void plan_longer(Job *j) {
    j->longer_plan = plan_of(j, "long", FACTS_MAX, 128);
    j->longer_plan.chapters = LESSON_CHAPTERS, j->longer_plan.tellings = 3;
    j->longer_plan.steps = 400;
}

/* ---- files ---- */

static Status make_folder(const char *path) {
    NEED(mkdir(path, 0777) == 0 || errno == EEXIST, ST_IO, "%s: cannot be made: %s", path, strerror(errno));
    return ST_OK;
}

static Status write_file(const char *path, const void *data, size_t n) {
    Writer *w;
    TRY(writer_open(&w, path));
    Status st = writer_put(w, data, n);
    if (!st) return writer_finish(&w);
    writer_abandon(&w);
    return st;
}

static Status make_model(Job *j) {
    TRY(make_folder(j->a->out));
    TRY(file_join(j->model, sizeof j->model, j->a->out, "model"));
    TRY(file_join(j->page, sizeof j->page, j->a->out, "report.html"));
    TRY(make_folder(j->model));
    for (const EmbeddedFile *f = demo_model_files; f->name; f++) {
        char path[PATH_MAX];
        TRY(file_join(path, sizeof path, j->model, f->name));
        TRY(write_file(path, f->data, (size_t)(f->end - f->data)));
    }
    return ST_OK;
}

/* ---- the tables ---- */

static void print_row(const Lesson *l, const char *name, const Context *c) {
    char bytes[24];
    job_bytes(bytes, sizeof bytes, (double)(l->row_bytes * c->rows));
    printf("| %-16s |   %6.1f%% | %7d | %9s | %10d |\n", name, 100 * c->accuracy, c->rows, bytes, c->pages);
}

static void print_table(const Lesson *l, const LessonPlan *p) {
    printf("\n| context          | accuracy | KV rows |  KV bytes | pages held |\n"
           "|------------------|----------|---------|-----------|------------|\n");
    print_row(l, "none", &l->none);
    print_row(l, "truncated", &l->size[p->main].truncated);
    if (!l->fits)
        printf("| %-16s | %8s | %7d | %9s | %10s |\n", "whole text", "too long", l->tokens, "-", "-");
    print_row(l, l->fits ? "whole text" : "as much as fits", &l->text);
    print_row(l, "cartridge", &l->size[p->main].cartridge);
}

static bool bar_is_met(const Job *j) {
    return j->facts.size[j->plan.main].cartridge.accuracy >= BAR * j->facts.text.accuracy;
}

static void print_first(const Job *j) {
    const Lesson *l = &j->facts;
    if (j->common->json) return;
    progress_end();
    print_table(l, &j->plan);
    printf("\nthe cartridge has %.1f times fewer rows than the text; bar: %.2f of the whole text's accuracy: "
           "%s\n\n",
           (double)l->text.rows / l->size[j->plan.main].rows, BAR, bar_is_met(j) ? "met" : "missed");
}

static void print_longer(const Job *j) {
    const Lesson *l = &j->longer;
    if (j->common->json) return;
    progress_end();
    print_table(l, &j->longer_plan);
    printf("\nthe model's context holds %d tokens; the cartridge has %.1f times fewer rows than the text has "
           "tokens\n\n",
           l->context_max, (double)l->tokens / l->size[0].rows);
}

static void print_context(const char *name, const Context *c) {
    printf(",\"%s\":{\"accuracy\":%.4f,\"rows\":%d,\"pages\":%d}", name, c->accuracy, c->rows, c->pages);
}

static void print_lesson(const Lesson *l, const LessonPlan *p) {
    printf("{\"facts\":%d,\"tokens\":%d,\"fits\":%s", p->facts, l->tokens, l->fits ? "true" : "false");
    print_context("none", &l->none);
    print_context("truncated", &l->size[p->main].truncated);
    print_context("text", &l->text);
    print_context("cartridge", &l->size[p->main].cartridge);
    printf("}");
}

static void print_json(const Job *j) {
    printf("{\"met\":%s,\"first\":", bar_is_met(j) ? "true" : "false");
    print_lesson(&j->facts, &j->plan);
    if (!j->a->quick) {
        printf(",\"long\":");
        print_lesson(&j->longer, &j->longer_plan);
    }
    printf("}\n");
}

static void finish(const Job *j) {
    const Fact *f = j->facts.facts.fact;
    progress_end();
    if (j->common->json) {
        print_json(j);
        return;
    }
    printf("try it:  cartridge chat -m %s -c %s --prompt \"%s %s?\"\n", j->model,
           j->facts.size[j->plan.main].cartridge_path, f->name, f->relation);
    printf("look:    %s\n", j->page);
}

/* ---- all of it ---- */

static void tell_model(Job *j) {
    char note[160];
    ModelConfig c;
    if (model_config_read(&c, j->model)) return;
    snprintf(note, sizeof note, "%d layers, width %d, %d heads of %d; it looks facts up in its context",
             c.layers, c.width, c.heads, c.head_dim);
    tell(j, "model", note);
}

static Status run_job(Job *j, int *code) {
    TRY(make_model(j));
    tell_model(j);
    plan_first(j);
    TRY(lesson_run(&j->facts, &j->plan));
    print_first(j);
    if (!j->a->quick) {
        plan_longer(j);
        TRY(lesson_run(&j->longer, &j->longer_plan));
        print_longer(j);
    }
    DemoPage page = {.first = &j->facts,
                     .first_plan = &j->plan,
                     .longer = j->a->quick ? NULL : &j->longer,
                     .longer_plan = &j->longer_plan,
                     .bar = BAR,
                     .met = bar_is_met(j)};
    TRY(demo_page_write(&page, j->page));
    finish(j);
    if (!page.met) *code = EXIT_BAR;
    return ST_OK;
}

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)rest;
    Job *j = calloc(1, sizeof *j);
    NEED(j, ST_NOMEM, "no memory for the demo");
    *j = (Job){.a = options, .common = common, .watch = watch};
    Status st = run_job(j, code);
    free(j);
    return st;
}

const Command cmd_demo = {
    .name = "demo",
    .usage = "demo [--out DIR] [--quick]",
    .summary =
        "the whole path on a built-in tiny model: facts, self-study, training, tables and a page to look at",
    .table = {{rows, OPTION_COUNT(rows)}},
    .at = {0},
    .bytes = sizeof(Args),
    .run = run};
