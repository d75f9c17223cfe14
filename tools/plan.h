/* plan.h -- what a job takes, worked out without starting it: bytes by kind, and how many users fit.
 *
 * The sums are those of the code that opens the memory (footprint.h, session.h), so for the CPU they are what
 * it will ask for, to the byte. For a card they are what the same code asks for with bf16 activations; what
 * the driver and its libraries take is not in them, and in a build without the CUDA toolkit neither is the
 * backend's scratch. */
#ifndef TOOLS_PLAN_H
#define TOOLS_PLAN_H

#include "engine/learn/trainer.h"
#include "tools/session.h"

/* From the makers' public data sheets; dense bf16 products with f32 sums. Of one that is in this machine only
 * the memory is known: bandwidth and rate are 0. */
typedef struct Card {
    const char *name;
    double memory, bandwidth, rate; /* bytes, bytes/s, FLOP/s */
} Card;
extern const Card plan_cards[]; /* ends in a NULL name */
/* ST_ARG names the cards that are known. */
Status plan_card(const Card **out, const char *name);

/* "24G" (10^9), "16Gi" (2^30), "800M", bytes. ST_ARG. */
Status plan_size(double *out, const char *option, const char *text);

/* A session, as session_open makes it, and training on top of it, as trainer_open does. */
typedef struct PlanJob {
    ModelConfig model;
    SessionLimits limits;
    bool training;
    TrainerOptions train;
    int32_t rows, candidates; /* of the cartridge; teacher's candidates per supervised token at most */
} PlanJob;

typedef struct PlanBytes {
    size_t weights, pages, activations, logits, learning,
        scratch; /* learning: master, moments, gradient, best */
} PlanBytes;

/* card: NULL: this machine's CPU, with the threads of now. */
Status plan_bytes(PlanBytes *out, const PlanJob *job, const Card *card);
size_t plan_total(const PlanBytes *b);
bool plan_knows_scratch(const Card *card);
DType plan_kv(const Card *card); /* the type of keys and values there */

/* How conversations see a text. */
typedef enum PlanContext {
    PLAN_FULL,   /* every user has the whole text in a context of their own */
    PLAN_SHARED, /* the whole text is held once, for all */
    PLAN_ROWS,   /* a cartridge instead, held once */
} PlanContext;

/* Serving: `rows` of text or cartridge, `copies` different ones at once (where they are held once), and turn
 * tokens of prompt and answer for each user. */
typedef struct PlanServe {
    ModelConfig model;
    PlanContext context;
    int64_t rows, copies, turn;
} PlanServe;

Status plan_serve_job(PlanJob *out, const PlanServe *s, int32_t users);
/* The most users for whom it fits, USERS_MAX if it fits for that many; 0: not even for one, or beyond the
 * model's context. */
enum { USERS_MAX = 1 << 16 };
Status plan_users(int32_t *out, const PlanServe *s, double memory, const Card *card);

#endif
