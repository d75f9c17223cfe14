/* evaluate.h -- how good a prefix is at answering, on question sets.
 *
 * A set is JSONL, one object a line: {"question", "answer", "choices"?: [...], "contains"?: ["..", ..]}.
 * Scores: nll       mean negative log-probability of the gold answer's tokens and end of turn, teacher-forced
 *   contains  the generated answer holds the answer, or all of `contains`, compared without case and
 * punctuation exact     the generated answer equals it (same comparison) choice    the choice with the lowest
 * nll per token is the answer (only lines with choices) */
#ifndef ENGINE_LEARN_EVALUATE_H
#define ENGINE_LEARN_EVALUATE_H

#include "engine/learn/questions.h"
#include "engine/learn/watch.h"
#include "engine/run/scheduler.h"
#include "engine/text/chat.h"

Status questions_load(QuestionSet *out, const char *path); /* every line with an answer; see questions.h */

typedef struct Score { /* one per question */
    double nll;        /* nats, summed */
    int32_t tokens;    /* of the gold answer, end of turn included */
    bool contains, exact, choice, has_choice;
    char *answer; /* generated, owned */
} Score;
/* Means; nll per token of all answers together. NaN: not measured (nothing generated, no question with
 * choices). */
typedef struct Scores {
    Score *q;
    int32_t n;
    double nll, contains, exact, choice;
} Scores;

typedef struct EvaluateOptions {
    int32_t answer_max;
    bool generate;
} EvaluateOptions;

/* Every question behind these prefixes (none: no context), as the student sees it. */
Status evaluate(Scheduler *s, const Model *m, const Chat *chat, const Prefix *const *prefix, int32_t prefixes,
                const QuestionSet *set, const EvaluateOptions *o, const Watch *watch, Scores *out);
void scores_close(Scores *s);

/* Mean of per-question nll differences a - b and its 95% interval by paired bootstrap (10,000 draws from
 * seed). */
typedef struct Interval {
    double mean, low, high;
} Interval;
Interval scores_compare(const Scores *a, const Scores *b, uint64_t seed);

#endif
