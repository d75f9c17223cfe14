/* speed.h -- how many tokens a second users get who all ask at the same time. */
#ifndef TOOLS_DEMO_SPEED_H
#define TOOLS_DEMO_SPEED_H

#include "engine/learn/questions.h"
#include "tools/session.h"

double clock_seconds(void); /* from some moment on */

typedef struct Rate {
    double tokens_per_second; /* of all users together, without the passes that read their questions */
    double seconds;
    int32_t own_pages; /* held for the users' questions and answers */
} Rate;
/* User i asks question i (counted around) behind prefix[i] and gets `tokens` tokens, whatever they are: an
 * answer is not ended, so that all users are there to the last. tokens >= 2. */
Status speed_measure(Rate *out, Session *s, const Prefix *const *prefix, int32_t users,
                     const QuestionSet *set, int32_t tokens);

#endif
