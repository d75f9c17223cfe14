/* trainer.h -- conversations in, a better cartridge out: pack, forward, distill, backward, sum over ranks, Adam.
 *
 * Loss: the cross-entropy to the teacher's kept candidates, averaged over the supervised tokens of the whole step (all
 * micro-batches, all ranks). The f32 master, its moments and its gradient have the shape of pages; what forward reads
 * is the master rounded to bf16, so what is trained and evaluated is what is saved. The first row never learns: it is
 * the attention sink, and training is unstable when that moves.
 *
 * A stopped and resumed run gives the same file, bit for bit, as one that was not (same threads and instruction set,
 * recorded in the checkpoint; a difference is announced). */
#ifndef ENGINE_LEARN_TRAINER_H
#define ENGINE_LEARN_TRAINER_H

#include "engine/learn/dataset.h"
#include "engine/learn/ranks.h"
#include "engine/learn/watch.h"
#include "engine/memory/cartridge.h"
#include "engine/transformer/footprint.h"

typedef enum Schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE } Schedule;

typedef struct TrainerOptions {
    int32_t rows_max;     /* rows of one micro-batch; a longer conversation is ST_ARG naming it: answers are never cut */
    int32_t step_tokens;  /* supervised tokens of a step, over all ranks: conversations are added until it is reached;
                           * what would be less than half a step at the end of the run joins the last one */
    double epochs;        /* passes over the training conversations; steps wins when > 0 */
    int64_t steps;
    double lr;            /* 0: 2e-2, and below 1,536 supervised tokens a step 2e-2 * sqrt(tokens / 1536) */
    Schedule schedule;    /* to lr_end * lr */
    double lr_end;
    int64_t warmup;       /* steps, at most half of the run; the first step is already warmed: lr * 1/warmup */
    double beta1, beta2, eps, clip; /* clip: largest gradient norm, 0: none */
    int32_t spread;       /* a conversation starts 0..spread positions later than it must, drawn per visit */
    uint64_t seed;        /* order, spread, held-out choice */
    double heldout;       /* share of conversations, 0.05; at least 32, at most half; 0: none, and the last rows are kept */
    int64_t eval_every;   /* steps between evaluations of held-out KL; 0: ten times per run */
    int32_t patience;     /* stop after this many evaluations without a better KL; 0: never. The best is kept */
    int64_t save_every;   /* steps between checkpoints; 0: only when stopped, and at the end */
    const char *run_dir;  /* checkpoint and metrics.jsonl; NULL: neither */
} TrainerOptions;
TrainerOptions trainer_defaults(void);

typedef struct StepReport {
    int64_t step, steps, conversations, rows, supervised;
    double loss, kl, grad_norm, lr, seconds; /* nats per supervised token, before the update */
} StepReport;

typedef struct HeldOut { double loss, kl, agree; int64_t conversations, supervised; } HeldOut;

typedef struct Trainer Trainer;
/* What trainer_open would take of the device beside the pool, for a cartridge of so many rows and conversations with at
 * most so many teacher candidates per supervised token. */
void trainer_footprint(Footprint *out, const Model *m, int32_t pool_pages, int32_t rows, int32_t candidates,
                       const TrainerOptions *o);
/* Pages of the pool that training takes beside the cartridge's own. */
int32_t trainer_pages(const TrainerOptions *o);
/* Takes a cartridge that was just initialised (its prefix pages become the working copy) and the datasets, in order;
 * all borrowed. ST_MISMATCH when a dataset was made with another model, tokenizer or template. */
Status trainer_open(Trainer **out, const Model *m, PagePool *pool, Cartridge *c, Dataset *const *data, int32_t datasets,
                    Ranks *ranks, const TrainerOptions *o);
void trainer_close(Trainer *t);

Status trainer_step(Trainer *t, StepReport *out);              /* ST_DIVERGED leaves master and moments as they were */
Status trainer_heldout(Trainer *t, HeldOut *out);              /* of the cartridge as it is */
/* Held-out conversations behind any prefix (NULL: none), e.g. the full text: how good it would be. */
Status trainer_heldout_behind(Trainer *t, const Prefix *p, HeldOut *out);

/* The whole run: steps, evaluations, checkpoints, metrics.jsonl, early stop; leaves the best rows in the cartridge and
 * the summary in its info. ST_STOPPED after saving when the watch says so. resume: from run_dir's checkpoint (none:
 * from the start); metrics behind it are cut off. Without resume a checkpoint in run_dir is ST_ARG. */
Status trainer_run(Trainer *t, bool resume, const Watch *watch, HeldOut *first, HeldOut *best);

Status trainer_save(const Trainer *t, const char *path); /* sealed safetensors: master, moments, best, counters, settings */
Status trainer_load(Trainer *t, const char *path);       /* ST_MISMATCH names the first setting that differs */

#endif
