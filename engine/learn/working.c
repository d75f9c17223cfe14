/* working.c -- see working.h. Whatever goes between the pool and these tensors passes the host a page at a
 * time; that happens at the start, on resume and at the end, never in a step. */
#include "engine/learn/working.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

/* d: [2L,-,G,KV_PAGE,D] of the pool; n: pages of the prefix. */
static Status place(Working *w, Arena *a, const int64_t *d, int32_t n) {
    Tensor *rows[] = {&w->master, &w->m, &w->v, &w->g, &w->best};
    Tensor *lists[] = {&w->page, &w->from, &w->to, &w->step};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        TRY(tensor_take(rows[i], a, DT_F32, d[0], n, d[2], KV_PAGE, d[4]));
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) TRY(tensor_take(lists[i], a, DT_I32, n));
    TRY(tensor_take(&w->lr, a, DT_F32, n));
    return tensor_take(&w->sum, a, DT_F64, 1);
}

static Status open_memory(Working *w) {
    Arena count, mem;
    Tensor all = pool_all(w->prefix->pool);
    arena_init(&count, NULL, 0);
    TRY(place(w, &count, all.dim, w->prefix->pages));
    TRY(w->ops->mem_open(&w->mem, count.used));
    arena_init(&mem, w->mem, count.used);
    return place(w, &mem, all.dim, w->prefix->pages);
}

size_t working_bytes(const ModelConfig *c, int32_t rows) {
    const int64_t dim[TENSOR_DIMS] = {2 * c->layers, 0, c->kv_heads, KV_PAGE, c->head_dim};
    Working w = {0};
    Arena count;
    arena_init(&count, NULL, 0);
    return place(&w, &count, dim, pages_for(rows)) ? 0 : count.used;
}

static int64_t page_elements(const Working *w) {
    return w->master.dim[2] * KV_PAGE * w->master.dim[4];
}

static Status open_host(Working *w) {
    size_t n = (size_t)page_elements(w), pages = (size_t)w->prefix->pages;
    w->block = malloc(n * dtype_bytes(pool_all(w->prefix->pool).dtype));
    w->block_f32 = malloc(n * sizeof(float));
    w->block_bf16 = malloc(n * sizeof(uint16_t));
    w->host_lr = malloc(pages * sizeof *w->host_lr);
    w->host_step = malloc(pages * sizeof *w->host_step);
    NEED(w->block && w->block_f32 && w->block_bf16 && w->host_lr && w->host_step, ST_NOMEM,
         "no memory to move a page of %zu numbers", n);
    return ST_OK;
}

/* ---- between pool and master ---- */

/* One page of one slice. */
typedef struct PagePlace { Tensor pool, block, f32, bf16; int64_t slice; int32_t i; } PagePlace;

static PagePlace page_place(const Working *w, int64_t slice, int32_t i) {
    Tensor all = pool_all(w->prefix->pool), page = tensor_at(tensor_at(all, slice), w->prefix->page[i]);
    PagePlace p = {.pool = page, .block = page, .f32 = page, .bf16 = page, .slice = slice, .i = i};
    p.block.data = w->block;
    p.f32.data = w->block_f32, p.f32.dtype = DT_F32;
    p.bf16.data = w->block_bf16, p.bf16.dtype = DT_BF16;
    return p;
}

/* The f32 block, rounded, to the pool; the block then holds what the pool holds. */
static Status put_page(Working *w, const PagePlace *p) {
    int64_t n = page_elements(w);
    tensor_convert(p->bf16, 0, p->f32, 0, n);
    tensor_convert(p->block, 0, p->bf16, 0, n);
    tensor_convert(p->f32, 0, p->bf16, 0, n);
    TRY(w->ops->copy(w->s, p->pool.data, p->block.data, tensor_bytes(p->block)));
    return w->ops->sync(w->s);
}

/* Rows behind the prefix's last may hold anything, NaN too. */
static void clear_tail(const Working *w, const PagePlace *p) {
    int64_t G = w->master.dim[2], D = w->master.dim[4];
    int32_t used = w->prefix->rows - p->i * KV_PAGE;
    float *x = p->f32.data;
    for (int64_t g = 0; used < KV_PAGE && g < G; g++)
        memset(x + (g * KV_PAGE + used) * D, 0, sizeof *x * (size_t)((KV_PAGE - used) * D));
}

static Status start_page(Working *w, const PagePlace *p, Sha256 *h) {
    TRY(w->ops->copy(w->s, p->block.data, p->pool.data, tensor_bytes(p->block)));
    TRY(w->ops->sync(w->s));
    tensor_convert(p->f32, 0, p->block, 0, page_elements(w));
    clear_tail(w, p);
    TRY(put_page(w, p));
    sha256_add(h, p->bf16.data, tensor_bytes(p->bf16));
    Tensor to = tensor_at(tensor_at(w->master, p->slice), p->i);
    TRY(w->ops->copy(w->s, to.data, p->f32.data, tensor_bytes(p->f32)));
    return w->ops->sync(w->s);
}

static Status start_rows(Working *w, Digest *digest) {
    Sha256 *h;
    TRY(sha256_open(&h));
    Status st = ST_OK;
    for (int64_t slice = 0; slice < w->master.dim[0] && !st; slice++)
        for (int32_t i = 0; i < w->prefix->pages && !st; i++) {
            PagePlace p = page_place(w, slice, i);
            st = start_page(w, &p, h);
        }
    *digest = sha256_finish(&h);
    TRY(st);
    TRY(w->ops->zero(w->s, w->m));
    TRY(w->ops->zero(w->s, w->v));
    TRY(w->ops->zero(w->s, w->g));
    return working_keep(w);
}

Status working_show(Working *w, Tensor rows) {
    for (int64_t slice = 0; slice < rows.dim[0]; slice++)
        for (int32_t i = 0; i < w->prefix->pages; i++) {
            PagePlace p = page_place(w, slice, i);
            Tensor from = tensor_at(tensor_at(rows, slice), i);
            TRY(w->ops->copy(w->s, p.f32.data, from.data, tensor_bytes(from)));
            TRY(w->ops->sync(w->s));
            TRY(put_page(w, &p));
        }
    return ST_OK;
}

Status working_keep(Working *w) {
    return w->ops->copy(w->s, w->best.data, w->master.data, tensor_bytes(w->master));
}

/* ---- open, close ---- */

static int32_t within_page(int32_t row) {
    return row < 0 ? 0 : row > KV_PAGE ? KV_PAGE : row;
}

static Status upload_lists(Working *w) {
    int32_t n = w->prefix->pages, *list = w->host_step;
    size_t bytes = sizeof *list * (size_t)n;
    TRY(w->ops->copy(w->s, w->page.data, w->prefix->page, bytes));
    for (int32_t i = 0; i < n; i++) list[i] = within_page(w->frozen - i * KV_PAGE);
    TRY(w->ops->copy(w->s, w->from.data, list, bytes));
    TRY(w->ops->sync(w->s));
    for (int32_t i = 0; i < n; i++) list[i] = within_page(w->prefix->rows - i * KV_PAGE);
    TRY(w->ops->copy(w->s, w->to.data, list, bytes));
    return w->ops->sync(w->s);
}

Status working_open(Working *out, const Ops *ops, Prefix *prefix, int32_t frozen, Stream *s, Digest *digest) {
    *out = (Working){.ops = ops, .s = s, .prefix = prefix, .frozen = frozen};
    NEED(prefix->from == 0, ST_ARG, "a part of a prefix, from row %d on, cannot be trained; train the whole",
         prefix->from);
    Status st = ST_OK;
    TRY_TO(failed, open_memory(out));
    TRY_TO(failed, open_host(out));
    TRY_TO(failed, upload_lists(out));
    TRY_TO(failed, start_rows(out, digest));
    return ST_OK;
failed:
    working_close(out);
    return st;
}

void working_close(Working *w) {
    if (w->mem) w->ops->mem_close(w->mem);
    free(w->block);
    free(w->block_f32);
    free(w->block_bf16);
    free(w->host_lr);
    free(w->host_step);
    *w = (Working){0};
}

/* ---- learning ---- */

Status working_norm(Working *w, double *norm) {
    double sum;
    TRY(w->ops->squared_norm(w->s,
                             &(SquaredNormArgs){.sum = w->sum, .g = w->g, .from = w->from, .to = w->to}));
    TRY(w->ops->copy(w->s, &sum, w->sum.data, sizeof sum));
    TRY(w->ops->sync(w->s));
    *norm = sqrt(sum);
    return ST_OK;
}

Status working_update(Working *w, const AdamRule *rule, double lr, int64_t step, double grad_scale) {
    int32_t n = w->prefix->pages;
    for (int32_t i = 0; i < n; i++) w->host_lr[i] = (float)lr, w->host_step[i] = (int32_t)step;
    TRY(w->ops->copy(w->s, w->lr.data, w->host_lr, sizeof *w->host_lr * (size_t)n));
    TRY(w->ops->copy(w->s, w->step.data, w->host_step, sizeof *w->host_step * (size_t)n));
    TRY(w->ops->adam(w->s, &(AdamArgs){.p = w->master,
                                       .g = w->g,
                                       .m = w->m,
                                       .v = w->v,
                                       .pool = pool_all(w->prefix->pool),
                                       .page = w->page,
                                       .from = w->from,
                                       .to = w->to,
                                       .lr = w->lr,
                                       .step = w->step,
                                       .beta1 = (float)rule->beta1,
                                       .beta2 = (float)rule->beta2,
                                       .eps = (float)rule->eps,
                                       .grad_scale = (float)grad_scale,
                                       .keep = DT_BF16}));
    return w->ops->sync(w->s); /* the host lists are written again by the next step */
}

Status working_forget(Working *w) {
    return w->ops->zero(w->s, w->g);
}
