/* ops_subjects.h -- what the files of cases (ops_cases_*.c) share: each has one subject, the operations of
 * which it runs on its list of shapes; ops_cases.c joins the lists. */
#ifndef TESTS_OPS_SUBJECTS_H
#define TESTS_OPS_SUBJECTS_H

#include "tests/ops_cases.h"

typedef struct OpsSubject {
    const OpsCase *cases;
    int count;
} OpsSubject;
#define SUBJECT(cases) {(cases), sizeof(cases) / sizeof *(cases)}

#define CASE(name, run, shape, slack) {name, run, shape, slack, ""}

extern const OpsSubject ops_cases_rows, ops_cases_heads, ops_cases_attn, ops_cases_logits, ops_cases_adam;

/* The shape of most cases: what `in` and `out` are, their run says. */
typedef struct Sizes {
    int64_t rows, in, out;
} Sizes;
#define SIZES(rows, in, out) (&(const Sizes){rows, in, out})

#endif
