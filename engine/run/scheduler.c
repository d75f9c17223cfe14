/* scheduler.c -- many requests, one forward pass at a time.
 *
 * A request is an Entry from submit to its last delivery: first in the queue, then among the running ones,
 * both in order of arrival. All entries exist from the start; only the copies of a prompt and its page list
 * are made at submit, so that a step allocates nothing. Fairness is arrival order: the head of the queue
 * waits for its pages and nobody overtakes it, because a stream of small requests would otherwise starve a
 * large one.
 *
 * Surprising: a delivery may submit and cancel. So a step never walks the queue while it delivers, cancelling
 * only marks, and an entry is freed after its last delivery has returned. */
#include "engine/run/scheduler.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/transformer/capture.h"
#include "engine/transformer/recorded.h"

typedef struct Entry {
    uint64_t ticket;
    Request r;             /* its lists are the copies below */
    const Prefix **prefix; /* [limits.prefixes] owned list, each held */
    int32_t *copies;       /* owned: prompt, then stop ids */
    Sequence seq;
    int32_t fed;        /* tokens of the prompt that went through the model */
    int32_t made, last; /* new tokens, and the newest */
    bool cancelled, done;
} Entry;

struct Scheduler {
    const Model *model; /* borrowed, like the pool */
    PagePool *pool;
    SchedulerLimits limits;
    Stream *stream;
    Batch *batch;
    Acts *acts;
    Recorded *recorded;
    Sampler *sampler;
    Entry *entry; /* [seqs + queue] */
    Entry **unused, **queue, **running;
    int32_t unuseds, queued, runs;
    Entry **decided; /* [seqs] the ones whose next token this pass decides; */
    int32_t *row;    /* [seqs] the row that does it; */
    Draw *draw;      /* [seqs] and how */
    int32_t decideds;
    uint64_t tickets;
    SchedulerCounts counts;
};

/* ---- opening ---- */

static Status check_limits(const SchedulerLimits *l, const ModelConfig *c) {
    NEED(l->seqs >= 1 && l->queue >= 1 && l->prefixes >= 0, ST_ARG,
         "a scheduler of %d sequences, a queue of %d and %d prefixes each: at least 1, 1 and 0", l->seqs,
         l->queue, l->prefixes);
    NEED(l->rows >= l->seqs, ST_ARG, "%d rows a pass are too few for %d sequences: each needs one", l->rows,
         l->seqs);
    NEED(l->topk >= 0 && l->topk <= c->vocab, ST_ARG, "topk is %d: 0 to the vocabulary's %d", l->topk,
         c->vocab);
    return ST_OK;
}

/* Keys end within the context; a prefix may begin and end inside a page, own tokens end inside one. */
static BatchLimits batch_limits(const SchedulerLimits *l, const ModelConfig *c) {
    int32_t entries = pages_for(c->context_max) + 2 * l->prefixes + 1;
    return (BatchLimits){l->rows, l->seqs, l->seqs * (l->prefixes + 1), l->seqs * entries};
}

static ActsLimits acts_limits(const SchedulerLimits *l, const Model *m) {
    return (ActsLimits){.rows = l->rows, .logits = l->seqs, .act = m->ops->act};
}

void scheduler_footprint(Footprint *out, const Model *m, int32_t pool_pages, const SchedulerLimits *limits) {
    BatchLimits batch = batch_limits(limits, &m->cfg);
    ActsLimits acts = acts_limits(limits, m);
    footprint_pass(out, m, pool_pages, &batch, &acts);
    out->lists += sampler_bytes(limits->seqs, limits->topk);
}

static Status open_passes(Scheduler *s) {
    const SchedulerLimits *l = &s->limits;
    Footprint f;
    scheduler_footprint(&f, s->model, pool_pages(s->pool), l);
    TRY(s->model->ops->stream_open(&s->stream, &f.stream));
    BatchLimits bl = batch_limits(l, &s->model->cfg);
    TRY(batch_open(&s->batch, s->model, s->pool, &bl, false));
    ActsLimits al = acts_limits(l, s->model);
    TRY(acts_open(&s->acts, s->model, &al));
    TRY(recorded_open(&s->recorded, s->model, l->seqs));
    return sampler_open(&s->sampler, s->model->ops, l->seqs, l->topk);
}

static Status open_lists(Scheduler *s) {
    size_t seqs = (size_t)s->limits.seqs, queue = (size_t)s->limits.queue, all = seqs + queue;
    s->entry = calloc(all, sizeof *s->entry);
    s->unused = calloc(all, sizeof(Entry *));
    s->queue = calloc(queue, sizeof(Entry *));
    s->running = calloc(seqs, sizeof(Entry *));
    s->decided = calloc(seqs, sizeof(Entry *));
    s->row = calloc(seqs, sizeof *s->row);
    s->draw = calloc(seqs, sizeof *s->draw);
    bool ok = s->entry && s->unused && s->queue && s->running && s->decided && s->row && s->draw;
    for (size_t i = 0; ok && i < all; i++) {
        s->entry[i].prefix = calloc((size_t)s->limits.prefixes + 1, sizeof(Prefix *));
        s->unused[s->unuseds++] = &s->entry[i];
        ok = s->entry[i].prefix != NULL;
    }
    NEED(ok, ST_NOMEM, "out of memory for the lists of %zu requests", all);
    return ST_OK;
}

Status scheduler_open(Scheduler **out, const Model *m, PagePool *pool, const SchedulerLimits *limits) {
    *out = NULL;
    TRY(check_limits(limits, &m->cfg));
    Scheduler *s = calloc(1, sizeof *s);
    NEED(s, ST_NOMEM, "out of memory for a scheduler");
    s->model = m;
    s->pool = pool;
    s->limits = *limits;
    Status st = open_lists(s);
    if (!st) st = open_passes(s);
    if (st)
        scheduler_close(s);
    else
        *out = s;
    return st;
}

/* Gives back what an entry holds, and the entry itself. */
static void release(Scheduler *s, Entry *e) {
    sequence_close(&e->seq, s->pool);
    for (int32_t i = 0; i < e->r.prefixes; i++) prefix_drop((Prefix *)e->prefix[i]);
    free(e->copies);
    *e = (Entry){.prefix = e->prefix};
    s->unused[s->unuseds++] = e;
}

void scheduler_close(Scheduler *s) {
    if (!s) return;
    for (int32_t i = 0; i < s->runs; i++) release(s, s->running[i]);
    for (int32_t i = 0; i < s->queued; i++) release(s, s->queue[i]);
    for (int32_t i = 0; s->entry && i < s->limits.seqs + s->limits.queue; i++) free(s->entry[i].prefix);
    sampler_close(s->sampler);
    recorded_close(s->recorded);
    acts_close(s->acts);
    batch_close(s->batch);
    if (s->stream) s->model->ops->stream_close(s->stream);
    free(s->entry);
    free(s->unused);
    free(s->queue);
    free(s->running);
    free(s->decided);
    free(s->row);
    free(s->draw);
    free(s);
}

/* ---- submitting ---- */

/* Keys a request stores: its last new token is never fed. */
static int64_t rows_stored(const Request *r) {
    return (int64_t)r->n + r->new_max - 1;
}

static int32_t first_position(const Request *r) {
    return r->pos >= 0 ? r->pos : prefix_start(r->prefix, r->prefixes);
}

static Status check_form(const Scheduler *s, const Request *r) {
    NEED(r->n >= 1 && r->new_max >= 1, ST_ARG,
         "a request with %d prompt tokens and %d new ones: at least 1 of each", r->n, r->new_max);
    NEED(r->prefixes >= 0 && r->prefixes <= s->limits.prefixes, ST_ARG,
         "%d prefixes in a request, the scheduler takes %d", r->prefixes, s->limits.prefixes);
    NEED(r->topk >= 0 && r->topk <= s->limits.topk, ST_ARG,
         "%d log-probabilities per token asked, the scheduler gives %d", r->topk, s->limits.topk);
    for (int32_t i = 0; i < r->n; i++)
        NEED(r->token[i] >= 0 && r->token[i] < s->model->cfg.vocab, ST_ARG, "prompt token %d is %d: 0 to %d",
             i, r->token[i], s->model->cfg.vocab - 1);
    int32_t start = prefix_start(r->prefix, r->prefixes);
    NEED(r->pos < 0 || r->pos >= start, ST_ARG, "position %d lies inside the prefixes, which end at %d",
         r->pos, start);
    return sampling_check(&r->sampling);
}

/* Pages of all prefixes, each counted once. */
static int64_t prefix_pages(const Request *r) {
    int64_t sum = 0;
    for (int32_t i = 0; i < r->prefixes; i++) {
        bool seen = false;
        for (int32_t j = 0; j < i; j++) seen |= r->prefix[j] == r->prefix[i];
        if (!seen) sum += r->prefix[i]->pages;
    }
    return sum;
}

static Status check_room(const Scheduler *s, const Request *r) {
    int64_t end = first_position(r) + (int64_t)r->n + r->new_max, context = s->model->cfg.context_max;
    NEED(end <= context, ST_ARG,
         "a prompt of %d tokens from position %d with up to %d new ones ends at %lld, the model's context at "
         "%lld; shorten either",
         r->n, first_position(r), r->new_max, (long long)end, (long long)context);
    int64_t need = pages_for(rows_stored(r)) + prefix_pages(r), have = pool_pages(s->pool);
    NEED(need <= have, ST_ARG,
         "a request for %d + %d tokens needs %lld pages with its prefixes, the pool has %lld; make the pool "
         "larger",
         r->n, r->new_max, (long long)need, (long long)have);
    return ST_OK;
}

static Status copy_request(Entry *e, const Request *r) {
    size_t n = (size_t)r->n, stops = (size_t)r->stops;
    e->copies = malloc((n + stops) * sizeof *e->copies);
    NEED(e->copies, ST_NOMEM, "out of memory for a prompt of %d tokens", r->n);
    memcpy(e->copies, r->token, n * sizeof *e->copies);
    if (stops) memcpy(e->copies + n, r->stop, stops * sizeof *e->copies);
    for (int32_t i = 0; i < r->prefixes; i++) e->prefix[i] = prefix_hold((Prefix *)r->prefix[i]);
    e->r = *r;
    e->r.prefix = e->prefix;
    e->r.token = e->copies;
    e->r.stop = e->copies + n;
    return ST_OK;
}

Status scheduler_submit(Scheduler *s, const Request *r, uint64_t *ticket) {
    TRY(check_form(s, r));
    TRY(check_room(s, r));
    NEED(s->queued < s->limits.queue, ST_FULL, "%d requests wait already; try again later", s->queued);
    Entry *e = s->unused[s->unuseds - 1];
    Status st = sequence_open(&e->seq, (int32_t)rows_stored(r), first_position(r));
    if (!st) st = copy_request(e, r);
    if (st) {
        sequence_close(&e->seq, s->pool);
        return st;
    }
    s->unuseds--;
    e->ticket = ++s->tickets;
    s->queue[s->queued++] = e;
    s->counts.requests++;
    if (ticket) *ticket = e->ticket;
    return ST_OK;
}

static Entry *find(Entry **list, int32_t n, uint64_t ticket) {
    for (int32_t i = 0; i < n; i++)
        if (list[i]->ticket == ticket) return list[i];
    return NULL;
}

void scheduler_cancel(Scheduler *s, uint64_t ticket) {
    Entry *e = find(s->queue, s->queued, ticket);
    if (!e) e = find(s->running, s->runs, ticket);
    if (e) e->cancelled = true;
}

/* ---- ending ---- */

static void deliver(Entry *e, const Delivery *d) {
    if (e->r.deliver) e->r.deliver(e->r.user, d);
}

static void finish(Scheduler *s, Entry *e, Finish how) {
    Delivery d = {.id = -1, .finish = how};
    s->counts.cancelled += how == FINISH_CANCELLED;
    deliver(e, &d);
    release(s, e);
}

/* Takes the first entry that must go out of a list; NULL: none. The caller delivers after the list is whole
 * again. */
static Entry *take_cancelled(Entry **list, int32_t *n) {
    for (int32_t i = 0; i < *n; i++) {
        Entry *e = list[i];
        if (!e->cancelled) continue;
        memmove(list + i, list + i + 1, (size_t)(*n - i - 1) * sizeof *list);
        --*n;
        return e;
    }
    return NULL;
}

static void sweep_cancelled(Scheduler *s) {
    Entry *e;
    while ((e = take_cancelled(s->running, &s->runs))) finish(s, e, FINISH_CANCELLED);
    while ((e = take_cancelled(s->queue, &s->queued))) finish(s, e, FINISH_CANCELLED);
}

static void fail_running(Scheduler *s) {
    while (s->runs > 0) finish(s, s->running[--s->runs], FINISH_FAILED);
}

static void drop_done(Scheduler *s) {
    int32_t kept = 0;
    for (int32_t i = 0; i < s->runs; i++) {
        Entry *e = s->running[i];
        if (e->done)
            release(s, e);
        else
            s->running[kept++] = e;
    }
    s->runs = kept;
}

/* ---- one pass ---- */

static Status admit(Scheduler *s) {
    int32_t taken = 0;
    Status st = ST_OK;
    while (taken < s->queued && s->runs < s->limits.seqs) {
        Entry *e = s->queue[taken];
        st = sequence_reserve(&e->seq, s->pool, (int32_t)rows_stored(&e->r));
        if (st) break;
        s->running[s->runs++] = e;
        taken++;
    }
    s->queued -= taken;
    memmove(s->queue, s->queue + taken, (size_t)s->queued * sizeof *s->queue);
    if (st == ST_FULL && s->runs > 0) return ST_OK; /* what runs will free some */
    return st ? status_prefix(st, "the next request cannot start and nothing runs that would free pages")
              : ST_OK;
}

static bool decoding(const Entry *e) {
    return e->fed == e->r.n;
}

static Status add_rows(Scheduler *s, Entry *e, const int32_t *token, int32_t n) {
    bool fits;
    TRY(batch_add(s->batch, e->prefix, e->r.prefixes, &e->seq, token, n, &fits));
    assert(fits); /* the batch was opened for every row, sequence and page that can come */
    return ST_OK;
}

/* The next token of e follows from the row that was added last. Rows that want candidates are kept in front,
 * because the sampler ranks only those. */
static void decide(Scheduler *s, Entry *e) {
    int32_t at = s->decideds++;
    while (e->r.topk > 0 && at > 0 && s->decided[at - 1]->r.topk == 0) {
        s->decided[at] = s->decided[at - 1];
        s->row[at] = s->row[at - 1];
        s->draw[at] = s->draw[at - 1];
        at--;
    }
    s->decided[at] = e;
    s->row[at] = s->batch->T - 1;
    s->draw[at] = (Draw){e->r.sampling, e->made, e->r.topk};
}

static Status add_next_token(Scheduler *s, Entry *e) {
    TRY(add_rows(s, e, &e->last, 1));
    decide(s, e);
    return ST_OK;
}

static Status add_prompt_piece(Scheduler *s, Entry *e) {
    int32_t left = s->limits.rows - s->batch->T, n = e->r.n - e->fed;
    if (n > left) n = left;
    if (n == 0) return ST_OK;
    TRY(add_rows(s, e, e->r.token + e->fed, n));
    e->fed += n;
    if (decoding(e)) decide(s, e);
    return ST_OK;
}

/* Decoding sequences first: somebody waits for their next token. Prompts share the rows that are left. */
static Status build(Scheduler *s) {
    batch_clear(s->batch);
    s->decideds = 0;
    for (int32_t i = 0; i < s->runs; i++)
        if (decoding(s->running[i])) TRY(add_next_token(s, s->running[i]));
    for (int32_t i = 0; i < s->runs; i++)
        if (!decoding(s->running[i])) TRY(add_prompt_piece(s, s->running[i]));
    return ST_OK;
}

static Status pass(Scheduler *s) {
    TRY(build(s));
    TRY(batch_upload(s->batch, s->stream));
    TRY(recorded_forward(s->recorded, s->batch, s->acts, s->stream));
    s->counts.steps++;
    s->counts.rows += s->batch->T;
    if (!s->decideds) return ST_OK;
    Tensor logits;
    TRY(forward_logits(s->model, s->acts, s->row, s->decideds, &logits, s->stream));
    return sampler_run(s->sampler, s->stream, logits, s->draw, s->decideds);
}

static Finish finish_of(const Entry *e) {
    for (int32_t i = 0; i < e->r.stops; i++)
        if (e->r.stop[i] == e->last) return FINISH_STOP;
    return e->made == e->r.new_max ? FINISH_LENGTH : RUNNING;
}

static void deliver_token(Scheduler *s, Entry *e, int32_t w) {
    if (e->cancelled) return; /* by a delivery of this very step: the next one says so */
    e->last = sampler_id(s->sampler, w);
    e->made++;
    s->counts.tokens++;
    Delivery d = {.id = e->last, .logprob = sampler_logprob(s->sampler, w), .finish = finish_of(e)};
    if (e->r.topk > 0) {
        d.top_id = sampler_top_id(s->sampler, w);
        d.top_logprob = sampler_top_logprob(s->sampler, w);
    }
    e->done = d.finish != RUNNING;
    deliver(e, &d);
}

Status scheduler_step(Scheduler *s, int32_t *active) {
    sweep_cancelled(s);
    Status st = admit(s);
    if (!st && s->runs > 0) {
        st = pass(s);
        if (st) fail_running(s);
        for (int32_t w = 0; !st && w < s->decideds; w++) deliver_token(s, s->decided[w], w);
        drop_done(s);
    }
    if (active) *active = s->runs + s->queued;
    return st;
}

/* ---- for others ---- */

SchedulerLimits scheduler_limits(const Scheduler *s) {
    return s->limits;
}

void scheduler_capture_tools(Scheduler *s, CaptureTools *out) {
    *out = (CaptureTools){s->model, s->pool, s->batch, s->acts, s->stream};
}

SchedulerCounts scheduler_counts(const Scheduler *s) {
    return s->counts;
}
