/* questions.h -- files of questions: JSONL, one object a line. */
#ifndef ENGINE_LEARN_QUESTIONS_H
#define ENGINE_LEARN_QUESTIONS_H

#include "engine/text/tokenizer.h"

typedef struct Question {
    char *question, *answer;
    char **choices, **contains;
    int32_t n_choices, n_contains;
} Question;
typedef struct QuestionSet {
    Question *q;
    int32_t n;
} QuestionSet;

/* {"question", "answer", "choices"?: [...], "contains"?: [...]}; other members are ignored. Without `answers`
 * the answer may be missing (NULL). ST_FORMAT names the line and the field; a file without any line is
 * ST_FORMAT too. */
Status questions_read(QuestionSet *out, const char *path, bool answers);
void questions_close(QuestionSet *s);

/* Of a set, the n questions (their indices, best first) that a text is most likely to answer: those that
 * share most content words with it, rare words (in the set) counting more than common ones. Returns how many
 * share any. */
typedef struct QuestionRanks QuestionRanks; /* borrows the set */
Status question_ranks_open(QuestionRanks **out, const QuestionSet *s);
void question_ranks_close(QuestionRanks *r);
/* skip(user, i): leave question i out; NULL: none. words: from words_of. */
Status question_ranks_best(QuestionRanks *r, const char *words, bool (*skip)(void *user, int32_t i),
                           void *user, int32_t n, int32_t *best, int32_t *found);

#endif
