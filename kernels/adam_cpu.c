/* adam_cpu.c -- one Adam step on pages, and the norm of a gradient. Every number is read once. */
#include "kernels/cpu.h"
#include "kernels/cpu_vector.h"

/* What is the same for all numbers of a page. */
typedef struct Step {
    float beta1, rest1, beta2, rest2, eps, grad_scale, lr, correct1, correct2;
    bool round;
} Step;

static Step step_of(const AdamArgs *a, int64_t page) {
    double n = ((const int32_t *)a->step.data)[page];
    return (Step){.beta1 = a->beta1,
                  .rest1 = (float)(1 - (double)a->beta1),
                  .beta2 = a->beta2,
                  .rest2 = (float)(1 - (double)a->beta2),
                  .eps = a->eps,
                  .grad_scale = a->grad_scale,
                  .lr = ((const float *)a->lr.data)[page],
                  .correct1 = (float)(1 / (1 - pow(a->beta1, n))),
                  .correct2 = (float)(1 / (1 - pow(a->beta2, n))),
                  .round = a->keep == DT_BF16};
}

/* The nearest bf16, ties to even, as f32. Finite numbers only: a master that is not is found by the loss. */
VECTOR_FN Vec nearest_bf16(Vec x) {
    VecU bits = (VecU)x;
    return (Vec)((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

typedef struct Place { float *p, *g, *m, *v, *pool; } Place;

/* Element i and up to VEC - 1 behind it, of which `left` are there. */
VECTOR_FN void update(const Step *s, Place at, int64_t i, int64_t left) {
    Vec g = vec_load_part(at.g + i, left) * vec_all(s->grad_scale);
    Vec m = vec_fma(vec_load_part(at.m + i, left), vec_all(s->beta1), g * vec_all(s->rest1));
    Vec v = vec_fma(vec_load_part(at.v + i, left), vec_all(s->beta2), g * g * vec_all(s->rest2));
    Vec size = vec_sqrt(v * vec_all(s->correct2)) + vec_all(s->eps);
    Vec p = vec_load_part(at.p + i, left) - vec_all(s->lr) * (m * vec_all(s->correct1)) / size;
    vec_store_part(at.m + i, m, left);
    vec_store_part(at.v + i, v, left);
    vec_store_part(at.p + i, p, left);
    vec_store_part(at.pool + i, s->round ? nearest_bf16(p) : p, left);
}

/* The learning rows of one page, for one slice and head: n numbers in a row. */
static void update_rows(const Step *s, Place at, int64_t n) {
    for (int64_t i = 0; i < n; i += VEC) update(s, at, i, n - i);
}

Status CPU(adam)(Stream *s, const AdamArgs *a) {
    (void)s;
    TRY(adam_check(a));
    CPU_F32("adam", a->p);
    CPU_F32("adam", a->g);
    CPU_F32("adam", a->m);
    CPU_F32("adam", a->v);
    CPU_F32("adam", a->pool);
    int64_t n = a->p.dim[1], G = a->p.dim[2], D = a->p.dim[4], pages = a->pool.dim[1], block = KV_PAGE * D;
    const int32_t *page = a->page.data, *from = a->from.data, *to = a->to.data;
#pragma omp parallel for if (tensor_count(a->p) >= PARALLEL_MIN)
    for (int64_t i = 0; i < a->p.dim[0] * n * G; i++) {
        int64_t slice = i / (n * G), at = i / G % n, g = i % G, first = from[at] * D;
        float *grad = (float *)a->g.data + i * block;
        int64_t in_pool = ((slice * pages + page[at]) * G + g) * block + first, here = i * block + first;
        Step step = step_of(a, at);
        Place place = {(float *)a->p.data + here, grad + first, (float *)a->m.data + here,
                       (float *)a->v.data + here, (float *)a->pool.data + in_pool};
        if (to[at] > from[at]) update_rows(&step, place, (to[at] - from[at]) * D);
        memset(grad, 0, sizeof *grad * (size_t)block);
    }
    return ST_OK;
}

Status CPU(squared_norm)(Stream *s, const SquaredNormArgs *a) {
    (void)s;
    TRY(squared_norm_check(a));
    CPU_F32("squared_norm", a->g);
    enum { PARTS = 64 }; /* as many sums, whatever the threads: their order is fixed */
    int64_t n = a->g.dim[1], G = a->g.dim[2], D = a->g.dim[4], blocks = a->g.dim[0] * n * G;
    const int32_t *from = a->from.data, *to = a->to.data;
    const float *g = a->g.data;
    double part[PARTS] = {0};
#pragma omp parallel for if (blocks * KV_PAGE * D >= PARALLEL_MIN)
    for (int64_t i = 0; i < PARTS; i++)
        for (int64_t b = blocks * i / PARTS; b < blocks * (i + 1) / PARTS; b++) {
            int64_t page = b / G % n, rows = to[page] - from[page];
            if (rows > 0) part[i] += vec_squares(g + (b * KV_PAGE + from[page]) * D, rows * D);
        }
    double sum = 0;
    for (int i = 0; i < PARTS; i++) sum += part[i];
    *(double *)a->sum.data = sum;
    return ST_OK;
}
