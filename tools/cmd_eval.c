/* cmd_eval.c -- how well questions are answered behind a cartridge, beside no context, the start of the text
 * and all of it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/learn/evaluate.h"
#include "tools/command.h"
#include "tools/job.h"
#include "tools/progress.h"

typedef struct Args {
    const char *model, *corpus, *against, *expect;
    TextList cartridge, set;
    int64_t answer_tokens, errors;
    bool nll_only;
} Args;
#define AT(field) offsetof(Args, field)

static const Option rows[] = {
    {"model", 'm', OPTION_TEXT, "DIR", NULL, 0, 0, "what", "the base model, a Hugging Face folder", AT(model),
     true},
    {"cartridge", 'c', OPTION_LIST, "FILE", NULL, 0, 0, "what",
     "repeatable: several are used together, in this order", AT(cartridge), false},
    {"set", 0, OPTION_LIST, "FILE", NULL, 0, 0, "what",
     "questions: JSONL of {question, answer, choices?, contains?}; repeatable", AT(set), true},
    {"against", 0, OPTION_TEXT, "LIST", "none", 0, 0, "what",
     "baselines: none, full, truncate:N (the last two need --corpus)", AT(against), false},
    {"corpus", 0, OPTION_TEXT, "PATH", NULL, 0, 0, "what",
     "the text that full and truncate put into the context", AT(corpus), false},
    {"answer-tokens", 0, OPTION_WHOLE, "N", "64", 1, 1e5, "how", "longest generated answer",
     AT(answer_tokens), false},
    {"nll-only", 0, OPTION_FLAG, NULL, NULL, 0, 0, "how", "generate nothing; only score the gold answers",
     AT(nll_only), false},
    {"errors", 0, OPTION_WHOLE, "N", "0", 0, 1e6, "how",
     "print the cartridge's first N answers that lack the gold one", AT(errors), false},
    {"expect", 0, OPTION_TEXT, "'SCORE>=X'", NULL, 0, 0, "how",
     "leave with 6 unless the cartridge reaches this, as 'contains>=0.5' or 'nll<=1.2'", AT(expect), false},
};

enum { CONTEXTS_MAX = 12, SETS_ROWS = 192 };

/* One line of the table: a context and how it did. */
typedef struct Context {
    char name[40];
    int64_t rows;
    Scores scores;
} Context;

typedef struct Job {
    const Args *a;
    const Common *common;
    const Watch *watch;
    Session s;
    Corpus *corpus;
    QuestionSet set;
    Cartridge *cartridge[LIST_MAX];
    int32_t cartridges;
    Context context[CONTEXTS_MAX];
    int32_t contexts, main_context; /* the cartridge's line, -1: none */
} Job;

/* ---- inputs ---- */

static Status load_sets(Job *j) {
    for (int32_t i = 0; i < j->a->set.n; i++) {
        QuestionSet more;
        TRY(questions_load(&more, j->a->set.v[i]));
        Question *all = realloc(j->set.q, sizeof *all * (size_t)(j->set.n + more.n));
        if (!all) {
            questions_close(&more);
            FAIL(ST_NOMEM, "no memory for %d questions", j->set.n + more.n);
        }
        memcpy(all + j->set.n, more.q, sizeof *all * (size_t)more.n);
        j->set.q = all, j->set.n += more.n;
        free(more.q);
    }
    return ST_OK;
}

static Status open_all(Job *j) {
    const Args *a = j->a;
    int64_t held;
    TRY(load_sets(j));
    if (a->corpus) TRY(corpus_open(&j->corpus, a->corpus));
    SessionLimits l = {.held_rows = 64 * KV_PAGE,
                       .seqs = JOB_SEQS,
                       .seq_rows = SETS_ROWS + (int32_t)a->answer_tokens,
                       .pass_rows = JOB_PASS_ROWS};
    if (j->corpus) l.held_rows += 2 * job_corpus_rows(a->model, j->corpus);
    TRY(cartridge_rows(&a->cartridge, &held));
    l.held_rows += held;
    TRY(session_open(&j->s, a->model, &l));
    TRY(session_cartridges(&j->s, &a->cartridge, j->cartridge, &j->cartridges));
    return ST_OK;
}

/* ---- contexts ---- */

static Status add_context(Job *j, const char *name, const Prefix *const *prefix, int32_t n) {
    NEED(j->contexts < CONTEXTS_MAX, ST_ARG, "--against: more than %d contexts", CONTEXTS_MAX);
    Context *c = &j->context[j->contexts];
    snprintf(c->name, sizeof c->name, "%s", name);
    for (int32_t i = 0; i < n; i++) c->rows += prefix_visible(prefix[i]);
    EvaluateOptions o = {.answer_max = (int32_t)j->a->answer_tokens, .generate = !j->a->nll_only};
    TRY(evaluate(j->s.scheduler, j->s.model, j->s.chat, prefix, n, &j->set, &o, j->watch, &c->scores));
    j->contexts++;
    return ST_OK;
}

static Status add_text(Job *j, const char *name, int32_t rows_) {
    NEED(j->corpus, ST_ARG, "--against %s puts the text into the context: give --corpus", name);
    Prefix *p;
    TRY(session_capture(&j->s, corpus_text(j->corpus), rows_, &p));
    Status st = add_context(j, name, (const Prefix *const *)&p, 1);
    prefix_drop(p);
    return st;
}

static Status add_baseline(Job *j, const char *name) {
    char *end;
    if (!strcmp(name, "none")) return add_context(j, name, NULL, 0);
    if (!strcmp(name, "full")) return add_text(j, name, 0);
    if (!strncmp(name, "truncate:", 9)) {
        long n = strtol(name + 9, &end, 10);
        NEED(end != name + 9 && !*end && n >= 1 && n < 1 << 24, ST_ARG,
             "--against: \"%s\" has no number of rows", name);
        return add_text(j, name, (int32_t)n);
    }
    FAIL(ST_ARG, "--against: \"%s\" is none of none, full, truncate:N", name);
}

static Status add_baselines(Job *j) {
    for (const char *p = j->a->against; *p;) {
        size_t n = strcspn(p, ",");
        char name[40];
        snprintf(name, sizeof name, "%.*s", (int)(n < 39 ? n : 39), p);
        TRY(add_baseline(j, name));
        p += n + (p[n] == ',');
    }
    return ST_OK;
}

static Status add_cartridges(Job *j) {
    const Prefix *p[LIST_MAX];
    j->main_context = -1;
    if (!j->cartridges) return ST_OK;
    for (int32_t i = 0; i < j->cartridges; i++) p[i] = j->cartridge[i]->prefix;
    j->main_context = j->contexts;
    return add_context(j, "cartridge", p, j->cartridges);
}

/* ---- results ---- */

static void print_score(double v, const char *format) {
    if (isnan(v))
        printf(" %8s |", "-");
    else
        printf(format, v);
}

static void print_table(const Job *j) {
    printf("%d questions\n\n| context        |   rows |  KV bytes | gold NLL | contains |    exact |   "
           "choice |\n"
           "|----------------|--------|-----------|----------|----------|----------|----------|\n",
           j->set.n);
    for (int32_t i = 0; i < j->contexts; i++) {
        const Context *c = &j->context[i];
        char bytes[24];
        job_bytes(bytes, sizeof bytes, (double)(model_row_bytes(&j->s.model->cfg, DT_BF16) * c->rows));
        printf("| %-14s | %6lld | %9s |", c->name, (long long)c->rows, bytes);
        print_score(c->scores.nll, " %8.3f |");
        print_score(c->scores.contains, " %8.3f |");
        print_score(c->scores.exact, " %8.3f |");
        print_score(c->scores.choice, " %8.3f |");
        putchar('\n');
    }
}

/* Whether a difference is more than chance: the same questions, so pairs are compared. */
static void print_differences(const Job *j) {
    if (j->main_context < 0 || j->contexts < 2) return;
    printf(
        "\ngold NLL of the cartridge minus that of (nats per answer, 95%% interval by paired bootstrap)\n");
    for (int32_t i = 0; i < j->contexts; i++) {
        if (i == j->main_context) continue;
        Interval d = scores_compare(&j->context[j->main_context].scores, &j->context[i].scores,
                                    (uint64_t)j->common->seed);
        printf("  %-14s %+8.3f  [%+.3f, %+.3f]\n", j->context[i].name, d.mean, d.low, d.high);
    }
}

static void print_errors(const Job *j) {
    if (j->main_context < 0) return;
    const Scores *s = &j->context[j->main_context].scores;
    int64_t left = j->a->errors;
    for (int32_t i = 0; i < j->set.n && left > 0; i++) {
        if (!s->q[i].answer || s->q[i].contains) continue;
        printf("\nQ: %s\ngold:   %s\nanswer: %s\n", j->set.q[i].question, j->set.q[i].answer, s->q[i].answer);
        left--;
    }
}

static void print_json_number(const char *name, double v) {
    if (!isnan(v)) printf(",\"%s\":%.6f", name, v);
}

static void print_json(const Job *j) {
    for (int32_t i = 0; i < j->contexts; i++) {
        const Context *c = &j->context[i];
        printf("{\"context\":\"%s\",\"rows\":%lld,\"questions\":%d", c->name, (long long)c->rows, j->set.n);
        print_json_number("nll", c->scores.nll);
        print_json_number("contains", c->scores.contains);
        print_json_number("exact", c->scores.exact);
        print_json_number("choice", c->scores.choice);
        if (j->main_context >= 0 && i != j->main_context) {
            Interval d =
                scores_compare(&j->context[j->main_context].scores, &c->scores, (uint64_t)j->common->seed);
            printf(",\"cartridge_minus\":[%.6f,%.6f,%.6f]", d.mean, d.low, d.high);
        }
        printf("}\n");
    }
}

/* ---- the bar ---- */

static Status check_bar(const Job *j, int *code) {
    static const char *const name[] = {"nll", "contains", "exact", "choice"};
    const char *e = j->a->expect;
    if (!e) return ST_OK;
    const char *sign = strpbrk(e, "<>");
    NEED(sign && sign[1] == '=' && j->main_context >= 0, ST_ARG,
         "--expect: \"%s\" is not like 'contains>=0.5', or no cartridge "
         "was given",
         e);
    const Scores *s = &j->context[j->main_context].scores;
    const double value[] = {s->nll, s->contains, s->exact, s->choice};
    for (int i = 0; i < 4; i++) {
        if (strlen(name[i]) != (size_t)(sign - e) || strncmp(name[i], e, (size_t)(sign - e))) continue;
        double bar = strtod(sign + 2, NULL);
        bool met = *sign == '>' ? value[i] >= bar : value[i] <= bar;
        fprintf(stderr, "%s: %s is %.4f\n", e, met ? "met" : "missed", value[i]);
        if (!met) *code = EXIT_BAR;
        return ST_OK;
    }
    FAIL(ST_ARG, "--expect: \"%s\" names none of nll, contains, exact, choice", e);
}

static Status run_job(Job *j, int *code) {
    TRY(open_all(j));
    TRY(add_baselines(j));
    TRY(add_cartridges(j));
    progress_end();
    if (j->common->json) {
        print_json(j);
    } else {
        print_table(j);
        print_differences(j);
        print_errors(j);
    }
    return check_bar(j, code);
}

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)rest;
    Job j = {.a = options, .common = common, .watch = watch};
    Status st = run_job(&j, code);
    for (int32_t i = 0; i < j.contexts; i++) scores_close(&j.context[i].scores);
    for (int32_t i = 0; i < j.cartridges; i++) cartridge_close(j.cartridge[i]);
    questions_close(&j.set);
    session_close(&j.s);
    corpus_close(j.corpus);
    return st;
}

const Command cmd_eval = {
    .name = "eval",
    .usage = "eval -m DIR -c FILE... --set FILE... [--against LIST --corpus PATH] [options]",
    .summary = "score answers behind a cartridge against no context, truncation and the full text",
    .about = "Each question is answered behind the cartridge, and behind each of the contexts that --against "
             "names. Gold answers are scored by their likelihood, generated ones by whether they contain or "
             "are the gold answer; differences come with an interval by paired bootstrap.",
    .examples = "cartridge eval -m models/smollm2-135m-instruct -c harbour.cartridge --set questions.jsonl "
                "--corpus harbour.txt --against none,full,truncate:128\n",
    .table = {{rows, OPTION_COUNT(rows)}},
    .at = {0},
    .bytes = sizeof(Args),
    .run = run};
