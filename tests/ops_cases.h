/* ops_cases.h -- every operation on many shapes, and what it means for a backend to agree with the reference.
 *
 * A case runs one operation on fixed random inputs and keeps its outputs. The oracle is ops_ref in f64 on the
 * same values. With largest = the largest |oracle| of an output, or 0.1 where all is smaller (terms of about
 * 1 cancelled), each output says how near it must come (Nearness): SAME, equal; FINE, within
 * slack * 4e-7 * largest (a few f32 roundings; long sums have more slack); COARSE, the same, unless
 * activations are bf16: then rounding the oracle itself to bf16 makes some error e, and 2 e + 1e-6 largest is
 * allowed.
 *
 * Each ops_cases_*.c has the cases of one subject, ops_cases.c joins them and compares. */
#ifndef TESTS_OPS_CASES_H
#define TESTS_OPS_CASES_H

#include "tests/ops_rig.h"

typedef struct OpsCase {
    const char *name;
    void (*run)(OpsRig *r, const void *shape);
    const void *shape;
    double slack;
    const char *detail; /* which of the cases that share a name */
} OpsCase;

/* Case i of all, in an order that does not change; NULL behind the last. */
const OpsCase *ops_case(int i);

/* Fails with case, output, element and both values when the backend disagrees. */
void ops_case_check(const OpsCase *c, const Ops *ops, DType act);
/* Every argument of every operation in the case, spoiled one at a time, is refused and nothing is written. */
void ops_case_spoil(const OpsCase *c, const Ops *ops, DType act);
/* Runs the case twice: same arguments, same bits. `between` (or NULL) changes then what must not matter. */
void ops_case_repeat(const OpsCase *c, const Ops *ops, DType act, void (*between)(void));
/* attn_plan refuses every broken layout and plan_open every impossible head count, by name. */
void ops_layouts_spoil(const Ops *ops, DType act);

#endif
