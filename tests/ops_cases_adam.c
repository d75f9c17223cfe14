/* ops_cases_adam.c -- cases of a step of the optimizer: gradient, moments, masters and the rows in the pool,
 * with the norm of the gradient before it. */
#include "tests/ops_subjects.h"

/* What a pool's rows hold beyond the rounded masters they should be; of rows that do not learn, what they
 * hold. */
static void take_pool(OpsRig *r, Tensor p, Tensor pool, const int32_t *page, const int32_t *from,
                      const int32_t *to, DType keep) {
    double *master = ops_rig_read(r, p), *x = ops_rig_read(r, pool);
    int64_t row_size = p.dim[4], block = p.dim[2] * KV_PAGE * row_size;
    for (int64_t i = 0; i < tensor_count(p); i++) {
        int64_t n = i / block % p.dim[1],
                at = (i / block / p.dim[1] * pool.dim[1] + page[n]) * block + i % block;
        bool to_bf16 = keep == DT_BF16 || pool.dtype == DT_BF16;
        double right = to_bf16 ? bf16_to_f32(f32_to_bf16((float)master[i])) : (float)master[i];
        int64_t row = i / row_size % KV_PAGE;
        if (row >= from[n] && row < to[n]) x[at] -= right;
    }
    Tensor rest = ops_rig_floats(r, r->real, x, pool.ndim, pool.dim);
    ops_rig_take(r, "pool beyond the rounded masters", SAME, rest);
    free(master), free(x);
}

/* Half way between two bf16: where the step is 0, the master is rounded at a tie. */
static void make_ties(OpsRig *r, Tensor *p) {
    double *x = ops_rig_read(r, *p);
    for (int64_t i = 0; i < tensor_count(*p); i++) {
        union {
            float f;
            uint32_t u;
        } bits = {(float)x[i]};
        bits.u = (bits.u & 0xffff0000u) | 0x8000u;
        x[i] = bits.f;
    }
    *p = ops_rig_floats(r, p->dtype, x, p->ndim, p->dim);
    free(x);
}

/* 4 slices of 3 pages, the first with a frozen row, the last short; `in` heads of size `out`. */
static void run_adam(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    const int64_t dim[5] = {4, 3, z->in, KV_PAGE, z->out};
    Tensor p = ops_rig_normal(r, r->real, 1, 1, 5, dim), g = ops_rig_normal(r, r->real, 2, 0.1, 5, dim);
    Tensor m = ops_rig_normal(r, r->real, 3, 0.1, 5, dim), v = ops_rig_normal(r, r->real, 4, 0.1, 5, dim);
    make_ties(r, &p);
    double *x = ops_rig_read(r, v);
    for (int64_t i = 0; i < tensor_count(v); i++) x[i] *= x[i]; /* second moments are squares */
    v = ops_rig_floats(r, r->real, x, 5, dim);
    free(x);
    Tensor pool = NORMAL(r, r->act, 5, 1, 4, 7, z->in, KV_PAGE, z->out);
    const int32_t page[] = {5, 0, 3}, from[] = {1, 0, 0}, to[] = {64, 64, 37}, step[] = {1, 2, 70};
    const double lr[] = {0.02, 0.001, 0};
    Tensor t_from = WHOLE(r, from, 3), t_to = WHOLE(r, to, 3), sum = BLANK(r, DT_F64, 1);
    ops_rig_squared_norm(r, (SquaredNormArgs){sum, g, t_from, t_to});
    ops_rig_adam(r, (AdamArgs){p, g, m, v, pool, WHOLE(r, page, 3), t_from, t_to, FLOATS(r, DT_F32, lr, 3),
                               WHOLE(r, step, 3), 0.9f, 0.95f, 1e-8f, 0.5f, z->rows ? DT_BF16 : DT_F32});
    ops_rig_take(r, "sum", FINE, sum);
    ops_rig_squared_norm(r, (SquaredNormArgs){sum, g, t_from, t_to});
    ops_rig_take(r, "sum of a cleared gradient", SAME, sum);
    ops_rig_take(r, "p", FINE, p);
    ops_rig_take(r, "g", SAME, g);
    ops_rig_take(r, "m", FINE, m);
    ops_rig_take(r, "v", FINE, v);
    take_pool(r, p, pool, page, from, to, z->rows ? DT_BF16 : DT_F32);
}

static const OpsCase cases[] = {
    CASE("adam to bf16", run_adam, SIZES(1, 1, 40), 8),
    CASE("adam to f32", run_adam, SIZES(0, 2, 64), 8),
    CASE("adam, many heads of an odd width", run_adam, SIZES(1, 90, 3), 8),
};
const OpsSubject ops_cases_adam = SUBJECT(cases);
