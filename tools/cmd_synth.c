/* cmd_synth.c -- a corpus into conversations with the teacher's log-probabilities. */
#include <stdio.h>

#include "tools/command.h"
#include "tools/job.h"
#include "tools/progress.h"
#include "tools/study_args.h"

typedef struct Args {
    StudyArgs study;
    const char *model, *corpus, *out;
    bool resume;
} Args;
#define AT(field) offsetof(Args, field)

static const Option rows[] = {
    {"model", 'm', OPTION_TEXT, "DIR", NULL, 0, 0, "what", "the base model, a Hugging Face folder", AT(model),
     true},
    {"corpus", 0, OPTION_TEXT, "PATH", NULL, 0, 0, "what", "a UTF-8 text file, or a folder of them",
     AT(corpus), true},
    {"out", 'o', OPTION_TEXT, "FILE", NULL, 0, 0, "what", "the dataset to write (SQLite)", AT(out), true},
    {"resume", 0, OPTION_FLAG, NULL, NULL, 0, 0, "what", "go on with a dataset that was begun", AT(resume),
     false},
};

static Status print_result(const Common *c, const Args *a, Dataset *d, const StudySums *sums) {
    char drops[256];
    TRY(job_drops(d, drops, sizeof drops));
    progress_end();
    if (c->json)
        printf("{\"dataset\":\"%s\",\"kept\":%lld,\"tried\":%lld,\"tokens\":%lld,\"dropped\":\"%s\"}\n",
               a->out, (long long)sums->kept, (long long)sums->tried, (long long)sums->tokens, drops);
    else
        printf("%s: %lld conversations of %lld tried, %lld tokens%s%s\n", a->out, (long long)sums->kept,
               (long long)sums->tried, (long long)sums->tokens, drops[0] ? "; dropped: " : "", drops);
    return ST_OK;
}

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)rest, (void)code;
    const Args *a = options;
    Status st = ST_OK;
    StudyOptions o;
    StudySums sums;
    Corpus *corpus = NULL;
    Session s = {0};
    Dataset *d = NULL;
    TRY(study_options(&a->study, (uint64_t)common->seed, &o));
    TRY(corpus_open(&corpus, a->corpus));
    SessionLimits limits = job_study_limits(&o);
    TRY_TO(done, session_open(&s, a->model, &limits));
    TRY_TO(done, job_study(&s, corpus, &o, a->out, a->resume, watch, &d, &sums));
    TRY_TO(done, print_result(common, a, d, &sums));
done:
    dataset_close(d);
    session_close(&s);
    corpus_close(corpus);
    return st;
}

const Command cmd_synth = {
    .name = "synth",
    .usage = "synth -m DIR --corpus PATH -o FILE [options]",
    .summary = "self-study: conversations about a corpus, with the teacher's log-probabilities",
    .about = "The conversations are kept in an SQLite file, batch by batch: a run that was killed goes on "
             "with --resume. train uses one or more such files with --data.",
    .examples =
        "cartridge synth -m models/smollm2-135m-instruct --corpus harbour.txt -n 400 -o harbour.study\n",
    .table = {{rows, OPTION_COUNT(rows)}, {study_rows, STUDY_ROWS}},
    .at = {0, offsetof(Args, study)},
    .bytes = sizeof(Args),
    .run = run};
