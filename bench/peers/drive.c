/* drive.c -- our side of bench/peers: the engine, given the very token ids and rows that the peer is given.
 *
 *   peers_drive init|train|decode|study JOB.json
 *
 * The job names its model folder; tokens are ids, so that no tokenizer stands between the two sides. Each
 * line on stdin asks for one repetition, with as many of the job's users as it says or with all, and is
 * answered by one line of JSON: a program that stays open can take turns with its peer without reading its
 * model again. At the end of stdin it tells the most memory that it held, and leaves. It calls the scheduler
 * and the trainer as the program's commands do; only what a repetition starts with and ends at is its own. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/learn/init.h"
#include "engine/learn/trainer.h"
#include "kernels/base/json.h"
#include "kernels/machine.h"
#include "tools/session.h"

enum { SEQS_MAX = 256, TOPK = 20, LONGEST = 1 << 20 };

static const Sampling GREEDY = {.top_p = 1};

/* A list of ids out of the job: owned. */
typedef struct Ids {
    int32_t *v;
    int32_t n;
} Ids;

/* One user's turn: what was said, and what is being said. */
typedef struct Turn {
    TokenVec said;
    double logprob;
    int32_t candidates;
    bool done;
} Turn;

typedef struct Drive {
    const char *path, *model;
    cJSON *job;
    Session s;
    Cartridge *cartridge;       /* or NULL */
    Prefix *document[SEQS_MAX]; /* held: one for all users, or one for each */
    int32_t documents;
    Ids prompt[SEQS_MAX];   /* owned */
    int32_t prompts, users; /* as many users as prompts, or the first of them */
    Turn turn[SEQS_MAX];
    Dataset *data;
    Ranks *ranks;
    Trainer *trainer;
} Drive;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the job ---- */

static Status whole(const Drive *d, const char *key, int32_t *out) {
    int64_t v;
    TRY(json_integer(d->job, key, 0, LONGEST, &v, d->path));
    *out = (int32_t)v;
    return ST_OK;
}

static Status ids_of(const cJSON *list, const char *what, Ids *out) {
    NEED(cJSON_IsArray(list), ST_FORMAT, "%s: wanted a list of ids", what);
    *out = (Ids){malloc(sizeof *out->v * (size_t)(cJSON_GetArraySize(list) + 1)), 0};
    NEED(out->v, ST_NOMEM, "no memory for the ids of %s", what);
    const cJSON *e;
    cJSON_ArrayForEach(e, list) out->v[out->n++] = e->valueint;
    return ST_OK;
}

static Status ids_named(const Drive *d, const char *key, Ids *out) {
    return ids_of(cJSON_GetObjectItemCaseSensitive(d->job, key), key, out);
}

static Status read_prompts(Drive *d) {
    const cJSON *e;
    cJSON_ArrayForEach(e, cJSON_GetObjectItemCaseSensitive(d->job, "prompts")) {
        NEED(d->prompts < SEQS_MAX, ST_ARG, "more than %d prompts", SEQS_MAX);
        TRY(ids_of(e, "prompts", &d->prompt[d->prompts++]));
    }
    NEED(d->prompts > 0, ST_ARG, "%s: no prompts", d->path);
    return ST_OK;
}

static Status open_session(Drive *d, int64_t held_rows, int32_t seq_rows, int32_t pass_rows) {
    int32_t seqs = d->prompts > 0 ? d->prompts : 1;
    return session_open(&d->s, d->model, &(SessionLimits){held_rows, seqs, seq_rows, pass_rows});
}

static Status open_cartridge(Drive *d, const char *path) {
    return cartridge_open(&d->cartridge, path, d->s.model, d->s.tokenizer_hex, chat_family(d->s.chat),
                          d->s.pool, d->s.capture.stream);
}

/* ---- init: the first rows of a text as a cartridge file ---- */

static Status init(Drive *d) {
    const char *text, *out;
    InitOptions o = {.kind = INIT_FIRST, .frozen = 1};
    TRY(json_string(d->job, "text", &text, d->path));
    TRY(json_string(d->job, "out", &out, d->path));
    TRY(whole(d, "rows", &o.rows));
    o.text = bytes_of(text);
    TRY(open_session(d, o.rows, KV_PAGE, 512));
    TRY(cartridge_init(&d->cartridge, &d->s.capture, d->s.chat, &o));
    return cartridge_save(d->cartridge, d->s.capture.stream, out);
}

/* ---- train: one step over all conversations ---- */

static Status add_conversation(Drive *d, const cJSON *from, int64_t number, int32_t *supervised) {
    Ids token, at, first, id;
    TRY(ids_of(cJSON_GetObjectItemCaseSensitive(from, "token"), "token", &token));
    TRY(ids_of(cJSON_GetObjectItemCaseSensitive(from, "at"), "at", &at));
    TRY(ids_of(cJSON_GetObjectItemCaseSensitive(from, "first"), "first", &first));
    TRY(ids_of(cJSON_GetObjectItemCaseSensitive(from, "id"), "id", &id));
    float *logprob = malloc(sizeof *logprob * (size_t)(id.n + 1));
    NEED(logprob, ST_NOMEM, "no memory for log-probabilities");
    const cJSON *e;
    int32_t n = 0;
    cJSON_ArrayForEach(e, cJSON_GetObjectItemCaseSensitive(from, "logprob")) {
        if (n < id.n) logprob[n++] = (float)e->valuedouble;
    }
    Conversation c = {.number = number,
                      .n = token.n,
                      .targets = at.n,
                      .token = token.v,
                      .at = at.v,
                      .first = first.v,
                      .id = id.v,
                      .logprob = logprob,
                      .kind = "bench",
                      .question = "",
                      .answer = ""};
    *supervised += at.n;
    Status st = dataset_add(d->data, &c);
    free(token.v), free(at.v), free(first.v), free(id.v), free(logprob);
    return st;
}

/* The conversations of the job as a dataset, in a file that has no name any more once it is open. */
static Status make_dataset(Drive *d, int32_t *supervised) {
    const Model *m = d->s.model;
    char path[4096];
    DatasetInfo info = {m->fingerprint, d->s.tokenizer_hex, chat_family(d->s.chat), "bench", 0, "{}"};
    snprintf(path, sizeof path, "%s.%d.study", d->path, (int)getpid());
    Status st = ST_OK;
    TRY(dataset_create(&d->data, path, &info, false));
    TRY_TO(done, dataset_begin(d->data));
    const cJSON *e;
    int64_t number = 0;
    cJSON_ArrayForEach(e, cJSON_GetObjectItemCaseSensitive(d->job, "conversations")) {
        TRY_TO(done, add_conversation(d, e, number++, supervised));
    }
    TRY_TO(done, dataset_commit(d->data, 1));
done:
    unlink(path);
    return st;
}

static Status open_train(Drive *d) {
    const char *cartridge;
    TrainerOptions o = trainer_defaults();
    int32_t supervised = 0;
    TRY(json_string(d->job, "cartridge", &cartridge, d->path));
    TRY(whole(d, "micro_rows", &o.rows_max));
    TRY(json_number(d->job, "lr", &o.lr, d->path));
    TextList one = {.v = {cartridge}, .n = 1};
    int64_t rows;
    TRY(cartridge_rows(&one, &rows));
    TRY(open_session(d, rows + (int64_t)trainer_pages(&o) * KV_PAGE, KV_PAGE, KV_PAGE));
    TRY(open_cartridge(d, cartridge));
    TRY(make_dataset(d, &supervised));
    o.step_tokens = supervised, o.steps = 1000, o.heldout = 0, o.warmup = 0, o.schedule = SCHEDULE_CONSTANT;
    TRY(ranks_solo(&d->ranks));
    return trainer_open(&d->trainer, d->s.model, d->s.pool, d->cartridge, &d->data, 1, d->ranks, &o);
}

static Status train(Drive *d) {
    StepReport r;
    TRY(trainer_step(d->trainer, &r));
    printf("{\"seconds\": %.6f, \"conversations\": %" PRId64 ", \"rows\": %" PRId64
           ", \"supervised\": %" PRId64 ", \"loss\": %.8f, \"grad_norm\": %.8f}\n",
           r.seconds, r.conversations, r.rows, r.supervised, r.loss, r.grad_norm);
    return ST_OK;
}

/* ---- talking ---- */

static void hear(void *user, const Delivery *got) {
    Turn *t = user;
    if (got->id >= 0) tokens_push(&t->said, got->id);
    t->logprob += (double)got->logprob;
    t->candidates += got->top_id ? TOPK : 0;
    t->done = got->finish != RUNNING;
}

static void forget(Drive *d) {
    for (int32_t i = 0; i < d->users; i++) {
        d->turn[i].said.n = 0;
        d->turn[i].logprob = 0, d->turn[i].candidates = 0, d->turn[i].done = false;
    }
}

static Status run_all(Drive *d) {
    for (int32_t active = 1; active > 0;) TRY(scheduler_step(d->s.scheduler, &active));
    for (int32_t i = 0; i < d->users; i++)
        NEED(d->turn[i].done && d->turn[i].said.n > 0, ST_ARG, "user %d was not answered", i);
    return ST_OK;
}

static void print_said(const Drive *d, const char *key) {
    printf(", \"%s\": [", key);
    for (int32_t i = 0; i < d->users; i++) {
        printf("%s[", i ? ", " : "");
        for (int32_t k = 0; k < d->turn[i].said.n; k++) printf("%s%d", k ? ", " : "", d->turn[i].said.v[k]);
        printf("]");
    }
    printf("]");
}

/* ---- decode: tokens of all users after each has his first ---- */

/* A prefix with the same rows in pages of its own. */
static Status copied(Drive *d, const Prefix *from, Prefix **out) {
    const ModelConfig *c = &d->s.model->cfg;
    int64_t rows = prefix_visible(from), floats = c->kv_heads * rows * c->head_dim;
    float *host = malloc(sizeof *host * 2 * (size_t)floats);
    NEED(host, ST_NOMEM, "no memory to copy a prefix");
    Tensor key = tensor_of(host, DT_F32, c->kv_heads, rows, c->head_dim), value = key;
    value.data = host + floats;
    Status st = prefix_new(out, d->s.pool, (int32_t)rows, from->pos_first);
    for (int32_t l = 0; l < c->layers && !st; l++) {
        st = prefix_read(from, d->s.capture.stream, l, key, value);
        if (!st) st = prefix_write(*out, d->s.capture.stream, l, key, value);
    }
    free(host);
    return st;
}

/* The document is read once; copies are what a server holds that does not share. */
static Status open_documents(Drive *d, const Ids *document, int32_t copies) {
    TRY(capture(&d->document[0], &d->s.capture, NULL, 0, document->v, document->n));
    for (d->documents = 1; d->documents < copies; d->documents++)
        TRY(copied(d, d->document[0], &d->document[d->documents]));
    return ST_OK;
}

static Status open_behind_documents(Drive *d, int32_t seq_rows, int32_t pass_rows) {
    bool shared = !cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(d->job, "private"));
    int32_t copies = shared ? 1 : d->prompts;
    Ids document;
    TRY(ids_named(d, "document", &document));
    Status st = open_session(d, (int64_t)copies * (document.n + KV_PAGE), seq_rows, pass_rows);
    if (!st) st = open_documents(d, &document, copies);
    free(document.v);
    return st;
}

static Status open_behind_cartridge(Drive *d, int32_t seq_rows, int32_t pass_rows) {
    TextList one = {.n = 1};
    int64_t rows;
    TRY(json_string(d->job, "cartridge", &one.v[0], d->path));
    TRY(cartridge_rows(&one, &rows));
    TRY(open_session(d, rows, seq_rows, pass_rows));
    return open_cartridge(d, one.v[0]);
}

static Status open_decode(Drive *d) {
    int32_t fresh, longest = 0, all = 0;
    TRY(read_prompts(d));
    TRY(whole(d, "new", &fresh));
    for (int32_t i = 0; i < d->prompts; i++) {
        all += d->prompt[i].n;
        if (d->prompt[i].n > longest) longest = d->prompt[i].n;
    }
    int32_t seq_rows = longest + fresh, pass_rows = all > 512 ? all : 512;
    return cJSON_HasObjectItem(d->job, "cartridge") ? open_behind_cartridge(d, seq_rows, pass_rows)
                                                    : open_behind_documents(d, seq_rows, pass_rows);
}

static const Prefix *prefix_of(const Drive *d, int32_t user) {
    return d->cartridge ? d->cartridge->prefix : d->document[d->documents > 1 ? user : 0];
}

static Status submit(Drive *d, int32_t fresh) {
    for (int32_t i = 0; i < d->users; i++) {
        const Prefix *prefix = prefix_of(d, i);
        Request r = {.prefix = &prefix,
                     .prefixes = 1,
                     .token = d->prompt[i].v,
                     .n = d->prompt[i].n,
                     .pos = -1,
                     .new_max = fresh,
                     .sampling = GREEDY,
                     .deliver = hear,
                     .user = &d->turn[i]};
        uint64_t ticket;
        TRY(scheduler_submit(d->s.scheduler, &r, &ticket));
    }
    return ST_OK;
}

static double mib_of(const Drive *d, int32_t pages) {
    return (double)pool_bytes(&d->s.model->cfg, d->s.model->ops->act, pages) / (1 << 20);
}

/* The first pass takes all prompts, and each gets its first token there; the clock runs over the rest. */
static Status decode(Drive *d) {
    int32_t fresh, active, prefixes = d->documents > 1 ? d->users : 1, unused = pool_free(d->s.pool);
    TRY(whole(d, "new", &fresh));
    forget(d);
    TRY(submit(d, fresh));
    TRY(scheduler_step(d->s.scheduler, &active));
    for (int32_t i = 0; i < d->users; i++)
        NEED(d->turn[i].said.n == 1, ST_ARG, "user %d has %d tokens after the first pass, wanted 1", i,
             d->turn[i].said.n);
    int32_t own = unused - pool_free(d->s.pool);
    double from = now();
    TRY(run_all(d));
    printf("{\"seconds\": %.6f, \"tokens\": %d", now() - from, d->users * (fresh - 1));
    printf(", \"prefix_mib\": %.4f, \"own_mib\": %.4f", mib_of(d, prefixes * prefix_of(d, 0)->pages),
           mib_of(d, own));
    print_said(d, "said");
    printf("}\n");
    return ST_OK;
}

/* ---- study: read a chunk, ask, answer with the teacher's candidates ---- */

typedef struct Study {
    Ids chunk, before, between, stop;
    int32_t question_max, answer_max;
} Study;

static Status read_study(const Drive *d, Study *y) {
    TRY(ids_named(d, "chunk", &y->chunk));
    TRY(ids_named(d, "before", &y->before));   /* opens the user's turn */
    TRY(ids_named(d, "between", &y->between)); /* closes it and opens the assistant's */
    TRY(ids_named(d, "stop", &y->stop));
    TRY(whole(d, "question_max", &y->question_max));
    return whole(d, "answer_max", &y->answer_max);
}

static Status open_study(Drive *d) {
    TRY(read_prompts(d));
    return open_session(d, 4096, 512, 512);
}

static bool is_stop(const Study *y, int32_t id) {
    for (int32_t i = 0; i < y->stop.n; i++)
        if (y->stop.v[i] == id) return true;
    return false;
}

static Status ask(Drive *d, const Study *y, const Prefix *chunk) {
    for (int32_t i = 0; i < d->users; i++) {
        Request r = {.prefix = &chunk,
                     .prefixes = 1,
                     .token = d->prompt[i].v,
                     .n = d->prompt[i].n,
                     .pos = -1,
                     .new_max = y->question_max,
                     .sampling = GREEDY,
                     .deliver = hear,
                     .user = &d->turn[i],
                     .stop = y->stop.v,
                     .stops = y->stop.n};
        uint64_t ticket;
        TRY(scheduler_submit(d->s.scheduler, &r, &ticket));
    }
    return run_all(d);
}

/* Each question, without its end, becomes a user's turn that the model answers. */
static Status answer(Drive *d, const Study *y, const Prefix *chunk) {
    for (int32_t i = 0; i < d->users; i++) {
        TokenVec *said = &d->turn[i].said, turn = {0};
        if (is_stop(y, said->v[said->n - 1])) said->n--;
        TRY(tokens_append(&turn, y->before.v, y->before.n));
        TRY(tokens_append(&turn, said->v, said->n));
        TRY(tokens_append(&turn, y->between.v, y->between.n));
        Request r = {.prefix = &chunk,
                     .prefixes = 1,
                     .token = turn.v,
                     .n = turn.n,
                     .pos = -1,
                     .new_max = y->answer_max,
                     .topk = TOPK,
                     .sampling = GREEDY,
                     .deliver = hear,
                     .user = &d->turn[i],
                     .stop = y->stop.v,
                     .stops = y->stop.n};
        uint64_t ticket;
        Status st = scheduler_submit(d->s.scheduler, &r, &ticket);
        tokens_close(&turn);
        TRY(st);
    }
    forget(d);
    return run_all(d);
}

static Status study(Drive *d) {
    Study y;
    Prefix *chunk;
    TRY(read_study(d, &y));
    forget(d);
    double from = now();
    TRY(capture(&chunk, &d->s.capture, NULL, 0, y.chunk.v, y.chunk.n));
    TRY(ask(d, &y, chunk));
    double asked = now();
    printf("{\"conversations\": %d", d->users);
    print_said(d, "questions");
    double printed = now();
    TRY(answer(d, &y, chunk));
    double to = now();
    prefix_drop(chunk);
    print_said(d, "answers");
    printf(", \"seconds\": %.6f}\n", to - printed + asked - from);
    free(y.chunk.v), free(y.before.v), free(y.between.v), free(y.stop.v);
    return ST_OK;
}

/* ---- all of it ---- */

typedef struct Mode {
    const char *name;
    Status (*open)(Drive *), (*repeat)(Drive *);
} Mode;
static const Mode modes[] = {{"init", init, NULL},
                             {"train", open_train, train},
                             {"decode", open_decode, decode},
                             {"study", open_study, study}};

/* Of this program: getrusage would tell that of the process which started it, if that was larger. */
static long peak_kib(void) {
    char line[128];
    long peak = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) sscanf(line, "VmHWM: %ld", &peak);
    if (f) fclose(f);
    return peak;
}

static Status repeat(Drive *d, const Mode *mode) {
    char line[16], machine[96];
    machine_settings(machine, sizeof machine);
    printf("{\"ready\": \"%s\", \"machine\": \"%s\"}\n", mode->name, machine);
    fflush(stdout);
    while (mode->repeat && fgets(line, sizeof line, stdin)) {
        d->users = line[0] == '\n' ? d->prompts : atoi(line);
        NEED(d->users >= 0 && d->users <= d->prompts, ST_ARG, "%d users of %d prompts", d->users, d->prompts);
        TRY(mode->repeat(d));
        fflush(stdout);
    }
    printf("{\"peak_kib\": %ld}\n", peak_kib());
    return ST_OK;
}

static Status run(Drive *d, const Mode *mode) {
    TRY(json_load(&d->job, d->path));
    TRY(json_string(d->job, "model", &d->model, d->path));
    TRY(mode->open(d));
    return repeat(d, mode);
}

static void close_all(Drive *d) {
    trainer_close(d->trainer);
    if (d->ranks) ranks_close(d->ranks);
    dataset_close(d->data);
    cartridge_close(d->cartridge);
    for (int32_t i = 0; i < d->documents; i++) prefix_drop(d->document[i]);
    for (int32_t i = 0; i < SEQS_MAX; i++) free(d->prompt[i].v), tokens_close(&d->turn[i].said);
    if (d->s.model) session_close(&d->s);
    cJSON_Delete(d->job);
}

int main(int argc, char **argv) {
    static Drive d;
    const Mode *mode = NULL;
    for (size_t i = 0; argc == 3 && i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(argv[1], modes[i].name)) mode = &modes[i];
    if (!mode) return fprintf(stderr, "usage: peers_drive init|train|decode|study JOB.json\n"), 2;
    d.path = argv[2];
    Status st = run(&d, mode);
    if (st) fprintf(stderr, "peers_drive: %s: %s\n", status_text(st), status_message());
    close_all(&d);
    return st != ST_OK;
}
