/* report.c -- see report.h. The text is HTML that is well-formed XML too, so that a test can check it with a
 * stack of tags. Colours are variables of the style, set once for light and once for dark; paper gets light.
 */
#include "tools/report.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"

struct Page {
    char *text; /* owned */
    size_t used, cap;
    bool in_section, failed;
};

static const char style[] =
    ":root{color-scheme:light dark;--paper:#fff;--card:#f5f6f8;--ink:#1a1e23;--soft:#56606b;--line:#d5dae0;"
    "--c0:#c2410c;--c1:#1d4ed8;--c2:#0e7490;--c3:#6b7280;--c4:#7c3aed;--c5:#a5adb8}\n"
    "@media(prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1d2228;--ink:#e8eaed;--soft:#a4adb8;"
    "--line:#39414a;--c0:#fb923c;--c1:#7aa2ff;--c2:#3cc8dc;--c3:#98a2af;--c4:#b794f6;--c5:#76828f}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"
    "\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif;-webkit-text-size-adjust:100%;overflow-wrap:break-word}\n"
    "main{max-width:1040px;margin:0 auto;padding:20px 16px 48px}\n"
    "h1{font-size:clamp(1.35rem,6vw,1.9rem);line-height:1.2;margin:.4em 0 .3em}\n"
    "h2{font-size:1.3rem;line-height:1.3;margin:0 0 .4em}\n"
    "h3{font-size:1rem;margin:0 0 .2em}\n"
    "section{margin-top:2.2rem;padding-top:1.4rem;border-top:1px solid var(--line)}\n"
    "p{margin:.5em 0;max-width:46rem}\n"
    ".lead{font-size:1.1rem}\n"
    ".note,figcaption{color:var(--soft);font-size:.86rem}\n"
    "code{font-family:ui-monospace,Menlo,Consolas,\"DejaVu Sans Mono\",monospace;font-size:.9em}\n"
    "pre{background:var(--card);border-radius:8px;padding:.7em .9em;white-space:pre-wrap;margin:.6em 0}\n"
    ".tiles,.figures,.cards{display:grid;gap:16px;margin:1rem 0}\n"
    ".tiles{grid-template-columns:repeat(auto-fit,minmax(140px,1fr))}\n"
    ".figures{grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:24px}\n"
    ".tile,.card{background:var(--card);border-radius:10px;padding:12px 14px}\n"
    ".tile b{display:block;font-size:1.4rem;line-height:1.25;font-variant-numeric:tabular-nums}\n"
    ".tile span{color:var(--soft);font-size:.86rem;display:block;line-height:1.35}\n"
    "figure{margin:0;min-width:0}\n"
    "svg{display:block}\n"
    ".plot{width:100%;height:auto;max-width:560px}\n"
    ".plot text{fill:var(--soft);font-size:14px;font-family:inherit}\n"
    ".grid{stroke:var(--line);stroke-width:1}\n"
    ".axis{stroke:var(--soft);stroke-width:1}\n"
    ".curve{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}\n"
    ".dashed{stroke-dasharray:6 5}\n"
    ".faint{stroke-width:1;opacity:.35}\n"
    ".k0{stroke:var(--c0)}.k1{stroke:var(--c1)}.k2{stroke:var(--c2)}.k3{stroke:var(--c3)}"
    ".k4{stroke:var(--c4)}.k5{stroke:var(--c5)}\n"
    ".f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}.f4{fill:var(--c4)}"
    ".f5{fill:var(--c5)}\n"
    ".legend{display:flex;flex-wrap:wrap;gap:4px 16px;padding:0;margin:.3em 0;list-style:none;"
    "font-size:.86rem;color:var(--soft)}\n"
    ".legend li{display:flex;align-items:center;gap:6px}\n"
    ".bars{display:grid;grid-template-columns:minmax(6.5em,auto) 1fr auto;gap:3px 10px;align-items:center;"
    "font-size:.9rem;max-width:560px}\n"
    ".bars h4{grid-column:1/-1;margin:.5em 0 0;font-size:.9rem}\n"
    ".bars svg{width:100%;height:16px;min-width:0}\n"
    ".bars b{font-weight:600;font-variant-numeric:tabular-nums;text-align:right}\n"
    ".track{fill:var(--card)}\n"
    ".cards{grid-template-columns:repeat(auto-fit,minmax(min(100%,292px),1fr))}\n"
    ".card{border-top:4px solid var(--c3);margin:0}.card p{margin:.35em 0}.card svg{margin:.7em "
    "0;max-width:100%}\n"
    ".card.k0{border-color:var(--c0)}.card.k1{border-color:var(--c1)}\n"
    ".scroll{overflow-x:auto}\n"
    "table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:.6em 0}\n"
    "th,td{padding:4px 12px 4px 0;text-align:right;border-bottom:1px solid var(--line);"
    "vertical-align:baseline}\n"
    "th{color:var(--soft);font-weight:600}\n"
    "td{white-space:nowrap}th:first-child,td:first-child{text-align:left;white-space:normal}\n"
    "@media(max-width:480px){table{font-size:.84rem}th,td{padding-right:8px}.tile b{font-size:1.1rem}}\n"
    "ul{padding-left:1.2em;max-width:46rem}\n"
    "@media print{:root{color-scheme:light;--paper:#fff;--card:#f1f2f4;--ink:#000;--soft:#444;--line:#bbb;"
    "--c0:#c2410c;--c1:#1d4ed8;--c2:#0e7490;--c3:#6b7280;--c4:#7c3aed;--c5:#a5adb8}\n"
    "body{font-size:11pt}main{max-width:none;padding:0}.tile,.card,.bars svg,pre"
    "{-webkit-print-color-adjust:exact;print-color-adjust:exact}\n"
    ".tiles{grid-template-columns:repeat(5,1fr)}.figures{grid-template-columns:1fr 1fr}"
    ".cards{grid-template-columns:repeat(3,1fr)}\n"
    "figure,.tile,.card,.legend,table,p,pre{break-inside:avoid}h2,p:has(+:not(p)){break-after:avoid}\n"
    ".scroll{overflow:visible}}\n";

/* ---- text ---- */

static bool make_room(Page *p, size_t bytes) {
    size_t cap = p->cap ? p->cap : 1 << 14;
    while (cap < p->used + bytes + 1) cap *= 2;
    if (cap == p->cap) return true;
    char *text = p->failed ? NULL : realloc(p->text, cap);
    p->failed = !text;
    if (text) p->text = text, p->cap = cap;
    return !p->failed;
}

static void put(Page *p, const char *s, size_t n) {
    if (!make_room(p, n)) return;
    memcpy(p->text + p->used, s, n);
    p->used += n;
    p->text[p->used] = '\0';
}

static void put_word(Page *p, const char *s) {
    put(p, s, strlen(s));
}

static void put_list(Page *p, const char *format, va_list args) {
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (n < 0 || !make_room(p, (size_t)n)) return;
    vsnprintf(p->text + p->used, (size_t)n + 1, format, args);
    p->used += (size_t)n;
}

void page_markup(Page *p, const char *format, ...) {
    va_list args;
    va_start(args, format);
    put_list(p, format, args);
    va_end(args);
}

/* Bytes of the character at s when it is well-formed UTF-8 that XML allows, else 0. */
static size_t character(const unsigned char *s) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = s[0] < 0x80 ? 1 : s[0] >> 5 == 6 ? 2 : s[0] >> 4 == 14 ? 3 : s[0] >> 3 == 30 ? 4 : 0;
    uint32_t c = n == 1 ? s[0] : s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if (s[i] >> 6 != 2) return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    bool control = c < 0x20 && c != '\t' && c != '\n' && c != '\r';
    if (n == 0 || c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
    return control || c == 0x7f || (c & 0xfffe) == 0xfffe ? 0 : n;
}

void page_text(Page *p, const char *text) {
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        size_t n = character(s);
        switch (*s) {
        case '&':
            put_word(p, "&amp;");
            break;
        case '<':
            put_word(p, "&lt;");
            break;
        case '>':
            put_word(p, "&gt;");
            break;
        case '"':
            put_word(p, "&quot;");
            break;
        case '\'':
            put_word(p, "&#39;");
            break;
        default:
            n ? put(p, (const char *)s, n) : put_word(p, "\xEF\xBF\xBD");
        }
        s += n ? n : 1;
    }
}

static void put_text(Page *p, const char *format, va_list args) {
    char text[1000];
    vsnprintf(text, sizeof text, format, args);
    page_text(p, text);
}

void page_textf(Page *p, const char *format, ...) {
    va_list args;
    va_start(args, format);
    put_text(p, format, args);
    va_end(args);
}

/* ---- the page ---- */

Status page_open(Page **out, const char *title, const char *lead) {
    Page *p = calloc(1, sizeof *p);
    *out = p;
    NEED(p, ST_NOMEM, "no memory for a page");
    put_word(p, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
                "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>");
    page_text(p, title);
    put_word(p, "</title>\n<style>\n");
    put_word(p, style);
    put_word(p, "</style>\n</head>\n<body>\n<main>\n<h1>");
    page_text(p, title);
    put_word(p, "</h1>\n");
    if (lead) {
        put_word(p, "<p class=\"lead\">");
        page_text(p, lead);
        put_word(p, "</p>\n");
    }
    return ST_OK;
}

void page_close(Page *p) {
    if (!p) return;
    free(p->text);
    free(p);
}

static void end_section(Page *p) {
    if (p->in_section) put_word(p, "</section>\n");
    p->in_section = false;
}

Status page_write(Page *p, const char *path) {
    end_section(p);
    put_word(p, "</main>\n</body>\n</html>\n");
    NEED(!p->failed, ST_NOMEM, "%s: no memory for the page", path);
    Writer *w;
    TRY(writer_open(&w, path));
    Status st = writer_put(w, p->text, p->used);
    if (!st) return writer_finish(&w);
    writer_abandon(&w);
    return st;
}

/* ---- parts ---- */

void page_section(Page *p, const char *heading) {
    end_section(p);
    put_word(p, "<section>\n<h2>");
    page_text(p, heading);
    put_word(p, "</h2>\n");
    p->in_section = true;
}

void page_paragraph(Page *p, const char *format, ...) {
    va_list args;
    va_start(args, format);
    put_word(p, "<p>");
    put_text(p, format, args);
    put_word(p, "</p>\n");
    va_end(args);
}

void page_note(Page *p, const char *format, ...) {
    va_list args;
    va_start(args, format);
    put_word(p, "<p class=\"note\">");
    put_text(p, format, args);
    put_word(p, "</p>\n");
    va_end(args);
}

void page_tiles_open(Page *p) {
    put_word(p, "<div class=\"tiles\">\n");
}

void page_tile(Page *p, const char *value, const char *label) {
    put_word(p, "<div class=\"tile\"><b>");
    page_text(p, value);
    put_word(p, "</b><span>");
    page_text(p, label);
    put_word(p, "</span></div>\n");
}

void page_tiles_close(Page *p) {
    put_word(p, "</div>\n");
}

void page_figures_open(Page *p) {
    put_word(p, "<div class=\"figures\">\n");
}

void page_figures_close(Page *p) {
    put_word(p, "</div>\n");
}

static void put_cells(Page *p, const char *tag, const char *const *cell, int columns) {
    put_word(p, "<tr>");
    for (int i = 0; i < columns; i++) {
        page_markup(p, "<%s>", tag);
        page_text(p, cell[i]);
        page_markup(p, "</%s>", tag);
    }
    put_word(p, "</tr>\n");
}

void page_table_open(Page *p, const char *const *heading, int columns) {
    put_word(p, "<div class=\"scroll\"><table>\n");
    put_cells(p, "th", heading, columns);
}

void page_table_row(Page *p, const char *const *cell, int columns) {
    put_cells(p, "td", cell, columns);
}

void page_table_close(Page *p) {
    put_word(p, "</table></div>\n");
}

const char *number_text(char out[32], double v, int digits) {
    char plain[32];
    if (!isfinite(v) || snprintf(plain, sizeof plain, "%.*f", digits, v) > 22) return strcpy(out, "-");
    int whole = (int)strcspn(plain, "."), first = plain[0] == '-', n = 0;
    for (int i = 0; plain[i]; i++) {
        if (i > first && i < whole && (whole - i) % 3 == 0) out[n++] = ',';
        out[n++] = plain[i];
    }
    out[n] = '\0';
    return out;
}

const char *duration_text(char out[32], double s) {
    if (s < 59.95)
        snprintf(out, 32, "%.1f\u00a0s", s);
    else if (s < 3599.5)
        snprintf(out, 32, "%d\u00a0min %02d\u00a0s", (int)(s + 0.5) / 60, (int)(s + 0.5) % 60);
    else
        snprintf(out, 32, "%.0f\u00a0h %02d\u00a0min", floor(s / 3600), (int)fmod(s / 60, 60));
    return out;
}
