/* plan_time.h -- how long a job takes: arithmetic over the passes that it will run.
 *
 * On the CPU the rates of the model's own matrix products are measured first, at two heights of the batch.
 * For a card they are those of its data sheet, which no program reaches: the result is a floor, not a
 * forecast. */
#ifndef TOOLS_PLAN_TIME_H
#define TOOLS_PLAN_TIME_H

#include "tools/plan.h"
#include "tools/study_args.h"

/* What a machine does at best. */
typedef struct Rates {
    double wide, narrow; /* FLOP/s of products with many rows, and with those of a decoding batch */
    double bandwidth;    /* bytes/s that are read from memory */
} Rates;

Rates rates_of_card(const Card *c);
/* Some of the model's layers with made-up weights, for about a second. ST_NOMEM. */
Status rates_of_cpu(Rates *out, const ModelConfig *c);

/* Passes of one kind, each of `rows` rows that see `keys` keys on average. */
typedef struct Passes {
    double count, rows, keys, logits; /* logits: rows of a pass that meet the vocabulary */
    double kv_bytes;                  /* keys and values that a pass reads */
    bool back;                        /* and the way back */
} Passes;
double passes_seconds(const ModelConfig *c, const Rates *r, const Passes *p);

/* Self-study and training with texts of some length. */
typedef struct TrainTime {
    double study, train; /* seconds */
} TrainTime;
typedef struct TrainWork {
    const ModelConfig *model;
    const StudyOptions *study; /* NULL: conversations are there already */
    const TrainerOptions *train;
    int64_t rows;         /* of the cartridge */
    double conversations; /* to train on */
    double share;         /* of the allowed length that questions and answers have */
    double tries;         /* conversations made for one that is kept */
} TrainWork;
TrainTime train_seconds(const Rates *r, const TrainWork *w);

/* Tokens per second of so many users, one token each per pass. */
double serve_rate(const Rates *r, const PlanServe *s, int32_t users, DType kv);

#endif
