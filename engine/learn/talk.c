/* talk.c -- one conversation in the making.
 *
 * The ids of a question are never decoded and encoded again as a whole: what the answerer read is what the
 * student will read. Only the token in which a cut falls ("?\n" is one token for some models) is replaced by
 * the ids of its front part, before anybody has read it. */
#include "engine/learn/talk.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/learn/words.h"

static void round_close(Round *r) {
    tokens_close(&r->question);
    tokens_close(&r->answer);
    tokens_close(&r->first);
    tokens_close(&r->id);
    free(r->logprob);
    *r = (Round){0};
}

void talk_close(Talk *t, int32_t rounds_max) {
    for (int32_t i = 0; t->round && i < rounds_max; i++) round_close(&t->round[i]);
    free(t->round);
    free(t->question);
    free(t->answer);
    free(t->words);
    seed_close(&t->seed);
    *t = (Talk){0};
}

/* ---- prompts ---- */

static Status add_turn(const Chat *c, Role role, const TokenVec *content, TokenVec *out) {
    TRY(chat_open_turn(c, role, out));
    TRY(tokens_append(out, content->v, content->n));
    return chat_close_turn(c, out);
}

Status talk_ask_prompt(const Talk *t, const Chat *c, TokenVec *out) {
    TRY(chat_open_turn(c, ROLE_USER, out));
    TRY(chat_content(c, bytes_of(t->seed.text), out));
    TRY(chat_close_turn(c, out));
    for (int32_t i = 0; i < t->rounds; i++) {
        TRY(add_turn(c, ROLE_ASSISTANT, &t->round[i].question, out));
        TRY(add_turn(c, ROLE_USER, &t->round[i].answer, out));
    }
    TRY(chat_open_turn(c, ROLE_ASSISTANT, out));
    return tokens_append(out, t->round[t->rounds].question.v, t->round[t->rounds].question.n);
}

Status talk_answer_prompt(const Talk *t, const Chat *c, TokenVec *out) {
    for (int32_t i = 0; i < t->rounds; i++) {
        TRY(add_turn(c, ROLE_USER, &t->round[i].question, out));
        TRY(add_turn(c, ROLE_ASSISTANT, &t->round[i].answer, out));
    }
    TRY(add_turn(c, ROLE_USER, &t->round[t->rounds].question, out));
    return chat_open_turn(c, ROLE_ASSISTANT, out);
}

/* ---- the question ---- */

/* How many bytes of a piece still belong to the question; all, and `closed` as it was, when it goes on. */
static size_t belongs(Bytes piece, bool ends_at_mark, bool *closed) {
    for (size_t i = 0; i < piece.n; i++) {
        if (piece.p[i] == '\n') return *closed = true, i;
        if (ends_at_mark && piece.p[i] == '?') return *closed = true, i + 1;
    }
    return piece.n;
}

/* Blanks and ASCII punctuation only: small models like to put a question into quotation marks. */
static bool is_wrapping(Bytes piece) {
    for (size_t i = 0; i < piece.n; i++)
        if ((uint8_t)piece.p[i] >= 0x80 || isalnum((uint8_t)piece.p[i])) return false;
    return true;
}

Status talk_hear_question(Talk *t, const Chat *c, int32_t id) {
    Round *r = &t->round[t->rounds];
    Bytes piece = tokenizer_piece(chat_tokenizer(c), id);
    if (r->question.n == 0 && is_wrapping(piece)) return ST_OK;
    size_t n = belongs(piece, seed_ends_at_mark(t->seed.kind), &r->closed);
    if (n == piece.n) return tokens_push(&r->question, id);
    return n ? tokenizer_encode(chat_tokenizer(c), (Bytes){piece.p, n}, ENCODE_PLAIN, &r->question) : ST_OK;
}

static Status text_of(const Chat *c, const TokenVec *t, char **out) {
    char *text;
    TRY(tokenizer_decode(chat_tokenizer(c), t->v, t->n, &text));
    size_t blanks = strspn(text, " \t\r\n"), n = strlen(text + blanks);
    memmove(text, text + blanks, n + 1);
    while (n && strchr(" \t\r\n", text[n - 1])) text[--n] = 0;
    *out = text;
    return ST_OK;
}

typedef struct Shared {
    const char *words;
    bool any;
} Shared;

static void look_up(void *user, Bytes word) {
    Shared *s = user;
    char spaced[128];
    if (s->any || !word_is_content(word) || word.n + 3 > sizeof spaced) return;
    spaced[0] = spaced[word.n + 1] = ' ';
    memcpy(spaced + 1, word.p, word.n);
    spaced[word.n + 2] = 0;
    s->any = words_contain(s->words, spaced);
}

static bool shares_content(const char *words, const char *chunk_words) {
    Shared s = {chunk_words, false};
    words_each(words, look_up, &s);
    return s.any;
}

/* Names and numbers that the chunk lacks: only where facts are asked for, others may bring in the world. */
static Status invents(const Talk *t, const char *text, const char *chunk_words, const StudyOptions *o,
                      bool *yes) {
    *yes = false;
    if (!o->drop_invented || !seed_must_ask(t->seed.kind)) return ST_OK;
    return words_invent(bytes_of(text), chunk_words, t->words ? t->words : " ", yes);
}

static Status judge_text(const Talk *t, const char *text, const char *words, const char *chunk_words,
                         const StudyOptions *o, const char **reason) {
    bool invented;
    TRY(invents(t, text, chunk_words, o, &invented));
    if (words_count(words) < 2)
        *reason = "question too short";
    else if (seed_must_ask(t->seed.kind) && text[strlen(text) - 1] != '?')
        *reason = "not a question";
    else if (o->drop_unrelated && !shares_content(words, chunk_words))
        *reason = "question unrelated to the chunk";
    else if (invented)
        *reason = "question names what the chunk lacks";
    return ST_OK;
}

Status talk_judge_question(Talk *t, const Chat *c, const char *chunk_words, const StudyOptions *o,
                           const char **reason) {
    char *text = NULL, *words = NULL;
    *reason = NULL;
    Status st = text_of(c, &t->round[t->rounds].question, &text);
    if (!st) st = words_of(&words, bytes_of(text));
    if (!st) st = judge_text(t, text, words, chunk_words, o, reason);
    if (t->rounds == 0) {
        t->question = text;
        t->words = words;
    } else {
        free(text);
        free(words);
    }
    return st;
}

/* ---- the answer ---- */

static Status push_logprob(Round *r, float logprob) {
    if (r->id.n > r->logprobs_cap) {
        int32_t cap = 2 * r->id.n + 64;
        float *larger = realloc(r->logprob, (size_t)cap * sizeof *larger);
        NEED(larger, ST_NOMEM, "out of memory: %d candidates of one answer", cap);
        r->logprob = larger;
        r->logprobs_cap = cap;
    }
    r->logprob[r->id.n - 1] = logprob;
    return ST_OK;
}

static bool holds(const TokenVec *t, int32_t from, int32_t id) {
    for (int32_t i = from; i < t->n; i++)
        if (t->v[i] == id) return true;
    return false;
}

Status talk_hear_answer(Talk *t, int32_t id, bool is_end, float logprob, const int32_t *top_id,
                        const float *top_logprob, int32_t topk, float mass) {
    Round *r = &t->round[t->rounds];
    if (is_end)
        r->ended = true;
    else
        TRY(tokens_push(&r->answer, id));
    r->sum += logprob;
    if (r->first.n == 0) TRY(tokens_push(&r->first, 0));
    double sum = 0;
    int32_t from = r->id.n;
    for (int32_t k = 0; k < topk && sum < mass; k++) {
        if (holds(&r->id, from, top_id[k])) continue;
        TRY(tokens_push(&r->id, top_id[k]));
        TRY(push_logprob(r, top_logprob[k]));
        sum += exp(top_logprob[k]);
    }
    return tokens_push(&r->first, r->id.n);
}

double talk_answer_logprob(const Round *r) {
    int32_t n = r->answer.n + r->ended;
    return n ? r->sum / n : 0;
}

Status talk_judge_answer(Talk *t, const Chat *c, const char *chunk_words, const StudyOptions *o,
                         const char **reason) {
    const Round *r = &t->round[t->rounds];
    char *text;
    bool invented;
    *reason = NULL;
    TRY(text_of(c, &r->answer, &text));
    Status st = invents(t, text, chunk_words, o, &invented);
    if (!st && r->answer.n == 0)
        *reason = "no answer";
    else if (!st && !r->ended && !o->keep_cut)
        *reason = "answer too long";
    else if (!st && talk_answer_logprob(r) < o->answer_floor)
        *reason = "answer unlikely";
    else if (!st && invented)
        *reason = "answer names what the chunk lacks";
    if (t->rounds == 0)
        t->answer = text;
    else
        free(text);
    return st;
}

/* ---- the whole ---- */

static Status add_targets(const Round *r, int32_t first_at, TalkStore *s) {
    int32_t n = r->answer.n + r->ended, base = s->id.n;
    for (int32_t j = 0; j < n; j++) {
        TRY(tokens_push(&s->at, first_at + j));
        TRY(tokens_push(&s->first, base + r->first.v[j + 1]));
    }
    TRY(tokens_append(&s->id, r->id.v, r->id.n));
    float *larger = realloc(s->logprob, (size_t)(s->id.n + 1) * sizeof *larger);
    NEED(larger, ST_NOMEM, "out of memory: %d candidates of one conversation", s->id.n);
    s->logprob = larger;
    if (r->id.n) memcpy(s->logprob + base, r->logprob, (size_t)r->id.n * sizeof *larger);
    return ST_OK;
}

static Status add_round(const Round *r, const Chat *c, bool last, TalkStore *s) {
    TRY(add_turn(c, ROLE_USER, &r->question, &s->token));
    TRY(chat_open_turn(c, ROLE_ASSISTANT, &s->token));
    int32_t at = s->token.n;
    TRY(tokens_append(&s->token, r->answer.v, r->answer.n));
    if (!last)
        TRY(chat_close_turn(c, &s->token));
    else if (r->ended)
        TRY(tokens_push(&s->token, chat_end(c)));
    return add_targets(r, at, s);
}

Status talk_conversation(const Talk *t, const Chat *c, TalkStore *s, Conversation *out) {
    TRY(tokens_push(&s->first, 0));
    for (int32_t i = 0; i < t->rounds; i++) TRY(add_round(&t->round[i], c, i + 1 == t->rounds, s));
    double sum = 0;
    for (int32_t i = 0; i < t->rounds; i++) sum += t->round[i].sum;
    *out = (Conversation){.number = t->number,
                          .chunk = t->chunk,
                          .n = s->token.n,
                          .targets = s->at.n,
                          .token = s->token.v,
                          .at = s->at.v,
                          .first = s->first.v,
                          .id = s->id.v,
                          .logprob = s->logprob,
                          .kind = t->kind,
                          .question = t->question,
                          .answer = t->answer,
                          .answer_logprob = sum / s->at.n};
    return ST_OK;
}

void talk_store_close(TalkStore *s) {
    tokens_close(&s->token);
    tokens_close(&s->at);
    tokens_close(&s->first);
    tokens_close(&s->id);
    free(s->logprob);
    *s = (TalkStore){0};
}
