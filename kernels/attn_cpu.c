/* attn_cpu.c -- attention over segments of pages: flash attention in tasks of (chunk of keys, tile of rows).
 *
 * Lanes of a vector are rows: scores of a page lie as [keys, lanes], so that maxima and sums over keys need
 * nothing across lanes and neither keys nor values are ever repacked. Each chunk starts from nothing, its
 * result is kept, and results are merged in the order of the sequence's segments (attn_plan_cpu.h says why
 * that fixes the bits).
 *
 * Bound by arithmetic for many rows, by reading keys and values for a few. */
#include "kernels/attn_plan_cpu.h"
#include "kernels/cpu_matmul.h"

/* What a thread works in. */
typedef struct Work {
    float *q;       /* [D,lanes] scaled queries, transposed */
    float *scores;  /* [KV_PAGE,lanes], then their exponentials */
    float *sum_v;   /* [lanes,D] */
    float *largest; /* [lanes] running maximum, */
    float *sum;     /* [lanes] sum, */
    float *keep;    /* [lanes] and what a new maximum leaves of the old sums */
    int32_t *sees;  /* [lanes] keys of the chunk */
} Work;

static Work work_of(const CpuPlan *p) {
    int64_t lanes = p->lanes, D = p->limits.head_dim;
    float *at = p->scratch + cpu_thread() * p->scratch_floats;
    Work w = {.q = at, .sum_v = at + lanes * D, .scores = at + 2 * lanes * D};
    float *vectors = w.scores + KV_PAGE * lanes;
    w.largest = vectors, w.sum = vectors + lanes, w.keep = vectors + 2 * lanes;
    w.sees = (int32_t *)(void *)(vectors + 3 * lanes);
    return w;
}

/* Lanes of a tile: (row, query head of the group), in whole vectors; those left over see no key. */
static int64_t load_queries(Work *w, const CpuPlan *p, const AttnArgs *a, const Tile *tile, int64_t g) {
    int64_t D = p->limits.head_dim, H = p->limits.heads, group = H / p->limits.kv_heads,
            n = tile->rows * group;
    int64_t lanes = cut(n, VEC) * VEC;
    float *rows = w->sum_v; /* not in use yet */
    for (int64_t i = 0; i < lanes; i++) {
        w->largest[i] = -INFINITY;
        w->sum[i] = 0;
        w->sees[i] = i < n ? tile->sees[i / group] : 0;
        if (i >= n) memset(rows + i * D, 0, sizeof *rows * (size_t)D);
    }
    for (int64_t i = 0; i < tile->rows; i++)
        memcpy(rows + i * group * D, (const float *)a->q.data + (tile->row[i] * H + g * group) * D,
               sizeof *rows * (size_t)(group * D));
    for (int64_t i = 0; i < lanes; i += 8)
        for (int64_t d = 0; d < D; d += 8)
            transpose8(w->q + d * lanes + i, lanes, rows + i * D + d, D, a->scale);
    memset(w->sum_v, 0, sizeof *w->sum_v * (size_t)(lanes * D));
    return lanes;
}

/* Keys at or beyond what a lane sees get a score of -inf. */
static void hide(Work *w, int64_t lanes, int64_t key, int64_t keys) {
    for (int64_t j = 0; j < keys; j++)
        for (int64_t i = 0; i < lanes; i += VEC) {
            VecI sees;
            memcpy(&sees, w->sees + i, sizeof sees);
            Vec score = vec_load(w->scores + j * lanes + i);
            vec_store(w->scores + j * lanes + i,
                     vec_where(sees > (int32_t)(key + j), score, vec_all(-INFINITY)));
        }
}

/* Scores of a run become exponentials against the running maximum, in the VEC lanes from i on. */
static void soften(Work *w, int64_t lanes, int64_t keys, int64_t i) {
    float *scores = w->scores + i;
    Vec old = vec_load(w->largest + i), most = old, sum = vec_all(0);
    for (int64_t j = 0; j < keys; j++) most = vec_max(vec_load(scores + j * lanes), most);
    /* A lane that has seen nothing yet has no maximum to subtract. */
    Vec base = vec_where(most == vec_all(-INFINITY), vec_all(0), most);
    for (int64_t j = 0; j < keys; j++) {
        Vec e = vec_exp(vec_load(scores + j * lanes) - base);
        vec_store(scores + j * lanes, e);
        sum += e;
    }
    Vec keep = vec_exp(old - base);
    vec_store(w->sum + i, vec_fma(vec_load(w->sum + i), keep, sum));
    vec_store(w->keep + i, keep);
    vec_store(w->largest + i, most);
}

static void rescale(Work *w, int64_t n, int64_t D) {
    for (int64_t i = 0; i < n; i++) {
        if (w->keep[i] == 1.0f) continue;
        for (int64_t d = 0; d < D; d++) w->sum_v[i * D + d] *= w->keep[i];
    }
}

/* One chunk of keys for one tile: leaves maximum, sum and weighted values in w. */
static void attend(Work *w, const CpuPlan *p, const AttnArgs *a, const Task *t, const Tile *tile,
                   int64_t lanes) {
    int64_t D = p->limits.head_dim, n = tile->rows * (p->limits.heads / p->limits.kv_heads);
    int64_t first = t->chunk * CHUNK;
    for (int64_t key = 0; key < tile->sees_most;) {
        Run run = run_at(p, t->range, first + key, first + tile->sees_most);
        int64_t at = run_index(p, run, t->head, run.page);
        const float *k = (const float *)a->k.data + at, *v = (const float *)a->v.data + at;
        matmul(w->scores, lanes, (Factor){k, D, 1}, w->q, lanes, run.keys, lanes, D, REPLACE);
        if (key + run.keys > tile->sees_least || n < lanes) hide(w, lanes, key, run.keys);
        for (int64_t i = 0; i < lanes; i += VEC) soften(w, lanes, run.keys, i);
        rescale(w, n, D);
        matmul(w->sum_v, D, (Factor){w->scores, 1, lanes}, v, D, n, D, run.keys, GO_ON);
        key += run.keys;
    }
}

static void keep_part(const Work *w, const CpuPlan *p, const Pass *at, const Task *t, const Tile *tile) {
    int64_t D = p->limits.head_dim, H = p->limits.heads, group = H / p->limits.kv_heads;
    for (int64_t i = 0; i < tile->rows; i++) {
        int64_t to = slot_of(p, at, t->chunk, tile->row[i]) * H + t->head * group;
        memcpy(p->part_max + to, w->largest + i * group, sizeof(float) * (size_t)group);
        memcpy(p->part_sum + to, w->sum + i * group, sizeof(float) * (size_t)group);
        memcpy(p->part + to * D, w->sum_v + i * group * D, sizeof(float) * (size_t)(group * D));
    }
}

static void attend_task(const CpuPlan *p, const AttnArgs *a, const Pass *at, const Task *t) {
    Work w = work_of(p);
    Tile tile;
    tile_of(&tile, p, t->range, t->tile, t->chunk);
    attend(&w, p, a, t, &tile, load_queries(&w, p, a, &tile, t->head));
    keep_part(&w, p, at, t, &tile);
}

/* ---- merging ---- */

/* o, largest, sum (+)= a part, both unnormalised. */
static void merge(float *o, float *largest, float *sum, const float *part, float part_max, float part_sum,
                  int64_t D) {
    if (part_max == -INFINITY) return;
    if (*largest == -INFINITY) {
        memcpy(o, part, sizeof *o * (size_t)D);
        *largest = part_max, *sum = part_sum;
        return;
    }
    float most = *largest > part_max ? *largest : part_max;
    float mine = expf(*largest - most), its = expf(part_max - most);
    for (int64_t d = 0; d < D; d += VEC) {
        Vec old = vec_load_part(o + d, D - d) * vec_all(mine);
        vec_store_part(o + d, vec_fma(vec_load_part(part + d, D - d), vec_all(its), old), D - d);
    }
    *sum = *sum * mine + part_sum * its;
    *largest = most;
}

static void merge_task(const CpuPlan *p, const AttnArgs *a, const Pass *at, const Task *t) {
    int64_t D = p->limits.head_dim, H = p->limits.heads, chunks = pass_chunks(at, t->range);
    float *o = a->o.data;
    Tile tile;
    tile_of(&tile, p, t->range, t->tile, 0);
    for (int32_t i = 0; i < tile.rows; i++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t c = at->chunk; c < at->chunk + chunks; c++) {
                int64_t th = tile.row[i] * H + h, from = slot_of(p, at, c, tile.row[i]) * H + h;
                merge(o + th * D, p->row_max + th, p->row_sum + th, p->part + from * D, p->part_max[from],
                      p->part_sum[from], D);
            }
}

static void finish(const CpuPlan *p, const AttnArgs *a, int64_t th) {
    int64_t D = p->limits.head_dim;
    float *o = (float *)a->o.data + th * D, *lse = a->lse.data;
    bool none = p->row_max[th] == -INFINITY;
    if (lse) lse[th] = none ? -INFINITY : p->row_max[th] + logf(p->row_sum[th]);
    if (none) memset(o, 0, sizeof *o * (size_t)D);
    for (int64_t d = 0; !none && d < D; d++) o[d] /= p->row_sum[th];
}

Status CPU(attn)(Stream *s, const AttnArgs *a) {
    (void)s;
    const CpuPlan *p = cpu_plan(a->plan);
    TRY(attn_check(a, &p->limits, p->T));
    CPU_F32("attn", a->q);
    CPU_F32("attn", a->o);
    CPU_F32("attn", a->lse);
    CPU_F32("attn", a->k);
    CPU_F32("attn", a->v);
    int64_t rows = (int64_t)p->T * p->limits.heads;
    for (int64_t i = 0; i < rows; i++) p->row_max[i] = -INFINITY;
    const Split parts = {true, true, p->limits.kv_heads}, whole = {false, true, 1};
    for (Pass at = {0}; pass_next(p, &at);) {
        int64_t tasks = pass_tasks(p, &at, parts);
#pragma omp parallel for schedule(dynamic) num_threads(cpu_threads(p->threads)) if (cpu_many(p->products))
        for (int64_t i = 0; i < tasks; i++) {
            Task t = pass_task(p, &at, parts, i);
            attend_task(p, a, &at, &t);
        }
        tasks = pass_tasks(p, &at, whole);
#pragma omp parallel for num_threads(cpu_threads(p->threads)) if (cpu_many(p->products))
        for (int64_t i = 0; i < tasks; i++) {
            Task t = pass_task(p, &at, whole, i);
            merge_task(p, a, &at, &t);
        }
    }
#pragma omp parallel for if (cpu_many(p->products))
    for (int64_t th = 0; th < rows; th++) finish(p, a, th);
    return ST_OK;
}
