/* attn_back_cpu.c -- gradients of attention, in tasks of (chunk of keys, key head): five products each.
 *
 *   P^T  = exp(K q^T - lse)     dP^T = V dO^T      dS = scale P (dP - delta),  delta = rowsum(dO o)
 *   dV  += P^T dO               dK  += dS^T q      dQ  += dS K
 *
 * Layout and blocks are those of attn_cpu.c. A task owns its keys' gradients and goes over the tiles of all
 * rows that read them in order, so nothing is added by two threads; ranges that share a gradient page are in
 * different waves. What a chunk gives to dq lies in slots until all chunks of the pass are done and is then
 * added in their order. */
#include "kernels/attn_plan_cpu.h"
#include "kernels/cpu_matmul.h"

typedef struct Work {
    float *qt, *dot;    /* [D,lanes] scaled q and dO, transposed */
    float *q, *d_o;     /* [lanes,D] */
    float *dq;          /* [lanes,D] */
    float *p, *ds;      /* [KV_PAGE,lanes] */
    float *lse, *delta; /* [lanes] */
    int32_t *sees;      /* [lanes] */
} Work;

static Work work_of(const CpuPlan *p) {
    int64_t lanes = p->lanes, D = p->limits.head_dim, block = lanes * D;
    float *at = p->scratch + cpu_thread() * p->scratch_floats;
    Work w = {.qt = at, .dot = at + block, .q = at + 2 * block, .d_o = at + 3 * block, .dq = at + 4 * block};
    w.p = at + 5 * block;
    w.ds = w.p + KV_PAGE * lanes;
    w.lse = w.ds + KV_PAGE * lanes;
    w.delta = w.lse + lanes;
    w.sees = (int32_t *)(void *)(w.delta + lanes);
    return w;
}

static void load_rows(float *to, Tensor from, const CpuPlan *p, const Tile *tile, int64_t g, int64_t lanes) {
    int64_t D = p->limits.head_dim, H = p->limits.heads, group = H / p->limits.kv_heads;
    for (int64_t i = 0; i < tile->rows; i++)
        memcpy(to + i * group * D, (const float *)from.data + (tile->row[i] * H + g * group) * D,
               sizeof *to * (size_t)(group * D));
    memset(to + tile->rows * group * D, 0, sizeof *to * (size_t)((lanes - tile->rows * group) * D));
}

static void transpose(float *to, const float *from, int64_t lanes, int64_t D, float factor) {
    for (int64_t i = 0; i < lanes; i += 8)
        for (int64_t d = 0; d < D; d += 8) transpose8(to + d * lanes + i, lanes, from + i * D + d, D, factor);
}

/* Lanes without a row see no key and have an infinite lse: their P and dS are zero. */
static int64_t load_tile(Work *w, const CpuPlan *p, const AttnBackArgs *a, const Tile *tile, int64_t g) {
    int64_t D = p->limits.head_dim, H = p->limits.heads, group = H / p->limits.kv_heads,
            n = tile->rows * group;
    int64_t lanes = cut(n, VEC) * VEC;
    const float *lse = a->lse.data;
    load_rows(w->q, a->q, p, tile, g, lanes);
    load_rows(w->d_o, a->d_o, p, tile, g, lanes);
    transpose(w->qt, w->q, lanes, D, a->scale);
    transpose(w->dot, w->d_o, lanes, D, 1);
    for (int64_t i = 0; i < lanes; i++) {
        int64_t th = i < n ? tile->row[i / group] * H + g * group + i % group : 0;
        w->lse[i] = i < n ? lse[th] : INFINITY;
        w->delta[i] = i < n ? p->row_sum[th] : 0;
        w->sees[i] = i < n ? tile->sees[i / group] : 0;
    }
    memset(w->dq, 0, sizeof *w->dq * (size_t)(lanes * D));
    return lanes;
}

/* Scores and dP of a run become P and dS. */
static void differentiate(Work *w, int64_t lanes, int64_t key, int64_t keys, float scale) {
    for (int64_t i = 0; i < lanes; i += VEC) {
        Vec lse = vec_load(w->lse + i), delta = vec_load(w->delta + i);
        VecI sees;
        memcpy(&sees, w->sees + i, sizeof sees);
        for (int64_t j = 0; j < keys; j++) {
            float *p = w->p + j * lanes + i, *ds = w->ds + j * lanes + i;
            Vec share = vec_where(sees > (int32_t)(key + j), vec_exp(vec_load(p) - lse), vec_all(0));
            vec_store(p, share);
            vec_store(ds, vec_all(scale) * share * (vec_load(ds) - delta));
        }
    }
}

/* Where the gradients of a run's keys are added; NULL: nobody wants them. */
typedef struct Target {
    float *dk, *dv;
} Target;

static Target target_of(const CpuPlan *p, const AttnBackArgs *a, Run run, int64_t g) {
    int32_t own = p->own_grad[run.page], learned = p->learned_grad[run.page];
    Tensor dk = {0}, dv = {0};
    if (own >= 0)
        dk = a->dk_own, dv = a->dv_own;
    else if (learned >= 0)
        dk = a->dk_learned, dv = a->dv_learned;
    if (!dk.data) return (Target){0};
    int64_t at = run_index(p, run, g, own >= 0 ? own : learned);
    return (Target){(float *)dk.data + at, (float *)dv.data + at};
}

static void back_run(Work *w, const CpuPlan *p, const AttnBackArgs *a, Run run, int64_t g, int64_t key,
                     int64_t n, int64_t lanes) {
    int64_t D = p->limits.head_dim, at = run_index(p, run, g, run.page);
    const float *k = (const float *)a->k.data + at, *v = (const float *)a->v.data + at;
    Target to = target_of(p, a, run, g);
    if (!to.dk && !a->dq.data) return;
    matmul(w->p, lanes, (Factor){k, D, 1}, w->qt, lanes, run.keys, lanes, D, REPLACE);
    matmul(w->ds, lanes, (Factor){v, D, 1}, w->dot, lanes, run.keys, lanes, D, REPLACE);
    differentiate(w, lanes, key, run.keys, a->scale);
    if (to.dk) {
        matmul(to.dv, D, (Factor){w->p, lanes, 1}, w->d_o, D, run.keys, D, n, GO_ON);
        matmul(to.dk, D, (Factor){w->ds, lanes, 1}, w->q, D, run.keys, D, n, GO_ON);
    }
    if (a->dq.data) matmul(w->dq, D, (Factor){w->ds, 1, lanes}, k, D, n, D, run.keys, GO_ON);
}

static void keep_dq(const Work *w, const CpuPlan *p, const Pass *at, const Task *t, const Tile *tile) {
    int64_t D = p->limits.head_dim, H = p->limits.heads, group = H / p->limits.kv_heads;
    for (int64_t i = 0; i < tile->rows; i++)
        memcpy(p->part + (slot_of(p, at, t->chunk, tile->row[i]) * H + t->head * group) * D,
               w->dq + i * group * D, sizeof(float) * (size_t)(group * D));
}

static void back_task(const CpuPlan *p, const AttnBackArgs *a, const Pass *at, const Task *t) {
    Work w = work_of(p);
    int64_t first = t->chunk * CHUNK, tiles = range_tiles(p, t->range);
    for (int64_t i = 0; i < tiles; i++) {
        Tile tile;
        tile_of(&tile, p, t->range, i, t->chunk);
        int64_t lanes = load_tile(&w, p, a, &tile, t->head);
        int64_t n = tile.rows * (p->limits.heads / p->limits.kv_heads);
        for (int64_t key = 0; key < tile.sees_most;) {
            Run run = run_at(p, t->range, first + key, first + tile.sees_most);
            back_run(&w, p, a, run, t->head, key, n, lanes);
            key += run.keys;
        }
        if (a->dq.data) keep_dq(&w, p, at, t, &tile);
    }
}

static void add_dq(const CpuPlan *p, const AttnBackArgs *a, const Pass *at, const Task *t) {
    int64_t width = (int64_t)p->limits.head_dim * p->limits.heads, chunks = pass_chunks(at, t->range);
    Tile tile;
    tile_of(&tile, p, t->range, t->tile, 0);
    for (int32_t i = 0; i < tile.rows; i++)
        for (int64_t c = at->chunk; c < at->chunk + chunks; c++) {
            float *dq = (float *)a->dq.data + tile.row[i] * width;
            const float *part = p->part + slot_of(p, at, c, tile.row[i]) * width;
            for (int64_t d = 0; d < width; d++) dq[d] += part[d];
        }
}

/* a.b of VEC rows side by side, or with ld 0 of one row in every lane. The products are added in the order
 * in which matmul adds those of dP: where a row sees one key only, o is v, and dP - delta is zero to the last
 * bit. */
static Vec row_dots(const float *a, const float *b, int64_t ld, int64_t D) {
    Vec sum = vec_all(0);
    float at[8 * VEC], bt[8 * VEC];
    for (int64_t d = 0; d < D; d += 8) {
        for (int64_t i = 0; i < VEC; i += 8) {
            transpose8(at + i, VEC, a + i * ld + d, ld, 1);
            transpose8(bt + i, VEC, b + i * ld + d, ld, 1);
        }
        for (int i = 0; i < 8; i++) sum = vec_fma(vec_load(at + VEC * i), vec_load(bt + VEC * i), sum);
    }
    return sum;
}

/* delta = rowsum(dO o), and dq = 0, for rows first .. first + n, n <= VEC. */
static void start_rows(const CpuPlan *p, const AttnBackArgs *a, int64_t first, int64_t n) {
    int64_t D = p->limits.head_dim;
    const float *d_o = (const float *)a->d_o.data + first * D, *o = (const float *)a->o.data + first * D;
    if (n == VEC) vec_store(p->row_sum + first, row_dots(d_o, o, D, D));
    for (int64_t i = 0; n < VEC && i < n; i++)
        p->row_sum[first + i] = row_dots(d_o + i * D, o + i * D, 0, D)[0];
    if (a->dq.data) memset((float *)a->dq.data + first * D, 0, sizeof(float) * (size_t)(n * D));
}

static void clear_own(const CpuPlan *p, const AttnBackArgs *a) {
    size_t bytes = sizeof(float) * (size_t)p->limits.kv_heads * KV_PAGE * (size_t)p->limits.head_dim;
    for (int32_t page = 0; a->dk_own.data && page < p->pages; page++) {
        if (p->own_grad[page] < 0) continue;
        memset((char *)a->dk_own.data + (size_t)p->own_grad[page] * bytes, 0, bytes);
        memset((char *)a->dv_own.data + (size_t)p->own_grad[page] * bytes, 0, bytes);
    }
}

static Status check_types(const AttnBackArgs *a) {
    CPU_F32("attn_back", a->dq);
    CPU_F32("attn_back", a->dk_own);
    CPU_F32("attn_back", a->dk_learned);
    CPU_F32("attn_back", a->d_o);
    CPU_F32("attn_back", a->o);
    CPU_F32("attn_back", a->lse);
    CPU_F32("attn_back", a->q);
    CPU_F32("attn_back", a->k);
    CPU_F32("attn_back", a->v);
    return ST_OK;
}

Status CPU(attn_back)(Stream *s, const AttnBackArgs *a) {
    (void)s;
    const CpuPlan *p = cpu_plan(a->plan);
    TRY(attn_back_check(a, &p->limits, p->T));
    TRY(check_types(a));
    int64_t rows = (int64_t)p->T * p->limits.heads;
    clear_own(p, a);
#pragma omp parallel for if (cpu_many(p->products))
    for (int64_t th = 0; th < rows; th += VEC) start_rows(p, a, th, rows - th < VEC ? rows - th : VEC);
    const Split parts = {true, false, p->limits.kv_heads}, whole = {false, true, 1};
    for (Pass at = {0}; pass_next(p, &at);) {
        int64_t tasks = pass_tasks(p, &at, parts);
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(p->threads)) if (cpu_many(p->products))
        for (int64_t i = 0; i < tasks; i++) {
            Task t = pass_task(p, &at, parts, i);
            back_task(p, a, &at, &t);
        }
        if (!a->dq.data) continue;
        tasks = pass_tasks(p, &at, whole);
#pragma omp parallel for num_threads(cpu_threads(p->threads)) if (cpu_many(p->products))
        for (int64_t i = 0; i < tasks; i++) {
            Task t = pass_task(p, &at, whole, i);
            add_dq(p, a, &at, &t);
        }
    }
    return ST_OK;
}
