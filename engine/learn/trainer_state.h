/* trainer_state.h -- inside the trainer: what its parts share. */
#ifndef ENGINE_LEARN_TRAINER_STATE_H
#define ENGINE_LEARN_TRAINER_STATE_H

#include "engine/learn/pack.h"
#include "engine/learn/trainer.h"
#include "engine/learn/visits.h"
#include "engine/learn/working.h"

/* How far a run has come: with the rows and their moments, all that a resumed run must know. */
typedef struct Progress {
    int64_t step, visits;        /* done */
    int64_t supervised;          /* tokens trained on */
    double loss_first, loss_last; /* of the first and the last step; NaN: none yet */
    int64_t evaluated;           /* the step of the last evaluation, -1: none */
    int64_t best_step;           /* the step of the best rows */
    int64_t worse;               /* evaluations since then */
    HeldOut first, best;
    int64_t metrics;             /* lines of metrics.jsonl */
} Progress;

struct Trainer {
    const Model *m;   /* borrowed, as are pool, c, ranks and the datasets */
    PagePool *pool;
    Cartridge *c;
    Ranks *ranks;
    Dataset **data;   /* owned list */
    TrainerOptions o; /* run_dir: owned */
    Stream *s;
    Acts *acts;
    Pack pack;
    Working work;
    Visits visits;
    Progress at;
    double peak;      /* learning rate */
    int64_t eval_every;
    char start[65];   /* digest of the rows that training started from */
};

/* A step that may be stopped before its update: ST_STOPPED, and nothing has changed. */
Status trainer_step_watched(Trainer *t, const Watch *watch, StepReport *out);
Status trainer_heldout_watched(Trainer *t, const Prefix *p, const Watch *watch, HeldOut *out);

/* Threads, instruction set, device and ranks: what may change the last bits. */
void trainer_machine(const Trainer *t, char *out, size_t cap);
/* What trainer_save recorded of the machine. */
Status trainer_saved_machine(const char *path, char *out, size_t cap);

#endif
