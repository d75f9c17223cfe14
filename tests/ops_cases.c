/* ops_cases.c -- see ops_cases.h. */
#include "tests/ops_cases.h"

#include "tests/ops_subjects.h"

const OpsCase *ops_case(int i) {
    static const OpsSubject *const subject[] = {&ops_cases_rows, &ops_cases_heads, &ops_cases_attn,
                                                &ops_cases_logits, &ops_cases_adam};
    for (size_t s = 0; s < sizeof subject / sizeof *subject; i -= subject[s++]->count)
        if (i < subject[s]->count) return &subject[s]->cases[i];
    return NULL;
}

/* ---- agreement ---- */

/* COARSE when the backend's activations are bf16. */
static double allowed(const Output *right, DType act, double slack) {
    double largest = 0.1, rounding = 0;
    for (int64_t i = 0; i < right->n; i++) {
        largest = fmax(largest, fabs(right->x[i]));
        rounding = fmax(rounding, fabs(bf16_to_f32(f32_to_bf16((float)right->x[i])) - right->x[i]));
    }
    if (right->nearness == SAME) return 0;
    if (right->nearness == COARSE && act == DT_BF16) return 2 * rounding + 1e-6 * largest;
    return slack * 4e-7 * largest;
}

/* Both NaN, as rows nobody wrote are, is agreement; in an output of SAME only. */
static void check_output(const OpsCase *c, const Output *got, const Output *right, const OpsRig *r) {
    double within = allowed(right, r->act, c->slack);
    assert_int_equal(got->n, right->n);
    for (int64_t i = 0; i < got->n; i++)
        if (!(fabs(got->x[i] - right->x[i]) <= within))
            fail_msg("%s %s: %s in %s: %s[%lld] is %.9g, wanted %.9g within %.3g", c->name, c->detail,
                     r->ops->name, dtype_name(r->act), got->name, (long long)i, got->x[i], right->x[i],
                     within);
}

void ops_case_check(const OpsCase *c, const Ops *ops, DType act) {
    OpsRig oracle, r;
    DType grid = act == DT_BF16 ? DT_BF16 : DT_F32;
    ops_rig_open(&oracle, &ops_ref, DT_F64, grid);
    ops_rig_open(&r, ops, act, grid);
    c->run(&oracle, c->shape);
    c->run(&r, c->shape);
    assert_int_equal(r.outs, oracle.outs);
    for (int32_t i = 0; i < r.outs; i++) check_output(c, &r.out[i], &oracle.out[i], &r);
    ops_rig_close(&r);
    ops_rig_close(&oracle);
}

void ops_case_spoil(const OpsCase *c, const Ops *ops, DType act) {
    OpsRig r;
    ops_rig_open(&r, ops, act, DT_F32);
    r.spoil = true;
    c->run(&r, c->shape);
    ops_rig_close(&r);
}

void ops_case_repeat(const OpsCase *c, const Ops *ops, DType act, void (*between)(void)) {
    OpsRig r[2];
    for (int i = 0; i < 2; i++) {
        if (i && between) between();
        ops_rig_open(&r[i], ops, act, DT_F32);
        c->run(&r[i], c->shape);
    }
    for (int32_t i = 0; i < r[0].outs; i++)
        if (memcmp(r[0].out[i].x, r[1].out[i].x, sizeof(double) * (size_t)r[0].out[i].n))
            fail_msg("%s %s: %s: %s has other bits the second time", c->name, c->detail, ops->name,
                     r[0].out[i].name);
    ops_rig_close(&r[0]);
    ops_rig_close(&r[1]);
}
