/* seeds.c -- what the asker is told.
 *
 * The five general kinds follow the paper (structuring, summarization, question, use case, creative) in words
 * of our own; they name no corpus. They are short because every conversation reads its seed again, and
 * because small models lose the thread of long ones. FOCUS is for small models: told only to ask something
 * about a text they ask about the instruction; shown one sentence, and a few examples of sentences with their
 * questions, they ask about that sentence. */
#include "engine/learn/seeds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/random.h"

const char *seed_kind_name(SeedKind k) {
    static const char *const name[SEED_KINDS] = {"structuring", "summarization", "question", "use-case",
                                                 "creative",    "focus",         "ask"};
    return name[k];
}

bool seed_must_ask(SeedKind k) {
    return k == SEED_QUESTION || k == SEED_FOCUS;
}

bool seed_ends_at_mark(SeedKind k) {
    return k != SEED_STRUCTURING && k != SEED_SUMMARIZATION;
}

/* %s is a format. */
static const char *const structuring[] = {
    "Write one request to an assistant: it shall set out some facts of the text above as %s. "
    "The request names the subject and which facts are wanted. Write only the request.",
    "Pick one subject of the text above. Write one message that asks for its names, dates and numbers as %s, "
    "and says precisely which subject is meant. Write only the message."};
static const char *const formats[] = {"JSON", "YAML", "TOML", "an INI file", "XML", "a plain list"};
static const char *const summarization[] = {
    "Write one request to summarize a part of the text above. "
    "Say exactly which part, with its names and dates. Write only the request.",
    "Pick one subject of the text above. Write one message that asks for a short summary of what is known "
    "about it, and names it. Write only the message."};
static const char *const question[] = {
    "Ask one short question about a fact in the text above. Name the person or thing it is about. "
    "Write only the question.",
    "Write one quiz question about the text above. Somebody who knows the text by heart, but cannot see it, "
    "must understand the question and be able to answer it. Write only the question.",
    "Test whether I know the text above: ask me for one detail of it, and name what it belongs to. "
    "Write only the question."};
static const char *const use_case[] = {
    "Think of somebody who needs the text above for something practical. "
    "Write the one question that person would ask. Write only the question."};
static const char *const creative[] = {
    "Start an imaginative conversation about something in the text above, and name it. "
    "Write only its first question."};
static const char *const focus[] = {"Write a question that this sentence answers: %s"};

/* Sentences and their questions, with answers of different types. */
static const char *const example[][2] = {
    {"The mill of Arden was built in 1702 by John Hale.", "Who built the mill of Arden?"},
    {"Mary's dog Rex sleeps in the kitchen, because it is warm there.",
     "Why does Mary's dog Rex sleep in the kitchen?"},
    {"The train to Bellmore takes 40 minutes and costs three pounds.",
     "How long does the train to Bellmore take?"},
    {"The tower of Lund has 90 steps and is painted blue.", "What colour is the tower of Lund?"}};

#define COUNT(list) (sizeof(list) / sizeof *(list))

/* First words of questions, for answers of many types. */
static const char *const openings[] = {
    "Who",       "What",        "When",    "Where",   "Why",      "How",           "How many",
    "How much",  "How long",    "How old", "Whose",   "Which",    "In which year", "What is the name",
    "What kind", "What colour", "Who is",  "What is", "Where is", "What does"};

static uint64_t draw(const StudyOptions *o, int stream, int64_t number, size_t bound) {
    return random_below(o->seed, (uint64_t)stream, (uint64_t)number, bound);
}

static SeedKind draw_kind(const StudyOptions *o, int64_t number) {
    double sum = 0, at = random_unit(random_block(o->seed, DRAW_KIND, (uint64_t)number).v[0]);
    for (int k = 0; k < SEED_KINDS; k++) sum += o->weight[k];
    int last = 0;
    for (int k = 0; k < SEED_KINDS; k++) {
        if (o->weight[k] <= 0) continue;
        last = k;
        at -= o->weight[k] / sum;
        if (at < 0) break;
    }
    return (SeedKind)last;
}

typedef struct Pick {
    int32_t wanted, at;
    Bytes found;
} Pick;

static void pick_sentence(void *user, Bytes sentence) {
    Pick *p = user;
    if (p->at++ == p->wanted) p->found = sentence;
}

/* Conversations of a chunk go through its sentences in turn, from a drawn one on: none is left out. */
static Bytes sentence_of(const StudyOptions *o, Bytes chunk, int64_t number, int32_t place) {
    Pick p = {.wanted = -1, .found = chunk};
    size_t shortest = 20;
    int32_t n = text_sentences(chunk, shortest, pick_sentence, &p);
    if (n == 0) n = text_sentences(chunk, shortest = 1, pick_sentence, &p);
    if (n == 0) return chunk;
    uint64_t first = draw(o, DRAW_SENTENCE, number - place, (size_t)n);
    p.wanted = (int32_t)((first + (uint64_t)place) % (uint64_t)n);
    p.at = 0;
    text_sentences(chunk, shortest, pick_sentence, &p);
    return p.found;
}

/* Fills the %s of a pattern, if it has one, with n bytes. */
static Status fill(char **out, const char *pattern, Bytes with) {
    size_t cap = strlen(pattern) + with.n + 1;
    *out = malloc(cap);
    NEED(*out, ST_NOMEM, "out of memory: a seed of %zu bytes", cap);
    const char *at = strstr(pattern, "%s");
    int before = at ? (int)(at - pattern) : (int)strlen(pattern);
    snprintf(*out, cap, "%.*s%.*s%s", before, pattern, at ? (int)with.n : 0, at ? with.p : "",
             at ? at + 2 : "");
    return ST_OK;
}

static Status write_text(Seed *s, const StudyOptions *o, Bytes chunk, int64_t number, int32_t place) {
    static const struct {
        const char *const *pattern;
        size_t n;
    } list[SEED_KINDS] = {[SEED_STRUCTURING] = {structuring, COUNT(structuring)},
                          [SEED_SUMMARIZATION] = {summarization, COUNT(summarization)},
                          [SEED_QUESTION] = {question, COUNT(question)},
                          [SEED_USE_CASE] = {use_case, COUNT(use_case)},
                          [SEED_CREATIVE] = {creative, COUNT(creative)},
                          [SEED_FOCUS] = {focus, COUNT(focus)}};
    if (s->kind == SEED_ASK)
        return fill(&s->text, "%s", bytes_of(o->ask[draw(o, DRAW_ASK, number, (size_t)o->asks)]));
    uint64_t variant = draw(o, DRAW_VARIANT, number, list[s->kind].n * COUNT(formats));
    Bytes with = bytes_of(formats[variant % COUNT(formats)]);
    if (s->kind == SEED_FOCUS) with = sentence_of(o, chunk, number, place);
    return fill(&s->text, list[s->kind].pattern[variant / COUNT(formats)], with);
}

Status seed_draw(Seed *out, const StudyOptions *o, Bytes chunk, int64_t number, int32_t place) {
    *out = (Seed){.kind = draw_kind(o, number), .opening = ""};
    if (o->force_openings && seed_must_ask(out->kind))
        out->opening = openings[draw(o, DRAW_OPENING, number, COUNT(openings))];
    return write_text(out, o, chunk, number, place);
}

static Status add_turn(const Chat *c, Role role, const char *text, TokenVec *out) {
    TRY(chat_open_turn(c, role, out));
    TRY(chat_content(c, bytes_of(text), out));
    return chat_close_turn(c, out);
}

Status seed_examples(SeedKind k, const Chat *c, TokenVec *out) {
    for (size_t i = 0; k == SEED_FOCUS && i < COUNT(example); i++) {
        const char *const *shown = example[i];
        char *asked;
        TRY(fill(&asked, focus[0], bytes_of(shown[0])));
        Status st = add_turn(c, ROLE_USER, asked, out);
        free(asked);
        TRY(st);
        TRY(add_turn(c, ROLE_ASSISTANT, shown[1], out));
    }
    return ST_OK;
}

void seed_close(Seed *s) {
    free(s->text);
    *s = (Seed){0};
}
