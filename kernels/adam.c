/* adam.c -- one Adam step on pages, and the norm of a gradient. */
#include <math.h>

#include "kernels/reference.h"

/* What differs from page to page. */
typedef struct PageStep {
    int64_t pool_page, from, to;
    double lr, correct1, correct2;
} PageStep;

static PageStep page_step(const AdamArgs *a, int64_t i) {
    double n = geti(a->step, i);
    return (PageStep){geti(a->page, i), geti(a->from, i),     geti(a->to, i),
                      get(a->lr, i),    1 - pow(a->beta1, n), 1 - pow(a->beta2, n)};
}

static double rounded(double v, DType keep) {
    return keep == DT_BF16 ? bf16_to_f32(f32_to_bf16((float)v)) : (float)v;
}

/* Element i of the masters, element `at` of the pool. */
static void update(const AdamArgs *a, const PageStep *s, int64_t i, int64_t at) {
    double g = a->grad_scale * get(a->g, i);
    double m = a->beta1 * get(a->m, i) + (1 - (double)a->beta1) * g;
    double v = a->beta2 * get(a->v, i) + (1 - (double)a->beta2) * g * g;
    double p = get(a->p, i) - s->lr * (m / s->correct1) / (sqrt(v / s->correct2) + a->eps);
    put(a->m, i, m);
    put(a->v, i, v);
    put(a->p, i, p);
    put(a->pool, at,
        rounded(get(a->p, i), a->keep)); /* of what was stored: the file must agree with the master */
}

Status adam_ref(Stream *s, const AdamArgs *a) {
    (void)s;
    TRY(adam_check(a));
    const int64_t *d = a->p.dim;
    int64_t slices = d[0], n = d[1], G = d[2], D = d[4], block = G * KV_PAGE * D, pages = a->pool.dim[1];
#pragma omp parallel for
    for (int64_t si = 0; si < slices * n; si++) {
        PageStep step = page_step(a, si % n);
        for (int64_t e = 0; e < block; e++) {
            int64_t row = e / D % KV_PAGE, i = si * block + e;
            if (row >= step.from && row < step.to)
                update(a, &step, i, (si / n * pages + step.pool_page) * block + e);
            put(a->g, i, 0);
        }
    }
    return ST_OK;
}

Status squared_norm_ref(Stream *s, const SquaredNormArgs *a) {
    (void)s;
    TRY(squared_norm_check(a));
    const int64_t *d = a->g.dim;
    int64_t n = d[1], block = d[2] * KV_PAGE * d[4], total = tensor_count(a->g);
    double sum = 0;
    for (int64_t i = 0; i < total; i++) {
        int64_t page = i / block % n, row = i / d[4] % KV_PAGE;
        if (row >= geti(a->from, page) && row < geti(a->to, page)) sum += get(a->g, i) * get(a->g, i);
    }
    put(a->sum, 0, sum);
    return ST_OK;
}
