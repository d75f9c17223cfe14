/* checks.c -- the contracts of ops.h. Sizes are taken from the first argument that has them; the others must
 * agree. */
#include "kernels/checks.h"

#include <stdio.h>

enum {
    F32 = 1 << DT_F32,
    F64 = 1 << DT_F64,
    BF16 = 1 << DT_BF16,
    F16 = 1 << DT_F16,
    I32 = 1 << DT_I32,
    REAL = F32 | F64,             /* gradients, statistics, masters */
    FLOAT = F32 | F64 | BF16,     /* activations, keys and values */
    ANY = F32 | F64 | BF16 | F16, /* weights */
};

static void wanted(char *out, size_t cap, unsigned types, int32_t ndim, const int64_t *dim) {
    size_t used = 0;
    for (int t = DT_F32; t <= DT_I32; t++)
        if (types >> t & 1)
            used += (size_t)snprintf(out + used, cap - used, used ? "|%s" : "%s", dtype_name((DType)t));
    for (int32_t i = 0; i < ndim; i++) {
        const char *open = i ? "," : "[";
        if (dim[i] < 0)
            used += (size_t)snprintf(out + used, cap - used, "%s*", open);
        else
            used += (size_t)snprintf(out + used, cap - used, "%s%lld", open, (long long)dim[i]);
    }
    snprintf(out + used, cap - used, "]");
}

static Status check_tensor(const char *op, const char *name, Tensor t, unsigned types, int32_t ndim,
                           const int64_t *dim) {
    if (t.data && types >> t.dtype & 1 && tensor_matches(t, t.dtype, ndim, dim)) return ST_OK;
    char seen[96], want[128];
    tensor_print(t, seen, sizeof seen);
    wanted(want, sizeof want, types, ndim, dim);
    FAIL(ST_ARG, "%s: %s is %s, wanted %s", op, name, seen, want);
}

/* CHECK("norm", a->w, FLOAT, C): a->w has one of these types and this shape (-1: any). */
#define CHECK(op, t, types, ...) TRY(check_tensor((op), #t, (t), (types), TENSOR_SHAPE(__VA_ARGS__)))
#define CHECK_OR_ABSENT(op, t, types, ...)                                                                   \
    do {                                                                                                     \
        if ((t).data) CHECK(op, t, types, __VA_ARGS__);                                                      \
    } while (0)
#define SAME_AS(op, t, types, like) TRY(check_tensor((op), #t, (t), (types), (like).ndim, (like).dim))

int64_t tensor_rows_count(Tensor t) {
    int64_t n = 1;
    for (int32_t i = 0; i + 1 < t.ndim; i++) n *= t.dim[i];
    return n;
}

static Status check_any(const char *op, const char *name, Tensor t, unsigned types) {
    char seen[96];
    tensor_print(t, seen, sizeof seen);
    NEED(t.data && types >> t.dtype & 1 && t.ndim >= 1, ST_ARG, "%s: %s is %s, wanted a tensor of floats", op,
         name, seen);
    return ST_OK;
}

Status gather_check(const GatherArgs *a) {
    CHECK("gather", a->table, ANY, -1, -1);
    CHECK("gather", a->id, I32, -1);
    CHECK("gather", a->y, FLOAT, a->id.dim[0], a->table.dim[1]);
    return ST_OK;
}

Status scatter_check(const ScatterArgs *a) {
    CHECK("scatter", a->y, FLOAT, -1, -1);
    CHECK("scatter", a->id, I32, -1);
    CHECK("scatter", a->x, FLOAT, a->id.dim[0], a->y.dim[1]);
    return ST_OK;
}

Status norm_check(const NormArgs *a) {
    TRY(check_any("norm", "x", a->x, FLOAT));
    int64_t C = a->x.dim[a->x.ndim - 1];
    SAME_AS("norm", a->y, FLOAT, a->x);
    CHECK("norm", a->w, ANY, C);
    CHECK_OR_ABSENT("norm", a->rstd, REAL, tensor_rows_count(a->x));
    return ST_OK;
}

Status norm_back_check(const NormBackArgs *a) {
    TRY(check_any("norm_back", "x", a->x, FLOAT));
    SAME_AS("norm_back", a->dx, FLOAT, a->x);
    SAME_AS("norm_back", a->dy, FLOAT, a->x);
    CHECK("norm_back", a->w, ANY, a->x.dim[a->x.ndim - 1]);
    CHECK("norm_back", a->rstd, REAL, tensor_rows_count(a->x));
    NEED(!a->accumulate || a->dx.data != a->dy.data, ST_ARG, "norm_back: dx and dy alias while accumulating");
    return ST_OK;
}

Status linear_check(const LinearArgs *a) {
    CHECK("linear", a->x, FLOAT, -1, -1);
    CHECK("linear", a->w, ANY, -1, a->x.dim[1]);
    CHECK("linear", a->y, FLOAT, a->x.dim[0], a->w.dim[0]);
    CHECK_OR_ABSENT("linear", a->b, ANY, a->w.dim[0]);
    if (a->residual.data) SAME_AS("linear", a->residual, 1u << a->y.dtype, a->y);
    return ST_OK;
}

Status linear_back_check(const LinearBackArgs *a) {
    CHECK("linear_back", a->dy, FLOAT, -1, -1);
    CHECK("linear_back", a->w, ANY, a->dy.dim[1], -1);
    CHECK("linear_back", a->dx, FLOAT, a->dy.dim[0], a->w.dim[1]);
    return ST_OK;
}

Status swiglu_check(const SwigluArgs *a) {
    CHECK("swiglu", a->gate, FLOAT, -1, -1);
    SAME_AS("swiglu", a->up, FLOAT, a->gate);
    SAME_AS("swiglu", a->y, FLOAT, a->gate);
    return ST_OK;
}

Status swiglu_back_check(const SwigluBackArgs *a) {
    CHECK("swiglu_back", a->gate, FLOAT, -1, -1);
    SAME_AS("swiglu_back", a->up, FLOAT, a->gate);
    SAME_AS("swiglu_back", a->dy, FLOAT, a->gate);
    SAME_AS("swiglu_back", a->dgate, FLOAT, a->gate);
    SAME_AS("swiglu_back", a->dup, FLOAT, a->gate);
    return ST_OK;
}

/* ---- heads ---- */

/* What both directions share: q [T,H,D], k and v [T,G,D] and their pools, positions, slots and angles. */
static Status check_heads(const char *op, Tensor q, Tensor k, Tensor v, Tensor k_pool, Tensor v_pool,
                          Tensor pos, Tensor slot, Tensor freq) {
    CHECK(op, q, FLOAT, -1, -1, -1);
    int64_t T = q.dim[0], D = q.dim[2];
    NEED(D % 2 == 0, ST_ARG, "%s: head size %lld is odd", op, (long long)D);
    CHECK(op, k, FLOAT, T, -1, D);
    SAME_AS(op, v, FLOAT, k);
    CHECK(op, k_pool, FLOAT, -1, k.dim[1], KV_PAGE, D);
    SAME_AS(op, v_pool, FLOAT, k_pool);
    CHECK(op, pos, I32, T);
    CHECK(op, slot, I32, T);
    CHECK(op, freq, F32, D / 2);
    return ST_OK;
}

static Status check_head_norms(const char *op, Tensor w_q, Tensor w_k, int64_t D) {
    NEED(!w_q.data == !w_k.data, ST_ARG, "%s: one of w_q and w_k is absent", op);
    CHECK_OR_ABSENT(op, w_q, ANY, D);
    CHECK_OR_ABSENT(op, w_k, ANY, D);
    return ST_OK;
}

Status heads_check(const HeadsArgs *a) {
    TRY(check_heads("heads", a->q_raw, a->k_raw, a->v, a->k_pool, a->v_pool, a->pos, a->slot, a->freq));
    SAME_AS("heads", a->q, FLOAT, a->q_raw);
    return check_head_norms("heads", a->w_q, a->w_k, a->q.dim[2]);
}

Status heads_back_check(const HeadsBackArgs *a) {
    TRY(check_heads("heads_back", a->dq, a->dk_raw, a->dv, a->dk_pool, a->dv_pool, a->pos, a->slot, a->freq));
    SAME_AS("heads_back", a->dq_raw, FLOAT, a->dq);
    TRY(check_head_norms("heads_back", a->w_q, a->w_k, a->dq.dim[2]));
    if (!a->w_q.data) return ST_OK;
    SAME_AS("heads_back", a->q_raw, FLOAT, a->dq);
    SAME_AS("heads_back", a->k_raw, FLOAT, a->dk_raw);
    return ST_OK;
}

/* ---- attention ---- */

static Status check_segment(const AttnLayout *l, int32_t i) {
    Segment g = l->segment[i];
    NEED(g.length >= 1 && g.from >= 0, ST_ARG, "attn_plan: segment %d has length %d from row %d", i, g.length,
         g.from);
    int64_t last = g.first + ((int64_t)g.from + g.length - 1) / KV_PAGE;
    NEED(g.first >= 0 && last < l->entries, ST_ARG,
         "attn_plan: segment %d uses page entries %d to %lld of %d", i, g.first, (long long)last, l->entries);
    return ST_OK;
}

static Status check_sequence(const AttnLayout *l, int32_t s) {
    int32_t rows = l->row[s + 1] - l->row[s], segments = l->seg[s + 1] - l->seg[s];
    NEED(rows >= 1, ST_ARG, "attn_plan: sequence %d has %d rows", s, rows);
    NEED(segments >= 1, ST_ARG, "attn_plan: sequence %d has %d segments, its own one is missing", s,
         segments);
    for (int32_t i = l->seg[s]; i < l->seg[s + 1]; i++) TRY(check_segment(l, i));
    int32_t own = l->segment[l->seg[s + 1] - 1].length;
    NEED(own >= rows, ST_ARG, "attn_plan: sequence %d has %d rows but only %d own keys", s, rows, own);
    return ST_OK;
}

Status layout_check(const AttnLayout *l, const AttnLimits *m) {
    NEED(l->T >= 1 && l->T <= m->rows && l->S >= 1 && l->S <= m->seqs, ST_ARG,
         "attn_plan: %d rows of %d sequences, planned for %d and %d", l->T, l->S, m->rows, m->seqs);
    NEED(l->row[0] == 0 && l->row[l->S] == l->T && l->seg[0] == 0, ST_ARG,
         "attn_plan: rows %d to %d and segments from %d do not cover a batch of %d rows", l->row[0],
         l->row[l->S], l->seg[0], l->T);
    NEED(l->seg[l->S] <= m->segments && l->entries <= m->entries && l->pages <= m->pages, ST_ARG,
         "attn_plan: %d segments, %d page entries, %d pages; planned for %d, %d, %d", l->seg[l->S],
         l->entries, l->pages, m->segments, m->entries, m->pages);
    for (int32_t s = 0; s < l->S; s++) TRY(check_sequence(l, s));
    for (int32_t i = 0; i < l->entries; i++)
        NEED(l->page[i] >= 0 && l->page[i] < l->pages, ST_ARG, "attn_plan: page entry %d names page %d of %d",
             i, l->page[i], l->pages);
    for (int32_t p = 0; l->own_grad && l->learned_grad && p < l->pages; p++)
        NEED(l->own_grad[p] < 0 || l->learned_grad[p] < 0, ST_ARG,
             "attn_plan: page %d is both own and learned", p);
    return ST_OK;
}

Status attn_check(const AttnArgs *a, const AttnLimits *m, int32_t T) {
    CHECK("attn", a->q, FLOAT, T, m->heads, m->head_dim);
    SAME_AS("attn", a->o, FLOAT, a->q);
    CHECK_OR_ABSENT("attn", a->lse, REAL, T, m->heads);
    CHECK("attn", a->k, FLOAT, -1, m->kv_heads, KV_PAGE, m->head_dim);
    SAME_AS("attn", a->v, FLOAT, a->k);
    return ST_OK;
}

static Status check_grad_pages(const char *name, Tensor dk, Tensor dv, const AttnLimits *m) {
    NEED(!dk.data == !dv.data, ST_ARG, "attn_back: one of dk_%s and dv_%s is absent", name, name);
    if (!dk.data) return ST_OK;
    CHECK("attn_back", dk, REAL, -1, m->kv_heads, KV_PAGE, m->head_dim);
    SAME_AS("attn_back", dv, REAL, dk);
    return ST_OK;
}

Status attn_back_check(const AttnBackArgs *a, const AttnLimits *m, int32_t T) {
    CHECK("attn_back", a->q, FLOAT, T, m->heads, m->head_dim);
    SAME_AS("attn_back", a->d_o, FLOAT, a->q);
    SAME_AS("attn_back", a->o, FLOAT, a->q);
    CHECK("attn_back", a->lse, REAL, T, m->heads);
    CHECK("attn_back", a->k, FLOAT, -1, m->kv_heads, KV_PAGE, m->head_dim);
    SAME_AS("attn_back", a->v, FLOAT, a->k);
    if (a->dq.data) SAME_AS("attn_back", a->dq, REAL, a->q);
    TRY(check_grad_pages("own", a->dk_own, a->dv_own, m));
    TRY(check_grad_pages("learned", a->dk_learned, a->dv_learned, m));
    NEED(m->backward, ST_ARG, "attn_back: the plan was opened without backward");
    return ST_OK;
}

/* ---- logits ---- */

Status distill_check(const DistillArgs *a) {
    CHECK("distill", a->logits, F32 | F64, -1, -1);
    int64_t W = a->logits.dim[0];
    CHECK_OR_ABSENT("distill", a->loss, REAL, W);
    CHECK_OR_ABSENT("distill", a->kl, REAL, W);
    CHECK_OR_ABSENT("distill", a->best, I32, W);
    CHECK("distill", a->first, I32, W + 1);
    CHECK("distill", a->id, I32, -1);
    CHECK("distill", a->logprob, F32, a->id.dim[0]);
    return ST_OK;
}

Status topk_check(const TopkArgs *a) {
    CHECK("topk", a->logits, F32 | F64, -1, -1);
    CHECK("topk", a->id, I32, a->logits.dim[0], -1);
    SAME_AS("topk", a->logprob, REAL, a->id);
    NEED(a->id.dim[1] >= 1 && a->id.dim[1] <= a->logits.dim[1], ST_ARG, "topk: %lld best of %lld",
         (long long)a->id.dim[1], (long long)a->logits.dim[1]);
    return ST_OK;
}

Status sample_check(const SampleArgs *a) {
    CHECK("sample", a->logits, F32 | F64, -1, -1);
    int64_t W = a->logits.dim[0];
    CHECK("sample", a->id, I32, W);
    CHECK_OR_ABSENT("sample", a->logprob, REAL, W);
    CHECK("sample", a->temperature, F32, W);
    CHECK("sample", a->top_p, F32, W);
    CHECK("sample", a->min_p, F32, W);
    CHECK("sample", a->top_k, I32, W);
    CHECK("sample", a->counter, I32, W);
    CHECK("sample", a->seed, I32, W, 2);
    return ST_OK;
}

/* ---- learning ---- */

Status adam_check(const AdamArgs *a) {
    CHECK("adam", a->p, REAL, -1, -1, -1, KV_PAGE, -1);
    const int64_t *d = a->p.dim;
    SAME_AS("adam", a->g, REAL, a->p);
    SAME_AS("adam", a->m, REAL, a->p);
    SAME_AS("adam", a->v, REAL, a->p);
    CHECK("adam", a->pool, FLOAT, d[0], -1, d[2], KV_PAGE, d[4]);
    CHECK("adam", a->page, I32, d[1]);
    CHECK("adam", a->from, I32, d[1]);
    CHECK("adam", a->to, I32, d[1]);
    CHECK("adam", a->lr, F32, d[1]);
    CHECK("adam", a->step, I32, d[1]);
    NEED(a->keep == DT_BF16 || a->keep == DT_F32, ST_ARG, "adam: keep is %s, wanted bf16 or f32",
         dtype_name(a->keep));
    return ST_OK;
}

Status squared_norm_check(const SquaredNormArgs *a) {
    CHECK("squared_norm", a->sum, F64, 1);
    CHECK("squared_norm", a->g, REAL, -1, -1, -1, KV_PAGE, -1);
    CHECK("squared_norm", a->from, I32, a->g.dim[1]);
    CHECK("squared_norm", a->to, I32, a->g.dim[1]);
    return ST_OK;
}
