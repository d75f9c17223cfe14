/* cmd_plan.c -- what a job would need, without starting it: memory by kind, users that fit, time. Only
 * config.json of the model is read (and tokenizer.json to count the tokens of a text), so a model can be
 * planned for before its weights are there, and a card before it is bought. */
#include <stdio.h>
#include <string.h>

#include "kernels/cuda_device.h"
#include "tools/command.h"
#include "tools/device.h"
#include "tools/host_facts.h"
#include "tools/job.h"
#include "tools/plan_time.h"
#include "tools/threads.h"

typedef struct Args {
    StudyArgs study;
    const char *model, *corpus, *card, *memory;
    int64_t corpus_tokens, rows;
    int64_t micro_rows, step_tokens, steps;
    double epochs, heldout;
    bool no_study;
    int64_t users, turn, cartridges;
} Args;
#define AT(field) offsetof(Args, field)

static const Option rows[] = {
    {"model", 'm', OPTION_TEXT, "DIR", NULL, 0, 0, "what", "the base model: its config.json is enough",
     AT(model), true},
    {"corpus", 0, OPTION_TEXT, "PATH", NULL, 0, 0, "what", "the text: a UTF-8 file or a folder of them",
     AT(corpus), false},
    {"corpus-tokens", 0, OPTION_WHOLE, "N", "0", 0, 1e9, "what", "instead of --corpus: how long it would be",
     AT(corpus_tokens), false},
    {"tokens", 'p', OPTION_WHOLE, "N", "128", 1, 1e7, "what", "rows of the cartridge", AT(rows), false},
    {"card", 0, OPTION_TEXT, "NAME|all", NULL, 0, 0, "where",
     "a card by its data sheet, or all that are known; default: what --device says", AT(card), false},
    {"memory", 0, OPTION_TEXT, "SIZE", NULL, 0, 0, "where",
     "bytes that may be used, as 24G or 16Gi; default: what is free", AT(memory), false},
    {"no-study", 0, OPTION_FLAG, NULL, NULL, 0, 0, "plan train",
     "conversations are there already: no self-study", AT(no_study), false},
    {"epochs", 0, OPTION_REAL, "F", "5", 0, 1e6, "plan train", "passes over the conversations", AT(epochs),
     false},
    {"steps", 0, OPTION_WHOLE, "N", "0", 0, 1e9, "plan train", "instead of epochs", AT(steps), false},
    {"step-tokens", 0, OPTION_WHOLE, "N", "512", 1, 1e9, "plan train",
     "supervised tokens of a step, over all ranks", AT(step_tokens), false},
    {"micro-rows", 0, OPTION_WHOLE, "N", "1024", 16, 1e6, "plan train",
     "rows of one pass: more memory, no other result", AT(micro_rows), false},
    {"heldout", 0, OPTION_REAL, "F", "0.05", 0, 0.5, "plan train",
     "share of conversations kept aside, at least 32", AT(heldout), false},
    {"users", 0, OPTION_WHOLE, "N", "8", 1, USERS_MAX, "plan serve", "conversations at once", AT(users),
     false},
    {"turn-tokens", 0, OPTION_WHOLE, "N", "512", 1, 1e7, "plan serve", "a user's own prompt and answer",
     AT(turn), false},
    {"cartridges", 0, OPTION_WHOLE, "N", "1", 1, 1e6, "plan serve",
     "different texts, or cartridges, in use at once", AT(cartridges), false},
};

typedef struct Job {
    const Args *a;
    const Common *common;
    ModelConfig model;
    int64_t tokens;   /* of the text; 0: no text was given */
    const Card *card; /* NULL: this CPU */
    Card own;         /* the GPU that is here, if it is planned for */
    CudaDevice gpu;
    double memory;
    Rates rates;
} Job;

/* ---- what is asked ---- */

static Status count_tokens(Job *j) {
    const Args *a = j->a;
    Corpus *corpus = NULL;
    Tokenizer *tokenizer = NULL;
    TokenVec t = {0};
    Status st = ST_OK;
    j->tokens = a->corpus_tokens;
    if (!a->corpus) return ST_OK;
    NEED(!a->corpus_tokens, ST_ARG, "--corpus and --corpus-tokens: one of them");
    TRY_TO(done, corpus_open(&corpus, a->corpus));
    TRY_TO(done, tokenizer_open(&tokenizer, a->model));
    TRY_TO(done, tokenizer_encode(tokenizer, corpus_text(corpus), ENCODE_PLAIN, &t));
    j->tokens = t.n;
done:
    tokens_close(&t);
    tokenizer_close(tokenizer);
    corpus_close(corpus);
    return st;
}

/* *card: the GPU that --device means; NULL: the CPU, because it was asked for or nothing else is there. */
static Status find_gpu(Job *j, const Card **card) {
    int32_t index, n = 0;
    *card = NULL;
    TRY(device_index(j->common->device, &index));
    if (index < 0) return ST_OK;
    Status st = cuda_device_count(&n);
    if (st || index >= n) {
        if (!strcmp(j->common->device, "auto")) return ST_OK;
        return st ? st : cuda_device_read(&j->gpu, index); /* which says that it is not there */
    }
    TRY(cuda_device_read(&j->gpu, index));
    j->own = (Card){.name = j->gpu.name, .memory = (double)j->gpu.bytes_free};
    *card = &j->own;
    return ST_OK;
}

/* The memory of a card, or of this machine; --memory overrides either. */
static Status choose_place(Job *j, const Card *card) {
    HostFacts facts;
    host_facts(&facts);
    j->card = card;
    j->memory = card ? card->memory : (double)host_memory_usable(&facts);
    if (j->a->memory) TRY(plan_size(&j->memory, "memory", j->a->memory));
    NEED(j->memory > 0, ST_UNSUPPORTED, "how much memory is free cannot be seen here; give --memory");
    if (!card) return rates_of_cpu(&j->rates, &j->model);
    j->rates = rates_of_card(card);
    return ST_OK;
}

/* ---- words ---- */

static void put_duration(char *out, size_t cap, double s) {
    if (s < 100)
        snprintf(out, cap, s < 10 ? "%.1f s" : "%.0f s", s);
    else if (s < 6000)
        snprintf(out, cap, "%.0f min", s / 60);
    else if (s < 48 * 3600)
        snprintf(out, cap, "%.1f h", s / 3600);
    else
        snprintf(out, cap, "%.1f days", s / 86400);
}

static void put_users(char *out, size_t cap, int32_t n) {
    snprintf(out, cap, n == USERS_MAX ? "%d or more" : "%d", n);
}

static void print_head(const Job *j) {
    char weights[24], row[24], memory[24];
    job_bytes(weights, sizeof weights, (double)model_bytes(&j->model));
    job_bytes(row, sizeof row, (double)model_row_bytes(&j->model, plan_kv(j->card)));
    job_bytes(memory, sizeof memory, j->memory);
    printf("model      %s: %d layers, weights %s, one row of keys and values %s (%s)\n", j->a->model,
           j->model.layers, weights, row, dtype_name(plan_kv(j->card)));
    if (j->tokens) printf("text       %lld tokens\n", (long long)j->tokens);
    if (j->card == &j->own)
        printf("machine    %s, %s free\n\n", j->own.name, memory);
    else if (j->card)
        printf("machine    %s by its data sheet: %s, %.0f GB/s, %.0f TFLOP/s\n\n", j->card->name, memory,
               j->card->bandwidth / 1e9, j->card->rate / 1e12);
    else
        printf("machine    this CPU, %d thread%s: %s of memory; measured now: products of many rows %.0f "
               "GFLOP/s, of few "
               "%.0f GFLOP/s, reading %.0f GB/s\n\n",
               threads_now(), threads_now() == 1 ? "" : "s", memory, j->rates.wide / 1e9,
               j->rates.narrow / 1e9, j->rates.bandwidth / 1e9);
}

enum { KINDS = 7 };
static const char *const kind_name[KINDS] = {"weights",
                                             "pages of keys and values",
                                             "activations",
                                             "logits of one chunk",
                                             "master, moments, gradient, best",
                                             "scratch and lists",
                                             "total"};
static const char *const kind_key[KINDS] = {"weights",  "pages",   "activations", "logits",
                                            "learning", "scratch", "total"};

static const char *name_of_kind(const Job *j, int kind) {
    bool lists = !strcmp(kind_key[kind], "scratch") && !plan_knows_scratch(j->card);
    return lists ? "lists" : kind_name[kind];
}

static size_t kind_bytes(const PlanBytes *b, int kind) {
    const size_t v[KINDS] = {b->weights,  b->pages,   b->activations, b->logits,
                             b->learning, b->scratch, plan_total(b)};
    return v[kind];
}

/* One column for each of n plans. */
static void print_kinds(const Job *j, const PlanBytes *b, int n) {
    for (int kind = 0; kind < KINDS; kind++) {
        printf("| %-31s |", name_of_kind(j, kind));
        for (int i = 0; i < n; i++) {
            char text[24];
            job_bytes(text, sizeof text, (double)kind_bytes(&b[i], kind));
            printf(" %18s |", text);
        }
        putchar('\n');
    }
}

static void print_json_kinds(const PlanBytes *b) {
    printf("{");
    for (int kind = 0; kind < KINDS; kind++)
        printf("%s\"%s\":%zu", kind ? "," : "", kind_key[kind], kind_bytes(b, kind));
    printf("}");
}

static void print_json_head(const Job *j, const char *what) {
    printf("{\"plan\":\"%s\",\"machine\":\"%s\",\"memory\":%.0f,\"text_tokens\":%lld", what,
           j->card ? j->card->name : "cpu", j->memory, (long long)j->tokens);
}

static void print_left_out(const Job *j) {
    if (j->card)
        printf("Not counted: what the driver and its libraries%s take for themselves.\n",
               plan_knows_scratch(j->card) ? ""
                                           : " and (in this build, without the CUDA toolkit) the kernels");
    else
        printf("Not counted: tokenizer, conversations, libraries, and the file cache. Pages that nobody "
               "writes to are "
               "asked for,\nbut never take room.\n");
}

/* ---- training ---- */

typedef struct TrainPlan {
    PlanBytes bytes;
    TrainTime low, high;
} TrainPlan;

static TrainerOptions trainer_of(const Args *a) {
    TrainerOptions o = trainer_defaults();
    o.rows_max = (int32_t)a->micro_rows, o.step_tokens = (int32_t)a->step_tokens;
    o.epochs = a->epochs, o.steps = a->steps, o.heldout = a->heldout;
    return o;
}

/* As train itself reserves rows for the whole text: by its bytes where they are known. */
static Status text_rows(const Job *j, int64_t *out) {
    Corpus *corpus;
    *out = j->tokens < j->model.context_max ? j->tokens : j->model.context_max;
    if (!j->a->corpus) return ST_OK;
    TRY(corpus_open(&corpus, j->a->corpus));
    *out = job_corpus_rows(j->a->model, corpus);
    corpus_close(corpus);
    return ST_OK;
}

static Status plan_train(const Job *j, TrainPlan *out) {
    const Args *a = j->a;
    StudyOptions study;
    int64_t corpus_rows;
    TRY(study_options(&a->study, 0, &study));
    TRY(text_rows(j, &corpus_rows));
    PlanJob job = {.model = j->model,
                   .limits = job_study_limits(&study),
                   .training = true,
                   .train = trainer_of(a),
                   .rows = (int32_t)a->rows,
                   .candidates = (int32_t)a->study.top_k};
    job_add_training(&job.limits, &job.train, a->rows, corpus_rows);
    TRY(plan_bytes(&out->bytes, &job, j->card));
    TrainWork w = {.model = &j->model,
                   .study = a->no_study ? NULL : &study,
                   .train = &job.train,
                   .rows = a->rows,
                   .conversations = (double)a->study.samples,
                   .share = 0.25,
                   .tries = 1};
    out->low = train_seconds(&j->rates, &w);
    w.share = 1, w.tries = 3;
    out->high = train_seconds(&j->rates, &w);
    return ST_OK;
}

static bool train_fits(const Job *j, const TrainPlan *p) {
    return (double)plan_total(&p->bytes) <= j->memory;
}

static void print_range(const Job *j, const char *name, double low, double high) {
    char a[24], b[24];
    put_duration(a, sizeof a, low);
    put_duration(b, sizeof b, high);
    printf("%-10s %s%s to %s\n", name, j->card ? "at least " : "", a, b);
}

static void print_train(const Job *j, const TrainPlan *p) {
    char cartridge[24], checkpoint[24];
    print_head(j);
    printf("| bytes                           |        to train it |\n"
           "|---------------------------------|--------------------|\n");
    print_kinds(j, &p->bytes, 1);
    print_left_out(j);
    job_bytes(cartridge, sizeof cartridge, (double)model_row_bytes(&j->model, DT_BF16) * (double)j->a->rows);
    job_bytes(checkpoint, sizeof checkpoint, (double)p->bytes.learning * 4 / 5); /* all but the gradient */
    printf("\ndisk       cartridge %s, checkpoint %s, and the conversations\n", cartridge, checkpoint);
    if (j->card == &j->own) {
        printf("time       not known for this card; --card plans by a data sheet\n");
        return;
    }
    if (!j->a->no_study) print_range(j, "study", p->low.study, p->high.study);
    print_range(j, "training", p->low.train, p->high.train);
    printf("%s: for texts of a quarter of the allowed length, all of them kept, to texts of the\nwhole "
           "length, one of "
           "three kept.%s\n",
           j->card ? "A floor, from the rates of the data sheet"
                   : "An estimate, from the rates measured above",
           j->card ? " No run can be faster; how much slower one is, only a measurement tells." : "");
}

static void print_train_json(const Job *j, const TrainPlan *p) {
    print_json_head(j, "train");
    printf(",\"fits\":%s,\"bytes\":", train_fits(j, p) ? "true" : "false");
    print_json_kinds(&p->bytes);
    if (j->card == &j->own) {
        printf("}\n");
        return;
    }
    printf(",\"seconds\":{\"%s\":true,\"study\":[%.3g,%.3g],\"training\":[%.3g,%.3g]}}\n",
           j->card ? "floor" : "estimate", p->low.study, p->high.study, p->low.train, p->high.train);
}

static void print_train_line(const Job *j, const TrainPlan *p) {
    char have[24], want[24], low[24], high[24];
    job_bytes(have, sizeof have, j->memory);
    job_bytes(want, sizeof want, (double)plan_total(&p->bytes));
    put_duration(low, sizeof low, p->low.study + p->low.train);
    put_duration(high, sizeof high, p->high.study + p->high.train);
    printf("| %-9s | %8s | %8s | %-4s | %8s to %-8s |\n", j->card->name, have, want,
           train_fits(j, p) ? "yes" : "no", low, high);
}

/* ---- serving ---- */

enum { CONTEXTS = 3 };
static const char *const context_key[CONTEXTS] = {"full", "shared", "cartridge"};

typedef struct ServePlan {
    PlanServe ask[CONTEXTS];
    PlanBytes bytes[CONTEXTS];
    int32_t users[CONTEXTS]; /* that fit */
    double rate[CONTEXTS];   /* tokens per second at most, of the users asked for */
    bool possible[CONTEXTS]; /* the text fits the model's context */
} ServePlan;

static Status plan_serve(const Job *j, ServePlan *out) {
    const Args *a = j->a;
    NEED(j->tokens, ST_ARG, "plan serve compares with the whole text: give --corpus, or --corpus-tokens");
    for (int i = 0; i < CONTEXTS; i++) {
        PlanServe *s = &out->ask[i];
        PlanJob job;
        *s = (PlanServe){.model = j->model,
                         .context = (PlanContext)i,
                         .rows = i == PLAN_ROWS ? a->rows : j->tokens,
                         .copies = a->cartridges,
                         .turn = a->turn};
        TRY(plan_serve_job(&job, s, (int32_t)a->users));
        TRY(plan_bytes(&out->bytes[i], &job, j->card));
        TRY(plan_users(&out->users[i], s, j->memory, j->card));
        out->rate[i] = serve_rate(&j->rates, s, (int32_t)a->users, plan_kv(j->card));
        out->possible[i] = s->rows + s->turn <= j->model.context_max;
    }
    return ST_OK;
}

static bool serve_fits(const Job *j, const ServePlan *p) {
    for (int i = 0; i < CONTEXTS; i++)
        if (p->users[i] >= j->a->users) return true;
    return false;
}

static void print_serve(const Job *j, const ServePlan *p) {
    print_head(j);
    printf(
        "| for %5lld users                 | whole text, each's | whole text, shared | cartridge of %5lld |\n"
        "|---------------------------------|--------------------|--------------------|--------------------|"
        "\n",
        (long long)j->a->users, (long long)j->a->rows);
    print_kinds(j, p->bytes, CONTEXTS);
    if (j->card != &j->own) {
        printf("| %-31s |", "tokens per second at most");
        for (int i = 0; i < CONTEXTS; i++) printf(p->rate[i] < 100 ? " %18.1f |" : " %18.0f |", p->rate[i]);
        putchar('\n');
    }
    printf("| %-31s |", "users that fit");
    for (int i = 0; i < CONTEXTS; i++) {
        char users[24];
        put_users(users, sizeof users, p->users[i]);
        printf(" %18s |", p->possible[i] ? users : "beyond the context");
    }
    printf("\n\nEach user has %lld tokens of prompt and answer", (long long)j->a->turn);
    if (j->a->cartridges > 1)
        printf("; %lld different texts or cartridges are in use", (long long)j->a->cartridges);
    printf(".\n");
    if (j->card != &j->own)
        printf("Tokens per second: a pass for all users must read the weights and what they attend to, and "
               "multiply, at the rates above.\n");
    print_left_out(j);
}

static void print_serve_json(const Job *j, const ServePlan *p) {
    print_json_head(j, "serve");
    printf(",\"users\":%lld,\"fits\":%s", (long long)j->a->users, serve_fits(j, p) ? "true" : "false");
    for (int i = 0; i < CONTEXTS; i++) {
        printf(",\"%s\":{\"users_that_fit\":%d", context_key[i], p->users[i]);
        if (j->card != &j->own) printf(",\"tokens_per_second_at_most\":%.4g", p->rate[i]);
        printf(",\"bytes\":");
        print_json_kinds(&p->bytes[i]);
        printf("}");
    }
    printf("}\n");
}

static void print_serve_line(const Job *j, const ServePlan *p) {
    char have[24], users[CONTEXTS][24];
    job_bytes(have, sizeof have, j->memory);
    for (int i = 0; i < CONTEXTS; i++) put_users(users[i], sizeof users[i], p->users[i]);
    printf("| %-9s | %8s | %18s | %18s | %18s |\n", j->card->name, have, users[0], users[1], users[2]);
}

/* ---- one place, or all cards ---- */

/* *fits is set when it does. */
static Status plan_place(Job *j, bool train, bool line, bool *fits) {
    TrainPlan t;
    ServePlan s;
    if (train)
        TRY(plan_train(j, &t));
    else
        TRY(plan_serve(j, &s));
    *fits |= train ? train_fits(j, &t) : serve_fits(j, &s);
    if (j->common->json)
        train ? print_train_json(j, &t) : print_serve_json(j, &s);
    else if (line)
        train ? print_train_line(j, &t) : print_serve_line(j, &s);
    else
        train ? print_train(j, &t) : print_serve(j, &s);
    return ST_OK;
}

static Status plan_all(Job *j, bool train, bool *fits) {
    if (!j->common->json)
        printf(train
                   ? "| card      |   memory |   wanted | fits |   time at least      |\n"
                     "|-----------|----------|----------|------|----------------------|\n"
                   : "users that fit\n\n| card      |   memory | whole text, each's | whole text, shared |   "
                     "       cartridge |\n"
                     "|-----------|----------|--------------------|--------------------|--------------------|"
                     "\n");
    for (const Card *c = plan_cards; c->name; c++) {
        TRY(choose_place(j, c));
        TRY(plan_place(j, train, true, fits));
    }
    if (!j->common->json) print_left_out(j);
    return ST_OK;
}

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)watch;
    const char *what = rest->n ? rest->v[0] : "";
    bool train = !strcmp(what, "train"), fits = false;
    Job j = {.a = options, .common = common};
    const Card *card = NULL;
    NEED(train || !strcmp(what, "serve"), ST_ARG, "\"%s\" is neither train nor serve", what);
    TRY(model_config_read(&j.model, j.a->model));
    TRY(count_tokens(&j));
    if (j.a->card && !strcmp(j.a->card, "all")) {
        TRY(plan_all(&j, train, &fits));
    } else {
        TRY(j.a->card ? plan_card(&card, j.a->card) : find_gpu(&j, &card));
        TRY(choose_place(&j, card));
        TRY(plan_place(&j, train, false, &fits));
    }
    if (fits) return ST_OK;
    bool weights =
        (double)model_bytes(&j.model) > j.memory; /* with all cards: the largest of them stands last */
    fprintf(stderr, "cartridge plan: it does not fit; %s\n",
            weights ? "the weights alone are larger: a smaller model or a larger machine"
            : train ? "fewer --micro-rows, a smaller --chunk or fewer rows need less"
                    : "fewer --users or --turn-tokens need less");
    *code = EXIT_SPACE;
    return ST_OK;
}

const Command cmd_plan = {
    .name = "plan",
    .usage = "plan train|serve -m DIR [--corpus PATH] [--card NAME] [options]",
    .summary = "memory, users that fit and time of a job, without starting it",
    .operands = "train|serve",
    .operands_max = 1,
    .no_device = true,
    .about = "The bytes are worked out by the code that asks for the memory. Times are estimates from rates "
             "that are "
             "measured now, or, for a card by its data sheet, a floor. Leaves with 4 if it does not fit.",
    .examples =
        "cartridge plan train -m models/qwen3-4b --corpus contracts/ -p 2048 --card h100\n"
        "cartridge plan serve -m models/qwen3-4b --corpus-tokens 100000 -p 2048 --users 64 --card all\n",
    .table = {{rows, OPTION_COUNT(rows)}, {study_rows, STUDY_ROWS}},
    .at = {0, offsetof(Args, study)},
    .bytes = sizeof(Args),
    .run = run};
