/* report_chart.h -- curves and bars on a page, as SVG that scales with it. */
#ifndef TOOLS_REPORT_CHART_H
#define TOOLS_REPORT_CHART_H

#include "tools/report.h"

/* ---- geometry ---- */

/* From values to places of a drawing; with `log` both ends are above 0. */
typedef struct Scale {
    double low, high; /* values, low < high */
    double from, to;  /* their places */
    bool log;
} Scale;
double scale_at(const Scale *s, double value);

/* A range widened to multiples of a step of 1, 2 or 5 times a power of ten, in about n steps (n >= 1). An
 * empty range is widened around its value first. */
typedef struct Ticks {
    double low, high, step;
    int count;  /* low, low + step, ..., high */
    int digits; /* behind the point that tell them apart */
} Ticks;
Ticks ticks_of(double low, double high, int n);
/* The i-th; exactly 0 where it is meant. */
double tick_at(const Ticks *t, int i);
/* As short as it is exact for ticks of this step: "1,500", "0.02", "5e-5". */
const char *tick_text(char out[32], const Ticks *t, double value);

/* A curve of n points as at most `most` (even) of them: each pair of points stands for a stretch, with its
 * lowest and highest value in their order, so that no spike is lost. What is no number is left out. Returns
 * how many. */
int curve_thin(const double *x, const double *y, int n, int most, double *to_x, double *to_y);
/* Means over `window` points around each, of numbers only. Towards the ends the window narrows to both sides
 * alike, so that a curve that begins steeply keeps its first value. */
void curve_smooth(const double *y, int n, int window, double *to);

/* ---- drawings; names are escaped ---- */

enum { CHART_COLOURS = 6, CHART_POINTS = 600 };

typedef struct Curve {
    const char *name; /* in the legend; NULL: not there */
    const double *x, *y;
    int n;
    int colour; /* 0 .. CHART_COLOURS-1: cartridge, full text, shared text, none, users, weights */
    bool dashed, faint, dots;
} Curve;

typedef struct Plot {
    const char *title, *x_name, *y_name;
    const Curve *curve;
    int n;
    double y_low, y_high; /* included in the range of y; NaN: only the curves are */
    bool percent;         /* y is a share */
    const double *x_tick; /* logarithmic x with these ticks; NULL: linear with round ones */
    int x_ticks;
} Plot;
/* A figure with heading, curves and legend. Curves without any number are left out. */
void chart_plot(Page *p, const Plot *plot);

/* A bar: a name, parts behind one another, and the value as text. */
enum { BAR_PARTS = 4 };
typedef struct Bar {
    const char *group; /* heading above it; NULL: belongs to the one before */
    const char *name, *value;
    double part[BAR_PARTS];
    int colour[BAR_PARTS], parts;
} Bar;
/* Bars to one scale, the longest as long as there is room; `most` > 0 is the length of the room. */
void chart_bars(Page *p, const char *title, const Bar *bar, int n, double most);

typedef struct Key {
    const char *name;
    int colour;
    bool dashed;
} Key;
void chart_legend(Page *p, const Key *key, int n);

/* Squares in rows of `columns`, `size` pixels each, the same on every screen, so that counts can be compared
 * by eye; part i has count[i] of them in colour[i], behind those of the part before. */
void chart_squares(Page *p, const char *title, const int64_t *count, const int *colour, int parts,
                   int columns, int size);

#endif
