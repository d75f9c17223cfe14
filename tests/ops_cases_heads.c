/* ops_cases_heads.c -- cases of what happens to the heads of a row between the products and attention: norm,
 * rotation, and keys and values on their way to the pages and back. */
#include "tests/ops_subjects.h"

typedef struct HeadSizes {
    int64_t rows, H, G, D;
    bool norm;
} HeadSizes;

#define HEAD_SIZES(rows, H, G, D, norm) (&(const HeadSizes){rows, H, G, D, norm})

/* Rows go to distinct slots of 4 pages, every fifth to none. */
static Tensor slots(OpsRig *r, int64_t rows) {
    enum { MOST = 128 };
    int32_t x[MOST];
    assert_true(rows <= MOST);
    for (int64_t i = 0; i < rows; i++) x[i] = i % 5 == 2 ? -1 : (int32_t)((i * 7 + 3) % (4 * KV_PAGE));
    return WHOLE(r, x, rows);
}

static Tensor frequencies(OpsRig *r, int64_t D) {
    float freq[128];
    for (int64_t i = 0; i < D / 2; i++) freq[i] = powf(10000, -2 * (float)i / (float)D);
    Tensor f = BLANK(r, DT_F32, D / 2);
    assert_ok(r->ops->copy(r->stream, f.data, freq, tensor_bytes(f)));
    return f;
}

static Tensor head_weights(OpsRig *r, const HeadSizes *z, uint64_t seed) {
    return z->norm ? NORMAL(r, DT_BF16, seed, 1, z->D) : (Tensor){0};
}

/* Where there is a norm, so small that its eps counts. */
static double raw_scale(const HeadSizes *z) {
    return z->norm ? 0.01 : 1;
}

/* What both directions are given alike. */
typedef struct Places {
    Tensor norm_q, norm_k, pos, slot, freq;
} Places;

static Places places(OpsRig *r, const HeadSizes *z) {
    return (Places){head_weights(r, z, 6), head_weights(r, z, 7), BELOW(r, 131072, 8, z->rows),
                    slots(r, z->rows), frequencies(r, z->D)};
}

static void run_heads(OpsRig *r, const void *shape) {
    const HeadSizes *z = shape;
    Tensor q_raw = NORMAL(r, r->act, 1, raw_scale(z), z->rows, z->H, z->D),
           q = BLANK(r, r->act, z->rows, z->H, z->D);
    Tensor k = NORMAL(r, r->act, 2, raw_scale(z), z->rows, z->G, z->D),
           v = NORMAL(r, r->act, 3, 1, z->rows, z->G, z->D);
    Tensor k_pool = NORMAL(r, r->act, 4, 1, 4, z->G, KV_PAGE, z->D);
    Tensor v_pool = NORMAL(r, r->act, 5, 1, 4, z->G, KV_PAGE, z->D);
    Places at = places(r, z);
    HeadsArgs a = {q, k_pool, v_pool, q_raw, k, v, at.norm_q, at.norm_k, at.pos, at.slot, at.freq, 1e-5f};
    ops_rig_heads(r, a);
    ops_rig_take(r, "q", COARSE, q);
    ops_rig_take(r, "k pool", COARSE, k_pool);
    ops_rig_take(r, "v pool", SAME, v_pool);
    a.q = q_raw;
    ops_rig_heads(r, a);
    ops_rig_take(r, "q in place", COARSE, q_raw);
}

static void run_heads_back(OpsRig *r, const void *shape) {
    const HeadSizes *z = shape;
    Tensor dq = NORMAL(r, r->real, 1, 1, z->rows, z->H, z->D), dq_raw = BLANK(r, r->act, z->rows, z->H, z->D);
    Tensor dk_raw = BLANK(r, r->act, z->rows, z->G, z->D), dv = BLANK(r, r->act, z->rows, z->G, z->D);
    Tensor dk_pool = NORMAL(r, r->real, 2, 1, 4, z->G, KV_PAGE, z->D);
    Tensor dv_pool = NORMAL(r, r->real, 3, 1, 4, z->G, KV_PAGE, z->D), none = {0};
    Tensor q = z->norm ? NORMAL(r, r->act, 4, raw_scale(z), z->rows, z->H, z->D) : none;
    Tensor k = z->norm ? NORMAL(r, r->act, 5, raw_scale(z), z->rows, z->G, z->D) : none;
    Places at = places(r, z);
    HeadsBackArgs a = {dq_raw, dk_raw,    dv,        dq,     dk_pool, dv_pool, q,
                       k,      at.norm_q, at.norm_k, at.pos, at.slot, at.freq, 1e-5f};
    ops_rig_heads_back(r, a);
    ops_rig_take(r, "dq_raw", COARSE, dq_raw);
    ops_rig_take(r, "dk_raw", COARSE, dk_raw);
    ops_rig_take(r, "dv", SAME, dv);
}

/* Both directions. */
#define HEADS(what, slack, ...)                                                                              \
    CASE("heads" what, run_heads, HEAD_SIZES(__VA_ARGS__), slack),                                           \
        CASE("heads_back" what, run_heads_back, HEAD_SIZES(__VA_ARGS__), slack)

static const OpsCase cases[] = {
    HEADS(", no norms", 4, 9, 2, 1, 64, false),
    HEADS(", heads of 96", 4, 30, 3, 3, 96, false),
    HEADS(" with norms", 8, 21, 7, 1, 128, true),
    HEADS(" with norms, heads of 32", 8, 90, 4, 2, 32, true),
    HEADS(" with norms, heads of 256", 8, 6, 2, 1, 256, true),
    HEADS(", odd heads", 8, 13, 3, 1, 26, true),
};
const OpsSubject ops_cases_heads = SUBJECT(cases);
