/* rig.h -- a tiny model with everything a pass needs, for tests of the transformer: sequences go in, logits
 * come out. */
#ifndef TESTS_RIG_H
#define TESTS_RIG_H

#include "engine/transformer/capture.h"
#include "tests/test.h"
#include "tests/tiny_model.h"

enum { RIG_ROWS = 192, RIG_SEQS = 6, RIG_PAGES = 40, RIG_LOGITS = 7 };

typedef struct Rig {
    Model *model;
    PagePool *pool;
    Stream *stream;
    Batch *batch;
    Acts *acts;
    CaptureTools tools;
    Sequence seq[RIG_SEQS]; /* of the last run */
    int32_t seqs;
} Rig;

/* One sequence of a batch: tokens behind prefixes. */
typedef struct Talk {
    const Prefix *const *prefix;
    int32_t prefixes;
    const int32_t *token;
    int32_t n;
    int32_t shift; /* positions left free between the prefixes and the first token */
} Talk;

/* Pages, activations and logits are of type `act`. */
void rig_open(Rig *r, const Ops *ops, DType act, TinyFamily family, bool training);
void rig_open_config(Rig *r, const Ops *ops, DType act, const ModelConfig *c, bool training);
void rig_open_folder(Rig *r, const Ops *ops, DType act, const char *folder, bool training);
void rig_close(Rig *r); /* asserts that all pages are free */

/* n random tokens. */
void rig_tokens(const Rig *r, int32_t *token, int32_t n, uint64_t seed);
Prefix *rig_capture(Rig *r, const Prefix *const *parent, int32_t parents, const int32_t *token, int32_t n);
/* A prefix of random rows at positions 0 .. rows. */
Prefix *rig_random_prefix(Rig *r, int32_t rows, uint64_t seed);

/* Forward over all talks as one batch; their own pages stay until the next run or rig_forget. */
void rig_run(Rig *r, const Talk *talk, int32_t talks);
void rig_forget(Rig *r);
/* Logits of rows first .. first+count of the last run, as doubles; free() them. */
double *rig_logits(Rig *r, int32_t first, int32_t count);
/* rig_run and the logits of all rows. */
double *rig_ask(Rig *r, const Talk *talk, int32_t talks);

/* What a tensor of the rig's backend holds, as doubles; free() them. */
double *rig_read(Rig *r, Tensor t);

/* Element i of a host tensor. */
double rig_get(Tensor t, int64_t i);
void rig_set(Tensor t, int64_t i, double v);

/* Every |a - b| is at most epsilon times the largest |b|; the message names the first element that is not. */
void assert_close(const double *a, const double *b, int64_t n, double epsilon, const char *what);

#endif
