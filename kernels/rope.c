/* rope.c -- rotary positions. A rotation is orthogonal, so its backward is the rotation by the opposite angle. */
#include <math.h>

#include "kernels/reference.h"

static void rotate_head(Tensor x, int64_t first, int64_t D, const float *freq, int32_t pos, int sign) {
    for (int64_t i = 0; i < D / 2; i++) {
        float angle = (float)pos * freq[i]; /* in f32 on purpose: see ops.h */
        double c = cos((double)angle), s = sign * sin((double)angle);
        double a = get(x, first + i), b = get(x, first + i + D / 2);
        put(x, first + i, a * c - b * s);
        put(x, first + i + D / 2, b * c + a * s);
    }
}

Status rope_ref(Stream *s, const RopeArgs *a) {
    (void)s;
    TRY(rope_check(a));
    int64_t T = a->x.dim[0], heads = a->x.dim[1], D = a->x.dim[2];
    for (int64_t i = 0; i < T * heads; i++)
        rotate_head(a->x, i * D, D, a->freq.data, geti(a->pos, i / heads), a->sign);
    return ST_OK;
}
