/* ops_attention.c -- see ops_attention.h. */
#include "tests/ops_attention.h"

static int32_t pages_of(int32_t rows) {
    return (rows + KV_PAGE - 1) / KV_PAGE;
}

static int32_t keys_of(const AttnSeq *s) {
    return s->keys ? s->keys : s->rows;
}

/* Page entries: the prefixes' in order, then each sequence's own, enough for every later piece of it. */
typedef struct Entries {
    int32_t prefix[ATTN_PREFIXES], own[ATTN_SEQS], n;
} Entries;

static int32_t own_entries(const AttnShape *shape, int32_t s) {
    int32_t keys = 0;
    for (int32_t i = s; i < ATTN_SEQS && shape->seq[i].rows; i++) {
        const AttnSeq *q = &shape->seq[i];
        if ((i == s || q->with == s + 1) && q->from + keys_of(q) > keys) keys = q->from + keys_of(q);
    }
    return pages_of(keys);
}

static Entries entries_of(const AttnShape *shape) {
    Entries e = {.n = 0};
    for (int32_t p = 0; p < ATTN_PREFIXES; p++) {
        e.prefix[p] = e.n;
        e.n += pages_of(shape->prefix[p]);
    }
    for (int32_t s = 0; s < ATTN_SEQS && shape->seq[s].rows; s++) {
        int32_t with = shape->seq[s].with;
        e.own[s] = with ? e.own[with - 1] : e.n;
        if (!with) e.n += own_entries(shape, s);
    }
    return e;
}

static void lay_out_sequence(Attention *at, const Entries *e, int32_t s) {
    const AttnSeq *q = &at->shape->seq[s];
    int32_t n = at->seg[s];
    for (int32_t i = 0; i < ATTN_READS && q->read[i].prefix; i++) {
        AttnRead read = q->read[i];
        int32_t rows = at->shape->prefix[read.prefix - 1];
        at->segment[n++] =
            (Segment){e->prefix[read.prefix - 1], read.from, read.length ? read.length : rows - read.from};
    }
    at->segment[n++] = (Segment){e->own[s], q->from, keys_of(q)};
    at->seg[s + 1] = n;
    at->row[s + 1] = at->row[s] + q->rows;
}

/* Two pages belong to nobody, and a step of 5 scatters the others. */
static int32_t pool_pages(int32_t entries) {
    int32_t pages = entries + 2;
    return pages % 5 ? pages : pages + 1;
}

static void lay_out(Attention *at) {
    Entries e = entries_of(at->shape);
    int32_t pages = pool_pages(e.n), S = 0;
    assert_true(pages <= ATTN_ENTRIES);
    for (int32_t i = 0; i < pages; i++) at->own_grad[i] = at->learned_grad[i] = -1;
    for (int32_t i = 0; i < e.n; i++) {
        int32_t page = at->page[i] = (i * 5 + 3) % pages;
        if (i >= e.prefix[ATTN_PREFIXES - 1] + pages_of(at->shape->prefix[ATTN_PREFIXES - 1]))
            at->own_grad[page] = at->own_pages++;
        else if (i < e.prefix[1] || i >= e.prefix[2])
            at->learned_grad[page] = at->learned_pages++;
    }
    for (; S < ATTN_SEQS && at->shape->seq[S].rows; S++) lay_out_sequence(at, &e, S);
    at->layout = (AttnLayout){at->row[S], S,   at->row, at->seg,      at->segment,
                              at->page,   e.n, pages,   at->own_grad, at->learned_grad};
}

/* Which rows of which pages some segment covers. */
static void mark_rows(const Attention *at, bool *used) {
    for (int32_t i = 0; i < at->seg[at->layout.S]; i++) {
        Segment g = at->segment[i];
        for (int32_t j = g.from; j < g.from + g.length; j++)
            used[at->page[g.first + j / KV_PAGE] * KV_PAGE + j % KV_PAGE] = true;
    }
}

static Tensor pool_of(const Attention *at, OpsRig *r, uint64_t seed) {
    int64_t G = at->shape->G, D = at->shape->D, pages = at->layout.pages, n = pages * G * KV_PAGE * D;
    bool used[ATTN_ENTRIES * KV_PAGE] = {false};
    double *x = malloc(sizeof(double) * (size_t)n);
    assert_non_null(x);
    mark_rows(at, used);
    for (int64_t i = 0; i < n; i++) {
        int64_t page = i / (G * KV_PAGE * D), row = i / D % KV_PAGE;
        x[i] = used[page * KV_PAGE + row] ? (double)random_normal(seed, 0, (uint64_t)i) : NAN;
    }
    Tensor t = FLOATS(r, r->act, x, pages, G, KV_PAGE, D);
    free(x);
    return t;
}

static AttnLimits limits_of(const Attention *at, DType act) {
    const AttnLayout *l = &at->layout;
    return (AttnLimits){.rows = l->T + 3,
                        .seqs = l->S + 1,
                        .segments = l->seg[l->S] + 2,
                        .entries = l->entries + 1,
                        .pages = l->pages,
                        .heads = at->shape->G * at->shape->group,
                        .kv_heads = at->shape->G,
                        .head_dim = at->shape->D,
                        .act = act,
                        .backward = true};
}

void attention_open(Attention *at, OpsRig *r, const AttnShape *shape) {
    *at = (Attention){.shape = shape, .scale = 1 / sqrtf((float)shape->D)};
    lay_out(at);
    int64_t T = at->layout.T, H = shape->G * shape->group, D = shape->D;
    at->q = NORMAL(r, r->act, 1, shape->sharpness > 0 ? shape->sharpness : 1, T, H, D);
    at->d_o = NORMAL(r, r->act, 2, 1, T, H, D);
    at->k = pool_of(at, r, 3);
    at->v = pool_of(at, r, 4);
    AttnLimits limits = limits_of(at, r->act);
    assert_ok(r->ops->plan_open(&at->plan, &limits));
    assert_ok(r->ops->attn_plan(r->stream, at->plan, &at->layout));
}

void attention_close(Attention *at, OpsRig *r) {
    r->ops->plan_close(at->plan);
}

void attention_forward(const Attention *at, OpsRig *r, Tensor *o, Tensor *lse) {
    int64_t T = at->layout.T, H = at->q.dim[1], D = at->q.dim[2];
    *o = BLANK(r, r->act, T, H, D);
    *lse = BLANK(r, r->real, T, H);
    ops_rig_attn(r, (AttnArgs){*o, *lse, at->q, at->k, at->v, at->plan, at->scale});
}
