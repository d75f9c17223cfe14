/* linear_cpu.c -- y = residual + x w^T + b and its way back, weights in bf16.
 *
 *   skinny   up to SKINNY_ROWS rows: a few weight rows at a time become f32 in the first-level cache, and
 *            each meets every row of x. No packing: decoding takes as long as reading 2 bytes a weight
 *   tiles    else: a piece of the weight becomes f32 and sgemm does the rest: packing pays once many rows
 *            share it
 *
 * sgemm is called by one thread for one tile. Tiles are cut by sizes only, and OpenBLAS computes a tile alone
 * the same way every time, so the number of threads changes no bit. */
#include <cblas.h>
#undef I

#include "kernels/cpu.h"
#include "kernels/cpu_vector.h"

enum {
    TILE_ROWS = 256,  /* rows that share one conversion of a piece of the weight: it costs 4% of them */
    OUTPUTS = SKINNY_OUTPUTS,
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* OpenBLAS asks OpenMP how many threads it may use, and would start more inside a region of one. */
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

/* What a tile starts from; sgemm then adds to it. */
static void copy_tile(float *y, const float *from, int64_t ld, int64_t rows, int64_t columns) {
    for (int64_t t = 0; t < rows && y != from; t++)
        memcpy(y + t * ld, from + t * ld, sizeof *y * (size_t)columns);
}

static void linear_tile(const LinearArgs *a, const float *bias, int64_t row, int64_t column, float *panel) {
    int64_t width = a->x.dim[1], outputs = a->w.dim[0];
    int64_t rows = least(TILE_ROWS, a->x.dim[0] - row), columns = least(PANEL_COLUMNS, outputs - column);
    const float *x = (const float *)a->x.data + row * width;
    float *y = (float *)a->y.data + row * outputs + column;
    const float *residual = a->residual.data;
    if (residual) copy_tile(y, residual + row * outputs + column, outputs, rows, columns);
    for (int64_t k = 0; k < width; k += PANEL_DEPTH) {
        int64_t depth = least(PANEL_DEPTH, width - k);
        for (int64_t c = 0; c < columns; c++)
            cpu_widen(panel + c * depth, a->w, (column + c) * width + k, depth);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)columns, (int)depth, 1, x + k,
                    (int)width, panel, (int)depth, k || residual ? 1 : 0, y, (int)outputs);
    }
    if (bias) add_bias(y, outputs, rows, bias + column, columns);
}

static void linear_tiles(const CpuStream *s, const LinearArgs *a, const float *bias) {
    int64_t row_tiles = (a->x.dim[0] + TILE_ROWS - 1) / TILE_ROWS;
    int64_t column_tiles = (a->w.dim[0] + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
#pragma omp parallel num_threads(cpu_threads(s->threads)) if (cpu_many(a->x.dim[0] * tensor_count(a->w)))
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
        for (int64_t o = 0; o < depth; o++)
            cpu_widen(panel + o * columns, a->w, (k + o) * width + column, columns);
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
#pragma omp parallel num_threads(cpu_threads(s->threads)) if (cpu_many(a->dx.dim[0] * tensor_count(a->w)))
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

/* Sixteen bf16 weights are eight 32-bit words, each the upper half of one float beside the upper half of the
 * next: a shift and a mask make them floats, the eight even ones and then the odd ones. The inputs are put in
 * the same order. */
static void repack(float *to, const float *x, int64_t width, int64_t padded) {
    for (int64_t i = 0; i < padded; i++) {
        int64_t from = i / 16 * 16 + i % 8 * 2 + (i / 8 % 2);
        to[i] = from < width ? x[from] : 0;
    }
}

VECTOR_FN void unpack16(float *to, const uint16_t *w) {
    U8 pairs = *(const U8Any *)w;
    f8_store(to, (F8)(pairs << 16));
    f8_store(to + 8, (F8)(pairs & 0xffff0000u));
}

static void unpack(float *to, const uint16_t *w, int64_t width) {
    enum { AHEAD = 2048 }; /* weights: rows are too short for the hardware to foresee the next */
    int64_t i = 0;
    for (; i + 16 <= width; i += 16) {
        __builtin_prefetch(w + i + AHEAD);
        unpack16(to + i, w + i);
    }
    if (i == width) return;
    uint16_t rest[16] = {0};
    memcpy(rest, w + i, sizeof *w * (size_t)(width - i));
    unpack16(to + i, rest);
}

/* out[o][t] = w[o] . x[t]. Both counts are constants where this is called, so that the sums stay in
 * registers: 12 of them at most, which leaves one for each output's weights and one for x. Every sum adds its
 * products in the same order, whatever the counts: up to SKINNY_ROWS, a row's result does not depend on how
 * many there are. */
VECTOR_FN void dots(int outputs, int rows, float out[][4], const float *w, const float *x, int64_t ld) {
    F8 sum[6][4];
#pragma GCC unroll 6
    for (int o = 0; o < outputs; o++)
#pragma GCC unroll 4
        for (int t = 0; t < rows; t++) sum[o][t] = f8_all(0);
    for (int64_t i = 0; i < ld; i += 8) {
        F8 left[6];
#pragma GCC unroll 6
        for (int o = 0; o < outputs; o++) left[o] = f8_load(w + o * ld + i);
#pragma GCC unroll 4
        for (int t = 0; t < rows; t++) {
            F8 right = f8_load(x + t * ld + i);
#pragma GCC unroll 6
            for (int o = 0; o < outputs; o++) sum[o][t] = f8_fma(left[o], right, sum[o][t]);
        }
    }
#pragma GCC unroll 6
    for (int o = 0; o < outputs; o++)
#pragma GCC unroll 4
        for (int t = 0; t < rows; t++) out[o][t] = f8_sum(sum[o][t]);
}

/* The dots of OUTPUTS outputs with 1 to 4 rows. */
static void dots_of_rows(int64_t rows, float out[][4], const float *w, const float *x, int64_t ld) {
    switch (rows) {
    case 1: dots(6, 1, out, w, x, ld); break;
    case 2: dots(6, 2, out, w, x, ld); break;
    case 3: dots(3, 3, out, w, x, ld), dots(3, 3, out + 3, w + 3 * ld, x, ld); break;
    default: dots(3, 4, out, w, x, ld), dots(3, 4, out + 3, w + 3 * ld, x, ld);
    }
}

static void store_dots(const LinearArgs *a, const float *bias, float out[][4], int64_t outputs, int64_t rows,
                       int64_t o, int64_t t) {
    int64_t ldy = a->w.dim[0];
    const float *residual = a->residual.data;
    float *y = a->y.data;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < outputs; c++) {
            int64_t i = (t + r) * ldy + o + c;
            float value = out[c][r] + (bias ? bias[o + c] : 0);
            y[i] = residual ? residual[i] + value : value;
        }
}

/* OUTPUTS rows of the weight for all rows of x; the last ones of a weight are computed beside whatever was
 * there. */
static void skinny_part(const LinearArgs *a, const float *bias, const float *x, int64_t ld, int64_t o,
                        float *unpacked) {
    int64_t width = a->x.dim[1], T = a->x.dim[0], outputs = least(OUTPUTS, a->w.dim[0] - o);
    float out[OUTPUTS][4];
    for (int64_t c = 0; c < outputs; c++)
        unpack(unpacked + c * ld, (const uint16_t *)a->w.data + (o + c) * width, width);
    for (int64_t t = 0; t < T; t += 4) {
        dots_of_rows(least(4, T - t), out, unpacked, x + t * ld, ld);
        store_dots(a, bias, out, outputs, least(4, T - t), o, t);
    }
}

static void linear_skinny(const CpuStream *s, const LinearArgs *a, const float *bias) {
    int64_t T = a->x.dim[0], width = a->x.dim[1], outputs = a->w.dim[0], ld = (width + 15) / 16 * 16;
    for (int64_t t = 0; t < T; t++) repack(s->rows + t * ld, (const float *)a->x.data + t * width, width, ld);
#pragma omp parallel num_threads(cpu_threads(s->threads)) if (cpu_many(T * outputs * width))
    {
        float *unpacked = s->unpacked + cpu_thread() * s->unpacked_floats;
#pragma omp for
        for (int64_t o = 0; o < outputs; o += OUTPUTS) skinny_part(a, bias, s->rows, ld, o, unpacked);
    }
}

Status CPU(linear)(Stream *stream, const LinearArgs *a) {
    TRY(linear_check(a));
    CPU_F32("linear", a->y);
    CPU_F32("linear", a->x);
    CPU_F32("linear", a->residual);
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
