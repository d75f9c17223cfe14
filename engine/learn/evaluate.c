/* evaluate.c -- how good a prefix is at answering.
 *
 * Gold answers and choices are scored teacher-forced: their tokens go through the model in batches of this
 * file's own, in pieces when they are long, and a row's loss against one candidate of probability 1 is the
 * negative log-probability of the token that followed. Generated answers come from the scheduler like
 * anybody's. */
#include "engine/learn/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/learn/words.h"
#include "engine/transformer/capture.h"
#include "kernels/base/random.h"

Status questions_load(QuestionSet *out, const char *path) {
    return questions_read(out, path, true);
}

/* ---- scoring given answers ---- */

/* A text to be scored: a question's turn and an answer's. Rows prompt-1 .. n-2 predict the answer and its
 * end. */
typedef struct Item {
    TokenVec token;
    int32_t prompt, fed;
    double nll;
    Sequence seq;
} Item;

typedef struct Evaluation {
    Scheduler *s;
    const Model *m;
    const Chat *chat;
    const Prefix *const *prefix;
    int32_t prefixes, start; /* position of a question's first token */
    const Watch *watch;
    CaptureTools tools;
    int32_t rows, seqs; /* of a pass */
    void *device;       /* owned: the four lists of one distill call */
    Tensor first, id, logprob, loss;
    int32_t *row, *want; /* [rows] rows of this pass that are scored, and the token each should predict */
    Item **owner;        /* [rows] */
    float *host_loss;    /* [seqs] */
} Evaluation;

static Status lay_lists(Evaluation *e, Arena *a) {
    int64_t n = e->seqs;
    TRY(tensor_take(&e->first, a, DT_I32, n + 1));
    TRY(tensor_take(&e->id, a, DT_I32, n));
    TRY(tensor_take(&e->logprob, a, DT_F32, n));
    return tensor_take(&e->loss, a, DT_F32, n);
}

/* One candidate per row, with probability 1: first = 0, 1, 2, ..., logprob = 0. */
static Status fill_lists(Evaluation *e) {
    for (int32_t i = 0; i <= e->seqs; i++) e->row[i] = i;
    TRY(e->m->ops->copy(e->tools.stream, e->first.data, e->row, sizeof(int32_t) * ((size_t)e->seqs + 1)));
    TRY(e->m->ops->zero(e->tools.stream, e->logprob));
    return e->m->ops->sync(e->tools.stream);
}

static Status open_evaluation(Evaluation *e) {
    SchedulerLimits l = scheduler_limits(e->s);
    scheduler_capture_tools(e->s, &e->tools);
    e->rows = l.rows;
    e->seqs = l.seqs;
    e->start = prefix_start(e->prefix, e->prefixes);
    e->row = calloc((size_t)e->rows + 1, sizeof *e->row);
    e->want = calloc((size_t)e->rows, sizeof *e->want);
    e->owner = calloc((size_t)e->rows, sizeof *e->owner);
    e->host_loss = calloc((size_t)e->seqs, sizeof *e->host_loss);
    NEED(e->row && e->want && e->owner && e->host_loss, ST_NOMEM, "out of memory for an evaluation");
    Arena a;
    arena_init(&a, NULL, 0);
    TRY(lay_lists(e, &a));
    size_t bytes = a.used;
    TRY(e->m->ops->mem_open(&e->device, bytes));
    arena_init(&a, e->device, bytes);
    TRY(lay_lists(e, &a));
    return fill_lists(e);
}

static void close_evaluation(Evaluation *e) {
    if (e->device) e->m->ops->mem_close(e->device);
    free(e->row);
    free(e->want);
    free(e->owner);
    free(e->host_loss);
}

static Status question_tokens(const Chat *c, const char *question, TokenVec *out) {
    Message m = {ROLE_USER, bytes_of(question)};
    return chat_messages(c, &m, 1, true, out);
}

static Status fill_item(const Evaluation *e, const char *question, const char *answer, Item *item) {
    TRY(question_tokens(e->chat, question, &item->token));
    item->prompt = item->token.n;
    TRY(chat_content(e->chat, bytes_of(answer), &item->token));
    TRY(tokens_push(&item->token, chat_end(e->chat)));
    int64_t end = (int64_t)e->start + item->token.n, context = e->m->cfg.context_max;
    NEED(end <= context, ST_ARG,
         "the question \"%.40s\" and its answer end at position %lld, the model's context at %lld", question,
         (long long)end, (long long)context);
    return ST_OK;
}

/* Rows of the piece that was just added, if their next token belongs to the answer. */
static int32_t mark_rows(Evaluation *e, Item *item, int32_t n, int32_t marked) {
    for (int32_t i = 0; i < n; i++) {
        int32_t next = item->fed + i + 1;
        if (next < item->prompt) continue;
        e->row[marked] = e->tools.batch->T - n + i;
        e->want[marked] = item->token.v[next];
        e->owner[marked++] = item;
    }
    return marked;
}

static Status build_pass(Evaluation *e, Item *item, int32_t items, int32_t *marked) {
    batch_clear(e->tools.batch);
    *marked = 0;
    for (int32_t i = 0; i < items && e->tools.batch->T < e->rows; i++) {
        int32_t left = e->rows - e->tools.batch->T, n = item[i].token.n - 1 - item[i].fed;
        bool fits;
        if (n > left) n = left;
        if (n == 0) continue;
        TRY(batch_add(e->tools.batch, e->prefix, e->prefixes, &item[i].seq, item[i].token.v + item[i].fed, n,
                      &fits));
        NEED(fits, ST_ARG, "%d prefixes are more than the scheduler was opened for", e->prefixes);
        *marked = mark_rows(e, &item[i], n, *marked);
        item[i].fed += n;
    }
    return ST_OK;
}

static Status score_rows(Evaluation *e, int32_t from, int32_t n) {
    const Ops *ops = e->m->ops;
    Stream *s = e->tools.stream;
    Tensor logits;
    TRY(forward_logits(e->m, e->tools.acts, e->row + from, n, &logits, s));
    TRY(ops->copy(s, e->id.data, e->want + from, sizeof(int32_t) * (size_t)n));
    DistillArgs a = {.loss = tensor_rows(e->loss, 0, n),
                     .logits = logits,
                     .first = tensor_rows(e->first, 0, n + 1),
                     .id = tensor_rows(e->id, 0, n),
                     .logprob = tensor_rows(e->logprob, 0, n),
                     .scale = 1};
    TRY(ops->distill(s, &a));
    TRY(ops->copy(s, e->host_loss, e->loss.data, sizeof(float) * (size_t)n));
    TRY(ops->sync(s));
    for (int32_t i = 0; i < n; i++) e->owner[from + i]->nll += (double)e->host_loss[i];
    return ST_OK;
}

static Status run_items(Evaluation *e, Item *item, int32_t items) {
    for (;;) {
        int32_t marked;
        TRY(build_pass(e, item, items, &marked));
        if (e->tools.batch->T == 0) return ST_OK;
        TRY(batch_upload(e->tools.batch, e->tools.stream));
        TRY(forward(e->m, e->tools.batch, e->tools.acts, e->tools.stream));
        for (int32_t i = 0; i < marked; i += e->seqs)
            TRY(score_rows(e, i, marked - i < e->seqs ? marked - i : e->seqs));
    }
}

/* Pages for as many items as run together; at least one. */
static Status reserve(Evaluation *e, Item *item, int32_t items, int32_t *ready) {
    for (*ready = 0; *ready < items && *ready < e->seqs; ++*ready) {
        Item *it = &item[*ready];
        TRY(sequence_open(&it->seq, it->token.n, e->start));
        Status st = sequence_reserve(&it->seq, e->tools.pool, it->token.n - 1);
        if (st == ST_FULL && *ready > 0) break;
        TRY(st);
    }
    return ST_OK;
}

static Status score_items(Evaluation *e, Item *item, int32_t items) {
    Status st = ST_OK;
    for (int32_t from = 0, n; !st && from < items; from += n) {
        if (watch_stop(e->watch)) FAIL(ST_STOPPED, "evaluation stopped");
        st = reserve(e, item + from, items - from, &n);
        if (!st) st = run_items(e, item + from, n);
        for (int32_t i = from; i < items && i <= from + n; i++) sequence_close(&item[i].seq, e->tools.pool);
        watch_progress(e->watch, "scoring answers", from + n, items, "");
    }
    return st;
}

/* ---- generating answers ---- */

typedef struct Asked {
    TokenVec answer;
    uint64_t ticket;
    int32_t *left;
    bool failed;
} Asked;

static void hear(void *user, const Delivery *d) {
    Asked *a = user;
    if (d->id >= 0 && d->finish != FINISH_STOP) a->failed |= tokens_push(&a->answer, d->id) != ST_OK;
    if (d->finish == RUNNING) return;
    a->ticket = 0;
    --*a->left;
}

static Status ask(const Evaluation *e, const char *question, int32_t answer_max, Asked *a) {
    Request r = {.prefix = e->prefix,
                 .prefixes = e->prefixes,
                 .pos = -1,
                 .new_max = answer_max,
                 .sampling = {.top_p = 1},
                 .deliver = hear,
                 .user = a};
    TokenVec prompt = {0};
    Status st = question_tokens(e->chat, question, &prompt);
    r.token = prompt.v;
    r.n = prompt.n;
    if (!st) st = chat_stops(e->chat, &r.stop, &r.stops);
    if (!st) st = scheduler_submit(e->s, &r, &a->ticket);
    tokens_close(&prompt);
    return st;
}

/* *left counts the answers that are still to come. */
static Status run_questions(Evaluation *e, const QuestionSet *set, int32_t answer_max, Asked *asked,
                            int32_t *left) {
    int32_t sent = 0, active;
    for (int32_t i = 0; i < set->n; i++) asked[i].left = left;
    for (*left = set->n; *left > 0;) {
        if (watch_stop(e->watch)) FAIL(ST_STOPPED, "evaluation stopped");
        Status st = ST_OK;
        while (!st && sent < set->n) {
            st = ask(e, set->q[sent].question, answer_max, &asked[sent]);
            sent += st == ST_OK;
        }
        if (st && st != ST_FULL) return st;
        TRY(scheduler_step(e->s, &active));
        watch_progress(e->watch, "answering", set->n - *left, set->n, "");
    }
    return ST_OK;
}

static void take_back(Evaluation *e, Asked *asked, int32_t n) {
    int32_t active = 1;
    for (int32_t i = 0; i < n; i++)
        if (asked[i].ticket) scheduler_cancel(e->s, asked[i].ticket);
    while (active && !scheduler_step(e->s, &active)) {
    }
}

static Status generate(Evaluation *e, const QuestionSet *set, int32_t answer_max, Score *score) {
    Asked *asked = calloc((size_t)set->n, sizeof *asked);
    NEED(asked, ST_NOMEM, "out of memory for %d answers", set->n);
    int32_t left;
    Status st = run_questions(e, set, answer_max, asked, &left);
    if (st) take_back(e, asked, set->n);
    for (int32_t i = 0; !st && i < set->n; i++) {
        if (asked[i].failed)
            st = status_fail(ST_NOMEM, __FILE__, __LINE__, "out of memory for an answer");
        else
            st = tokenizer_decode(chat_tokenizer(e->chat), asked[i].answer.v, asked[i].answer.n,
                                  &score[i].answer);
    }
    for (int32_t i = 0; i < set->n; i++) tokens_close(&asked[i].answer);
    free(asked);
    return st;
}

/* ---- comparing ---- */

static Status contains(const char *words, const char *part, bool *yes) {
    char *part_words;
    TRY(words_of(&part_words, bytes_of(part)));
    *yes = words_contain(words, part_words);
    free(part_words);
    return ST_OK;
}

static Status contains_all(const char *words, const Question *q, bool *yes) {
    if (q->n_contains == 0) return contains(words, q->answer, yes);
    *yes = true;
    for (int32_t i = 0; i < q->n_contains && *yes; i++) TRY(contains(words, q->contains[i], yes));
    return ST_OK;
}

static Status compare(const Question *q, Score *s) {
    char *words = NULL, *gold = NULL;
    Status st = words_of(&words, bytes_of(s->answer));
    if (!st) st = words_of(&gold, bytes_of(q->answer));
    if (!st) st = contains_all(words, q, &s->contains);
    if (!st) s->exact = !strcmp(words, gold);
    free(words);
    free(gold);
    return st;
}

/* ---- the whole ---- */

static int32_t items_of(const Question *q) {
    return 1 + q->n_choices;
}

static Status fill_items(const Evaluation *e, const QuestionSet *set, Item *item) {
    for (int32_t i = 0; i < set->n; i++) {
        const Question *q = &set->q[i];
        TRY(fill_item(e, q->question, q->answer, item++));
        for (int32_t k = 0; k < q->n_choices; k++) TRY(fill_item(e, q->question, q->choices[k], item++));
    }
    return ST_OK;
}

static double per_token(const Item *it) {
    return it->nll / (it->token.n - it->prompt);
}

static Status read_items(const QuestionSet *set, const Item *item, Score *score) {
    for (int32_t i = 0; i < set->n; item += items_of(&set->q[i]), i++) {
        const Question *q = &set->q[i];
        int32_t best = 1;
        score[i].nll = item->nll;
        score[i].tokens = item->token.n - item->prompt;
        score[i].has_choice = q->n_choices > 0;
        if (!score[i].has_choice) continue;
        for (int32_t k = 2; k <= q->n_choices; k++)
            if (per_token(&item[k]) < per_token(&item[best])) best = k;
        char *gold, *choice;
        TRY(words_of(&gold, bytes_of(q->answer)));
        Status st = words_of(&choice, bytes_of(q->choices[best - 1]));
        if (!st) score[i].choice = !strcmp(gold, choice);
        free(gold);
        free(choice);
        TRY(st);
    }
    return ST_OK;
}

static Status score_set(Evaluation *e, const QuestionSet *set, Score *score) {
    int32_t items = 0;
    for (int32_t i = 0; i < set->n; i++) items += items_of(&set->q[i]);
    Item *item = calloc((size_t)items, sizeof *item);
    NEED(item, ST_NOMEM, "out of memory for %d answers", items);
    Status st = fill_items(e, set, item);
    if (!st) st = score_items(e, item, items);
    if (!st) st = read_items(set, item, score);
    for (int32_t i = 0; i < items; i++) tokens_close(&item[i].token);
    free(item);
    return st;
}

static void add_up(Scores *s, bool generated) {
    double tokens = 0, nll = 0, contained = 0, exact = 0, choice = 0, choices = 0;
    for (int32_t i = 0; i < s->n; i++) {
        const Score *q = &s->q[i];
        nll += q->nll;
        tokens += q->tokens;
        contained += q->contains;
        exact += q->exact;
        choices += q->has_choice;
        choice += q->has_choice && q->choice;
    }
    s->nll = nll / tokens;
    s->contains = generated ? contained / s->n : (double)NAN;
    s->exact = generated ? exact / s->n : (double)NAN;
    s->choice = choices > 0 ? choice / choices : (double)NAN;
}

Status evaluate(Scheduler *s, const Model *m, const Chat *chat, const Prefix *const *prefix, int32_t prefixes,
                const QuestionSet *set, const EvaluateOptions *o, const Watch *watch, Scores *out) {
    Evaluation e = {.s = s, .m = m, .chat = chat, .prefix = prefix, .prefixes = prefixes, .watch = watch};
    *out = (Scores){.q = calloc((size_t)set->n, sizeof(Score)), .n = set->n};
    NEED(out->q, ST_NOMEM, "out of memory for %d scores", set->n);
    Status st = open_evaluation(&e);
    if (!st) st = score_set(&e, set, out->q);
    if (!st && o->generate) st = generate(&e, set, o->answer_max, out->q);
    for (int32_t i = 0; !st && o->generate && i < set->n; i++) st = compare(&set->q[i], &out->q[i]);
    close_evaluation(&e);
    if (st)
        scores_close(out);
    else
        add_up(out, o->generate);
    return st;
}

void scores_close(Scores *s) {
    for (int32_t i = 0; i < s->n; i++) free(s->q[i].answer);
    free(s->q);
    *s = (Scores){0};
}

/* ---- two prefixes against each other ---- */

enum { BOOTSTRAPS = 10000, BOOTSTRAP_STREAM = 11 };

static int by_value(const void *pa, const void *pb) {
    double a = *(const double *)pa, b = *(const double *)pb;
    return a < b ? -1 : a > b;
}

static double difference(const Scores *a, const Scores *b, int32_t i) {
    return a->q[i].nll - b->q[i].nll;
}

static double resampled_mean(const Scores *a, const Scores *b, uint64_t seed, uint64_t draw) {
    double sum = 0;
    for (int32_t i = 0; i < a->n; i++) {
        uint64_t pick =
            random_below(seed, BOOTSTRAP_STREAM, draw * (uint64_t)a->n + (uint64_t)i, (uint64_t)a->n);
        sum += difference(a, b, (int32_t)pick);
    }
    return sum / a->n;
}

Interval scores_compare(const Scores *a, const Scores *b, uint64_t seed) {
    double mean[BOOTSTRAPS];
    Interval r = {0};
    for (int32_t i = 0; i < a->n; i++) r.mean += difference(a, b, i) / a->n;
    for (int32_t d = 0; d < BOOTSTRAPS; d++) mean[d] = resampled_mean(a, b, seed, (uint64_t)d);
    qsort(mean, BOOTSTRAPS, sizeof *mean, by_value);
    r.low = mean[BOOTSTRAPS / 40];
    r.high = mean[BOOTSTRAPS - 1 - BOOTSTRAPS / 40];
    return r;
}
