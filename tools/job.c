/* job.c -- see job.h. */
#include "tools/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEED_ROWS = 384 }; /* a seed with its examples, as the asker reads it */

SessionLimits job_study_limits(const StudyOptions *o) {
    int32_t turns = o->rounds * (o->question_max + o->answer_max + 32);
    int64_t waves =
        2 * (JOB_SEQS / o->per_chunk + 1); /* chunks in flight: read by some, being read for the next */
    return (SessionLimits){.held_rows = waves * (o->chunk.high + 2 * KV_PAGE + SEED_ROWS),
                           .seqs = JOB_SEQS,
                           .seq_rows = SEED_ROWS + turns,
                           .pass_rows = JOB_PASS_ROWS};
}

void job_add_training(SessionLimits *l, const TrainerOptions *o, int64_t rows, int64_t corpus_rows) {
    l->held_rows += rows + KV_PAGE + (int64_t)trainer_pages(o) * KV_PAGE + corpus_rows;
}

static DatasetInfo info_of(const Session *s, const char *corpus_hex, int64_t tokens, const char *settings) {
    return (DatasetInfo){.model = s->model->fingerprint,
                         .tokenizer = s->tokenizer_hex,
                         .template_family = chat_family(s->chat),
                         .corpus = corpus_hex,
                         .corpus_tokens = tokens,
                         .settings = settings};
}

static Status corpus_tokens(const Session *s, const Corpus *corpus, int64_t *out) {
    TokenVec t = {0};
    Status st = tokenizer_encode(s->tokenizer, corpus_text(corpus), ENCODE_PLAIN, &t);
    *out = t.n;
    tokens_close(&t);
    return st;
}

Status job_study(Session *s, const Corpus *corpus, const StudyOptions *o, const char *path, bool resume,
                 const Watch *watch, Dataset **out, StudySums *sums) {
    *out = NULL;
    Status st = ST_OK;
    char hex[65], *settings = NULL;
    int64_t tokens;
    digest_hex(corpus_digest(corpus), hex);
    TRY(corpus_tokens(s, corpus, &tokens));
    TRY(study_settings(o, &settings));
    DatasetInfo info = info_of(s, hex, tokens, settings);
    TRY_TO(done, dataset_create(out, path, &info, resume && file_exists(path)));
    TRY_TO(done, study_run(s->scheduler, s->chat, s->model, corpus, o, *out, watch, sums));
done:
    free(settings);
    if (st) {
        dataset_close(*out);
        *out = NULL;
    }
    return st;
}

int64_t job_corpus_rows(const char *model, const Corpus *corpus) {
    ModelConfig c;
    int64_t bytes = (int64_t)corpus_text(corpus).n + KV_PAGE;
    if (model_config_read(&c, model)) return bytes;
    return bytes < c.context_max ? bytes : c.context_max;
}

typedef struct Line {
    char *out;
    size_t cap, used;
} Line;

static void add_drop(void *user, const char *reason, int64_t count) {
    Line *l = user;
    if (l->used < l->cap)
        l->used += (size_t)snprintf(l->out + l->used, l->cap - l->used, "%s%lld %s", l->used ? ", " : "",
                                    (long long)count, reason);
}

Status job_drops(Dataset *d, char *out, size_t cap) {
    Line l = {out, cap, 0};
    out[0] = '\0';
    return dataset_drops(d, add_drop, &l);
}

void job_bytes(char *out, size_t cap, double bytes) {
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
    int i = 0;
    for (; bytes >= 1000 && i < 4; i++) bytes /= 1000;
    snprintf(out, cap, bytes < 10 && i ? "%.1f %s" : "%.0f %s", bytes, unit[i]);
}
