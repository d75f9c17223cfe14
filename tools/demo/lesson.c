/* lesson.c -- see lesson.h. Everything that is measured here is measured once, on the machine that runs; the
 * settings of training are what the demo model wants (README.md beside this file), not what large models
 * want. */
#include "tools/demo/lesson.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/learn/evaluate.h"
#include "engine/learn/init.h"
#include "engine/learn/trainer.h"
#include "tools/demo/speed.h"
#include "tools/job.h"

static const int32_t users_of_load[LESSON_LOADS] = {1, 8, 32};
enum {
    USERS_MAX = 32,
    ANSWER_ROOM = KV_PAGE
}; /* rows behind a context: a question, and what is said to it */

typedef struct Work {
    const LessonPlan *plan;
    Lesson *out;
    char *text; /* owned: of all chapters, on one line */
    size_t chapter_end[LESSON_CHAPTERS];
    Session s;
    Corpus *corpus;
    QuestionSet set;
    Dataset *data[LESSON_CHAPTERS];
    Ranks *ranks;
    Trainer *t;
    Cartridge *c[LESSON_SIZES];
    int32_t shown;              /* first rows of the text that stand in context; 0: all */
    Scores none, read, learned; /* behind nothing, the text, the main cartridge */
    Prefix *user[USERS_MAX];    /* each one's own copy of the text */
} Work;

/* ---- files ---- */

/* folder/name<part>.<kind>; part 0: no number. */
static Status path_of(const Work *w, char *out, size_t cap, int32_t part, const char *kind) {
    char name[64];
    if (part)
        snprintf(name, sizeof name, "%s-%d.%s", w->plan->name, part, kind);
    else
        snprintf(name, sizeof name, "%s.%s", w->plan->name, kind);
    return file_join(out, cap, w->plan->folder, name);
}

static Status put_file(const Work *w, const char *kind, const char *text) {
    char path[PATH_MAX];
    Writer *f;
    TRY(path_of(w, path, sizeof path, 0, kind));
    TRY(writer_open(&f, path));
    Status st = writer_put(f, text, strlen(text));
    if (!st) return writer_finish(&f);
    writer_abandon(&f);
    return st;
}

/* One telling of a chapter; the first one of a text without chapters is in the order of the facts themselves.
 */
static Status telling(const Work *w, int32_t chapter, int32_t turn, char **text) {
    const LessonPlan *p = w->plan;
    const Facts *all = &w->out->facts;
    if (p->chapters == 1 && turn == 0) return facts_text(all, text);
    int32_t names = all->names / p->chapters;
    Facts part;
    facts_part(&part, all, chapter * names, names, p->seed + (uint64_t)(turn * p->chapters + chapter));
    return facts_text(&part, text);
}

/* Behind a blank: the demo model does not know what a new line is. */
static Status add_text(Work *w, const char *more) {
    size_t used = w->text ? strlen(w->text) : 0;
    char *text = realloc(w->text, used + strlen(more) + 2);
    NEED(text, ST_NOMEM, "no memory for a text of %zu bytes", used + strlen(more));
    w->text = text;
    sprintf(text + used, "%s%s", used ? " " : "", more);
    return ST_OK;
}

static Status make_text(Work *w) {
    const LessonPlan *p = w->plan;
    for (int32_t c = 0; c < p->chapters; c++) {
        for (int32_t turn = 0; turn < p->tellings; turn++) {
            char *text;
            TRY(telling(w, c, turn, &text));
            Status st = add_text(w, text);
            free(text);
            TRY(st);
        }
        w->chapter_end[c] = strlen(w->text);
    }
    return ST_OK;
}

static Status make_files(Work *w) {
    char path[PATH_MAX], *questions;
    facts_make(&w->out->facts, w->plan->facts, w->plan->seed);
    TRY(make_text(w));
    const char *end = w->text;
    for (int i = 0; i < 3 && strchr(end, '.'); i++) end = strchr(end, '.') + 1;
    snprintf(w->out->opening, sizeof w->out->opening, "%.*s", (int)(end - w->text), w->text);
    TRY(put_file(w, "txt", w->text));
    TRY(facts_questions(&w->out->facts, &questions));
    Status st = put_file(w, "questions.jsonl", questions);
    free(questions);
    TRY(st);
    TRY(path_of(w, path, sizeof path, 0, "txt"));
    TRY(corpus_open(&w->corpus, path));
    TRY(path_of(w, path, sizeof path, 0, "questions.jsonl"));
    return questions_load(&w->set, path);
}

static Bytes chapter_text(const Work *w, int32_t chapter) {
    size_t from = chapter ? w->chapter_end[chapter - 1] + 1 : 0;
    return (Bytes){w->text + from, w->chapter_end[chapter] - from};
}

/* ---- opening ---- */

/* Small steps of 64 conversations and a high rate. */
static TrainerOptions training(const LessonPlan *p) {
    TrainerOptions o = trainer_defaults();
    o.rows_max = 1024, o.step_tokens = 320, o.steps = p->steps;
    o.lr = 0.1, o.beta2 = 0.99, o.clip = 0, o.heldout = 0;
    o.seed = p->seed;
    return o;
}

static void describe_model(Work *w) {
    Lesson *out = w->out;
    const Model *m = w->s.model;
    SchedulerLimits limits = scheduler_limits(w->s.scheduler);
    Footprint f;
    scheduler_footprint(&f, m, pool_pages(w->s.pool), &limits);
    out->layers = m->cfg.layers, out->width = m->cfg.width, out->heads = m->cfg.heads;
    out->head_dim = m->cfg.head_dim, out->context_max = m->cfg.context_max;
    out->device = m->ops->name, out->kv = dtype_name(m->ops->act);
    out->row_bytes = model_row_bytes(&m->cfg, DT_BF16);
    out->page_bytes = KV_PAGE * model_row_bytes(&m->cfg, m->ops->act);
    out->weight_bytes = (int64_t)model_bytes(&m->cfg);
    out->pass_bytes = (int64_t)(f.activations + f.logits + f.lists);
}

/* Pages for every user's own copy of the text, and for one training at a time. */
static Status open_model(Work *w) {
    const LessonPlan *p = w->plan;
    TrainerOptions o = training(p);
    int64_t text = 4 * (int64_t)p->facts * p->tellings + 2 * KV_PAGE, context;
    ModelConfig cfg;
    TRY(model_config_read(&cfg, p->model));
    context = text < cfg.context_max ? text : cfg.context_max;
    SessionLimits l = {.held_rows = USERS_MAX * context + (int64_t)trainer_pages(&o) * KV_PAGE,
                       .seqs = 64,
                       .seq_rows = 2 * KV_PAGE,
                       .pass_rows = 1024};
    for (int32_t i = 0; i < p->sizes; i++) l.held_rows += p->size[i] + KV_PAGE;
    TRY(session_open(&w->s, p->model, &l));
    describe_model(w);
    return ranks_solo(&w->ranks);
}

static Status count_rows(Work *w) {
    TokenVec t = {0};
    Status st = chat_prefix(w->s.chat, corpus_text(w->corpus), 0, &t);
    w->out->tokens = t.n;
    tokens_close(&t);
    return st;
}

static void tell(const Work *w, const char *stage, const char *what) {
    w->plan->tell(w->plan->user, stage, what);
}

static void tell_corpus(const Work *w) {
    char note[200];
    snprintf(note, sizeof note, "%d facts, %d tokens: %s ...", w->plan->facts, w->out->tokens,
             w->out->opening);
    tell(w, "corpus", note);
}

/* ---- self-study ---- */

/* The demo model asks about a name when told "Ada what?"; see README.md beside this file. */
static StudyOptions study_options(const LessonPlan *p, const char *const *ask, int32_t asks) {
    StudyOptions o = study_defaults();
    o.conversations = p->conversations / p->chapters, o.per_chunk = 64;
    o.instruction = "";
    o.chunk = (ChunkRule){CHUNK_PARAGRAPHS, 1, 4 * FACTS_MAX + 1};
    memset(o.weight, 0, sizeof o.weight);
    o.weight[SEED_ASK] = 1, o.ask = ask, o.asks = asks;
    o.force_openings = o.drop_unrelated = false;
    o.question_max = 6, o.answer_max = 8, o.question_temperature = 1;
    o.answer_floor = -1e9f, o.duplicate_overlap = 2;
    o.seed = p->seed;
    return o;
}

static Status study_chapter(Work *w, int32_t chapter) {
    const LessonPlan *p = w->plan;
    char words[FACTS_MAX / 8][24], path[PATH_MAX];
    const char *ask[FACTS_MAX / 8];
    int32_t names = w->out->facts.names / p->chapters;
    for (int32_t i = 0; i < names; i++) {
        snprintf(words[i], sizeof words[i], "%s what?", w->out->facts.name[chapter * names + i]);
        ask[i] = words[i];
    }
    StudyOptions o = study_options(p, ask, names);
    o.seed += (uint64_t)chapter;
    TRY(path_of(w, path, sizeof path, p->chapters > 1 ? chapter + 1 : 0, "study"));
    unlink(path); /* of an earlier demo */
    Corpus *corpus;
    StudySums sums;
    TRY(corpus_of_text(&corpus, chapter_text(w, chapter), p->name));
    Status st = job_study(&w->s, corpus, &o, path, false, p->watch, &w->data[chapter], &sums);
    corpus_close(corpus);
    if (!st) w->out->conversations += sums.kept;
    return st;
}

static Status study(Work *w) {
    char note[200];
    double began = clock_seconds();
    for (int32_t c = 0; c < w->plan->chapters; c++) TRY(study_chapter(w, c));
    w->out->study_seconds = clock_seconds() - began;
    snprintf(note, sizeof note,
             "%lld conversations: the model asks itself and answers, with the facts in its context",
             (long long)w->out->conversations);
    tell(w, "self-study", note);
    return ST_OK;
}

/* ---- training ---- */

static Status describe_cartridge(const Work *w, Cartridge *c) {
    char hex[65];
    digest_hex(corpus_digest(w->corpus), hex);
    c->info.corpus = strdup(hex);
    c->info.name = strdup(w->plan->name);
    NEED(c->info.corpus && c->info.name, ST_NOMEM, "no memory for the description of the cartridge");
    for (int32_t i = 0; i < w->plan->chapters; i++)
        c->info.corpus_tokens += dataset_info(w->data[i])->corpus_tokens;
    return ST_OK;
}

/* The run folder lies beside the cartridge, as `train` has it, and is made anew. */
static Status name_files(Work *w, int32_t i, char *run) {
    char checkpoint[PATH_MAX];
    Sized *z = &w->out->size[i];
    TRY(path_of(w, z->cartridge_path, sizeof z->cartridge_path, i == w->plan->main ? 0 : z->rows,
                "cartridge"));
    TRY(path_of(w, run, PATH_MAX, i == w->plan->main ? 0 : z->rows, "cartridge.run"));
    TRY(file_join(z->metrics, sizeof z->metrics, run, "metrics.jsonl"));
    TRY(file_join(checkpoint, sizeof checkpoint, run, "checkpoint.safetensors"));
    unlink(checkpoint);
    return ST_OK;
}

static Status train_size(Work *w, int32_t i) {
    const LessonPlan *p = w->plan;
    char run[PATH_MAX];
    HeldOut first, best;
    InitOptions start = {.kind = INIT_FIRST, .rows = p->size[i], .frozen = 1, .text = corpus_text(w->corpus)};
    TrainerOptions o = training(p);
    w->out->size[i].rows = p->size[i];
    TRY(name_files(w, i, run));
    o.run_dir = run;
    double began = clock_seconds();
    TRY(cartridge_init(&w->c[i], &w->s.capture, w->s.chat, &start));
    TRY(describe_cartridge(w, w->c[i]));
    TRY(trainer_open(&w->t, w->s.model, w->s.pool, w->c[i], w->data, p->chapters, w->ranks, &o));
    TRY(trainer_run(w->t, false, p->watch, &first, &best));
    trainer_close(w->t);
    w->t = NULL;
    TRY(cartridge_save(w->c[i], w->s.capture.stream, w->out->size[i].cartridge_path));
    w->out->size[i].seconds = clock_seconds() - began;
    w->out->steps = w->c[i]->info.steps;
    return ST_OK;
}

static Status train(Work *w) {
    char note[200], list[80] = "";
    for (int32_t i = 0; i < w->plan->sizes; i++) {
        TRY(train_size(w, i));
        size_t used = strlen(list);
        const char *comma = i == 0 ? "" : i + 1 < w->plan->sizes ? ", " : " and ";
        snprintf(list + used, sizeof list - used, "%s%d", comma, w->plan->size[i]);
    }
    snprintf(note, sizeof note, "%lld steps on %s rows: the same answers, without the facts",
             (long long)w->out->steps, list);
    tell(w, "training", note);
    return ST_OK;
}

/* ---- answers ---- */

static Status measure(Work *w, const Prefix *p, Context *out, Scores *keep) {
    EvaluateOptions o = {.answer_max = 8, .generate = true};
    Scores scores;
    out->rows = p ? prefix_visible(p) : 0;
    out->pages = p ? p->pages : 0;
    TRY(evaluate(w->s.scheduler, w->s.model, w->s.chat, &p, p ? 1 : 0, &w->set, &o, w->plan->watch, &scores));
    out->accuracy = scores.exact;
    if (keep)
        *keep = scores;
    else
        scores_close(&scores);
    return ST_OK;
}

/* The first rows of the text; 0: all. */
static Status measure_text(Work *w, int32_t rows, Context *out, Scores *keep) {
    Prefix *p;
    TRY(session_capture(&w->s, corpus_text(w->corpus), rows, &p));
    Status st = measure(w, p, out, keep);
    prefix_drop(p);
    return st;
}

/* The message of what has just failed, without the place in the source that stands behind it. */
static void keep_message(char *out, size_t cap) {
    snprintf(out, cap, "%s", status_message());
    char *place = strstr(out, " [");
    if (place) *place = '\0';
}

/* The whole text, or why not; then as many of its first rows as leave room for an answer. */
static Status fit_text(Work *w) {
    Lesson *out = w->out;
    Prefix *p;
    Status st = session_capture(&w->s, corpus_text(w->corpus), 0, &p);
    if (st && st != ST_NOSPACE) return st;
    out->fits = !st;
    if (st)
        keep_message(out->refusal, sizeof out->refusal);
    else
        prefix_drop(p);
    w->shown = st ? out->context_max - ANSWER_ROOM : 0;
    return ST_OK;
}

static Status measure_answers(Work *w) {
    Lesson *out = w->out;
    TRY(fit_text(w));
    TRY(measure(w, NULL, &out->none, &w->none));
    TRY(measure_text(w, w->shown, &out->text, &w->read));
    for (int32_t i = 0; i < w->plan->sizes; i++) {
        Sized *z = &out->size[i];
        TRY(measure_text(w, z->rows, &z->truncated, NULL));
        TRY(measure(w, w->c[i]->prefix, &z->cartridge, i == w->plan->main ? &w->learned : NULL));
    }
    return ST_OK;
}

/* Without the blank that the model's template puts in front. */
static void copy_answer(char *to, size_t cap, const Score *s) {
    snprintf(to, cap, "%s", s->answer + strspn(s->answer, " "));
}

/* A question that shows the difference where there is one: the text in context fails, the cartridge does not.
 */
static void choose_example(Work *w) {
    int32_t best = 0;
    for (int32_t i = 0; i < w->set.n; i++)
        if (w->learned.q[i].exact && !w->read.q[i].exact) {
            best = i;
            break;
        }
    Example *e = &w->out->example;
    snprintf(e->question, sizeof e->question, "%s", w->set.q[best].question);
    snprintf(e->gold, sizeof e->gold, "%s", w->set.q[best].answer);
    copy_answer(e->none, sizeof e->none, &w->none.q[best]);
    copy_answer(e->text, sizeof e->text, &w->read.q[best]);
    copy_answer(e->cartridge, sizeof e->cartridge, &w->learned.q[best]);
    e->text_right = w->read.q[best].exact;
    e->cartridge_right = w->learned.q[best].exact;
}

/* ---- speed ---- */

static Status read_copies(Work *w) {
    double began = clock_seconds();
    for (int32_t i = 0; i < USERS_MAX; i++) {
        TRY(session_capture(&w->s, corpus_text(w->corpus), w->shown, &w->user[i]));
        watch_progress(w->plan->watch, "speed", i + 1, USERS_MAX, "reading every user's copy of the text");
    }
    w->out->read_seconds = (clock_seconds() - began) / USERS_MAX;
    return ST_OK;
}

static int rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Whose rows each user sees. */
static void give_contexts(const Work *w, int kind, int32_t users, const Prefix **seen) {
    for (int32_t i = 0; i < users; i++)
        seen[i] =
            kind == SPEED_CARTRIDGE ? w->c[w->plan->main]->prefix : w->user[kind == SPEED_PRIVATE ? i : 0];
}

/* Rounds until there was enough time to measure in; the middle one counts. */
enum { ROUNDS_MIN = 3, ROUNDS_MAX = 99 };
typedef struct Rounds {
    double rate[ROUNDS_MAX], seconds;
    int n;
} Rounds;

static bool enough(const Work *w, const Rounds *r) {
    return r->n == ROUNDS_MAX || (r->n >= ROUNDS_MIN && r->seconds >= w->plan->speed_seconds);
}

static Status one_round(Work *w, Load *load, int kind, Rounds *r) {
    const Prefix *seen[USERS_MAX];
    Rate rate;
    if (enough(w, r)) return ST_OK;
    give_contexts(w, kind, load->users, seen);
    TRY(speed_measure(&rate, &w->s, seen, load->users, &w->set, w->plan->speed_tokens));
    r->rate[r->n++] = rate.tokens_per_second;
    r->seconds += rate.seconds;
    load->own_pages = rate.own_pages;
    load->context_pages[kind] = seen[0]->pages * (kind == SPEED_PRIVATE ? load->users : 1);
    return ST_OK;
}

/* The kinds take turns, so that what else the machine does meets them alike. */
static Status measure_load(Work *w, Load *load) {
    Rounds r[SPEED_KINDS] = {{.n = 0}};
    while (!enough(w, &r[SPEED_PRIVATE]) || !enough(w, &r[SPEED_SHARED]) || !enough(w, &r[SPEED_CARTRIDGE]))
        for (int k = 0; k < SPEED_KINDS; k++) TRY(one_round(w, load, k, &r[k]));
    for (int k = 0; k < SPEED_KINDS; k++) {
        qsort(r[k].rate, (size_t)r[k].n, sizeof *r[k].rate, rising);
        load->tokens_per_second[k] = r[k].rate[r[k].n / 2];
    }
    return ST_OK;
}

static Status measure_speed(Work *w) {
    TRY(read_copies(w));
    for (int i = 0; i < LESSON_LOADS; i++) {
        w->out->load[i].users = users_of_load[i];
        TRY(measure_load(w, &w->out->load[i]));
        watch_progress(w->plan->watch, "speed", users_of_load[i], USERS_MAX, "users");
    }
    return ST_OK;
}

/* ---- all of it ---- */

static Status run(Work *w) {
    TRY(make_files(w));
    TRY(open_model(w));
    TRY(count_rows(w));
    tell_corpus(w);
    TRY(study(w));
    TRY(train(w));
    TRY(measure_answers(w));
    choose_example(w);
    return measure_speed(w);
}

static void close_work(Work *w) {
    for (int i = 0; i < USERS_MAX; i++) prefix_drop(w->user[i]);
    scores_close(&w->none);
    scores_close(&w->read);
    scores_close(&w->learned);
    trainer_close(w->t);
    for (int i = 0; i < LESSON_SIZES; i++) cartridge_close(w->c[i]);
    if (w->ranks) ranks_close(w->ranks);
    for (int i = 0; i < LESSON_CHAPTERS; i++) dataset_close(w->data[i]);
    questions_close(&w->set);
    session_close(&w->s);
    corpus_close(w->corpus);
    free(w->text);
}

Status lesson_run(Lesson *out, const LessonPlan *plan) {
    Work w = {.plan = plan, .out = out};
    *out = (Lesson){.facts = {.n = 0}};
    Status st = run(&w);
    close_work(&w);
    return st;
}
