/* rope_cpu.c -- rotary positions. The sines of a row are worked out once and serve all of its heads. */
#include "kernels/cpu.h"
#include "kernels/cpu_vector.h"

enum { HALF_MAX = 256 }; /* pairs of a head */

static void row_angles(float *cosine, float *sine, const float *freq, int64_t half, int32_t pos, int sign) {
    int64_t i = 0;
    for (; i + 8 <= half; i += 8) {
        F8 c, s;
        f8_sincos(f8_all((float)pos) * f8_load(freq + i), &s, &c);
        f8_store(cosine + i, c);
        f8_store(sine + i, s * f8_all((float)sign));
    }
    for (; i < half; i++) {
        double angle = (float)pos * freq[i]; /* an f32 product: see ops.h */
        cosine[i] = (float)cos(angle);
        sine[i] = (float)(sign * sin(angle));
    }
}

static void rotate_head(float *x, const float *cosine, const float *sine, int64_t half) {
    int64_t i = 0;
    for (; i + 8 <= half; i += 8) {
        F8 a = f8_load(x + i), b = f8_load(x + half + i), c = f8_load(cosine + i), s = f8_load(sine + i);
        f8_store(x + i, a * c - b * s);
        f8_store(x + half + i, b * c + a * s);
    }
    for (; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = a * cosine[i] - b * sine[i];
        x[half + i] = b * cosine[i] + a * sine[i];
    }
}

Status CPU(rope)(Stream *s, const RopeArgs *a) {
    (void)s;
    TRY(rope_check(a));
    CPU_F32("rope", a->x);
    int64_t T = a->x.dim[0], heads = a->x.dim[1], D = a->x.dim[2];
    NEED(D / 2 <= HALF_MAX, ST_UNSUPPORTED, "rope: head size %lld, at most %d", (long long)D, 2 * HALF_MAX);
    const int32_t *pos = a->pos.data;
    const float *freq = a->freq.data;
    float *x = a->x.data;
#pragma omp parallel for if (T * heads * D >= PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++) {
        float cosine[HALF_MAX], sine[HALF_MAX];
        row_angles(cosine, sine, freq, D / 2, pos[t], a->sign);
        for (int64_t h = 0; h < heads; h++) rotate_head(x + (t * heads + h) * D, cosine, sine, D / 2);
    }
    return ST_OK;
}
