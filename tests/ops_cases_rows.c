/* ops_cases_rows.c -- cases of what is done to each row on its own: gather and scatter, norms, products with
 * weights, swiglu. */
#include "tests/ops_subjects.h"

/* ---- rows ---- */

static void run_gather(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor table = NORMAL(r, DT_BF16, 1, 1, 97, z->in), id = BELOW(r, 97, 2, z->rows);
    Tensor y = BLANK(r, r->act, z->rows, z->in);
    ops_rig_gather(r, (GatherArgs){y, table, id});
    ops_rig_take(r, "y", SAME, y);
}

/* First, second, ... but shuffled: (i * 7 + 3) mod bound, bound no multiple of 7. */
static Tensor scattered(OpsRig *r, int64_t n, int32_t bound) {
    enum { MOST = 64 };
    int32_t x[MOST];
    assert_true(n <= MOST);
    for (int64_t i = 0; i < n; i++) x[i] = (int32_t)((i * 7 + 3) % bound);
    return WHOLE(r, x, n);
}

static void run_scatter(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor x = NORMAL(r, r->act, 1, 1, z->rows, z->in), id = scattered(r, z->rows, 97);
    Tensor y = NORMAL(r, r->act, 2, 1, 97, z->in);
    ops_rig_scatter(r, (ScatterArgs){y, x, id});
    ops_rig_take(r, "y", SAME, y);
}

/* [rows,in,out]: a norm over each of `in` heads; out 1 leaves them away. x is so small that eps counts. */
static void run_norm(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor x = NORMAL(r, r->act, 1, 0.01, z->rows, z->in, z->out), w = NORMAL(r, DT_BF16, 2, 1, z->out);
    Tensor rstd = BLANK(r, r->real, z->rows * z->in), y = BLANK(r, r->act, z->rows, z->in, z->out);
    ops_rig_norm(r, (NormArgs){y, rstd, x, w, 1e-5f});
    ops_rig_take(r, "y", COARSE, y);
    ops_rig_take(r, "rstd", FINE, rstd);
    ops_rig_norm(r, (NormArgs){.y = x, .x = x, .w = w, .eps = 1e-5f});
    ops_rig_take(r, "x normed in place", COARSE, x);
}

static void run_norm_back(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    int64_t rows = z->rows * z->in;
    Tensor x = NORMAL(r, r->act, 1, 2, z->rows, z->in, z->out), w = NORMAL(r, DT_BF16, 2, 1, z->out);
    Tensor dy = NORMAL(r, r->act, 3, 1, z->rows, z->in, z->out),
           dx = NORMAL(r, r->act, 4, 1, z->rows, z->in, z->out);
    double *scale = malloc(sizeof *scale * (size_t)rows);
    assert_non_null(scale);
    for (int64_t i = 0; i < rows; i++) scale[i] = 0.4 + 0.01 * (double)(i % 20);
    Tensor rstd = FLOATS(r, r->real, scale, rows);
    free(scale);
    ops_rig_norm_back(r, (NormBackArgs){dx, dy, x, w, rstd, true});
    ops_rig_take(r, "dx +=", COARSE, dx);
    Tensor fresh = BLANK(r, r->act, z->rows, z->in, z->out);
    ops_rig_norm_back(r, (NormBackArgs){fresh, dy, x, w, rstd, false});
    ops_rig_take(r, "dx", COARSE, fresh);
    ops_rig_norm_back(r, (NormBackArgs){dy, dy, x, w, rstd, false});
    ops_rig_take(r, "dy made dx in place", COARSE, dy);
}

/* ---- products ---- */

static void run_linear(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor x = NORMAL(r, r->act, 1, 1 / sqrt((double)z->in), z->rows, z->in),
           w = NORMAL(r, DT_BF16, 2, 1, z->out, z->in);
    Tensor b = NORMAL(r, DT_BF16, 3, 1, z->out), y = BLANK(r, r->act, z->rows, z->out);
    Tensor sum = NORMAL(r, r->act, 4, 1, z->rows, z->out);
    Tensor residual = NORMAL(r, r->act, 5, 1, z->rows, z->out);
    ops_rig_linear(r, (LinearArgs){.y = y, .x = x, .w = w, .b = b});
    ops_rig_take(r, "y", COARSE, y);
    ops_rig_linear(r, (LinearArgs){y, x, w, b, residual});
    ops_rig_take(r, "y from a residual", COARSE, y);
    ops_rig_linear(r, (LinearArgs){.y = sum, .x = x, .w = w, .residual = sum});
    ops_rig_take(r, "y += without bias", COARSE, sum);
}

static void run_linear_back(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor dy = NORMAL(r, r->act, 1, 1 / sqrt((double)z->out), z->rows, z->out),
           w = NORMAL(r, DT_BF16, 2, 1, z->out, z->in);
    Tensor dx = BLANK(r, r->act, z->rows, z->in), sum = NORMAL(r, r->act, 4, 1, z->rows, z->in);
    ops_rig_linear_back(r, (LinearBackArgs){dx, dy, w, false});
    ops_rig_take(r, "dx", COARSE, dx);
    ops_rig_linear_back(r, (LinearBackArgs){sum, dy, w, true});
    ops_rig_take(r, "dx +=", COARSE, sum);
}

/* Logits are kept as sums are; so are the gradients that come back from them, and those of queries and keys.
 */
static void run_linear_real(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor x = NORMAL(r, r->act, 1, 1 / sqrt((double)z->in), z->rows, z->in),
           w = NORMAL(r, DT_BF16, 2, 1, z->out, z->in), y = BLANK(r, r->real, z->rows, z->out);
    ops_rig_linear(r, (LinearArgs){.y = y, .x = x, .w = w});
    ops_rig_take(r, "y", FINE, y);
}

static void run_linear_back_real(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor dy = NORMAL(r, r->real, 1, 1 / sqrt((double)z->out), z->rows, z->out),
           w = NORMAL(r, DT_BF16, 2, 1, z->out, z->in), dx = BLANK(r, r->act, z->rows, z->in);
    ops_rig_linear_back(r, (LinearBackArgs){dx, dy, w, false});
    ops_rig_take(r, "dx", COARSE, dx);
}

/* ---- elements ---- */

static void run_swiglu(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor gate = NORMAL(r, r->act, 1, (double)z->out, z->rows, z->in),
           up = NORMAL(r, r->act, 2, 1, z->rows, z->in);
    Tensor y = BLANK(r, r->act, z->rows, z->in);
    ops_rig_swiglu(r, (SwigluArgs){y, gate, up});
    ops_rig_take(r, "y", COARSE, y);
}

static void run_swiglu_back(OpsRig *r, const void *shape) {
    const Sizes *z = shape;
    Tensor gate = NORMAL(r, r->act, 1, (double)z->out, z->rows, z->in),
           up = NORMAL(r, r->act, 2, 1, z->rows, z->in);
    Tensor dy = NORMAL(r, r->act, 3, 1, z->rows, z->in);
    Tensor dgate = BLANK(r, r->act, z->rows, z->in), dup = BLANK(r, r->act, z->rows, z->in);
    ops_rig_swiglu_back(r, (SwigluBackArgs){dgate, dup, dy, gate, up});
    ops_rig_take(r, "dgate", COARSE, dgate);
    ops_rig_take(r, "dup", COARSE, dup);
    ops_rig_swiglu_back(r, (SwigluBackArgs){gate, up, dy, gate, up});
    ops_rig_take(r, "gate made dgate in place", COARSE, gate);
    ops_rig_take(r, "up made dup in place", COARSE, up);
}

/* ---- the cases ---- */

/* Both directions. */
#define NORM(what, ...)                                                                                      \
    CASE("norm" what, run_norm, SIZES(__VA_ARGS__), 4),                                                      \
        CASE("norm_back" what, run_norm_back, SIZES(__VA_ARGS__), 4)
#define SWIGLU(what, ...)                                                                                    \
    CASE("swiglu" what, run_swiglu, SIZES(__VA_ARGS__), 4),                                                  \
        CASE("swiglu_back" what, run_swiglu_back, SIZES(__VA_ARGS__), 4)

static const OpsCase cases[] = {
    CASE("gather, width 40", run_gather, SIZES(13, 40, 0), 1),
    CASE("gather, odd width", run_gather, SIZES(50, 1003, 0), 1),
    CASE("scatter, width 40", run_scatter, SIZES(13, 40, 0), 1),
    CASE("scatter, odd width", run_scatter, SIZES(50, 1003, 0), 1),
    NORM(", width 64", 5, 1, 64),
    NORM(", odd width", 17, 1, 1003),
    NORM(" over heads", 6, 3, 128),
    NORM(", two groups a lane, many rows", 61, 1, 2560),
    NORM(", four groups a lane", 9, 1, 5117),
    NORM(" over many small heads", 40, 9, 32),
    CASE("linear", run_linear, SIZES(5, 64, 48), 4),
    CASE("linear, one row", run_linear, SIZES(1, 152, 203), 4),
    CASE("linear, odd", run_linear, SIZES(33, 65, 131), 4),
    CASE("linear, tiles", run_linear, SIZES(130, 320, 70), 8),
    CASE("linear, few rows", run_linear, SIZES(3, 320, 70), 4),
    CASE("linear, sixteen rows", run_linear, SIZES(16, 96, 41), 4),
    CASE("linear to logits", run_linear_real, SIZES(9, 64, 53), 4),
    CASE("linear_back", run_linear_back, SIZES(5, 64, 48), 4),
    CASE("linear_back of sums", run_linear_back_real, SIZES(70, 64, 48), 4),
    CASE("linear_back, one row", run_linear_back, SIZES(1, 152, 203), 4),
    CASE("linear_back, odd", run_linear_back, SIZES(33, 65, 131), 4),
    CASE("linear_back, tiles", run_linear_back, SIZES(130, 320, 70), 8),
    SWIGLU(", small gates", 5, 40, 1),
    SWIGLU(", large gates", 13, 611, 40),
};
const OpsSubject ops_cases_rows = SUBJECT(cases);
