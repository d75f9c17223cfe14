/* ops_cases_attn.c -- cases of attention over batches of sequences behind prefixes, and of its gradients. */
#include "tests/ops_attention.h"
#include "tests/ops_subjects.h"

static void run_attn(OpsRig *r, const void *shape) {
    Attention at;
    Tensor o, lse;
    attention_open(&at, r, shape);
    attention_forward(&at, r, &o, &lse);
    ops_rig_take(r, "o", COARSE, o);
    ops_rig_take(r, "lse", FINE, lse);
    Tensor bare = BLANK(r, r->act, at.layout.T, at.q.dim[1], at.q.dim[2]);
    ops_rig_attn(r,
                 (AttnArgs){.o = bare, .q = at.q, .k = at.k, .v = at.v, .plan = at.plan, .scale = at.scale});
    ops_rig_take(r, "o without lse", COARSE, bare);
    attention_close(&at, r);
}

/* o and lse of the reference on the same values: what goes back does not inherit an error of what came
 * forward. */
static void forward_of_reference(OpsRig *r, const AttnShape *shape, Tensor *o, Tensor *lse) {
    OpsRig ref;
    Attention at;
    Tensor right_o, right_lse;
    ops_rig_open(&ref, &ops_ref, DT_F64, r->grid);
    attention_open(&at, &ref, shape);
    attention_forward(&at, &ref, &right_o, &right_lse);
    double *x = ops_rig_read(&ref, right_o), *y = ops_rig_read(&ref, right_lse);
    *o = ops_rig_floats(r, r->act, x, right_o.ndim, right_o.dim);
    for (int64_t i = 0; i < tensor_count(right_lse); i++)
        y[i] = (float)y[i]; /* on a grid of f32 in every run */
    DType grid = r->grid;
    r->grid = DT_F32;
    *lse = ops_rig_floats(r, r->real, y, right_lse.ndim, right_lse.dim);
    r->grid = grid;
    free(x), free(y);
    attention_close(&at, &ref);
    ops_rig_close(&ref);
}

static void run_attn_back(OpsRig *r, const void *shape) {
    Attention at;
    Tensor o, lse, none = {0};
    attention_open(&at, r, shape);
    forward_of_reference(r, shape, &o, &lse);
    int64_t G = at.shape->G, D = at.shape->D, own = at.own_pages, learned = at.learned_pages + 1;
    Tensor dq = BLANK(r, r->real, at.layout.T, at.q.dim[1], D);
    Tensor dk_own = BLANK(r, r->real, own, G, KV_PAGE, D), dv_own = BLANK(r, r->real, own, G, KV_PAGE, D);
    Tensor dk = NORMAL(r, r->real, 5, 1, learned, G, KV_PAGE, D),
           dv = NORMAL(r, r->real, 6, 1, learned, G, KV_PAGE, D);
    AttnBackArgs a = {dq, dk_own, dv_own, dk, dv, at.d_o, o, lse, at.q, at.k, at.v, at.plan, at.scale};
    ops_rig_attn_back(r, a);
    a.dq = a.dk_own = a.dv_own = none; /* layer 0; the learned pages are added to once more */
    ops_rig_attn_back(r, a);
    ops_rig_take(r, "dq", COARSE, dq);
    ops_rig_take(r, "dk_own", COARSE, dk_own);
    ops_rig_take(r, "dv_own", COARSE, dv_own);
    ops_rig_take(r, "dk_learned", COARSE, dk);
    ops_rig_take(r, "dv_learned", COARSE, dv);
    a.dq = BLANK(r, r->real, at.layout.T, at.q.dim[1], D);
    a.dk_learned = a.dv_learned = none; /* nothing learns */
    ops_rig_attn_back(r, a);
    ops_rig_take(r, "dq alone", COARSE, a.dq);
    attention_close(&at, r);
}

/* ---- the cases ---- */

/* Both directions of a batch (AttnShape). */
#define ATTN(slack, name, ...)                                                                               \
    {"attn", run_attn, &(const AttnShape){name, __VA_ARGS__}, slack, name},                                  \
    {"attn_back", run_attn_back, &(const AttnShape){name, __VA_ARGS__}, 4 * (slack), name}

/* Every head size, H/G of 1, 2, 3, 4, 7 and 8, prefixes around a page's border. */
static const OpsCase cases[] = {
    ATTN(8, "one key", 1, 1, 64, {0}, {{.rows = 1}}, 0),
    ATTN(4, "63 of a prefix, group 3", 1, 3, 64, {63}, {{.rows = 9, .read = {{1}}}}, 0),
    ATTN(4, "64 of a prefix, group 7", 1, 7, 64, {64}, {{.rows = 5, .read = {{1}}}}, 0),
    ATTN(4, "65 of a prefix, group 8", 1, 8, 32, {65}, {{.rows = 6, .read = {{1}}}}, 0),
    ATTN(4, "a prefix of one row, group 2", 2, 2, 128, {1}, {{.rows = 4, .read = {{1}}}}, 0),
    ATTN(4, "130 of a prefix, heads of 96", 2, 1, 96, {130}, {{.rows = 7, .read = {{1}}}}, 0),
    ATTN(4, "heads of 256, group 4", 1, 4, 256, {20}, {{.rows = 5, .read = {{1}}}}, 0),
    ATTN(4, "own rows over a page's border", 1, 2, 32, {0}, {{.rows = 70}}, 0),
    ATTN(4, "three prefixes, mixed", 2, 2, 32, {65, 30, 64},
         {{.rows = 3, .read = {{1}, {2}, {3}}}, {.rows = 8, .read = {{3}, {1}}}, {.rows = 2},
          {.rows = 5, .read = {{2}}}}, 0),
    ATTN(4, "prefixes without their first row, or parts of them", 1, 3, 32, {140, 40},
         {{.rows = 6, .read = {{1, 1, 0}}}, {.rows = 3, .read = {{1}, {2, 1, 0}}},
          {.rows = 4, .read = {{1, 66, 60}}}}, 0),
    ATTN(4, "one prefix seen twice by a sequence", 1, 2, 64, {70, 10},
         {{.rows = 3, .read = {{1}, {2}, {1}}}, {.rows = 2, .read = {{1}}}}, 0),
    ATTN(4, "decoding: one row, many own keys", 2, 3, 64, {65},
         {{.rows = 1, .keys = 130, .read = {{1}}}, {.rows = 1, .keys = 64, .read = {{1}}},
          {.rows = 1, .keys = 1, .read = {{1}}}, {.rows = 1, .keys = 65}}, 0),
    ATTN(4, "a later piece: rows behind own keys, from a later row", 1, 4, 32, {33},
         {{.rows = 10, .keys = 75, .from = 3, .read = {{1}}}, {.rows = 4, .keys = 5, .from = 62}}, 0),
    ATTN(4, "two pieces of a sequence in one batch", 1, 2, 32, {0, 12, 20},
         {{.rows = 40, .read = {{3}}}, {.rows = 30, .keys = 70, .read = {{3}}, .with = 1},
          {.rows = 2, .read = {{2}}}}, 0),
    ATTN(1000, "huge scores", 1, 2, 64, {70}, {{.rows = 12, .read = {{1}}}}, 100),
    ATTN(8, "a long prefix", 1, 2, 32, {1100},
         {{.rows = 2, .read = {{1}}}, {.rows = 1, .read = {{1, 1, 0}}}}, 0),
    /* enough rows for several tiles of packed rows, as prefill and training have them */
    ATTN(4, "tiles of rows, group 3, heads of 128", 2, 3, 128, {200, 70},
         {{.rows = 60, .read = {{1}, {2}}}, {.rows = 17, .read = {{2, 1, 0}}}}, 0),
    ATTN(4, "tiles of rows, group 1, heads of 64", 2, 1, 64, {64},
         {{.rows = 150}, {.rows = 33, .keys = 97, .from = 40, .read = {{1}}}, {.rows = 128, .keys = 129}}, 0),
    ATTN(4, "tiles of rows, group 7, heads of 128", 1, 7, 128, {140},
         {{.rows = 40, .read = {{1, 66, 60}}}, {.rows = 19, .keys = 70, .read = {{1, 1, 0}}}}, 0),
    ATTN(4, "many segments, group 8, heads of 64", 1, 8, 64, {130, 10, 64},
         {{.rows = 20, .read = {{1, 1, 0}, {2}, {3, 5, 20}, {1, 64, 64}, {2, 9, 1}, {3}}},
          {.rows = 17, .keys = 60, .from = 60, .read = {{3}, {3}, {2}, {1, 65, 0}}}}, 0),
    ATTN(1000, "huge scores of many rows", 1, 2, 64, {70, 1}, {{.rows = 40, .read = {{1}, {2}}}}, 100),
    ATTN(4, "few rows beside many, group 4, heads of 128", 1, 4, 128, {100, 65},
         {{.rows = 16, .read = {{1}}}, {.rows = 17, .read = {{1}, {2}}},
          {.rows = 1, .keys = 66, .read = {{1}}}, {.rows = 33, .read = {{2}}},
          {.rows = 2, .read = {{1}}}}, 0),
    ATTN(4, "two pieces in one batch from odd packed rows, group 3, heads of 64", 2, 3, 64, {70, 12, 20},
         {{.rows = 7, .read = {{1}, {3, 3, 9}}}, {.rows = 41, .read = {{3}}},
          {.rows = 30, .keys = 71, .read = {{3}}, .with = 2},
          {.rows = 2, .keys = 5, .from = 62, .read = {{2}, {1, 63, 2}}}}, 0),
    ATTN(4, "rows of one page in several parts, group 7, heads of 64", 1, 7, 64, {70},
         {{.rows = 150, .read = {{1}}}, {.rows = 3, .read = {{1}}}}, 0),
    /* as decoding has them: few rows each, many together */
    ATTN(4, "short pieces behind one prefix, group 3, heads of 128", 2, 3, 128, {300, 70},
         {{.rows = 16, .keys = 80, .read = {{1}}}, {.rows = 16, .read = {{1}, {2}}},
          {.rows = 9, .keys = 130, .from = 5, .read = {{2}, {1}}}, {.rows = 1, .keys = 64, .read = {{1}}},
          {.rows = 4, .read = {{1, 1, 0}}}}, 0),
    ATTN(4, "a long prefix in pieces that end within pages, group 4, heads of 64", 2, 4, 64, {1150},
         {{.rows = 2, .keys = 270, .read = {{1}}}, {.rows = 1, .read = {{1, 63, 1086}}},
          {.rows = 3, .keys = 3, .from = 61, .read = {{1, 64, 1024}}}}, 0),
    ATTN(4, "twenty heads a key head", 1, 20, 64, {70},
         {{.rows = 5, .keys = 66, .read = {{1}}}, {.rows = 1}}, 0),
    ATTN(4, "more heads a key head than packed rows", 1, 131, 64, {70},
         {{.rows = 2, .read = {{1}}}, {.rows = 1, .keys = 65}}, 0),
};
const OpsSubject ops_cases_attn = SUBJECT(cases);
