/* linear_cpu.c -- y = x w^T + b and its way back, weights in bf16.
 *
 *   skinny   up to SKINNY_ROWS rows: dot products straight from bf16     bound by reading the weights, 2 bytes each
 *   tiles    else: a piece of the weight becomes f32, sgemm does the rest  bound by arithmetic
 *
 * sgemm is called by one thread for one tile. Tiles are cut by sizes only, and OpenBLAS computes a tile alone the
 * same way every time, so the number of threads changes no bit. */
#include <cblas.h>
#undef I

#include "kernels/cpu.h"
#include "kernels/cpu_vector.h"

enum {
    TILE_ROWS = 256,  /* rows that share one conversion of a piece of the weight: it costs 4% of them */
    SKINNY_PART = 16, /* outputs a thread takes at a time */
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* OpenBLAS asks OpenMP how many threads it may use, and would start more inside a region that has only one. */
static void alone(void) {
#ifdef _OPENMP
    omp_set_num_threads(1);
#endif
}

/* ---- tiles ---- */

static void add_bias(float *y, int64_t ldy, int64_t rows, const float *bias, int64_t columns) {
    for (int64_t t = 0; t < rows; t++)
        for (int64_t c = 0; c < columns; c++) y[t * ldy + c] += bias[c];
}

static void linear_tile(const LinearArgs *a, const float *bias, int64_t row, int64_t column, float *panel) {
    int64_t width = a->x.dim[1], outputs = a->w.dim[0];
    int64_t rows = least(TILE_ROWS, a->x.dim[0] - row), columns = least(PANEL_COLUMNS, outputs - column);
    const float *x = (const float *)a->x.data + row * width;
    float *y = (float *)a->y.data + row * outputs + column;
    for (int64_t k = 0; k < width; k += PANEL_DEPTH) {
        int64_t depth = least(PANEL_DEPTH, width - k);
        for (int64_t c = 0; c < columns; c++) cpu_widen(panel + c * depth, a->w, (column + c) * width + k, depth);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)columns, (int)depth, 1, x + k, (int)width,
                    panel, (int)depth, k || a->accumulate ? 1 : 0, y, (int)outputs);
    }
    if (bias) add_bias(y, outputs, rows, bias + column, columns);
}

static void linear_tiles(const CpuStream *s, const LinearArgs *a, const float *bias) {
    int64_t row_tiles = (a->x.dim[0] + TILE_ROWS - 1) / TILE_ROWS;
    int64_t column_tiles = (a->w.dim[0] + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
#pragma omp parallel num_threads(cpu_threads(s->threads))
    {
        alone();
        float *panel = s->panel + (int64_t)cpu_thread() * PANEL_COLUMNS * PANEL_DEPTH;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < row_tiles * column_tiles; i++)
            linear_tile(a, bias, i % row_tiles * TILE_ROWS, i / row_tiles * PANEL_COLUMNS, panel);
    }
}

static void back_tile(const LinearBackArgs *a, int64_t row, int64_t column, float *panel) {
    int64_t width = a->dx.dim[1], outputs = a->dy.dim[1];
    int64_t rows = least(TILE_ROWS, a->dx.dim[0] - row), columns = least(PANEL_COLUMNS, width - column);
    const float *dy = (const float *)a->dy.data + row * outputs;
    float *dx = (float *)a->dx.data + row * width + column;
    for (int64_t k = 0; k < outputs; k += PANEL_DEPTH) {
        int64_t depth = least(PANEL_DEPTH, outputs - k);
        for (int64_t o = 0; o < depth; o++) cpu_widen(panel + o * columns, a->w, (k + o) * width + column, columns);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)columns, (int)depth, 1, dy + k,
                    (int)outputs, panel, (int)columns, k || a->accumulate ? 1 : 0, dx, (int)width);
    }
}

Status CPU(linear_back)(Stream *stream, const LinearBackArgs *a) {
    TRY(linear_back_check(a));
    CPU_F32("linear_back", a->dx);
    CPU_F32("linear_back", a->dy);
    const CpuStream *s = cpu_stream(stream);
    int64_t row_tiles = (a->dx.dim[0] + TILE_ROWS - 1) / TILE_ROWS;
    int64_t column_tiles = (a->dx.dim[1] + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
#pragma omp parallel num_threads(cpu_threads(s->threads))
    {
        alone();
        float *panel = s->panel + (int64_t)cpu_thread() * PANEL_COLUMNS * PANEL_DEPTH;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < row_tiles * column_tiles; i++)
            back_tile(a, i % row_tiles * TILE_ROWS, i / row_tiles * PANEL_COLUMNS, panel);
    }
    return ST_OK;
}

/* ---- skinny ---- */

/* Sixteen bf16 weights are eight 32-bit words, each the upper half of one float beside the upper half of the next:
 * a shift and a mask make them floats, if the inputs lie in the same order: the eight even ones, then the odd ones. */
static void repack(float *to, const float *x, int64_t width, int64_t padded) {
    for (int64_t i = 0; i < padded; i++) {
        int64_t from = i / 16 * 16 + i % 8 * 2 + (i / 8 % 2);
        to[i] = from < width ? x[from] : 0;
    }
}

VECTOR_FN U8 load_pairs(const uint16_t *w) {
    return *(const U8Any *)w;
}

/* sum[o][t] += the products of 16 weights of `outputs` rows of w with `rows` rows of x. Both counts are constants
 * where this is called, so that the sums stay in registers. */
VECTOR_FN void sixteen(int outputs, int rows, F8 sum[][4], const U8 *pairs, const float *x, int64_t ldx) {
    F8 even[4], odd[4];
    for (int o = 0; o < outputs; o++) even[o] = (F8)(pairs[o] << 16), odd[o] = (F8)(pairs[o] & 0xffff0000u);
    for (int t = 0; t < rows; t++) {
        F8 x0 = f8_load(x + t * ldx), x1 = f8_load(x + t * ldx + 8);
        for (int o = 0; o < outputs; o++) sum[o][t] = f8_fma(odd[o], x1, f8_fma(even[o], x0, sum[o][t]));
    }
}

/* y[t][o] for some outputs and rows; every one of them adds its products in the same order, whatever the counts. */
VECTOR_FN void dots(int outputs, int rows, float out[][4], const uint16_t *w, int64_t width, const float *x, int64_t ldx) {
    F8 sum[4][4];
    U8 pairs[4];
    int64_t i = 0;
    for (int o = 0; o < outputs; o++)
        for (int t = 0; t < rows; t++) sum[o][t] = f8_all(0);
    for (; i + 16 <= width; i += 16) {
        for (int o = 0; o < outputs; o++) pairs[o] = load_pairs(w + o * width + i);
        sixteen(outputs, rows, sum, pairs, x + i, ldx);
    }
    if (i < width) {
        for (int o = 0; o < outputs; o++) {
            uint16_t rest[16] = {0};
            memcpy(rest, w + o * width + i, sizeof *w * (size_t)(width - i));
            pairs[o] = load_pairs(rest);
        }
        sixteen(outputs, rows, sum, pairs, x + i, ldx);
    }
    for (int o = 0; o < outputs; o++)
        for (int t = 0; t < rows; t++) out[o][t] = f8_sum(sum[o][t]);
}

#define DOTS(outputs, rows)                                                                                  \
    static void dots_##outputs##x##rows(float out[][4], const uint16_t *w, int64_t width, const float *x,    \
                                        int64_t ldx) {                                                       \
        dots(outputs, rows, out, w, width, x, ldx);                                                          \
    }
DOTS(4, 1)
DOTS(4, 2)
DOTS(2, 3)
DOTS(2, 4)
DOTS(1, 1)
DOTS(1, 2)
DOTS(1, 3)
DOTS(1, 4)

typedef void (*Dots)(float out[][4], const uint16_t *w, int64_t width, const float *x, int64_t ldx);
/* By rows: outputs at a time, with them, and for single outputs that are left over. As many sums as registers hold. */
static const struct { int outputs; Dots many, one; } dots_for[5] = {
    {0, 0, 0}, {4, dots_4x1, dots_1x1}, {4, dots_4x2, dots_1x2}, {2, dots_2x3, dots_1x3}, {2, dots_2x4, dots_1x4}};

static void store_dots(const LinearArgs *a, const float *bias, float out[][4], int outputs, int rows, int64_t o,
                       int64_t t) {
    int64_t ldy = a->w.dim[0];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < outputs; c++) {
            float *y = (float *)a->y.data + (t + r) * ldy + o + c;
            float value = out[c][r] + (bias ? bias[o + c] : 0);
            *y = a->accumulate ? *y + value : value;
        }
}

static void skinny_part(const LinearArgs *a, const float *bias, const float *x, int64_t ldx, int64_t o, int64_t end) {
    int64_t width = a->x.dim[1], T = a->x.dim[0];
    const uint16_t *w = a->w.data;
    float out[4][4];
    for (int outputs; o < end; o += outputs) {
        int first_rows = (int)least(4, T);
        outputs = end - o >= dots_for[first_rows].outputs ? dots_for[first_rows].outputs : 1;
        for (int64_t t = 0; t < T; t += 4) {
            int rows = (int)least(4, T - t);
            int step = dots_for[rows].outputs <= outputs ? dots_for[rows].outputs : 1;
            for (int c = 0; c < outputs; c += step) {
                (step > 1 ? dots_for[rows].many : dots_for[rows].one)(out, w + (o + c) * width, width, x + t * ldx, ldx);
                store_dots(a, bias, out, step, rows, o + c, t);
            }
        }
    }
}

static void linear_skinny(const CpuStream *s, const LinearArgs *a, const float *bias) {
    int64_t T = a->x.dim[0], width = a->x.dim[1], outputs = a->w.dim[0], padded = (width + 15) / 16 * 16;
    for (int64_t t = 0; t < T; t++) repack(s->rows + t * padded, (const float *)a->x.data + t * width, width, padded);
#pragma omp parallel for if (outputs * width >= PARALLEL_MIN)
    for (int64_t o = 0; o < outputs; o += SKINNY_PART)
        skinny_part(a, bias, s->rows, padded, o, least(o + SKINNY_PART, outputs));
}

Status CPU(linear)(Stream *stream, const LinearArgs *a) {
    TRY(linear_check(a));
    CPU_F32("linear", a->y);
    CPU_F32("linear", a->x);
    const CpuStream *s = cpu_stream(stream);
    int64_t T = a->x.dim[0], width = a->x.dim[1];
    bool skinny = T <= SKINNY_ROWS && a->w.dtype == DT_BF16;
    NEED(!skinny || width <= s->limits.width, ST_ARG, "linear: %lld inputs, the stream was opened for %d",
         (long long)width, s->limits.width);
    const float *bias = NULL;
    if (a->b.data) TRY(cpu_weights(stream, "linear", a->b, &bias));
    if (skinny) linear_skinny(s, a, bias);
    else linear_tiles(s, a, bias);
    return ST_OK;
}
