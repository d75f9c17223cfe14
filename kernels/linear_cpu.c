/* linear_cpu.c -- y = residual + x w^T + b and its way back, with weights as they lie in the model's file.
 *
 *   forward  an output is the dot product of two rows: vectors run along the inputs
 *   back     dx = dy W is a product of blocks (cpu_matmul.h): vectors run along the inputs, too
 *
 * Weights become f32 on their way into a register, one instruction for as many as a vector holds. So there is
 * no converted copy and nothing is packed, and one kernel serves a single row, which takes as long as reading
 * two bytes a weight, and a thousand rows, which reach what the multipliers can do. Rows are cut into tiles so
 * that what they share stays in a cache, and the next piece of w is asked for while one is multiplied.
 *
 * A row's result depends neither on the other rows nor on how many there are. */
#include "kernels/cpu.h"
#include "kernels/cpu_matmul.h"

enum {
    TILE_ROWS = 96,    /* rows of x, at most, that share a reading of a piece of w */
    TILE_OUTPUTS = 32, /* forward: rows of w in such a piece */
    TILE_INPUTS = 192, /* back: its columns, */
    TILE_DEPTH = 256,  /* and its rows: a strip of them stays in the first-level cache */
    /* Dot products at a time: so many rows of x by so many of w. Their sums, a vector of each of these rows of x
     * and one of w fill the registers. */
    DOT_ROWS = VEC == 16 ? 6 : 3,
    DOT_OUTPUTS = 4,
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Rows are dealt out evenly: 128 are two tiles of 64, or one thread would wait for another. */
static int64_t rows_of_tile(int64_t T) {
    return T > 0 ? cut(T, cut(T, TILE_ROWS)) : 1;
}

/* Asks for what lies from byte `first` to byte `end` of w: into the second-level cache, as the first is full
 * of what is being multiplied. */
static void fetch(Tensor w, int64_t first, int64_t end) {
    enum { LINE = 64, SECOND_LEVEL = 2 };
    for (const char *at = (const char *)w.data + first; at < (const char *)w.data + end; at += LINE)
        __builtin_prefetch(at, 0, SECOND_LEVEL);
}

static Numbers weights_from(Tensor w, int64_t first) {
    return numbers_from((Numbers){w.data, w.dtype}, first);
}

/* ---- forward ---- */

/* Adds the products of elements i .. i + n of `rows` rows of x and DOT_OUTPUTS rows of w. */
VECTOR_FN void dots_step(int rows, Vec sum[][DOT_OUTPUTS], const float *x, int64_t width, const Numbers *w,
                         int64_t i, int64_t n) {
    Vec right[DOT_ROWS];
#pragma GCC unroll 6
    for (int t = 0; t < rows; t++) right[t] = vec_load_part(x + t * width + i, n);
#pragma GCC unroll 4
    for (int o = 0; o < DOT_OUTPUTS; o++) {
        Vec left = numbers_load(w[o], i, n);
#pragma GCC unroll 6
        for (int t = 0; t < rows; t++) sum[t][o] = vec_fma(left, right[t], sum[t][o]);
    }
}

/* y[t][o] = x[t] . w[o], rows of y TILE_OUTPUTS apart; the number of rows and the type of w are constants where
 * this is called. */
VECTOR_FN void dots(int rows, float *y, const float *x, int64_t width, const Numbers *w) {
    Vec sum[DOT_ROWS][DOT_OUTPUTS];
#pragma GCC unroll 6
    for (int t = 0; t < rows; t++)
#pragma GCC unroll 4
        for (int o = 0; o < DOT_OUTPUTS; o++) sum[t][o] = vec_all(0);
    int64_t i = 0;
    for (; i + VEC <= width; i += VEC) dots_step(rows, sum, x, width, w, i, VEC);
    if (i < width) dots_step(rows, sum, x, width, w, i, width - i);
#pragma GCC unroll 6
    for (int t = 0; t < rows; t++) {
        F4 sums = vec_sums(sum[t][0], sum[t][1], sum[t][2], sum[t][3]);
        memcpy(y + t * TILE_OUTPUTS, &sums, sizeof sums);
    }
}

VECTOR_FN void dots_of_type(DType type, int64_t rows, float *y, const float *x, int64_t width,
                            const void *const *row) {
    const Numbers w[DOT_OUTPUTS] = {{row[0], type}, {row[1], type}, {row[2], type}, {row[3], type}};
    switch (rows) {
    case 1: dots(1, y, x, width, w); break;
    case 2: dots(2, y, x, width, w); break;
#ifdef __AVX512F__
    case 4: dots(4, y, x, width, w); break;
    case 5: dots(5, y, x, width, w); break;
    case 6: dots(6, y, x, width, w); break;
#endif
    default: dots(3, y, x, width, w);
    }
}

/* The rows o .. of w, of which `outputs` are there: the last one stands for those that are not. */
static void dots_of_outputs(float *y, const float *x, int64_t rows, Tensor w, int64_t o, int64_t outputs) {
    const void *row[DOT_OUTPUTS];
    for (int64_t i = 0; i < DOT_OUTPUTS; i++)
        row[i] = weights_from(w, (o + least(i, outputs - 1)) * w.dim[1]).at;
    switch (w.dtype) {
    case DT_BF16: dots_of_type(DT_BF16, rows, y, x, w.dim[1], row); break;
    case DT_F32: dots_of_type(DT_F32, rows, y, x, w.dim[1], row); break;
    default: dots_of_type(w.dtype, rows, y, x, w.dim[1], row);
    }
}

/* The products of a tile. They are collected before they go to y: rows of y may lie a multiple of 4096 bytes
 * apart, where they compete for the same few lines of a cache, so each line had better be met once. */
typedef struct DotTile { float y[TILE_ROWS][TILE_OUTPUTS]; } DotTile;

/* Here, too: sixteen rows are 6, 5 and 5, not 6, 6 and 4. */
static void multiply_tile(DotTile *tile, const float *x, int64_t rows, Tensor w, int64_t first,
                          int64_t outputs) {
    int64_t width = w.dim[1], row_bytes = width * (int64_t)dtype_bytes(w.dtype), parts = cut(rows, DOT_ROWS);
    int64_t ahead = (first + TILE_OUTPUTS) * row_bytes, share = cut(DOT_OUTPUTS * row_bytes, parts);
    int64_t end_ahead = least(ahead + TILE_OUTPUTS * row_bytes, w.dim[0] * row_bytes);
    for (int64_t t = 0, some; t < rows; t += some) {
        some = cut(rows - t, parts--);
        for (int64_t o = 0; o < outputs; o += DOT_OUTPUTS, ahead += share) {
            int64_t group = least(DOT_OUTPUTS, outputs - o);
            fetch(w, ahead, least(ahead + share, end_ahead));
            dots_of_outputs(tile->y[t] + o, x + t * width, some, w, first + o, group);
        }
    }
}

static void linear_tile(const LinearArgs *a, const float *bias, int64_t first_row, int64_t rows,
                        int64_t first_output) {
    int64_t all = a->w.dim[0], outputs = least(TILE_OUTPUTS, all - first_output);
    const float *x = (const float *)a->x.data + first_row * a->x.dim[1];
    DotTile tile;
    multiply_tile(&tile, x, rows, a->w, first_output, outputs);
    for (int64_t t = 0; t < rows; t++) {
        int64_t to = (first_row + t) * all + first_output;
        const float *residual = a->residual.data ? (const float *)a->residual.data + to : NULL;
        for (int64_t o = 0; o < outputs; o += VEC) {
            Vec y = vec_load_part(tile.y[t] + o, outputs - o);
            if (bias) y += vec_load_part(bias + first_output + o, outputs - o);
            if (residual) y += vec_load_part(residual + o, outputs - o);
            vec_store_part((float *)a->y.data + to + o, y, outputs - o);
        }
    }
}

Status CPU(linear)(Stream *stream, const LinearArgs *a) {
    TRY(linear_check(a));
    CPU_F32("linear", a->y);
    CPU_F32("linear", a->x);
    CPU_F32("linear", a->residual);
    const float *bias = NULL;
    if (a->b.data) TRY(cpu_weights(stream, "linear", a->b, &bias));
    int64_t T = a->x.dim[0], rows = rows_of_tile(T), tiles = cut(a->w.dim[0], TILE_OUTPUTS);
#pragma omp parallel for if (cpu_many(T * tensor_count(a->w)))
    for (int64_t i = 0; i < cut(T, rows) * tiles; i++) {
        int64_t first = i / tiles * rows;
        linear_tile(a, bias, first, least(rows, T - first), i % tiles * TILE_OUTPUTS);
    }
    return ST_OK;
}

/* ---- back ---- */

static void back_strip(const LinearBackArgs *a, int64_t rows, int64_t first_row, int64_t k, int64_t column,
                       int64_t columns) {
    int64_t width = a->dx.dim[1], outputs = a->dy.dim[1], depth = least(TILE_DEPTH, outputs - k);
    const float *dy = (const float *)a->dy.data + first_row * outputs + k;
    float *dx = (float *)a->dx.data + first_row * width + column;
    Into into = k || a->accumulate ? ADD : REPLACE;
    Rows w = {weights_from(a->w, k * width + column), width};
    int64_t size = (int64_t)dtype_bytes(a->w.dtype), end = least(k + 2 * TILE_DEPTH, outputs);
    for (int64_t o = k + TILE_DEPTH; o < end; o++)
        fetch(a->w, (o * width + column) * size, (o * width + column + columns) * size);
    matmul_weights(dx, width, (Factor){dy, outputs, 1}, w, rows, columns, depth, into);
}

static void back_tile(const LinearBackArgs *a, int64_t first_row, int64_t rows, int64_t first_column) {
    enum { STRIP = BLOCK_VECTORS * VEC };
    int64_t end = least(first_column + TILE_INPUTS, a->dx.dim[1]);
    for (int64_t k = 0; k < a->dy.dim[1]; k += TILE_DEPTH)
        for (int64_t c = first_column; c < end; c += STRIP)
            back_strip(a, rows, first_row, k, c, least(STRIP, end - c));
}

Status CPU(linear_back)(Stream *stream, const LinearBackArgs *a) {
    (void)stream;
    TRY(linear_back_check(a));
    CPU_F32("linear_back", a->dx);
    CPU_F32("linear_back", a->dy);
    int64_t T = a->dx.dim[0], rows = rows_of_tile(T), tiles = cut(a->dx.dim[1], TILE_INPUTS);
#pragma omp parallel for if (cpu_many(T * tensor_count(a->w)))
    for (int64_t i = 0; i < cut(T, rows) * tiles; i++) {
        int64_t first = i / tiles * rows;
        back_tile(a, first, least(rows, T - first), i % tiles * TILE_INPUTS);
    }
    return ST_OK;
}
