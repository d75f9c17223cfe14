/* angles.cuh -- sine and cosine of the angles that positions have.
 *
 * At position 131072 an angle is some 20000 turns. It is taken back to a quarter turn by Cody and Waite's
 * method: x - n pi/2 with pi/2 as a sum of three floats. With fused multiply-adds the first difference is
 * exact for all |x| <= 2^20 or so (both sides are multiples of 2^-23 and the result is below 1), so the error
 * is that of the last rounding. The toolkit's sinf does the same for small angles; for large ones it goes
 * through local memory. */
#ifndef KERNELS_ANGLES_CUH
#define KERNELS_ANGLES_CUH

#include "kernels/cuda.cuh"

struct Turn {
    float cosine, sine;
};

static __device__ __forceinline__ Turn turn_of(float x) {
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    float n = fmaf(x, 0.636619772f, round) - round;
    float r = fmaf(-n, 0x1.921fb6p+0f, x);
    r = fmaf(-n, -0x1.777a5cp-25f, r);
    r = fmaf(-n, -0x1.ee59dap-50f, r);
    float z = r * r;
    float s = fmaf(fmaf(fmaf(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f), z * r, r);
    float c = fmaf(fmaf(fmaf(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f),
                   z * z, fmaf(-0.5f, z, 1.0f));
    int quarter = (int)n;
    float cosine = quarter & 1 ? s : c, sine = quarter & 1 ? c : s;
    return Turn{(quarter + 1) & 2 ? -cosine : cosine, quarter & 2 ? -sine : sine};
}

#endif
