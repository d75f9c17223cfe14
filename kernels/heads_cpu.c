/* heads_cpu.c -- from the projections to attention and back, row by row: a row's sines are worked out once
 * and serve all of its heads, and a head stays in the first-level cache from its norm to its page. */
#include "kernels/cpu.h"
#include "kernels/cpu_norm.h"

enum { HALF_MAX = 256 }; /* pairs of a head */

typedef struct Row {
    float cosine[HALF_MAX], sine[HALF_MAX];
} Row; /* the angles that all heads of a row turn by */

/* The angles of a row; sign -1: of its way back. A rotation is orthogonal. */
static void row_angles(Row *r, const float *freq, int64_t half, int32_t pos, int sign) {
    int64_t i = 0;
    for (; i + VEC <= half; i += VEC) {
        Vec c, s;
        vec_sincos(vec_all((float)pos) * vec_load(freq + i), &s, &c);
        vec_store(r->cosine + i, c);
        vec_store(r->sine + i, s * vec_all((float)sign));
    }
    for (; i < half; i++) {
        double angle = (float)pos * freq[i]; /* an f32 product: see ops.h */
        r->cosine[i] = (float)cos(angle);
        r->sine[i] = (float)(sign * sin(angle));
    }
}

static void rotate_head(float *x, const Row *r, int64_t half) {
    const float *cosine = r->cosine, *sine = r->sine;
    int64_t i = 0;
    for (; i + VEC <= half; i += VEC) {
        Vec a = vec_load(x + i), b = vec_load(x + half + i), c = vec_load(cosine + i), s = vec_load(sine + i);
        vec_store(x + i, a * c - b * s);
        vec_store(x + half + i, b * c + a * s);
    }
    for (; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = a * cosine[i] - b * sine[i];
        x[half + i] = b * cosine[i] + a * sine[i];
    }
}

/* Weights of both norms as f32; absent ones are NULL. */
typedef struct HeadNorms {
    float q_memory[2 * HALF_MAX], k_memory[2 * HALF_MAX];
    const float *q, *k;
    float eps;
} HeadNorms;

static void head_norms(HeadNorms *n, Tensor w_q, Tensor w_k, float eps) {
    n->eps = eps;
    n->q = w_q.data ? n->q_memory : NULL;
    n->k = w_k.data ? n->k_memory : NULL;
    if (w_q.data) cpu_widen(n->q_memory, w_q, 0, w_q.dim[0]);
    if (w_k.data) cpu_widen(n->k_memory, w_k, 0, w_k.dim[0]);
}

static Status check_size(const char *op, int64_t D) {
    NEED(D / 2 <= HALF_MAX, ST_UNSUPPORTED, "%s: head size %lld, at most %d", op, (long long)D, 2 * HALF_MAX);
    return ST_OK;
}

/* The element of a pool [pages,G,KV_PAGE,D] where head g of the row in `slot` begins. */
static int64_t pool_index(Tensor pool, int64_t slot, int64_t g) {
    int64_t page = slot / KV_PAGE, offset = slot % KV_PAGE;
    return ((page * pool.dim[1] + g) * KV_PAGE + offset) * pool.dim[3];
}

static void narrow(Tensor to, int64_t first, const float *from, int64_t n) {
    if (to.dtype == DT_F32) {
        memcpy((float *)to.data + first, from, sizeof *from * (size_t)n);
    } else if (to.dtype == DT_BF16) {
        for (int64_t i = 0; i < n; i++) ((uint16_t *)to.data)[first + i] = f32_to_bf16(from[i]);
    } else {
        for (int64_t i = 0; i < n; i++) ((double *)to.data)[first + i] = from[i];
    }
}

/* y may be x. */
static void head(float *y, const float *x, const float *w, float eps, const Row *r, int64_t D) {
    if (w)
        norm_row(y, x, w, D, eps);
    else if (y != x)
        memcpy(y, x, sizeof *y * (size_t)D);
    rotate_head(y, r, D / 2);
}

static void heads_row(const HeadsArgs *a, const HeadNorms *n, int64_t t) {
    int64_t H = a->q.dim[1], G = a->v.dim[1], D = a->q.dim[2], slot = ((const int32_t *)a->slot.data)[t];
    float *q = (float *)a->q.data + t * H * D, key[2 * HALF_MAX];
    const float *q_raw = (const float *)a->q_raw.data + t * H * D,
                *k_raw = (const float *)a->k_raw.data + t * G * D, *v = (const float *)a->v.data + t * G * D;
    Row r;
    row_angles(&r, a->freq.data, D / 2, ((const int32_t *)a->pos.data)[t], 1);
    for (int64_t h = 0; h < H; h++) head(q + h * D, q_raw + h * D, n->q, n->eps, &r, D);
    for (int64_t g = 0; slot >= 0 && g < G; g++) {
        int64_t to = pool_index(a->k_pool, slot, g);
        head(key, k_raw + g * D, n->k, n->eps, &r, D);
        narrow(a->k_pool, to, key, D);
        narrow(a->v_pool, to, v + g * D, D);
    }
}

Status CPU(heads)(Stream *s, const HeadsArgs *a) {
    (void)s;
    TRY(heads_check(a));
    CPU_F32("heads", a->q);
    CPU_F32("heads", a->q_raw);
    CPU_F32("heads", a->k_raw);
    CPU_F32("heads", a->v);
    TRY(check_size("heads", a->q.dim[2]));
    HeadNorms norms;
    head_norms(&norms, a->w_q, a->w_k, a->eps);
    int64_t T = a->q.dim[0];
#pragma omp parallel for if (tensor_count(a->q) >= PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) heads_row(a, &norms, t);
    return ST_OK;
}

/* ---- back ---- */

/* d: the gradient of a head behind norm and rotation, which becomes that of x. */
static void head_back(float *d, const float *x, const float *w, float eps, const Row *r, int64_t D) {
    rotate_head(d, r, D / 2);
    if (w) norm_back_row(d, d, x, w, rstd_of(x, D, eps), D, false);
}

static void heads_back_row(const HeadsBackArgs *a, const HeadNorms *n, int64_t t) {
    int64_t H = a->dq.dim[1], G = a->dv.dim[1], D = a->dq.dim[2], slot = ((const int32_t *)a->slot.data)[t];
    float *dq = (float *)a->dq_raw.data + t * H * D, *dk = (float *)a->dk_raw.data + t * G * D,
          *dv = (float *)a->dv.data + t * G * D;
    const float *q = n->q ? (const float *)a->q_raw.data + t * H * D : NULL,
                *k = n->k ? (const float *)a->k_raw.data + t * G * D : NULL;
    Row r;
    row_angles(&r, a->freq.data, D / 2, ((const int32_t *)a->pos.data)[t], -1);
    cpu_widen(dq, a->dq, t * H * D, H * D);
    for (int64_t h = 0; h < H; h++) head_back(dq + h * D, q ? q + h * D : NULL, n->q, n->eps, &r, D);
    if (slot < 0) {
        memset(dk, 0, sizeof *dk * (size_t)(G * D));
        memset(dv, 0, sizeof *dv * (size_t)(G * D));
        return;
    }
    for (int64_t g = 0; g < G; g++) {
        int64_t from = pool_index(a->dk_pool, slot, g);
        cpu_widen(dk + g * D, a->dk_pool, from, D);
        cpu_widen(dv + g * D, a->dv_pool, from, D);
        head_back(dk + g * D, k ? k + g * D : NULL, n->k, n->eps, &r, D);
    }
}

Status CPU(heads_back)(Stream *s, const HeadsBackArgs *a) {
    (void)s;
    TRY(heads_back_check(a));
    CPU_F32("heads_back", a->dq_raw);
    CPU_F32("heads_back", a->dk_raw);
    CPU_F32("heads_back", a->dv);
    CPU_F32("heads_back", a->q_raw);
    CPU_F32("heads_back", a->k_raw);
    TRY(check_size("heads_back", a->dq.dim[2]));
    HeadNorms norms;
    head_norms(&norms, a->w_q, a->w_k, a->eps);
    int64_t T = a->dq.dim[0];
#pragma omp parallel for if (tensor_count(a->dq) >= PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) heads_back_row(a, &norms, t);
    return ST_OK;
}
