/* dataset.h -- conversations with the teacher's log-probabilities, in one SQLite file.
 *
 * One transaction per batch of conversations, rollback journal, one writer per file: a crash loses at most the batch
 * in work, and anybody can read what is there. Tokens and targets are blobs; each row carries a SHA-256 of its own
 * fields, checked when it is read. Conversation `number` is a function of the study's seed, so a file says by itself
 * what is missing. */
#ifndef ENGINE_LEARN_DATASET_H
#define ENGINE_LEARN_DATASET_H

#include <stdbool.h>

#include "kernels/base/file.h"
#include "kernels/base/status.h"

/* A conversation as it is trained on, without chunk and seed: the student never sees those. Target j says that
 * token[at[j]] was predicted, from the rows before it, with candidates first[j] .. first[j+1]. Targets rise. */
typedef struct Conversation {
    int64_t number;
    int32_t n, targets;
    const int32_t *token; /* [n] user turn, assistant turn, ...; ends with the last supervised token */
    const int32_t *at;    /* [targets] in [1,n) */
    const int32_t *first; /* [targets+1] */
    const int32_t *id;    /* [first[targets]] */
    const float *logprob; /* natural log, raw: temperature 1, before any filter */
    const char *kind;     /* of its seed: "question", "focus", ... */
    const char *question, *answer; /* for people: the first user and assistant text */
    int64_t chunk;        /* number of the chunk it was asked about */
    double answer_logprob; /* mean over the answer's tokens: how likely the teacher found its own words */
} Conversation;

/* What binds a dataset to its makers; compared on resume and when training. Borrowed strings. */
typedef struct DatasetInfo {
    const char *model, *tokenizer, *template_family, *corpus; /* fingerprints and digests, as in CartridgeInfo */
    int64_t corpus_tokens;
    const char *settings; /* JSON of the study's options: a resumed study must have the same */
} DatasetInfo;

typedef struct Dataset Dataset;

/* A new file; or, with resume, an existing one whose info must agree (ST_MISMATCH names the first difference). An
 * existing file without resume is ST_ARG: nothing is overwritten. */
Status dataset_create(Dataset **out, const char *path, const DatasetInfo *info, bool resume);
/* For reading. ST_FORMAT: not a dataset, or damaged. */
Status dataset_open(Dataset **out, const char *path);
void dataset_close(Dataset *d);
const DatasetInfo *dataset_info(const Dataset *d); /* borrowed from d */

/* Between begin and commit conversations become durable together; close without commit rolls back. `next` is the
 * number of the first batch of work not yet committed, kept in the same transaction. */
Status dataset_begin(Dataset *d);
Status dataset_add(Dataset *d, const Conversation *c);
Status dataset_drop(Dataset *d, const char *reason); /* counts a conversation that was filtered out */
Status dataset_commit(Dataset *d, int64_t next);
int64_t dataset_next(const Dataset *d);

int64_t dataset_count(const Dataset *d);
/* The i-th kept conversation in order of number; valid until the next get. Verifies the row's hash: ST_FORMAT. */
Status dataset_get(Dataset *d, int64_t i, Conversation *out);
/* Counts per drop reason: calls visit for each. */
Status dataset_drops(Dataset *d, void (*visit)(void *user, const char *reason, int64_t count), void *user);

#endif
