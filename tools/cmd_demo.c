/* cmd_demo.c -- the whole path on a model that lies inside the program: a corpus of made-up facts, self-study
 * by the model itself, training, and a table with a bar that the cartridge must reach. Everything it makes
 * stays in its folder, the model too, so that the other commands can be tried on it. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/learn/evaluate.h"
#include "engine/learn/init.h"
#include "engine/learn/trainer.h"
#include "tools/command.h"
#include "tools/demo/facts.h"
#include "tools/demo/files.h"
#include "tools/job.h"
#include "tools/progress.h"

typedef struct Args {
    const char *out;
    int64_t facts, rows;
    bool quick;
} Args;
#define AT(field) offsetof(Args, field)

static const Option rows[] = {
    {"out", 'o', OPTION_TEXT, "DIR", "demo", 0, 0, "demo", "folder for the model, the corpus, the cartridge",
     AT(out), false},
    {"facts", 0, OPTION_WHOLE, "N", "64", 8, FACTS_MAX, "demo", "facts in the corpus, eight for each name",
     AT(facts), false},
    {"tokens", 'p', OPTION_WHOLE, "N", "16", 2, 1024, "demo", "rows of the cartridge", AT(rows), false},
    {"quick", 0, OPTION_FLAG, NULL, NULL, 0, 0, "demo", "16 facts in 8 rows, in seconds", AT(quick), false},
};

static const double BAR = 0.95; /* of the accuracy with the whole text in context */

/* How much is done: the full demo and the quick one. */
typedef struct Plan {
    int32_t facts, rows;
    int64_t conversations, steps;
} Plan;

enum { CONTEXTS = 4 };
typedef struct Job {
    const Args *a;
    const Common *common;
    const Watch *watch;
    Plan plan;
    Facts facts;
    char model[PATH_MAX], text[PATH_MAX], questions[PATH_MAX], study[PATH_MAX], cartridge[PATH_MAX];
    Session s;
    Corpus *corpus;
    QuestionSet set;
    Dataset *data;
    Ranks *ranks;
    Cartridge *c;
    Trainer *t;
    Scores score[CONTEXTS];
    int64_t row[CONTEXTS];
} Job;
static const char *const context_name[CONTEXTS] = {"none", "truncated", "full text", "cartridge"};

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

static Status write_model(const Job *j) {
    TRY(make_folder(j->model));
    for (const EmbeddedFile *f = demo_model_files; f->name; f++) {
        char path[PATH_MAX];
        TRY(file_join(path, sizeof path, j->model, f->name));
        TRY(write_file(path, f->data, (size_t)(f->end - f->data)));
    }
    return ST_OK;
}

static Status write_corpus(Job *j) {
    char *text = NULL, *questions = NULL;
    facts_make(&j->facts, j->plan.facts, (uint64_t)j->common->seed);
    Status st = facts_text(&j->facts, &text);
    if (!st) st = facts_questions(&j->facts, &questions);
    if (!st) st = write_file(j->text, text, strlen(text));
    if (!st) st = write_file(j->questions, questions, strlen(questions));
    free(text);
    free(questions);
    return st;
}

static Status make_files(Job *j) {
    const char *dir = j->a->out;
    TRY(make_folder(dir));
    TRY(file_join(j->model, sizeof j->model, dir, "model"));
    TRY(file_join(j->text, sizeof j->text, dir, "facts.txt"));
    TRY(file_join(j->questions, sizeof j->questions, dir, "facts.questions.jsonl"));
    TRY(file_join(j->study, sizeof j->study, dir, "facts.study"));
    TRY(file_join(j->cartridge, sizeof j->cartridge, dir, "facts.cartridge"));
    unlink(j->study); /* of an earlier demo */
    TRY(write_model(j));
    return write_corpus(j);
}

/* ---- self-study ---- */

/* The demo model asks about a name when told "Ada what?"; see tools/demo/README.md. */
static Status do_study(Job *j, StudySums *sums) {
    char ask[FACTS_MAX / 8][24];
    const char *list[FACTS_MAX / 8];
    for (int32_t i = 0; i < j->facts.names; i++) {
        snprintf(ask[i], sizeof ask[i], "%s what?", j->facts.name[i]);
        list[i] = ask[i];
    }
    StudyOptions o = study_defaults();
    o.conversations = j->plan.conversations, o.per_chunk = 64;
    o.instruction = "";
    o.chunk = (ChunkRule){CHUNK_PARAGRAPHS, 1, 4 * FACTS_MAX + 1};
    memset(o.weight, 0, sizeof o.weight);
    o.weight[SEED_ASK] = 1, o.ask = list, o.asks = j->facts.names;
    o.force_openings = o.drop_unrelated = false;
    o.question_max = 6, o.answer_max = 8, o.question_temperature = 1;
    o.answer_floor = -1e9f, o.duplicate_overlap = 2;
    o.seed = (uint64_t)j->common->seed;
    return job_study(&j->s, j->corpus, &o, j->study, false, j->watch, &j->data, sums);
}

/* ---- training ---- */

static Status make_start(Job *j) {
    InitOptions o = {.kind = INIT_FIRST, .rows = j->plan.rows, .frozen = 1, .text = corpus_text(j->corpus)};
    TRY(cartridge_init(&j->c, &j->s.capture, j->s.chat, &o));
    char hex[65];
    digest_hex(corpus_digest(j->corpus), hex);
    j->c->info.corpus = strdup(hex);
    j->c->info.name = strdup("facts");
    j->c->info.corpus_tokens = dataset_info(j->data)->corpus_tokens;
    return ST_OK;
}

/* Small steps of 64 conversations and a high rate: what the demo model wants, not what large models want. */
static TrainerOptions demo_training(const Job *j) {
    TrainerOptions o = trainer_defaults();
    o.rows_max = 1024, o.step_tokens = 320, o.steps = j->plan.steps;
    o.lr = 0.1, o.beta2 = 0.99, o.clip = 0, o.heldout = 0;
    o.seed = (uint64_t)j->common->seed;
    return o;
}

static Status do_training(Job *j) {
    HeldOut first, best;
    TrainerOptions o = demo_training(j);
    TRY(make_start(j));
    TRY(ranks_solo(&j->ranks));
    TRY(trainer_open(&j->t, j->s.model, j->s.pool, j->c, &j->data, 1, j->ranks, &o));
    TRY(trainer_run(j->t, false, j->watch, &first, &best));
    return cartridge_save(j->c, j->s.capture.stream, j->cartridge);
}

/* ---- the table ---- */

static Status measure(Job *j, int context, const Prefix *p) {
    EvaluateOptions o = {.answer_max = 8, .generate = true};
    j->row[context] = p ? prefix_visible(p) : 0;
    return evaluate(j->s.scheduler, j->s.model, j->s.chat, &p, p ? 1 : 0, &j->set, &o, j->watch,
                    &j->score[context]);
}

static Status measure_text(Job *j, int context, int32_t rows_) {
    Prefix *p;
    TRY(session_capture(&j->s, corpus_text(j->corpus), rows_, &p));
    Status st = measure(j, context, p);
    prefix_drop(p);
    return st;
}

static Status measure_all(Job *j) {
    TRY(measure(j, 0, NULL));
    TRY(measure_text(j, 1, j->plan.rows));
    TRY(measure_text(j, 2, 0));
    return measure(j, 3, j->c->prefix);
}

static void print_table(const Job *j) {
    int64_t row = model_row_bytes(&j->s.model->cfg, DT_BF16);
    printf("\n| context   | accuracy | KV rows |  KV bytes | pages held "
           "|\n|-----------|----------|---------|-----------|------------|\n");
    for (int i = 0; i < CONTEXTS; i++) {
        char bytes[24];
        job_bytes(bytes, sizeof bytes, (double)(row * j->row[i]));
        printf("| %-9s |   %6.1f%% | %7lld | %9s | %10d |\n", context_name[i], 100 * j->score[i].exact,
               (long long)j->row[i], bytes, pages_for(j->row[i]));
    }
}

static void print_json(const Job *j, bool met) {
    printf("{\"facts\":%d,\"met\":%s", j->plan.facts, met ? "true" : "false");
    for (int i = 0; i < CONTEXTS; i++)
        printf(",\"%s\":{\"accuracy\":%.4f,\"rows\":%lld}", context_name[i], j->score[i].exact,
               (long long)j->row[i]);
    printf("}\n");
}

static void finish(const Job *j, int *code) {
    bool met = j->score[3].exact >= BAR * j->score[2].exact;
    progress_end();
    if (j->common->json) {
        print_json(j, met);
    } else {
        print_table(j);
        printf("\nthe cartridge has %.1f times fewer rows than the text; bar: %.2f of the full text's "
               "accuracy: %s\n",
               (double)j->row[2] / (double)j->row[3], BAR, met ? "met" : "missed");
        printf("\ntry it:  cartridge chat -m %s -c %s --prompt \"%s %s?\"\n", j->model, j->cartridge,
               j->facts.fact[0].name, j->facts.fact[0].relation);
    }
    if (!met) *code = EXIT_BAR;
}

/* ---- all of it ---- */

static void tell(const Job *j, const char *stage, const char *what) {
    progress_end();
    if (!j->common->quiet && !j->common->json) printf("%-10s %s\n", stage, what), fflush(stdout);
}

static Status open_all(Job *j) {
    char note[160];
    TRY(make_files(j));
    TRY(corpus_open(&j->corpus, j->text));
    TRY(questions_load(&j->set, j->questions));
    TrainerOptions o = demo_training(j);
    SessionLimits l = {.held_rows = 8 * (4 * FACTS_MAX + 2 * KV_PAGE) + (int64_t)trainer_pages(&o) * KV_PAGE,
                       .seqs = 64,
                       .seq_rows = 2 * KV_PAGE,
                       .pass_rows = 1024};
    TRY(session_open(&j->s, j->model, &l));
    const ModelConfig *c = &j->s.model->cfg;
    snprintf(note, sizeof note, "%d layers, width %d, %d heads of %d; it looks facts up in its context",
             c->layers, c->width, c->heads, c->head_dim);
    tell(j, "model", note);
    snprintf(note, sizeof note, "%d facts: %s %s %s. %s %s %s. ...", j->plan.facts, j->facts.fact[0].name,
             j->facts.fact[0].relation, j->facts.fact[0].value, j->facts.fact[1].name,
             j->facts.fact[1].relation, j->facts.fact[1].value);
    tell(j, "corpus", note);
    return ST_OK;
}

static Status run_job(Job *j, int *code) {
    char note[160];
    StudySums sums;
    TRY(open_all(j));
    TRY(do_study(j, &sums));
    snprintf(note, sizeof note,
             "%lld conversations: the model asks itself and answers, with the facts in its context",
             (long long)sums.kept);
    tell(j, "self-study", note);
    TRY(do_training(j));
    snprintf(note, sizeof note, "%lld steps on %d rows: the same answers, without the facts",
             (long long)j->c->info.steps, j->plan.rows);
    tell(j, "training", note);
    TRY(measure_all(j));
    finish(j, code);
    return ST_OK;
}

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)rest;
    const Args *a = options;
    Job j = {.a = a,
             .common = common,
             .watch = watch,
             .plan = a->quick ? (Plan){16, 8, 256, 100}
                              : (Plan){(int32_t)a->facts, (int32_t)a->rows, 16 * a->facts, 300}};
    Status st = run_job(&j, code);
    for (int i = 0; i < CONTEXTS; i++) scores_close(&j.score[i]);
    trainer_close(j.t);
    cartridge_close(j.c);
    if (j.ranks) ranks_close(j.ranks);
    dataset_close(j.data);
    questions_close(&j.set);
    session_close(&j.s);
    corpus_close(j.corpus);
    return st;
}

const Command cmd_demo = {
    .name = "demo",
    .usage = "demo [--out DIR] [--quick]",
    .summary =
        "the whole path on a built-in tiny model: facts, self-study, training, a table; no file is needed",
    .table = {{rows, OPTION_COUNT(rows)}},
    .at = {0},
    .bytes = sizeof(Args),
    .run = run};
