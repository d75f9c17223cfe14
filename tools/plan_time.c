/* plan_time.c -- see plan_time.h. */
#include "tools/plan_time.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "tools/job.h"

/* ---- passes ---- */

/* Weights of all layers that rows are multiplied with. */
static double layer_weights(const ModelConfig *c) {
    double C = c->width, Q = (double)c->heads * c->head_dim, K = (double)c->kv_heads * c->head_dim;
    return 2 * C * Q + 2 * C * K + 3 * C * c->ffn;
}

/* Forward a product costs 2 per weight, attention 4 per key and number; on the way back (to the input only)
 * products cost the same again and attention two and a half times. Each weight is read once per pass and way.
 */
double passes_seconds(const ModelConfig *c, const Rates *r, const Passes *p) {
    enum { WIDE_ROWS = 64 };
    double weights = c->layers * layer_weights(c), head = (double)c->vocab * c->width;
    double attn = p->rows * p->keys * 4 * c->heads * c->head_dim * c->layers;
    double flop = 2 * (p->rows * weights + p->logits * head) * (p->back ? 2 : 1) + attn * (p->back ? 3.5 : 1);
    double bytes = 2 * (weights + (p->logits > 0 ? head : 0)) * (p->back ? 2 : 1) + p->kv_bytes;
    return p->count * fmax(flop / (p->rows < WIDE_ROWS ? r->narrow : r->wide), bytes / r->bandwidth);
}

/* So many rows in all, in passes that are as full as can be. */
static double rows_seconds(const ModelConfig *c, const Rates *r, double rows, double per_pass, Passes p) {
    if (rows <= 0) return 0;
    p.logits *= per_pass;
    p.rows = fmin(rows, per_pass);
    p.count = rows / p.rows;
    return passes_seconds(c, r, &p);
}

/* ---- self-study and training ---- */

/* A chunk is read once for its conversations; then each reads a seed, asks, and answers, JOB_SEQS at a time.
 */
static double study_seconds(const Rates *r, const TrainWork *w) {
    enum { SEED_TOKENS = 96 }; /* the instruction that asks for a question, with examples */
    const StudyOptions *o = w->study;
    double tried = w->conversations * w->tries, chunk = 0.5 * (o->chunk.low + o->chunk.high);
    double question = w->share * o->question_max, answer = w->share * o->answer_max,
           turns = tried * o->rounds;
    double read = tried / o->per_chunk * chunk, told = turns * (SEED_TOKENS + question);
    return rows_seconds(w->model, r, read, JOB_PASS_ROWS, (Passes){.keys = chunk / 2}) +
           rows_seconds(w->model, r, told, JOB_PASS_ROWS, (Passes){.keys = chunk}) +
           rows_seconds(w->model, r, turns * (question + answer), JOB_SEQS,
                        (Passes){.keys = chunk, .logits = 1});
}

/* Held-out conversations are read before the first step, ten times on the way (each step, where there are
 * fewer), and for the comparison at the end. */
static double heldout_rows(double heldout, double length, double steps) {
    enum { LOOKS = 10, OTHER_LOOKS = 4 };
    return heldout * length * (fmin(steps, LOOKS) + OTHER_LOOKS);
}

static double training_seconds(const Rates *r, const TrainWork *w) {
    enum { FRAME_TOKENS = 10 }; /* around the texts of a turn */
    const StudyOptions defaults = study_defaults(), *s = w->study ? w->study : &defaults;
    const TrainerOptions *o = w->train;
    double answer = w->share * s->answer_max * s->rounds;
    double length = w->share * s->question_max * s->rounds + answer + FRAME_TOKENS * s->rounds;
    double heldout = o->heldout > 0 ? fmin(fmax(o->heldout * w->conversations, 32), w->conversations / 2) : 0;
    double visits =
        o->steps > 0 ? (double)o->steps * o->step_tokens / answer : o->epochs * (w->conversations - heldout);
    double looked_at = heldout_rows(heldout, length, visits * answer / o->step_tokens);
    Passes p = {.keys = (double)w->rows + length / 2, .logits = answer / length, .back = true};
    double seconds = rows_seconds(w->model, r, visits * length, o->rows_max, p);
    p.back = false;
    return seconds + rows_seconds(w->model, r, looked_at, o->rows_max, p);
}

TrainTime train_seconds(const Rates *r, const TrainWork *w) {
    return (TrainTime){w->study ? study_seconds(r, w) : 0, training_seconds(r, w)};
}

/* ---- serving ---- */

double serve_rate(const Rates *r, const PlanServe *s, int32_t users, DType kv) {
    double row = (double)model_row_bytes(&s->model, kv), own = (double)s->turn / 2;
    double texts = (double)(s->copies < users ? s->copies : users); /* that somebody reads now */
    double read = (s->context == PLAN_FULL ? users : texts) * (double)s->rows + users * own;
    Passes p = {
        .count = 1, .rows = users, .keys = (double)s->rows + own, .logits = users, .kv_bytes = read * row};
    return users / passes_seconds(&s->model, r, &p);
}

/* ---- rates ---- */

Rates rates_of_card(const Card *c) {
    return (Rates){c->rate, c->rate, c->bandwidth};
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A layer's largest products, gate, up and down, with more copies of them than caches hold: a real pass finds
 * every weight in memory. */
typedef struct Trial {
    int64_t C, F;
    Stream *s;
    uint16_t *weights; /* owned, [copies,3,F,C] */
    float *x, *h;      /* owned, [rows,C] [rows,F] */
    int32_t copies, rows;
} Trial;

static Status run_copy(const Trial *t, int32_t i) {
    int64_t C = t->C, F = t->F;
    Tensor x = tensor_of(t->x, DT_F32, t->rows, C), h = tensor_of(t->h, DT_F32, t->rows, F);
    uint16_t *w = t->weights + (int64_t)(i % t->copies) * 3 * F * C;
    TRY(ops_cpu.linear(t->s, &(LinearArgs){.y = h, .x = x, .w = tensor_of(w, DT_BF16, F, C)}));
    TRY(ops_cpu.linear(t->s, &(LinearArgs){.y = h, .x = x, .w = tensor_of(w + F * C, DT_BF16, F, C)}));
    return ops_cpu.linear(t->s, &(LinearArgs){.y = x, .x = h, .w = tensor_of(w + 2 * F * C, DT_BF16, C, F)});
}

/* The best of a few short spells: what else runs on the machine only makes it slower. */
static Status run_trial(Trial *t, int32_t rows, double *rate) {
    enum { SPELLS = 5 };
    double start = now();
    int32_t at = 0;
    t->rows = rows;
    *rate = 0;
    TRY(run_copy(t, at++)); /* threads and scratch are there afterwards */
    for (int i = 0; i < SPELLS && (i == 0 || now() - start < 1); i++) {
        double begin = now(), seconds = 0;
        int32_t done = 0;
        for (; seconds < 0.06; seconds = now() - begin, done++) TRY(run_copy(t, at++));
        *rate = fmax(*rate, done * 6.0 * rows * (double)(t->C * t->F) / seconds);
    }
    return ST_OK;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Of large models a part of a layer: beyond these sizes products are as fast as they will be. */
static Status open_trial(Trial *t, const ModelConfig *c, int32_t rows) {
    enum { WIDTH = 2048, FFN = 8192, CACHES = 128 << 20 };
    *t = (Trial){.C = smaller(c->width, WIDTH), .F = smaller(c->ffn, FFN)};
    int64_t layer = 3 * t->C * t->F;
    t->copies = (int32_t)smaller(CACHES / (2 * layer) + 1, c->layers);
    t->weights = malloc(sizeof *t->weights * (size_t)(layer * t->copies));
    t->x = calloc((size_t)(rows * t->C), sizeof *t->x);
    t->h = calloc((size_t)(rows * t->F), sizeof *t->h);
    NEED(t->weights && t->x && t->h, ST_NOMEM, "no memory to measure the products of a layer");
    for (int64_t i = 0; i < layer * t->copies; i++) t->weights[i] = 0x3c00; /* 2^-7: an ordinary number */
    int32_t width = (int32_t)(t->F > t->C ? t->F : t->C);
    return ops_cpu.stream_open(&t->s, &(StreamLimits){.rows = rows, .width = width, .vocab = 1});
}

static void close_trial(Trial *t) {
    if (t->s) ops_cpu.stream_close(t->s);
    free(t->weights);
    free(t->x);
    free(t->h);
}

/* What is read once, by all threads, from memory that no cache holds. */
static Status measure_bandwidth(double *out) {
    enum { WORDS = 32 << 20 };
    uint64_t *p = malloc(sizeof *p * WORDS), sum = 0;
    NEED(p, ST_NOMEM, "no memory to measure how fast it is");
#pragma omp parallel for
    for (int i = 0; i < WORDS; i++) p[i] = (uint64_t)i;
    double begin = now();
#pragma omp parallel for reduction(+ : sum)
    for (int i = 0; i < WORDS; i++) sum += p[i];
    volatile uint64_t kept = sum; /* so that it is computed */
    (void)kept;
    *out = sizeof *p * (double)WORDS / (now() - begin);
    free(p);
    return ST_OK;
}

Status rates_of_cpu(Rates *out, const ModelConfig *c) {
    int32_t wide = c->width > 1024 ? 128 : JOB_PASS_ROWS;
    Trial t;
    Status st = open_trial(&t, c, wide);
    if (!st) st = run_trial(&t, wide, &out->wide);
    if (!st) st = run_trial(&t, JOB_SEQS, &out->narrow);
    close_trial(&t);
    return st ? st : measure_bandwidth(&out->bandwidth);
}
