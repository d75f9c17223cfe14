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
    TILE_ROWS = 96,    /* rows of x that share a reading of a piece of w */
    TILE_OUTPUTS = 32, /* forward: rows of w in such a piece */
    TILE_INPUTS = 96,  /* back: its columns, */
    TILE_DEPTH = 256,  /* and its rows: a strip of them stays in the first-level cache */
    DOT_ROWS = VEC == 16 ? 6 : 3, /* dot products at a time: so many rows of x */
    DOT_OUTPUTS = 4,              /* by so many of w; with a vector of each row of x this fills the registers */
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Asks for what lies from byte `first` to byte `end` of w: into the second-level cache, as the first is full of
 * what is being multiplied. */
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

/* y[t][o] = x[t] . w[o]; the number of rows and the type of w are constants where this is called. */
VECTOR_FN void dots(int rows, F4 *y, const float *x, int64_t width, const Numbers *w) {
    Vec sum[DOT_ROWS][DOT_OUTPUTS];
#pragma GCC unroll 6
    for (int t = 0; t < rows; t++)
#pragma GCC unroll 4
        for (int o = 0; o < DOT_OUTPUTS; o++) sum[t][o] = vec_all(0);
    int64_t i = 0;
    for (; i + VEC <= width; i += VEC) dots_step(rows, sum, x, width, w, i, VEC);
    if (i < width) dots_step(rows, sum, x, width, w, i, width - i);
#pragma GCC unroll 6
    for (int t = 0; t < rows; t++) y[t] = vec_sums(sum[t][0], sum[t][1], sum[t][2], sum[t][3]);
}

VECTOR_FN void dots_of_type(DType type, int64_t rows, F4 *y, const float *x, int64_t width,
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
static void dots_of_outputs(F4 *y, const float *x, int64_t rows, Tensor w, int64_t o, int64_t outputs) {
    const void *row[DOT_OUTPUTS];
    for (int64_t i = 0; i < DOT_OUTPUTS; i++)
        row[i] = weights_from(w, (o + least(i, outputs - 1)) * w.dim[1]).at;
    switch (w.dtype) {
    case DT_BF16: dots_of_type(DT_BF16, rows, y, x, w.dim[1], row); break;
    case DT_F32: dots_of_type(DT_F32, rows, y, x, w.dim[1], row); break;
    default: dots_of_type(w.dtype, rows, y, x, w.dim[1], row);
    }
}

static void store_dots(const LinearArgs *a, const float *bias, const F4 *dots_of_row, int64_t rows, int64_t t,
                       int64_t outputs, int64_t o) {
    const float *residual = a->residual.data;
    for (int64_t r = 0; r < rows; r++) {
        int64_t to = (t + r) * a->w.dim[0] + o;
        F4 y = dots_of_row[r];
        if (bias) y += f4_load_part(bias + o, outputs);
        if (residual) y += f4_load_part(residual + to, outputs);
        f4_store_part((float *)a->y.data + to, y, outputs);
    }
}

/* Rows are dealt out evenly: sixteen are 6, 5 and 5, not 6, 6 and 4. */
static void linear_tile(const LinearArgs *a, const float *bias, int64_t first_row, int64_t first_output) {
    int64_t width = a->x.dim[1], end_row = least(first_row + TILE_ROWS, a->x.dim[0]);
    int64_t end_output = least(first_output + TILE_OUTPUTS, a->w.dim[0]);
    int64_t parts = cut(end_row - first_row, DOT_ROWS), row_bytes = width * (int64_t)dtype_bytes(a->w.dtype);
    int64_t ahead = (first_output + TILE_OUTPUTS) * row_bytes, share = cut(DOT_OUTPUTS * row_bytes, parts);
    int64_t end_ahead = least(ahead + TILE_OUTPUTS * row_bytes, a->w.dim[0] * row_bytes);
    for (int64_t t = first_row, rows; t < end_row; t += rows) {
        rows = cut(end_row - t, parts--);
        for (int64_t o = first_output; o < end_output; o += DOT_OUTPUTS, ahead += share) {
            F4 y[DOT_ROWS];
            int64_t outputs = least(DOT_OUTPUTS, end_output - o);
            fetch(a->w, ahead, least(ahead + share, end_ahead));
            dots_of_outputs(y, (const float *)a->x.data + t * width, rows, a->w, o, outputs);
            store_dots(a, bias, y, rows, t, outputs, o);
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
    int64_t T = a->x.dim[0], row_tiles = cut(T, TILE_ROWS), output_tiles = cut(a->w.dim[0], TILE_OUTPUTS);
#pragma omp parallel for if (cpu_many(T * tensor_count(a->w)))
    for (int64_t i = 0; i < row_tiles * output_tiles; i++)
        linear_tile(a, bias, i / output_tiles * TILE_ROWS, i % output_tiles * TILE_OUTPUTS);
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

static void back_tile(const LinearBackArgs *a, int64_t first_row, int64_t first_column) {
    enum { STRIP = 3 * VEC };
    int64_t rows = least(TILE_ROWS, a->dx.dim[0] - first_row);
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
    int64_t T = a->dx.dim[0], row_tiles = cut(T, TILE_ROWS), column_tiles = cut(a->dx.dim[1], TILE_INPUTS);
#pragma omp parallel for if (cpu_many(T * tensor_count(a->w)))
    for (int64_t i = 0; i < row_tiles * column_tiles; i++)
        back_tile(a, i / column_tiles * TILE_ROWS, i % column_tiles * TILE_INPUTS);
    return ST_OK;
}
