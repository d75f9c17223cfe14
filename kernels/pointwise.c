/* pointwise.c -- swiglu: silu(gate) * up, silu(x) = x sigmoid(x). */
#include <math.h>

#include "kernels/reference.h"

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

Status swiglu_ref(Stream *s, const SwigluArgs *a) {
    (void)s;
    TRY(swiglu_check(a));
    int64_t n = tensor_count(a->y);
    for (int64_t i = 0; i < n; i++) {
        double gate = get(a->gate, i);
        put(a->y, i, gate * sigmoid(gate) * get(a->up, i));
    }
    return ST_OK;
}

/* silu'(x) = sigmoid(x) (1 + x (1 - sigmoid(x))) */
Status swiglu_back_ref(Stream *s, const SwigluBackArgs *a) {
    (void)s;
    TRY(swiglu_back_check(a));
    int64_t n = tensor_count(a->dy);
    for (int64_t i = 0; i < n; i++) {
        double gate = get(a->gate, i), up = get(a->up, i), dy = get(a->dy, i), sg = sigmoid(gate);
        put(a->dgate, i, dy * up * sg * (1 + gate * (1 - sg)));
        put(a->dup, i, dy * gate * sg);
    }
    return ST_OK;
}
