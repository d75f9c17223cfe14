/* repeats.h -- which questions have been asked before, nearly word by word. */
#ifndef ENGINE_LEARN_REPEATS_H
#define ENGINE_LEARN_REPEATS_H

#include "kernels/base/status.h"

typedef struct Repeats Repeats;
Status repeats_open(Repeats **out);
void repeats_close(Repeats *r);
Status repeats_add(Repeats *r, const char *words); /* from words_of */

/* The largest share of this question's pairs of neighbouring words that one question added before has too; 0
 * when there is none, 1 for a repeat. A question of one word counts as one pair. */
Status repeats_share(Repeats *r, const char *words, double *share);

#endif
