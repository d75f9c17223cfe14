/* cmd_train.c -- a cartridge, from a corpus or from conversations that synth made.
 *
 * With --corpus everything happens in one process: self-study, start, training, and the comparison on
 * held-out conversations between no context, the first rows of the text, the cartridge, and the whole text.
 * Dataset, checkpoint and metrics lie in the run folder (by default beside the output), and --resume goes on
 * from there. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/learn/init.h"
#include "engine/learn/trainer.h"
#include "tools/command.h"
#include "tools/job.h"
#include "tools/progress.h"
#include "tools/study_args.h"

typedef struct Args {
    StudyArgs study;
    const char *model, *corpus, *out, *run_dir, *name, *note, *init_text;
    TextList data;
    int64_t rows, frozen, steps, step_tokens, micro_rows, warmup, spread, eval_every, patience, save_every;
    const char *init;
    double lr, lr_end, epochs, clip, heldout, beta2;
    int32_t schedule;
    bool resume, ranks;
} Args;
#define AT(field) offsetof(Args, field)

static const Option rows[] = {
    {"model", 'm', OPTION_TEXT, "DIR", NULL, 0, 0, "what", "the base model, a Hugging Face folder", AT(model),
     true},
    {"corpus", 0, OPTION_TEXT, "PATH", NULL, 0, 0, "what", "the text: a UTF-8 file or a folder of them",
     AT(corpus), false},
    {"data", 0, OPTION_LIST, "FILE", NULL, 0, 0, "what",
     "conversations made by synth, instead of self-study now; repeatable", AT(data), false},
    {"out", 'o', OPTION_TEXT, "FILE", NULL, 0, 0, "what", "the cartridge to write", AT(out), true},
    {"tokens", 'p', OPTION_WHOLE, "N", "128", 1, 1e7, "cartridge", "rows of the cartridge", AT(rows), false},
    {"init", 0, OPTION_TEXT, "first|random-text|random-vectors|FILE", "first", 0, 0, "cartridge",
     "what training starts from: the first tokens of the corpus, a random text, random numbers, or another "
     "cartridge",
     AT(init), false},
    {"init-text", 0, OPTION_TEXT, "FILE", NULL, 0, 0, "cartridge", "start from the first tokens of this text",
     AT(init_text), false},
    {"frozen", 0, OPTION_WHOLE, "N", "1", 0, 1e6, "cartridge",
     "first rows that never learn (the attention sink)", AT(frozen), false},
    {"name", 0, OPTION_TEXT, "TEXT", NULL, 0, 0, "cartridge", "kept in the file", AT(name), false},
    {"note", 0, OPTION_TEXT, "TEXT", NULL, 0, 0, "cartridge", "kept in the file", AT(note), false},
    {"epochs", 0, OPTION_REAL, "F", "5", 0, 1e6, "training", "passes over the conversations", AT(epochs),
     false},
    {"steps", 0, OPTION_WHOLE, "N", "0", 0, 1e9, "training", "instead of epochs", AT(steps), false},
    {"step-tokens", 0, OPTION_WHOLE, "N", "512", 1, 1e9, "training",
     "supervised tokens of a step, over all ranks", AT(step_tokens), false},
    {"lr", 0, OPTION_REAL, "F", "0", 0, 10, "training",
     "learning rate; 0: 2e-2, below 1536 supervised tokens a step falling with their square root", AT(lr),
     false},
    {"schedule", 0, OPTION_CHOICE, "constant|linear|cosine", "linear", 0, 0, "training",
     "of the learning rate", AT(schedule), false},
    {"lr-end", 0, OPTION_REAL, "F", "0.02", 0, 1, "training",
     "share of the learning rate that is left at the end", AT(lr_end), false},
    {"warmup", 0, OPTION_WHOLE, "N", "8", 0, 1e9, "training", "steps, the first one included", AT(warmup),
     false},
    {"beta2", 0, OPTION_REAL, "F", "0.99", 0, 1, "training", "Adam's memory of squares", AT(beta2), false},
    {"clip", 0, OPTION_REAL, "F", "1", 0, 1e9, "training", "largest gradient norm; 0: none", AT(clip), false},
    {"spread", 0, OPTION_WHOLE, "N", "0", 0, 1e6, "training",
     "conversations start up to this many positions later: for cartridges that are joined later", AT(spread),
     false},
    {"micro-rows", 0, OPTION_WHOLE, "N", "1024", 16, 1e6, "training",
     "rows of one pass: more memory, no other result", AT(micro_rows), false},
    {"heldout", 0, OPTION_REAL, "F", "0.05", 0, 0.5, "evaluation",
     "share of conversations kept aside, at least 32", AT(heldout), false},
    {"eval-every", 0, OPTION_WHOLE, "N", "0", 0, 1e9, "evaluation",
     "steps between evaluations; 0: ten in a run", AT(eval_every), false},
    {"patience", 0, OPTION_WHOLE, "N", "0", 0, 1e6, "evaluation",
     "stop after this many evaluations without a better one; 0: never", AT(patience), false},
    {"run-dir", 0, OPTION_TEXT, "DIR", NULL, 0, 0, "run",
     "dataset, checkpoint, metrics.jsonl; default: the output's name with .run", AT(run_dir), false},
    {"save-every", 0, OPTION_WHOLE, "N", "50", 0, 1e9, "run",
     "steps between checkpoints; 0: only when stopped", AT(save_every), false},
    {"resume", 0, OPTION_FLAG, NULL, NULL, 0, 0, "run", "go on where a stopped run ended", AT(resume), false},
    {"ranks", 0, OPTION_FLAG, NULL, NULL, 0, 0, "run", "this process is one of several that mpirun started",
     AT(ranks), false},
};

/* One run of the command: what is open. */
typedef struct Job {
    const Args *a;
    const Common *common;
    const Watch *watch;
    char run_dir[PATH_MAX], dataset[PATH_MAX];
    Session s;
    Corpus *corpus;
    Ranks *ranks;
    Dataset *data[LIST_MAX];
    int32_t datasets;
    Cartridge *c;
    Trainer *t;
    HeldOut none, first, best, full;
    int32_t full_rows; /* 0: not compared */
} Job;

static TrainerOptions trainer_options(const Job *j) {
    const Args *a = j->a;
    TrainerOptions o = trainer_defaults();
    o.rows_max = (int32_t)a->micro_rows, o.step_tokens = (int32_t)a->step_tokens;
    o.epochs = a->epochs, o.steps = a->steps;
    o.lr = a->lr, o.lr_end = a->lr_end, o.schedule = (Schedule)a->schedule, o.warmup = a->warmup;
    o.beta2 = a->beta2, o.clip = a->clip, o.spread = (int32_t)a->spread;
    o.heldout = a->heldout, o.eval_every = a->eval_every, o.patience = (int32_t)a->patience;
    o.save_every = a->save_every, o.run_dir = j->run_dir, o.seed = (uint64_t)j->common->seed;
    return o;
}

/* ---- before anything is computed ---- */

static Status check_arguments(const Args *a) {
    NEED(a->corpus || a->data.n, ST_ARG,
         "neither --corpus nor --data: give the text, or conversations about it");
    NEED(a->resume || !file_exists(a->out), ST_ARG,
         "%s exists already; choose another name, remove it, or --resume", a->out);
    bool from_text = !strcmp(a->init, "first");
    NEED(a->corpus || a->init_text || !from_text, ST_ARG,
         "--init first starts from the text: give --corpus as well, or --init-text, or another --init");
    return ST_OK;
}

static Status make_run_folder(Job *j) {
    int n = j->a->run_dir ? snprintf(j->run_dir, sizeof j->run_dir, "%s", j->a->run_dir)
                          : snprintf(j->run_dir, sizeof j->run_dir, "%s.run", j->a->out);
    NEED(n > 0 && (size_t)n < sizeof j->run_dir, ST_ARG, "the name of the run folder is too long");
    NEED(mkdir(j->run_dir, 0777) == 0 || errno == EEXIST, ST_IO, "%s: cannot be made: %s", j->run_dir,
         strerror(errno));
    return file_join(j->dataset, sizeof j->dataset, j->run_dir, "conversations.study");
}

static Status open_session(Job *j) {
    const Args *a = j->a;
    StudyOptions study;
    TrainerOptions train = trainer_options(j);
    TRY(study_options(&a->study, (uint64_t)j->common->seed, &study));
    SessionLimits l = job_study_limits(&study);
    job_add_training(&l, &train, a->rows, j->corpus ? job_corpus_rows(a->model, j->corpus) : 0);
    return session_open(&j->s, a->model, &l);
}

/* ---- conversations ---- */

static Status do_study(Job *j) {
    StudyOptions o;
    StudySums sums;
    char drops[256];
    TRY(study_options(&j->a->study, (uint64_t)j->common->seed, &o));
    TRY(job_study(&j->s, j->corpus, &o, j->dataset, j->a->resume, j->watch, &j->data[0], &sums));
    j->datasets = 1;
    TRY(job_drops(j->data[0], drops, sizeof drops));
    progress_end();
    if (!j->common->quiet)
        fprintf(stderr, "self-study   %lld conversations of %lld tried%s%s\n", (long long)sums.kept,
                (long long)sums.tried, drops[0] ? "; dropped: " : "", drops);
    return ST_OK;
}

static Status open_data(Job *j) {
    if (!j->a->data.n) return do_study(j);
    for (int32_t i = 0; i < j->a->data.n; i++) {
        TRY(dataset_open(&j->data[i], j->a->data.v[i]));
        j->datasets++;
    }
    return ST_OK;
}

/* ---- the start ---- */

static Status init_options(const Job *j, InitOptions *o, char **text) {
    const Args *a = j->a;
    size_t n;
    *o = (InitOptions){.kind = INIT_FIRST,
                       .rows = (int32_t)a->rows,
                       .frozen = (int32_t)a->frozen,
                       .seed = (uint64_t)j->common->seed};
    if (a->init_text) {
        TRY(file_read(text, &n, a->init_text));
        o->kind = INIT_TEXT, o->text = (Bytes){*text, n};
    } else if (!strcmp(a->init, "first")) {
        o->text = corpus_text(j->corpus);
    } else if (!strcmp(a->init, "random-text")) {
        o->kind = INIT_RANDOM_TEXT;
    } else if (!strcmp(a->init, "random-vectors")) {
        o->kind = INIT_RANDOM_VECTORS;
    } else {
        o->kind = INIT_CARTRIDGE, o->path = a->init, o->rows = 0;
    }
    return ST_OK;
}

static Status copy_text(char **to, const char *from) {
    if (!from) return ST_OK;
    *to = strdup(from);
    NEED(*to, ST_NOMEM, "no memory for the description of the cartridge");
    return ST_OK;
}

static Status make_start(Job *j) {
    InitOptions o;
    char *text = NULL;
    Status st = init_options(j, &o, &text);
    if (!st) st = cartridge_init(&j->c, &j->s.capture, j->s.chat, &o);
    free(text);
    TRY(st);
    CartridgeInfo *info = &j->c->info;
    const DatasetInfo *d = dataset_info(j->data[0]);
    TRY(copy_text(&info->name, j->a->name));
    TRY(copy_text(&info->note, j->a->note));
    TRY(copy_text(&info->corpus, d->corpus));
    info->corpus_tokens = d->corpus_tokens;
    return ST_OK;
}

/* ---- comparison ---- */

/* The whole text in context, where it fits: what the cartridge is measured against. */
static Status compare_full(Job *j) {
    Prefix *p = NULL;
    if (!j->corpus) return ST_OK;
    Status st = session_capture(&j->s, corpus_text(j->corpus), 0, &p);
    if (st == ST_NOSPACE || st == ST_FULL)
        return ST_OK; /* longer than the model's context: there is no such row */
    TRY(st);
    st = trainer_heldout_behind(j->t, p, &j->full);
    if (!st) j->full_rows = prefix_visible(p);
    prefix_drop(p);
    return st;
}

static void print_row(const Job *j, const char *name, int64_t rows_, const HeldOut *h) {
    char bytes[24];
    job_bytes(bytes, sizeof bytes, (double)(model_row_bytes(&j->s.model->cfg, DT_BF16) * rows_));
    printf("| %-14s | %6lld | %9s | %6.3f | %8.1f%% |\n", name, (long long)rows_, bytes, h->kl,
           100 * h->agree);
}

static void print_text(const Job *j) {
    printf("held-out conversations: %lld, %lld supervised tokens\n\n", (long long)j->best.conversations,
           (long long)j->best.supervised);
    printf("| context        |   rows |  KV bytes |     KL | same token "
           "|\n|----------------|--------|-----------|--------|-----------|\n");
    print_row(j, "none", 0, &j->none);
    print_row(j, "untrained", prefix_visible(j->c->prefix), &j->first);
    print_row(j, "cartridge", prefix_visible(j->c->prefix), &j->best);
    if (j->full_rows) {
        print_row(j, "full text", j->full_rows, &j->full);
        printf("\nthe cartridge closes %.0f%% of the gap in KL between its start and the full text\n",
               100 * (j->first.kl - j->best.kl) / (j->first.kl - j->full.kl));
    }
    printf("wrote %s\n", j->a->out);
}

static void print_json(const Job *j) {
    printf("{\"cartridge\":\"%s\",\"rows\":%d,\"steps\":%lld,\"heldout\":%lld,\"kl\":{\"none\":%.6f,"
           "\"untrained\":%.6f,"
           "\"cartridge\":%.6f",
           j->a->out, prefix_visible(j->c->prefix), (long long)j->c->info.steps,
           (long long)j->best.conversations, j->none.kl, j->first.kl, j->best.kl);
    if (j->full_rows) printf(",\"full\":%.6f", j->full.kl);
    printf("},\"agree\":{\"none\":%.4f,\"untrained\":%.4f,\"cartridge\":%.4f", j->none.agree, j->first.agree,
           j->best.agree);
    if (j->full_rows) printf(",\"full\":%.4f", j->full.agree);
    printf("}}\n");
}

/* ---- all of it ---- */

static Status train(Job *j) {
    TrainerOptions o = trainer_options(j);
    TRY(trainer_open(&j->t, j->s.model, j->s.pool, j->c, j->data, j->datasets, j->ranks, &o));
    TRY(trainer_run(j->t, j->a->resume, j->watch, &j->first, &j->best));
    if (ranks_me(j->ranks) != 0) return ST_OK;
    TRY(cartridge_save(j->c, j->s.capture.stream, j->a->out));
    TRY(trainer_heldout_behind(j->t, NULL, &j->none));
    TRY(compare_full(j));
    progress_end();
    if (j->common->json)
        print_json(j);
    else
        print_text(j);
    return ST_OK;
}

static Status run_job(Job *j) {
    const Args *a = j->a;
    TRY(check_arguments(a));
    TRY(a->ranks ? ranks_mpi(&j->ranks) : ranks_solo(&j->ranks));
    if (a->corpus) TRY(corpus_open(&j->corpus, a->corpus));
    TRY(make_run_folder(j));
    TRY(open_session(j));
    TRY(open_data(j));
    TRY(make_start(j));
    return train(j);
}

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)rest, (void)code;
    Job j = {.a = options, .common = common, .watch = watch};
    Status st = run_job(&j);
    trainer_close(j.t);
    cartridge_close(j.c);
    for (int32_t i = 0; i < j.datasets; i++) dataset_close(j.data[i]);
    session_close(&j.s);
    corpus_close(j.corpus);
    if (j.ranks) ranks_close(j.ranks);
    return st;
}

const Command cmd_train = {
    .name = "train",
    .usage = "train -m DIR (--corpus PATH | --data FILE...) -o FILE [options]",
    .summary = "train a cartridge, from a corpus or from synth's conversations",
    .about = "With --corpus everything happens in one process: the model reads the text chunk by chunk, asks "
             "itself questions and answers them (self-study), a cartridge of --tokens rows starts as the "
             "first rows of the text, and learns to give the answers' probabilities without the text. At the "
             "end it is compared on conversations that were kept aside. A stopped run goes on with --resume, "
             "as if it had not been stopped.",
    .examples =
        "cartridge train -m models/smollm2-135m-instruct --corpus harbour.txt -p 128 -o harbour.cartridge\n"
        "cartridge train -m models/smollm2-135m-instruct --data a.study --data b.study --init-text "
        "harbour.txt -o both.cartridge\n",
    .table = {{rows, OPTION_COUNT(rows)}, {study_rows, STUDY_ROWS}},
    .at = {0, offsetof(Args, study)},
    .bytes = sizeof(Args),
    .run = run};
