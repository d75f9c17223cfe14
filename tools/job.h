/* job.h -- the steps that several commands share: a corpus into conversations, texts on the screen. */
#ifndef TOOLS_JOB_H
#define TOOLS_JOB_H

#include "engine/learn/dataset.h"
#include "engine/learn/study.h"
#include "engine/learn/trainer.h"
#include "tools/session.h"

/* Sequences at once and rows of a pass that suit a CPU: enough to keep the matrix products busy. */
enum { JOB_SEQS = 32, JOB_PASS_ROWS = 512 };

/* What self-study needs, in rows held and rows per sequence. */
SessionLimits job_study_limits(const StudyOptions *o);

/* What training needs beside self-study: the cartridge, a micro-batch, and (corpus_rows > 0) the whole text. */
void job_add_training(SessionLimits *l, const TrainerOptions *o, int64_t rows, int64_t corpus_rows);

/* Opens or resumes the dataset and runs the study into it; prints nothing. *out is left open. */
Status job_study(Session *s, const Corpus *corpus, const StudyOptions *o, const char *path, bool resume,
                 const Watch *watch, Dataset **out, StudySums *sums);

/* Rows that the whole corpus can take in context: never more tokens than bytes, never more than the model
 * holds. */
int64_t job_corpus_rows(const char *model, const Corpus *corpus);

/* Counts of what self-study dropped, as one line: "12 duplicate, 3 unrelated". */
Status job_drops(Dataset *d, char *out, size_t cap);

void job_bytes(char *out, size_t cap, double bytes); /* "5.9 MB" */

#endif
