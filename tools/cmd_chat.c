/* cmd_chat.c -- talk to a model behind cartridges, or answer one prompt. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/command.h"
#include "tools/job.h"
#include "tools/progress.h"

typedef struct Args {
    const char *model, *prompt, *system;
    TextList cartridge;
    double temperature, top_p, min_p;
    int64_t top_k, max_tokens, context;
} Args;
#define AT(field) offsetof(Args, field)

static const Option rows[] = {
    {"model", 'm', OPTION_TEXT, "DIR", NULL, 0, 0, "what", "the base model, a Hugging Face folder", AT(model),
     true},
    {"cartridge", 'c', OPTION_LIST, "FILE", NULL, 0, 0, "what",
     "repeatable: several are used together, in this order", AT(cartridge), false},
    {"prompt", 0, OPTION_TEXT, "TEXT|-", NULL, 0, 0, "what",
     "answer this (- reads it from stdin) and leave; without it: a conversation", AT(prompt), false},
    {"system", 0, OPTION_TEXT, "TEXT", NULL, 0, 0, "what",
     "a system turn; cartridges are made to be used without one", AT(system), false},
    {"temperature", 0, OPTION_REAL, "F", "0", 0, 100, "sampling", "0: always the likeliest token",
     AT(temperature), false},
    {"top-k", 0, OPTION_WHOLE, "N", "0", 0, 1e6, "sampling", "only among the N likeliest; 0: all", AT(top_k),
     false},
    {"top-p", 0, OPTION_REAL, "F", "1", 0, 1, "sampling",
     "only among the likeliest that reach this probability together", AT(top_p), false},
    {"min-p", 0, OPTION_REAL, "F", "0", 0, 1, "sampling",
     "only those at least this likely, relative to the likeliest", AT(min_p), false},
    {"max-tokens", 0, OPTION_WHOLE, "N", "256", 1, 1e6, "sampling", "longest answer", AT(max_tokens), false},
    {"context", 0, OPTION_WHOLE, "N", "2048", 64, 1e7, "sampling", "tokens of conversation to make room for",
     AT(context), false},
};

typedef struct Talk {
    const Args *a;
    const Common *common;
    const Watch *watch;
    Session s;
    Cartridge *cartridge[LIST_MAX];
    const Prefix *prefix[LIST_MAX];
    int32_t cartridges;
    TokenVec history; /* turns so far */
    /* the answer in work */
    TokenVec answer;
    Utf8Stream utf8;
    bool done;
    Finish finish;
} Talk;

static void say(Talk *t, Bytes piece) {
    char *text = malloc(3 * (piece.n + 4) + 1);
    if (!text) return;
    utf8_push(&t->utf8, piece, text);
    fputs(text, stdout);
    fflush(stdout);
    free(text);
}

static bool is_stop(const Talk *t, int32_t id) {
    const int32_t *stop;
    int32_t stops;
    chat_stops(t->s.chat, &stop, &stops);
    for (int32_t i = 0; i < stops; i++)
        if (stop[i] == id) return true;
    return false;
}

static void hear(void *user, const Delivery *d) {
    Talk *t = user;
    if (d->finish != RUNNING) t->done = true, t->finish = d->finish;
    if (d->id < 0 || is_stop(t, d->id)) return;
    if (tokens_push(&t->answer, d->id)) return;
    say(t, tokenizer_piece(t->s.tokenizer, d->id));
}

/* Runs one answer to the history; ^C ends the answer, not the conversation. */
static Status generate(Talk *t) {
    const Args *a = t->a;
    uint64_t ticket;
    int32_t active = 1;
    Request r = {.prefix = t->prefix,
                 .prefixes = t->cartridges,
                 .token = t->history.v,
                 .n = t->history.n,
                 .pos = -1,
                 .new_max = (int32_t)a->max_tokens,
                 .deliver = hear,
                 .user = t,
                 .sampling = {(float)a->temperature, (int32_t)a->top_k, (float)a->top_p, (float)a->min_p,
                              (uint64_t)t->common->seed}};
    TRY(chat_stops(t->s.chat, &r.stop, &r.stops));
    t->answer.n = 0, t->done = false, t->utf8.n = 0;
    TRY(scheduler_submit(t->s.scheduler, &r, &ticket));
    while (!t->done) {
        if (watch_stop(t->watch)) scheduler_cancel(t->s.scheduler, ticket);
        TRY(scheduler_step(t->s.scheduler, &active));
    }
    char rest[8];
    utf8_flush(&t->utf8, rest);
    printf("%s\n", rest);
    NEED(t->finish != FINISH_FAILED, ST_IO, "the answer could not be finished");
    return ST_OK;
}

static Status turn(Talk *t, const char *text) {
    Message m = {ROLE_USER, bytes_of(text)};
    TRY(chat_messages(t->s.chat, &m, 1, true, &t->history));
    TRY(generate(t));
    TRY(tokens_append(&t->history, t->answer.v, t->answer.n));
    return chat_close_turn(t->s.chat, &t->history);
}

static Status begin(Talk *t) {
    t->history.n = 0;
    if (!t->a->system) return ST_OK;
    Message m = {ROLE_SYSTEM, bytes_of(t->a->system)};
    return chat_messages(t->s.chat, &m, 1, false, &t->history);
}

static Status converse(Talk *t) {
    char *line = NULL;
    size_t cap = 0;
    Status st = ST_OK;
    fprintf(stderr, "%d cartridge(s), %d rows. /reset begins anew, /quit ends.\n", t->cartridges,
            prefix_start(t->prefix, t->cartridges));
    while (!st && !progress_interrupted() && (fputs("> ", stderr), getline(&line, &cap, stdin) > 0)) {
        line[strcspn(line, "\n")] = '\0';
        if (!strcmp(line, "/quit")) break;
        if (!strcmp(line, "/reset"))
            st = begin(t);
        else if (*line)
            st = turn(t, line);
    }
    free(line);
    return st;
}

static Status read_stdin(char **out) {
    size_t n = 0, cap = 0;
    char *text = NULL;
    for (int c; (c = getchar()) != EOF;) {
        if (n + 1 >= cap) {
            char *more = realloc(text, cap = cap ? 2 * cap : 256);
            if (!more) {
                free(text);
                FAIL(ST_NOMEM, "no memory for the prompt");
            }
            text = more;
        }
        text[n++] = (char)c;
    }
    NEED(n, ST_ARG, "--prompt -: stdin is empty");
    text[n] = '\0';
    *out = text;
    return ST_OK;
}

static Status answer_one(Talk *t) {
    char *text = NULL;
    bool from_stdin = !strcmp(t->a->prompt, "-");
    if (from_stdin) TRY(read_stdin(&text));
    Status st = turn(t, from_stdin ? text : t->a->prompt);
    free(text);
    return st;
}

static Status open_talk(Talk *t) {
    const Args *a = t->a;
    int64_t held;
    SessionLimits l = {.held_rows = KV_PAGE,
                       .seqs = 1,
                       .seq_rows = (int32_t)(a->context + a->max_tokens),
                       .pass_rows = JOB_PASS_ROWS};
    TRY(cartridge_rows(&a->cartridge, &held));
    l.held_rows += held;
    TRY(session_open(&t->s, a->model, &l));
    TRY(session_cartridges(&t->s, &a->cartridge, t->cartridge, &t->cartridges));
    for (int32_t i = 0; i < t->cartridges; i++) t->prefix[i] = t->cartridge[i]->prefix;
    return begin(t);
}

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)rest, (void)code;
    Talk t = {.a = options, .common = common, .watch = watch};
    Status st = open_talk(&t);
    if (!st) st = t.a->prompt ? answer_one(&t) : converse(&t);
    for (int32_t i = 0; i < t.cartridges; i++) cartridge_close(t.cartridge[i]);
    tokens_close(&t.history);
    tokens_close(&t.answer);
    session_close(&t.s);
    return st;
}

const Command cmd_chat = {.name = "chat",
                          .usage = "chat -m DIR [-c FILE...] [--prompt TEXT] [options]",
                          .summary = "talk to a model behind cartridges, or answer one prompt",
                          .about =
                              "Several cartridges are used together, in the order in which they are named. "
                              "Without --prompt it is a conversation: /reset begins anew, /quit ends it.",
                          .examples = "cartridge chat -m models/smollm2-135m-instruct -c harbour.cartridge "
                                      "--prompt \"Who is the captain of the ferry?\"\n",
                          .table = {{rows, OPTION_COUNT(rows)}},
                          .at = {0},
                          .bytes = sizeof(Args),
                          .run = run};
