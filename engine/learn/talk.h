/* talk.h -- one conversation in the making: what it sends to the model, what it makes of the tokens that
 * come.
 *
 * The asker sees the seed as the user's message and its own questions as the assistant's; the answerer sees
 * the questions as the user's. Both behind the same capture. Questions and answers stay the ids that the
 * model produced. */
#ifndef ENGINE_LEARN_TALK_H
#define ENGINE_LEARN_TALK_H

#include "engine/learn/seeds.h"

/* One round. Candidates of answer token j (the end of the turn is the last one): first[j] .. first[j+1]. */
typedef struct Round {
    TokenVec question, answer; /* contents of the turns */
    TokenVec first, id;
    float *logprob;
    int32_t logprobs_cap;
    double sum;  /* of the chosen tokens' log-probabilities */
    bool closed; /* the question is complete */
    bool ended;  /* the answer came to its end of turn */
} Round;

typedef struct Talk {
    int64_t number, chunk;
    Seed seed;
    const char *kind;
    Round *round;            /* [rounds_max] */
    int32_t rounds;          /* finished */
    char *question, *answer; /* for people: of the first round */
    char *words;             /* of the first question */
    const char *dropped;     /* why; NULL: kept */
} Talk;

void talk_close(Talk *t, int32_t rounds_max);

/* Appends what the asker (with the opening) and the answerer read before their next token. */
Status talk_ask_prompt(const Talk *t, const Chat *c, TokenVec *out);
Status talk_answer_prompt(const Talk *t, const Chat *c, TokenVec *out);

/* A token of the question: cuts at a line's end, and where the kind asks for it behind the first question
 * mark, and sets `closed`. A cut inside a token leaves the ids of the part before it. */
Status talk_hear_question(Talk *t, const Chat *c, int32_t id);
/* The question is over, complete or not: whether it will do. A NULL reason: ask on. */
Status talk_judge_question(Talk *t, const Chat *c, const char *chunk_words, const StudyOptions *o,
                           const char **reason);

/* A token of the answer with the teacher's candidates, best first; is_end: its end of turn. */
Status talk_hear_answer(Talk *t, int32_t id, bool is_end, float logprob, const int32_t *top_id,
                        const float *top_logprob, int32_t topk, float mass);
Status talk_judge_answer(Talk *t, const Chat *c, const char *chunk_words, const StudyOptions *o,
                         const char **reason);
double talk_answer_logprob(const Round *r); /* mean over its tokens, the end included */

/* The finished conversation as it is stored; its lists live in `store`: the caller zeroes and closes it. */
typedef struct TalkStore {
    TokenVec token, at, first, id;
    float *logprob;
} TalkStore;
Status talk_conversation(const Talk *t, const Chat *c, TalkStore *store, Conversation *out);
void talk_store_close(TalkStore *s);

#endif
