/* study.c -- self-study, a wave of chunks at a time.
 *
 *   wave: chunks -> captures -> talks: (question -> answer)*, all at once -> filters -> dataset
 *
 * Why waves: a pass is efficient with many sequences, so talks of several chunks run together; but a matrix
 * product may round differently with the number of its rows, so what runs together has to be a function of
 * the options, or a resumed study would differ from one that was never stopped. A wave starts with an empty
 * scheduler and ends with one, its size follows from options and dataset alone, and its rows are committed
 * together.
 *
 * Repeats are judged against the questions kept so far, in order of number. Before it is answered a question
 * is only compared with those of earlier waves: that spares an answer, and can never decide otherwise than
 * the judgement at the end, because the list of kept questions only grows. */
#include "engine/learn/study.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/learn/questions.h"
#include "engine/learn/repeats.h"
#include "engine/learn/talk.h"
#include "engine/learn/words.h"
#include "engine/transformer/capture.h"
#include "kernels/base/json.h"
#include "kernels/base/random.h"

typedef enum Stage { TO_ASK, ASKING, TO_ANSWER, ANSWERING, OVER } Stage;

typedef struct Study Study;

/* A chunk in work. */
typedef struct Chunk {
    int64_t number;
    Bytes text;       /* points into the corpus */
    char *words;      /* owned */
    Prefix *prefix;   /* held */
    Prefix *examples; /* held: behind the chunk, for FOCUS seeds; NULL when none are drawn */
} Chunk;

typedef struct Place { /* of a talk in its wave */
    Study *study;
    Chunk *chunk;
    Talk talk;
    Stage stage;
    uint64_t ticket;
} Place;

struct Study {
    Scheduler *s;
    const Chat *chat;
    const StudyOptions *o;
    Dataset *data;
    const Watch *watch;
    Chunks *chunks;
    Repeats *repeats;
    QuestionSet file; /* empty without questions_path */
    QuestionRanks *ranks;
    int64_t wanted, kept, tokens;
    const int32_t *stop;
    int32_t stops;
    Chunk *chunk; /* [wave_max] */
    Place *place; /* [wave_max * per_chunk] */
    int32_t wave_max, open_chunks;
    int32_t over; /* places of this wave that are */
    bool aborting;
    Status failed; /* first failure inside a delivery */
};

/* ---- options ---- */

StudyOptions study_defaults(void) {
    return (StudyOptions){
        .conversations = 400,
        .per_chunk = 16,
        .instruction = "\n\nUse the text above to answer the questions in one short sentence.",
        .chunk = {CHUNK_PARAGRAPHS, 64, 512},
        .weight = {[SEED_FOCUS] = 1},
        .rounds = 1,
        .question_max = 48,
        .answer_max = 64,
        .question_temperature = 0.6f,
        .topk = 20,
        .mass = 0.99f,
        .answer_floor = -0.7f,
        .drop_unrelated = true,
        .drop_invented = true,
        .duplicate_overlap = 0.9f,
    };
}

static Status check_options(const StudyOptions *o, SchedulerLimits l) {
    double sum = 0;
    for (int k = 0; k < SEED_KINDS; k++) {
        NEED(isfinite(o->weight[k]) && o->weight[k] >= 0, ST_ARG, "the weight of %s seeds is %g: 0 or more",
             seed_kind_name((SeedKind)k), o->weight[k]);
        sum += o->weight[k];
    }
    NEED(sum > 0 || o->questions_path, ST_ARG,
         "every kind of seed has weight 0: nobody asks; give one a weight");
    NEED(o->weight[SEED_ASK] == 0 || o->asks > 0, ST_ARG,
         "ask seeds are drawn, but there is no message to draw");
    NEED(o->conversations >= 1 && o->per_chunk >= 1 && o->rounds >= 1, ST_ARG,
         "%lld conversations, %d per chunk, %d rounds: each at least 1", (long long)o->conversations,
         o->per_chunk, o->rounds);
    NEED(o->question_max >= 1 && o->answer_max >= 1, ST_ARG,
         "questions of %d and answers of %d tokens: each at least 1", o->question_max, o->answer_max);
    NEED(o->topk >= 1 && o->topk <= l.topk, ST_ARG, "%d candidates per token: 1 to %d", o->topk, l.topk);
    NEED(o->mass > 0 && o->mass <= 1, ST_ARG, "the mass to keep is %g: above 0, at most 1", (double)o->mass);
    NEED(!o->questions_path || o->rounds == 1, ST_ARG,
         "questions from a file make conversations of 1 round, not %d", o->rounds);
    NEED(l.prefixes >= 2, ST_ARG, "self-study needs a scheduler that takes 2 prefixes, not %d", l.prefixes);
    return ST_OK;
}

/* A float as JSON; infinities, which JSON does not have, as null. */
static void put_number(cJSON *to, const char *key, double v) {
    if (isfinite(v))
        cJSON_AddNumberToObject(to, key, v);
    else
        cJSON_AddNullToObject(to, key);
}

static void put_strings(cJSON *to, const char *key, const char *const *v, int32_t n) {
    cJSON *list = cJSON_AddArrayToObject(to, key);
    for (int32_t i = 0; i < n; i++) cJSON_AddItemToArray(list, cJSON_CreateString(v[i]));
}

static void put_options(cJSON *to, const StudyOptions *o) {
    static const char *const border[] = {"tokens", "paragraphs", "lines"};
    char seed[24];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)o->seed);
    cJSON_AddStringToObject(to, "seed", seed);
    put_number(to, "per_chunk", o->per_chunk);
    cJSON_AddStringToObject(to, "instruction", o->instruction ? o->instruction : "");
    cJSON_AddStringToObject(to, "chunk_border", border[o->chunk.border]);
    put_number(to, "chunk_low", o->chunk.low);
    put_number(to, "chunk_high", o->chunk.high);
    cJSON *weight = cJSON_AddObjectToObject(to, "weight");
    for (int k = 0; k < SEED_KINDS; k++) put_number(weight, seed_kind_name((SeedKind)k), o->weight[k]);
    cJSON_AddBoolToObject(to, "force_openings", o->force_openings);
    put_strings(to, "ask", o->ask, o->asks);
    if (o->questions_path) cJSON_AddStringToObject(to, "questions", o->questions_path);
    put_number(to, "rounds", o->rounds);
    put_number(to, "question_max", o->question_max);
    put_number(to, "answer_max", o->answer_max);
    put_number(to, "question_temperature", (double)o->question_temperature);
    put_number(to, "topk", o->topk);
    put_number(to, "mass", (double)o->mass);
    cJSON_AddBoolToObject(to, "keep_cut", o->keep_cut);
    put_number(to, "answer_floor", (double)o->answer_floor);
    cJSON_AddBoolToObject(to, "drop_unrelated", o->drop_unrelated);
    cJSON_AddBoolToObject(to, "drop_invented", o->drop_invented);
    put_number(to, "duplicate_overlap", (double)o->duplicate_overlap);
}

Status study_settings(const StudyOptions *o, char **json) {
    cJSON *to = cJSON_CreateObject();
    if (to) put_options(to, o);
    *json = to ? cJSON_PrintUnformatted(to) : NULL;
    cJSON_Delete(to);
    NEED(*json, ST_NOMEM, "out of memory for the settings of a study");
    return ST_OK;
}

/* ---- opening ---- */

/* The questions that the dataset holds already. */
static Status recall(Study *y) {
    y->kept = dataset_count(y->data);
    for (int64_t i = 0; i < y->kept; i++) {
        Conversation c;
        char *words;
        TRY(dataset_get(y->data, i, &c));
        y->tokens += c.n;
        TRY(words_of(&words, bytes_of(c.question)));
        Status st = repeats_add(y->repeats, words);
        free(words);
        TRY(st);
    }
    return ST_OK;
}

static Status open_lists(Study *y) {
    int32_t seqs = scheduler_limits(y->s).seqs;
    y->wave_max = (2 * seqs + y->o->per_chunk - 1) / y->o->per_chunk;
    size_t chunks = (size_t)y->wave_max, places = chunks * (size_t)y->o->per_chunk;
    y->chunk = calloc(chunks, sizeof *y->chunk);
    y->place = calloc(places, sizeof *y->place);
    NEED(y->chunk && y->place, ST_NOMEM, "out of memory for %zu conversations", places);
    return ST_OK;
}

static Status open_questions(Study *y) {
    y->wanted = y->o->conversations;
    if (!y->o->questions_path) return ST_OK;
    TRY(questions_read(&y->file, y->o->questions_path, false));
    if (y->wanted > y->file.n) y->wanted = y->file.n;
    return question_ranks_open(&y->ranks, &y->file);
}

static Status open_study(Study *y, const Corpus *corpus) {
    TRY(check_options(y->o, scheduler_limits(y->s)));
    TRY(open_questions(y));
    TRY(open_lists(y));
    TRY(chat_stops(y->chat, &y->stop, &y->stops));
    TRY(chunks_open(&y->chunks, corpus, chat_tokenizer(y->chat), y->o->chunk));
    TRY(repeats_open(&y->repeats));
    return recall(y);
}

static void close_wave(Study *y) {
    for (int32_t i = 0; i < y->open_chunks * y->o->per_chunk; i++)
        talk_close(&y->place[i].talk, y->o->rounds);
    for (int32_t i = 0; i < y->open_chunks; i++) {
        free(y->chunk[i].words);
        prefix_drop(y->chunk[i].prefix);
        prefix_drop(y->chunk[i].examples);
        y->chunk[i] = (Chunk){0};
    }
    y->open_chunks = 0;
}

static void close_study(Study *y) {
    if (y->place) close_wave(y);
    free(y->chunk);
    free(y->place);
    question_ranks_close(y->ranks);
    questions_close(&y->file);
    repeats_close(y->repeats);
    chunks_close(y->chunks);
}

/* ---- talks, as their tokens come ---- */

static void leave(Place *p, const char *reason) {
    if (p->talk.rounds == 0)
        p->talk.dropped = reason; /* a later round that fails only ends the conversation */
    p->stage = OVER;
    p->study->over++;
}

static Status is_repeat(Study *y, const char *words, bool *yes) {
    double share;
    TRY(repeats_share(y->repeats, words, &share));
    *yes = share >= (double)y->o->duplicate_overlap;
    return ST_OK;
}

static Status question_over(Place *p) {
    const char *reason;
    bool repeat = false;
    TRY(talk_judge_question(&p->talk, p->study->chat, p->chunk->words, p->study->o, &reason));
    if (!reason && p->talk.rounds == 0) TRY(is_repeat(p->study, p->talk.words, &repeat));
    if (repeat) reason = "asked before";
    if (reason)
        leave(p, reason);
    else
        p->stage = TO_ANSWER;
    return ST_OK;
}

static Status start_round(Place *p) {
    Round *r = &p->talk.round[p->talk.rounds];
    p->stage = TO_ASK;
    return *p->talk.seed.opening ? chat_content(p->study->chat, bytes_of(p->talk.seed.opening), &r->question)
                                 : ST_OK;
}

static Status answer_over(Place *p) {
    const char *reason;
    TRY(talk_judge_answer(&p->talk, p->study->chat, p->chunk->words, p->study->o, &reason));
    if (reason) {
        leave(p, reason);
        return ST_OK;
    }
    bool ended = p->talk.round[p->talk.rounds++].ended;
    if (ended && p->talk.rounds < p->study->o->rounds) return start_round(p);
    leave(p, NULL);
    return ST_OK;
}

static Status hear_question(Place *p, const Delivery *d) {
    Round *r = &p->talk.round[p->talk.rounds];
    bool over = d->finish != RUNNING;
    if (d->id >= 0 && d->finish != FINISH_STOP) TRY(talk_hear_question(&p->talk, p->study->chat, d->id));
    if (over) return question_over(p);
    if (r->closed)
        scheduler_cancel(p->study->s, p->ticket); /* it comes back as cancelled, which is the end of it */
    return ST_OK;
}

static Status hear_answer(Place *p, const Delivery *d) {
    if (d->id >= 0)
        TRY(talk_hear_answer(&p->talk, d->id, d->finish == FINISH_STOP, d->logprob, d->top_id, d->top_logprob,
                             p->study->o->topk, p->study->o->mass));
    return d->finish == RUNNING ? ST_OK : answer_over(p);
}

static void hear(void *user, const Delivery *d) {
    Place *p = user;
    Study *y = p->study;
    bool over = d->finish != RUNNING;
    if (over) p->ticket = 0;
    if (y->aborting || y->failed || d->finish == FINISH_FAILED) {
        if (over) p->stage = OVER;
        return;
    }
    Status st = p->stage == ASKING ? hear_question(p, d) : hear_answer(p, d);
    if (st) y->failed = st;
}

/* ---- sending ---- */

static uint64_t question_seed(const Study *y, const Talk *t) {
    return random_u64(y->o->seed, DRAW_QUESTION, (uint64_t)(t->number * y->o->rounds + t->rounds));
}

static Status submit(Place *p, const TokenVec *prompt) {
    Study *y = p->study;
    const Prefix *prefix[] = {p->chunk->prefix, p->chunk->examples};
    bool ask = p->stage == TO_ASK, shown = ask && p->talk.seed.kind == SEED_FOCUS;
    Request r = {.prefix = prefix,
                 .prefixes = shown ? 2 : 1,
                 .token = prompt->v,
                 .n = prompt->n,
                 .pos = -1,
                 .new_max = ask ? y->o->question_max : y->o->answer_max,
                 .topk = ask ? 0 : y->o->topk,
                 .sampling = {.temperature = ask ? y->o->question_temperature : 0,
                              .top_p = 1,
                              .seed = ask ? question_seed(y, &p->talk) : 0},
                 .stop = y->stop,
                 .stops = y->stops,
                 .deliver = hear,
                 .user = p};
    TRY(scheduler_submit(y->s, &r, &p->ticket));
    p->stage = ask ? ASKING : ANSWERING;
    return ST_OK;
}

static Status send_next(Place *p) {
    TokenVec prompt = {0};
    Status st = p->stage == TO_ASK ? talk_ask_prompt(&p->talk, p->study->chat, &prompt)
                                   : talk_answer_prompt(&p->talk, p->study->chat, &prompt);
    if (!st) st = submit(p, &prompt);
    tokens_close(&prompt);
    return st;
}

/* As many as the queue takes, in order of number. */
static Status send_waiting(Study *y, int32_t places) {
    for (int32_t i = 0; i < places; i++) {
        Place *p = &y->place[i];
        if (p->stage != TO_ASK && p->stage != TO_ANSWER) continue;
        Status st = send_next(p);
        if (st == ST_FULL) return ST_OK;
        TRY(st);
    }
    return ST_OK;
}

/* Takes this study's requests out of the scheduler: its places are about to go. */
static void abort_wave(Study *y, int32_t places) {
    int32_t active = 1;
    y->aborting = true;
    for (int32_t i = 0; i < places; i++)
        if (y->place[i].ticket) scheduler_cancel(y->s, y->place[i].ticket);
    while (active && !scheduler_step(y->s, &active)) {
    }
}

static void report(const Study *y, int32_t places) {
    char detail[64];
    snprintf(detail, sizeof detail, "%d of %d in work done", y->over, places);
    watch_progress(y->watch, "self-study", y->kept, y->wanted, detail);
}

static Status run_wave(Study *y, int32_t places) {
    int32_t active = 1, reported = -1;
    while (y->over < places) {
        NEED(!watch_stop(y->watch), ST_STOPPED,
             "self-study stopped with %lld conversations kept; resume to go on", (long long)y->kept);
        TRY(send_waiting(y, places));
        TRY(scheduler_step(y->s, &active));
        TRY(y->failed);
        if (y->over != reported) report(y, places);
        reported = y->over;
    }
    return ST_OK;
}

/* ---- waves ---- */

static Status capture_text(Study *y, Chunk *c) {
    const char *behind = y->o->instruction ? y->o->instruction : "";
    size_t n = strlen(behind);
    char *text = malloc(n + c->text.n + 1);
    NEED(text, ST_NOMEM, "out of memory: a chunk of %zu bytes", c->text.n);
    memcpy(text, c->text.p, c->text.n);
    memcpy(text + c->text.n, behind, n);
    TokenVec t = {0};
    CaptureTools tools;
    scheduler_capture_tools(y->s, &tools);
    Status st = chat_prefix(y->chat, (Bytes){text, n + c->text.n}, 0, &t);
    if (!st) st = capture(&c->prefix, &tools, NULL, 0, t.v, t.n);
    tokens_close(&t);
    free(text);
    return st;
}

static Status capture_examples(Study *y, Chunk *c) {
    if (y->ranks || y->o->weight[SEED_FOCUS] == 0) return ST_OK;
    const Prefix *parent = c->prefix;
    TokenVec t = {0};
    CaptureTools tools;
    scheduler_capture_tools(y->s, &tools);
    Status st = seed_examples(SEED_FOCUS, y->chat, &t);
    if (!st) st = capture(&c->examples, &tools, &parent, 1, t.v, t.n);
    tokens_close(&t);
    return st;
}

static bool asked_already(void *user, int32_t i) {
    Study *y = user;
    char *words;
    bool yes = false;
    Status st = words_of(&words, bytes_of(y->file.q[i].question));
    if (!st) st = is_repeat(y, words, &yes);
    free(words);
    if (st) y->failed = st;
    return yes;
}

/* The chunk's questions are those of the file that it is most likely to answer. */
static Status take_from_file(Study *y, Chunk *c, Place *place) {
    int32_t found, *best = malloc((size_t)y->o->per_chunk * sizeof *best);
    NEED(best, ST_NOMEM, "out of memory for %d questions", y->o->per_chunk);
    Status st = question_ranks_best(y->ranks, c->words, asked_already, y, y->o->per_chunk, best, &found);
    for (int32_t i = 0; !st && i < y->o->per_chunk; i++) {
        Talk *t = &place[i].talk;
        t->kind = "file";
        t->seed.kind = SEED_ASK;
        if (i >= found)
            leave(&place[i], "no question in the file fits the chunk");
        else
            st = chat_content(y->chat, bytes_of(y->file.q[best[i]].question), &t->round[0].question);
        if (!st && i < found) st = question_over(&place[i]);
    }
    free(best);
    return st;
}

static Status open_talk(Study *y, Chunk *c, Place *p, int32_t i) {
    *p = (Place){.study = y, .chunk = c};
    Talk *t = &p->talk;
    t->number = c->number * y->o->per_chunk + i;
    t->chunk = c->number;
    t->round = calloc((size_t)y->o->rounds, sizeof *t->round);
    NEED(t->round, ST_NOMEM, "out of memory for a conversation of %d rounds", y->o->rounds);
    if (y->ranks) return ST_OK;
    TRY(seed_draw(&t->seed, y->o, c->text, t->number, i));
    t->kind = seed_kind_name(t->seed.kind);
    return start_round(p);
}

static Status open_chunk(Study *y, int64_t number) {
    Chunk *c = &y->chunk[y->open_chunks];
    Place *place = &y->place[y->open_chunks * y->o->per_chunk];
    c->number = number;
    c->text = chunks_draw(y->chunks, y->o->seed, (uint64_t)number);
    y->open_chunks++; /* from here on close_wave cleans up */
    memset(place, 0, (size_t)y->o->per_chunk * sizeof *place);
    TRY(capture_text(y, c));
    TRY(capture_examples(y, c));
    TRY(words_of(&c->words, c->text));
    for (int32_t i = 0; i < y->o->per_chunk; i++) TRY(open_talk(y, c, &place[i], i));
    return y->ranks ? take_from_file(y, c, place) : ST_OK;
}

/* Chunks of the next wave: what is still wanted at the rate so far, at most two schedulers full. */
static int32_t wave_size(const Study *y, int64_t next) {
    double tried = (double)next * y->o->per_chunk, rate = tried > 0 ? (double)y->kept / tried : 1;
    if (rate < 0.25) rate = 0.25;
    double chunks = ceil((double)(y->wanted - y->kept) / (rate * y->o->per_chunk));
    return chunks < y->wave_max ? (int32_t)chunks : y->wave_max;
}

/* Whether the pool has pages for another chunk like the last one beside a scheduler full of conversations. */
static bool has_room(const Study *y) {
    CaptureTools tools;
    scheduler_capture_tools(y->s, &tools);
    int32_t talk = pages_for((int64_t)y->o->rounds * (y->o->question_max + y->o->answer_max) + 2 * KV_PAGE);
    const Chunk *last = &y->chunk[y->open_chunks - 1];
    int64_t wanted = (int64_t)scheduler_limits(y->s).seqs * talk + last->prefix->pages;
    if (last->examples) wanted += last->examples->pages;
    return pool_free(tools.pool) >= wanted;
}

static Status open_wave(Study *y, int64_t next) {
    int32_t n = wave_size(y, next);
    y->over = 0;
    while (y->open_chunks < n && (y->open_chunks == 0 || has_room(y)))
        TRY(open_chunk(y, next + y->open_chunks));
    return y->failed;
}

static Status keep(Study *y, const Talk *t) {
    TalkStore store = {0};
    Conversation c;
    Status st = talk_conversation(t, y->chat, &store, &c);
    if (!st) st = dataset_add(y->data, &c);
    if (!st) st = repeats_add(y->repeats, t->words);
    y->kept++;
    y->tokens += store.token.n;
    talk_store_close(&store);
    return st;
}

static Status commit_wave(Study *y, int64_t next) {
    TRY(dataset_begin(y->data));
    for (int32_t i = 0; i < y->open_chunks * y->o->per_chunk; i++) {
        const Talk *t = &y->place[i].talk;
        const char *reason = t->dropped;
        bool repeat = false;
        if (!reason) TRY(is_repeat(y, t->words, &repeat));
        if (repeat) reason = "asked before";
        TRY(reason ? dataset_drop(y->data, reason) : keep(y, t));
    }
    return dataset_commit(y->data, next);
}

static Status wave(Study *y) {
    int64_t next = dataset_next(y->data);
    Status st = open_wave(y, next);
    int32_t places = y->open_chunks * y->o->per_chunk;
    if (!st) st = run_wave(y, places);
    if (st)
        abort_wave(y, places);
    else
        st = commit_wave(y, next + y->open_chunks);
    close_wave(y);
    return st;
}

/* ---- the whole ---- */

typedef struct Listing {
    char text[400];
    size_t used;
} Listing;

static void list_drop(void *user, const char *reason, int64_t count) {
    Listing *l = user;
    size_t left = sizeof l->text - l->used;
    int n = snprintf(l->text + l->used, left, "%s%lld %s", l->used ? ", " : "", (long long)count, reason);
    if (n > 0) l->used += (size_t)n < left ? (size_t)n : left - 1;
}

static Status too_few(Study *y, int64_t tried) {
    Listing l = {{0}, 0};
    TRY(dataset_drops(y->data, list_drop, &l));
    FAIL(ST_ARG,
         "%lld of %lld conversations kept after %lld tries (dropped: %s); ask for fewer, or allow more "
         "repeats",
         (long long)y->kept, (long long)y->wanted, (long long)tried, l.text);
}

static Status run_waves(Study *y) {
    while (y->kept < y->wanted) {
        int64_t tried = dataset_next(y->data) * y->o->per_chunk;
        if (tried >= 4 * y->o->conversations) return y->ranks && y->kept ? ST_OK : too_few(y, tried);
        TRY(wave(y));
        watch_progress(y->watch, "self-study", y->kept, y->wanted, "");
    }
    return ST_OK;
}

Status study_run(Scheduler *s, const Chat *chat, const Model *m, const Corpus *corpus, const StudyOptions *o,
                 Dataset *out, const Watch *watch, StudySums *sums) {
    const char *made_for = dataset_info(out)->model;
    NEED(!strcmp(made_for, m->fingerprint), ST_MISMATCH, "the dataset is for model %s, this one is %s",
         made_for, m->fingerprint);
    Study y = {.s = s, .chat = chat, .o = o, .data = out, .watch = watch};
    Status st = open_study(&y, corpus);
    if (!st) st = run_waves(&y);
    if (sums) *sums = (StudySums){dataset_count(out), dataset_next(out) * o->per_chunk, y.tokens};
    close_study(&y);
    return st;
}
