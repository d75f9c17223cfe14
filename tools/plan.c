/* plan.c -- see plan.h. */
#include "tools/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/cuda_device.h"
#include "tools/job.h"

/* ---- cards ---- */

const Card plan_cards[] = {
    {"rtx-3090", 24e9, 936e9, 71e12},    {"rtx-4090", 24e9, 1008e9, 165.2e12},
    {"l4", 24e9, 300e9, 121e12},         {"l40s", 48e9, 864e9, 362e12},
    {"a100-40g", 40e9, 1555e9, 312e12},  {"a100-80g", 80e9, 2039e9, 312e12},
    {"h100-pcie", 80e9, 2000e9, 756e12}, {"h100", 80e9, 3350e9, 989.4e12},
    {"h200", 141e9, 4800e9, 989.4e12},   {NULL, 0, 0, 0},
};

Status plan_card(const Card **out, const char *name) {
    char known[256] = "";
    for (const Card *c = plan_cards; c->name; c++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", c->name);
        if (strcmp(c->name, name)) continue;
        *out = c;
        return ST_OK;
    }
    FAIL(ST_ARG, "--card: \"%s\" is none of %s; for another one take the nearest and its --memory", name,
         known);
}

Status plan_size(double *out, const char *option, const char *text) {
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {{"", 1},      {"K", 1e3},      {"M", 1e6},      {"G", 1e9},       {"T", 1e12},
                 {"B", 1},     {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},      {"TB", 1e12},
                 {"Ki", 1024}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1ll << 40}};
    char *end;
    *out = strtod(text, &end);
    for (size_t i = 0; end != text && i < sizeof units / sizeof *units; i++)
        if (!strcmp(end, units[i].unit) && *out > 0) {
            *out *= units[i].bytes;
            return ST_OK;
        }
    FAIL(ST_ARG, "--%s: \"%s\" is no size; wanted a number with K, M, G or Ki, Mi, Gi", option, text);
}

/* ---- bytes ---- */

DType plan_kv(const Card *card) {
    return card ? DT_BF16 : ops_cpu.act;
}

bool plan_knows_scratch(const Card *card) {
    return !card || cuda_stream_bytes(&(StreamLimits){1, 1, 1}) > 0;
}

static size_t scratch_of(const Footprint *f, const Card *card) {
    return card ? cuda_stream_bytes(&f->stream) + cuda_plan_bytes(&f->plan)
                : cpu_stream_bytes(&f->stream) + cpu_plan_bytes(&f->plan);
}

static void add_footprint(PlanBytes *b, const Footprint *f, const Card *card) {
    b->activations += f->activations;
    b->logits += f->logits;
    b->learning += f->learning;
    b->scratch += f->lists + scratch_of(f, card);
}

Status plan_bytes(PlanBytes *out, const PlanJob *job, const Card *card) {
    const Ops ops = {.act = plan_kv(card)};
    const Model m = {.cfg = job->model, .ops = &ops}; /* footprints look at nothing else */
    SchedulerLimits scheduler = session_scheduler(&job->limits);
    Footprint f;
    int32_t pages;
    TRY(session_pages(&job->limits, &pages));
    *out = (PlanBytes){.weights = model_bytes(&job->model), .pages = pool_bytes(&job->model, ops.act, pages)};
    NEED(out->weights, ST_NOMEM, "no memory to lay out %d layers", job->model.layers);
    scheduler_footprint(&f, &m, pages, &scheduler);
    add_footprint(out, &f, card);
    if (!job->training) return ST_OK;
    trainer_footprint(&f, &m, pages, job->rows, job->candidates, &job->train);
    add_footprint(out, &f, card);
    return ST_OK;
}

size_t plan_total(const PlanBytes *b) {
    return b->weights + b->pages + b->activations + b->logits + b->learning + b->scratch;
}

/* ---- users ---- */

Status plan_serve_job(PlanJob *out, const PlanServe *s, int32_t users) {
    bool alone = s->context == PLAN_FULL;
    int64_t own = s->turn + (alone ? s->rows : 0);
    int64_t held = alone ? 0 : s->copies * pages_for(s->rows) * KV_PAGE;
    NEED(own < INT32_MAX, ST_ARG, "%lld tokens of one user are more than a context can have", (long long)own);
    *out = (PlanJob){.model = s->model,
                     .limits = {.held_rows = held,
                                .seqs = users,
                                .seq_rows = (int32_t)own,
                                .pass_rows = users > JOB_PASS_ROWS ? users : JOB_PASS_ROWS}};
    return ST_OK;
}

static Status fits(bool *out, const PlanServe *s, int32_t users, double memory, const Card *card) {
    PlanJob job;
    PlanBytes b;
    TRY(plan_serve_job(&job, s, users));
    TRY(plan_bytes(&b, &job, card));
    *out = (double)plan_total(&b) <= memory;
    return ST_OK;
}

/* More users never need less, so halving finds the last one. */
Status plan_users(int32_t *out, const PlanServe *s, double memory, const Card *card) {
    int32_t low = 0, high = 1;
    bool yes = s->rows + s->turn <= s->model.context_max;
    *out = 0;
    while (yes && high <= USERS_MAX) {
        TRY(fits(&yes, s, high, memory, card));
        if (yes) low = high, high *= 2;
    }
    while (low && high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        TRY(fits(&yes, s, middle, memory, card));
        if (yes)
            low = middle;
        else
            high = middle;
    }
    *out = low;
    return ST_OK;
}
