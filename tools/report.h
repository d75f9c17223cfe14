/* report.h -- a page to look at, in one HTML file that needs nothing else: no script, no network, no font.
 *
 * A page is written from the top to the bottom into memory and lands in its file as a whole. A failure to get
 * memory is kept and comes out at the end, so that what builds a page is a plain list of its parts. */
#ifndef TOOLS_REPORT_H
#define TOOLS_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

typedef struct Page Page;

/* Starts a page: head, style, title and a first paragraph under it (NULL: none). Both are escaped. */
Status page_open(Page **out, const char *title, const char *lead);
void page_close(Page *p); /* fine on NULL */
/* Ends the page and puts it into the file, which is then complete or not there (kernels/base/file.h). */
Status page_write(Page *p, const char *path);

/* Markup of our own, as it is: only numbers and fixed words may be formatted into it. */
void page_markup(Page *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Text from anywhere: escaped; bytes that are no UTF-8 and characters that XML does not have become U+FFFD.
 */
void page_text(Page *p, const char *text);
/* The same, formatted first; cut at 1,000 bytes. */
void page_textf(Page *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A heading; everything up to the next one belongs to it. */
void page_section(Page *p, const char *heading);
void page_paragraph(Page *p, const char *format, ...) __attribute__((format(printf, 2, 3))); /* escaped */
/* A smaller paragraph, for how a thing was measured. */
void page_note(Page *p, const char *format, ...) __attribute__((format(printf, 2, 3))); /* escaped */

/* Large numbers with a line under each, side by side: open, tiles, close. */
void page_tiles_open(Page *p);
void page_tile(Page *p, const char *value, const char *label);
void page_tiles_close(Page *p);

/* Figures side by side where there is room. */
void page_figures_open(Page *p);
void page_figures_close(Page *p);

/* A table whose first column is text and whose others are numbers: open, rows of `columns` cells, close. */
void page_table_open(Page *p, const char *const *heading, int columns);
void page_table_row(Page *p, const char *const *cell, int columns);
void page_table_close(Page *p);

/* 1234567.8 with one digit behind the point: "1,234,567.8"; "-" for what is no number. */
const char *number_text(char out[32], double v, int digits);
/* "0.8 s", "2 min 05 s", "1 h 10 min", with blanks at which no line breaks. */
const char *duration_text(char out[32], double seconds);

#endif
