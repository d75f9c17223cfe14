/* visits.h -- which conversation comes when: the order of a training run, and what is held out of it.
 *
 * A visit is a conversation's turn to be trained on. Visits go through the training conversations once per
 * epoch, in an order drawn anew for each; a step takes visits until it has enough supervised tokens.
 * Everything is a function of the seed and the data, so a run is resumed by the number of its next visit. */
#ifndef ENGINE_LEARN_VISITS_H
#define ENGINE_LEARN_VISITS_H

#include "engine/learn/trainer.h"

/* What is known of a conversation without reading it again. */
typedef struct VisitSize { int32_t data; int64_t i; int32_t rows, supervised; } VisitSize;

typedef struct Visits {
    VisitSize *size;            /* [count] owned, all conversations of all datasets, in order */
    int64_t count;
    int64_t *heldout, *train;   /* owned, rising numbers into size */
    int64_t heldouts, trains;
    int64_t *order;             /* owned, [trains] the order of `epoch` */
    int64_t epoch;              /* -1: none yet */
    int64_t total;              /* visits of the run; INT64_MAX when steps were asked for */
    int64_t steps;
    int32_t candidates;         /* of one supervised row at most */
    int32_t step_tokens, spread;
    uint64_t seed;
    Digest data;                /* over all that is trained on */
} Visits;

/* What a conversation must fit into: rows of a micro-batch, ids, and positions behind the prefix. */
typedef struct VisitLimits { int32_t rows, vocab, positions; } VisitLimits;

/* Reads every conversation once, so that damage shows before training starts. ST_ARG names one that does not
 * fit. */
Status visits_open(Visits *out, Dataset *const *data, int32_t datasets, const TrainerOptions *o,
                   const VisitLimits *limits);
void visits_close(Visits *v);

int64_t visits_at(Visits *v, int64_t visit);               /* the conversation: a number into size */
int32_t visits_shift(const Visits *v, int64_t visit);      /* positions that it starts later than it must */

/* The step that begins at a visit. */
typedef struct VisitStep { int64_t visits, rows, supervised; } VisitStep;
VisitStep visits_step(Visits *v, int64_t visit);

#endif
