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
VECTOR_FN F8 nearest_bf16(F8 x) {
    U8 bits = (U8)x;
    return (F8)((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

typedef struct Place { float *p, *g, *m, *v, *pool; } Place;

VECTOR_FN void update(const Step *s, Place at, int64_t i) {
    F8 g = f8_load(at.g + i) * f8_all(s->grad_scale);
    F8 m = f8_fma(f8_load(at.m + i), f8_all(s->beta1), g * f8_all(s->rest1));
    F8 v = f8_fma(f8_load(at.v + i), f8_all(s->beta2), g * g * f8_all(s->rest2));
    F8 size = f8_sqrt(v * f8_all(s->correct2)) + f8_all(s->eps);
    F8 p = f8_load(at.p + i) - f8_all(s->lr) * (m * f8_all(s->correct1)) / size;
    f8_store(at.m + i, m);
    f8_store(at.v + i, v);
    f8_store(at.p + i, p);
    f8_store(at.pool + i, s->round ? nearest_bf16(p) : p);
}

/* The learning rows of one page, for one slice and head: n numbers in a row. */
static void update_rows(const Step *s, Place at, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) update(s, at, i);
    if (i == n) return;
    float rest[5][8] = {{0}};
    float *from[5] = {at.p + i, at.g + i, at.m + i, at.v + i, at.pool + i};
    size_t bytes = sizeof(float) * (size_t)(n - i);
    for (int j = 0; j < 5; j++) memcpy(rest[j], from[j], bytes);
    update(s, (Place){rest[0], rest[1], rest[2], rest[3], rest[4]}, 0);
    for (int j = 0; j < 5; j++) memcpy(from[j], rest[j], bytes);
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
            if (rows > 0) part[i] += f8_squares(g + (b * KV_PAGE + from[page]) * D, rows * D);
        }
    double sum = 0;
    for (int i = 0; i < PARTS; i++) sum += part[i];
    *(double *)a->sum.data = sum;
    return ST_OK;
}
