/* report_chart.c -- see report_chart.h. Drawings have a width of 460 units, about what a column of the page
 * has in pixels, so that their text is as large as the page's; a phone shrinks both a little. */
#include "tools/report_chart.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- geometry ---- */

double scale_at(const Scale *s, double value) {
    double share =
        s->log ? log(value / s->low) / log(s->high / s->low) : (value - s->low) / (s->high - s->low);
    return s->from + share * (s->to - s->from);
}

/* The smallest of 1, 2, 5, 10 times a power of ten that is not below `least`. */
static double round_step(double least) {
    double power = pow(10, floor(log10(least)));
    static const double factor[] = {1, 2, 5};
    for (int i = 0; i < 3; i++)
        if (factor[i] * power >= least * (1 - 1e-9)) return factor[i] * power;
    return 10 * power;
}

Ticks ticks_of(double low, double high, int n) {
    if (!(high > low)) {
        double half = low == 0 ? 1 : fabs(low) / 2;
        low -= half, high += half;
    }
    Ticks t = {.step = round_step((high - low) / n)};
    double first = floor(low / t.step + 1e-9), last = ceil(high / t.step - 1e-9);
    t.low = first * t.step, t.high = last * t.step;
    t.count = (int)(last - first) + 1;
    t.digits = (int)fmax(0, -floor(log10(t.step) + 1e-9));
    return t;
}

double tick_at(const Ticks *t, int i) {
    return (round(t->low / t->step) + i) * t->step;
}

const char *tick_text(char out[32], const Ticks *t, double value) {
    if (t->digits < 5) return number_text(out, value, t->digits);
    if (value == 0) return strcpy(out, "0");
    double power = floor(log10(fabs(value)) + 1e-9), factor = value / pow(10, power);
    int digits = (int)fmax(0, power + t->digits);
    snprintf(out, 32, "%.*fe%d", digits > 6 ? 6 : digits, factor, (int)power);
    return out;
}

/* The lowest and the highest of a stretch, in their order. */
static int thin_stretch(const double *x, const double *y, int n, double *to_x, double *to_y) {
    int low = -1, high = -1;
    for (int i = 0; i < n; i++) {
        if (!isfinite(y[i])) continue;
        if (low < 0 || y[i] < y[low]) low = i;
        if (high < 0 || y[i] > y[high]) high = i;
    }
    if (low < 0) return 0;
    int first = low < high ? low : high, second = low < high ? high : low;
    to_x[0] = x[first], to_y[0] = y[first];
    to_x[1] = x[second], to_y[1] = y[second];
    return first == second ? 1 : 2;
}

int curve_thin(const double *x, const double *y, int n, int most, double *to_x, double *to_y) {
    int stretches = n <= most ? n : most / 2, used = 0;
    for (int i = 0; i < stretches; i++) {
        int from = (int)((int64_t)i * n / stretches), to = (int)((int64_t)(i + 1) * n / stretches);
        used += thin_stretch(x + from, y + from, to - from, to_x + used, to_y + used);
    }
    return used;
}

/* Both ends of the window only move forward, so that one sum follows it, however wide it is. */
void curve_smooth(const double *y, int n, int window, double *to) {
    double sum = 0;
    int count = 0, low = 0, high = 0; /* y[low .. high) is in the sum */
    for (int i = 0; i < n; i++) {
        int half = window / 2;
        if (half > i) half = i;
        if (half > n - 1 - i) half = n - 1 - i;
        for (; high <= i + half; high++)
            if (isfinite(y[high])) sum += y[high], count++;
        for (; low < i - half; low++)
            if (isfinite(y[low])) sum -= y[low], count--;
        to[i] = count ? sum / count : NAN;
    }
}

/* ---- plots ---- */

enum { WIDTH = 460, HEIGHT = 270, TOP = 14, BOTTOM = 48, GLYPH = 9 };

typedef struct Frame {
    Scale x, y;
    Ticks tx, ty;
    const Plot *plot;
} Frame;

static void widen(double v, double *low, double *high) {
    if (!isfinite(v)) return;
    *low = fmin(*low, v), *high = fmax(*high, v);
}

static void range_of(const Plot *p, double *x_low, double *x_high, double *y_low, double *y_high) {
    *x_low = *y_low = INFINITY, *x_high = *y_high = -INFINITY;
    for (int c = 0; c < p->n; c++)
        for (int i = 0; i < p->curve[c].n; i++) {
            if (!isfinite(p->curve[c].y[i])) continue;
            widen(p->curve[c].x[i], x_low, x_high);
            widen(p->curve[c].y[i], y_low, y_high);
        }
    widen(p->y_low, y_low, y_high);
    widen(p->y_high, y_low, y_high);
    for (int i = 0; i < p->x_ticks; i++) widen(p->x_tick[i], x_low, x_high);
}

static const char *y_text(const Frame *f, char out[32], double v) {
    if (!f->plot->percent) return tick_text(out, &f->ty, v);
    snprintf(out, 32, "%.*f%%", f->ty.digits > 2 ? f->ty.digits - 2 : 0, 100 * v);
    return out;
}

/* At most, in any font that a reader may have. */
static double text_width(const char *text) {
    double width = 0;
    for (; *text; text++) width += *text == '%' ? 14 : *text == '.' || *text == ',' ? 5 : GLYPH;
    return width;
}

/* Room for the numbers of the y axis on the left, and for half of the last number of the x axis on the right.
 */
static bool frame_of(Frame *f, const Plot *p) {
    double x_low, x_high, y_low, y_high, left = 0;
    char text[32];
    *f = (Frame){.plot = p};
    range_of(p, &x_low, &x_high, &y_low, &y_high);
    if (!(x_low <= x_high && y_low <= y_high)) return false;
    f->ty = ticks_of(y_low, y_high, 5);
    f->tx = ticks_of(x_low, x_high, 5);
    for (int i = 0; i < f->ty.count; i++) left = fmax(left, text_width(y_text(f, text, tick_at(&f->ty, i))));
    f->y = (Scale){f->ty.low, f->ty.high, HEIGHT - BOTTOM, TOP, false};
    if (p->x_tick)
        f->x = (Scale){x_low / 1.15, x_high * 1.15, left + 8, WIDTH - 12, true};
    else
        f->x = (Scale){f->tx.low, f->tx.high, left + 8, WIDTH - 28, false};
    return true;
}

static void draw_y_axis(Page *p, const Frame *f) {
    char text[32];
    for (int i = 0; i < f->ty.count; i++) {
        double v = tick_at(&f->ty, i), y = scale_at(&f->y, v);
        page_markup(p, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", f->x.from,
                    f->x.to, y, y);
        page_markup(p, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", f->x.from - 6, y + 5,
                    y_text(f, text, v));
    }
}

static void draw_x_tick(Page *p, const Frame *f, double v, const char *text, double *free_from) {
    double x = scale_at(&f->x, v), half = text_width(text) / 2;
    page_markup(p, "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", x, x,
                HEIGHT - BOTTOM, HEIGHT - BOTTOM + 5);
    if (x - half < *free_from) return; /* would touch the number before it */
    page_markup(p, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x, HEIGHT - BOTTOM + 20,
                text);
    *free_from = x + half + GLYPH;
}

static void draw_x_axis(Page *p, const Frame *f) {
    const Plot *plot = f->plot;
    double free_from = 0;
    char text[32];
    page_markup(p, "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n", f->x.from, f->x.to,
                HEIGHT - BOTTOM, HEIGHT - BOTTOM);
    for (int i = 0; i < (plot->x_tick ? plot->x_ticks : f->tx.count); i++) {
        double v = plot->x_tick ? plot->x_tick[i] : tick_at(&f->tx, i);
        draw_x_tick(p, f, v, plot->x_tick ? number_text(text, v, 0) : tick_text(text, &f->tx, v), &free_from);
    }
    page_markup(p, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">", (f->x.from + f->x.to) / 2,
                HEIGHT - 6);
    page_text(p, plot->x_name);
    page_markup(p, "</text>\n");
}

static void draw_dots(Page *p, const Frame *f, const Curve *c) {
    char x[32], y[32];
    for (int i = 0; i < c->n; i++) {
        if (!isfinite(c->y[i])) continue;
        page_markup(p, "<circle class=\"f%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"><title>", c->colour,
                    scale_at(&f->x, c->x[i]), scale_at(&f->y, c->y[i]));
        page_textf(p, "%s %s: %s", f->plot->x_name, number_text(x, c->x[i], 0),
                   f->plot->percent ? y_text(f, y, c->y[i]) : number_text(y, c->y[i], f->ty.digits + 2));
        page_markup(p, "</title></circle>\n");
    }
}

static void draw_curve(Page *p, const Frame *f, const Curve *c) {
    double x[CHART_POINTS], y[CHART_POINTS];
    int n = curve_thin(c->x, c->y, c->n, CHART_POINTS, x, y);
    page_markup(p, "<path class=\"curve k%d%s%s\" d=\"", c->colour, c->dashed ? " dashed" : "",
                c->faint ? " faint" : "");
    for (int i = 0; i < n; i++)
        page_markup(p, "%c%.1f %.1f", i ? 'L' : 'M', scale_at(&f->x, x[i]), scale_at(&f->y, y[i]));
    page_markup(p, "\"/>\n");
    if (c->dots) draw_dots(p, f, c);
}

static void plot_legend(Page *p, const Plot *plot) {
    Key key[16];
    int n = 0;
    for (int i = 0; i < plot->n && n < 16; i++)
        if (plot->curve[i].name)
            key[n++] = (Key){plot->curve[i].name, plot->curve[i].colour, plot->curve[i].dashed};
    chart_legend(p, key, n);
}

void chart_plot(Page *p, const Plot *plot) {
    Frame f;
    if (!frame_of(&f, plot)) return;
    page_markup(p, "<figure>\n<h3>");
    page_text(p, plot->title);
    page_markup(p, "</h3>\n<figcaption>");
    page_text(p, plot->y_name);
    page_markup(p, "</figcaption>\n<svg class=\"plot\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"",
                WIDTH, HEIGHT);
    page_text(p, plot->title);
    page_markup(p, "\">\n");
    draw_y_axis(p, &f);
    draw_x_axis(p, &f);
    for (int i = 0; i < plot->n; i++)
        if (plot->curve[i].n) draw_curve(p, &f, &plot->curve[i]);
    page_markup(p, "</svg>\n");
    plot_legend(p, plot);
    page_markup(p, "</figure>\n");
}

/* ---- bars and squares ---- */

void chart_legend(Page *p, const Key *key, int n) {
    page_markup(p, "<ul class=\"legend\">\n");
    for (int i = 0; i < n; i++) {
        page_markup(p,
                    "<li><svg width=\"22\" height=\"10\" viewBox=\"0 0 22 10\" aria-hidden=\"true\"><line "
                    "class=\"k%d%s\" "
                    "x1=\"1\" x2=\"21\" y1=\"5\" y2=\"5\" stroke-width=\"%d\"/></svg>",
                    key[i].colour, key[i].dashed ? " dashed" : "", key[i].dashed ? 3 : 6);
        page_text(p, key[i].name);
        page_markup(p, "</li>\n");
    }
    page_markup(p, "</ul>\n");
}

static double bar_length(const Bar *b) {
    double sum = 0;
    for (int i = 0; i < b->parts; i++) sum += b->part[i];
    return sum;
}

/* The name and the value are the page's own text, so that they keep their size on a phone; only the bar
 * scales. */
static void draw_bar(Page *p, const Bar *b, double most) {
    double at = 0;
    page_markup(p, "<span>");
    page_text(p, b->name);
    page_markup(p, "</span><svg viewBox=\"0 0 1000 16\" preserveAspectRatio=\"none\" aria-hidden=\"true\">"
                   "<rect class=\"track\" width=\"1000\" height=\"16\"/>");
    for (int i = 0; i < b->parts; i++) {
        double length = 1000 * b->part[i] / most;
        page_markup(p, "<rect class=\"f%d\" x=\"%.1f\" width=\"%.1f\" height=\"16\"/>", b->colour[i], at,
                    length);
        at += length;
    }
    page_markup(p, "</svg><b>");
    page_text(p, b->value);
    page_markup(p, "</b>\n");
}

void chart_bars(Page *p, const char *title, const Bar *bar, int n, double most) {
    for (int i = 0; i < n; i++) most = fmax(most, bar_length(&bar[i]));
    page_markup(p, "<figure>\n<h3>");
    page_text(p, title);
    page_markup(p, "</h3>\n<div class=\"bars\">\n");
    for (int i = 0; i < n; i++) {
        if (bar[i].group) {
            page_markup(p, "<h4>");
            page_text(p, bar[i].group);
            page_markup(p, "</h4>\n");
        }
        draw_bar(p, &bar[i], most > 0 ? most : 1);
    }
    page_markup(p, "</div>\n</figure>\n");
}

/* Squares first .. end of the picture. Each line of them is one dashed stroke: a page may show thousands, and
 * stays small. */
static void draw_squares(Page *p, int64_t first, int64_t end, int columns, int size, int colour) {
    int gap = size > 4 ? 2 : 1, side = size - gap;
    page_markup(p, "<path class=\"k%d\" stroke-width=\"%d\" stroke-dasharray=\"%d %d\" d=\"", colour, side,
                side, gap);
    for (int64_t i = first; i < end;) {
        int64_t column = i % columns, n = columns - column < end - i ? columns - column : end - i;
        page_markup(p, "M%lld %.1fh%lld", (long long)(column * size),
                    (double)(i / columns * size) + side / 2.0, (long long)(n * size - gap));
        i += n;
    }
    page_markup(p, "\"/>");
}

void chart_squares(Page *p, const char *title, const int64_t *count, const int *colour, int parts,
                   int columns, int size) {
    int64_t all = 0, at = 0;
    for (int i = 0; i < parts; i++) all += count[i];
    long long wide = (all < columns ? all : columns) * size, high = (all + columns - 1) / columns * size;
    page_markup(p, "<svg width=\"%lld\" height=\"%lld\" viewBox=\"0 0 %lld %lld\" role=\"img\" aria-label=\"",
                wide, high, wide, high);
    page_text(p, title);
    page_markup(p, "\">");
    for (int i = 0; i < parts; i++) {
        draw_squares(p, at, at + count[i], columns, size, colour[i]);
        at += count[i];
    }
    page_markup(p, "</svg>\n");
}
