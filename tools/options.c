/* options.c -- see options.h. Both "--name value" and "--name=value"; letters as "-p 128". "--" ends the
 * options. */
#include "tools/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

static Status parse_number(const Option *o, const char *text, double *out) {
    char *end;
    *out = strtod(text, &end);
    NEED(end != text && !*end, ST_ARG, "--%s: \"%s\" is not a number", o->name, text);
    NEED(*out >= o->low && *out <= o->high, ST_ARG, "--%s: %s is not within %g to %g", o->name, text, o->low,
         o->high);
    return ST_OK;
}

static Status set_whole(const Option *o, const char *text, int64_t *to) {
    double v;
    TRY(parse_number(o, text, &v));
    char *end;
    *to = strtoll(text, &end, 10);
    NEED(!*end, ST_ARG, "--%s: \"%s\" is not a whole number", o->name, text);
    return ST_OK;
}

static Status set_choice(const Option *o, const char *text, int32_t *to) {
    size_t n = strlen(text);
    int32_t i = 0;
    for (const char *p = o->argument; p; i++) {
        const char *end = strchr(p, '|');
        size_t length = end ? (size_t)(end - p) : strlen(p);
        if (length == n && !strncmp(p, text, n)) {
            *to = i;
            return ST_OK;
        }
        p = end ? end + 1 : NULL;
    }
    FAIL(ST_ARG, "--%s: \"%s\" is none of %s", o->name, text, o->argument);
}

static Status set_range(const Option *o, const char *text, Range *to) {
    char *end;
    to->low = strtoll(text, &end, 10);
    to->high = *end == '-' && end != text ? strtoll(end + 1, &end, 10) : to->low;
    NEED(end != text && !*end && to->low >= (int64_t)o->low && to->high >= to->low &&
             to->high <= (int64_t)o->high,
         ST_ARG, "--%s: \"%s\" is not a range LO-HI within %g-%g", o->name, text, o->low, o->high);
    return ST_OK;
}

static Status append(const char *name, const char *text, TextList *to) {
    NEED(to->n < LIST_MAX, ST_ARG, "%s: more than %d of them", name, LIST_MAX);
    to->v[to->n++] = text;
    return ST_OK;
}

static Status set(const Option *o, void *base, const char *text) {
    void *to = (char *)base + o->at;
    switch (o->type) {
    case OPTION_FLAG:
        *(bool *)to = true;
        return ST_OK;
    case OPTION_WHOLE:
        return set_whole(o, text, to);
    case OPTION_REAL:
        return parse_number(o, text, to);
    case OPTION_TEXT:
        *(const char **)to = text;
        return ST_OK;
    case OPTION_CHOICE:
        return set_choice(o, text, to);
    case OPTION_RANGE:
        return set_range(o, text, to);
    case OPTION_LIST:
        return append(o->name, text, to);
    }
    return ST_OK;
}

/* ---- looking up ---- */

static int distance(const char *a, const char *b) {
    enum { WORD_MAX = 40 };
    int row[WORD_MAX + 1], m = (int)strlen(b);
    if (m > WORD_MAX || strlen(a) > WORD_MAX) return WORD_MAX;
    for (int j = 0; j <= m; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int change = diagonal + (a[i - 1] != b[j - 1]),
                other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = change < other ? change : other;
        }
    }
    return row[m];
}

const char *nearest_word(const char *word, const char *const *words, int32_t n) {
    const char *best = NULL;
    int least = (int)strlen(word) / 2 + 1;
    for (int32_t i = 0; i < n; i++) {
        int d = distance(word, words[i]);
        if (d < least) least = d, best = words[i];
    }
    return best;
}

typedef struct Found {
    const Option *o;
    void *base;
} Found;

static Found find(const OptionTable *t, void *const *base, int32_t n, const char *name, size_t length,
                  char letter) {
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < t[i].n; j++) {
            const Option *o = &t[i].row[j];
            bool same =
                letter ? o->letter == letter : strlen(o->name) == length && !strncmp(o->name, name, length);
            if (same) return (Found){o, base[i]};
        }
    return (Found){NULL, NULL};
}

static Status unknown(const OptionTable *t, int32_t n, const char *argument, const char *name,
                      size_t length) {
    const char *words[256];
    char word[64];
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < t[i].n && count < 256; j++) words[count++] = t[i].row[j].name;
    snprintf(word, sizeof word, "%.*s", (int)(length < 60 ? length : 60), name);
    const char *near = nearest_word(word, words, count);
    FAIL(ST_ARG, "%s: no such option%s%s%s; --help lists them", argument, near ? "; did you mean --" : "",
         near ? near : "", near ? "?" : "");
}

/* ---- the command line ---- */

typedef struct Line {
    int argc, at;
    char **argv;
} Line;

static Status take(const OptionTable *t, void *const *base, int32_t n, Line *l) {
    const char *argument = l->argv[l->at++];
    bool is_long = argument[1] == '-';
    const char *name = argument + (is_long ? 2 : 1), *equals = is_long ? strchr(name, '=') : NULL;
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    Found f = find(t, base, n, name, length, is_long ? 0 : argument[1]);
    if (!f.o || (!is_long && argument[2])) return unknown(t, n, argument, name, length);
    if (f.o->type == OPTION_FLAG) {
        NEED(!equals, ST_ARG, "--%s takes no value", f.o->name);
        return set(f.o, f.base, NULL);
    }
    if (equals) return set(f.o, f.base, equals + 1);
    NEED(l->at < l->argc, ST_ARG, "--%s: a value is missing: %s", f.o->name, f.o->argument);
    return set(f.o, f.base, l->argv[l->at++]);
}

static Status set_defaults(const OptionTable *t, void *base) {
    for (int32_t j = 0; j < t->n; j++)
        if (t->row[j].fallback && t->row[j].type != OPTION_FLAG)
            TRY(set(&t->row[j], base, t->row[j].fallback));
    return ST_OK;
}

static Status check_required(const OptionTable *t, const void *base) {
    for (int32_t j = 0; j < t->n; j++) {
        const Option *o = &t->row[j];
        if (!o->required) continue;
        const void *at = (const char *)base + o->at;
        bool given = o->type == OPTION_LIST   ? ((const TextList *)at)->n > 0
                     : o->type == OPTION_TEXT ? *(const char *const *)at != NULL
                                              : *(const int64_t *)at != 0;
        NEED(given, ST_ARG, "--%s %s is missing: %s", o->name, o->argument, o->help);
    }
    return ST_OK;
}

static bool wants_help(int argc, char **argv) {
    for (int i = 0; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return true;
    return false;
}

Status options_parse(const OptionTable *tables, void *const *base, int32_t n, int argc, char **argv,
                     TextList *rest) {
    Line l = {argc, 0, argv};
    *rest = (TextList){.n = 0};
    for (int32_t i = 0; i < n; i++) TRY(set_defaults(&tables[i], base[i]));
    while (l.at < argc) {
        const char *a = argv[l.at];
        if (!strcmp(a, "--")) {
            for (l.at++; l.at < argc; l.at++) TRY(append("arguments", argv[l.at], rest));
        } else if (a[0] == '-' && a[1]) {
            TRY(take(tables, base, n, &l));
        } else {
            TRY(append("arguments", a, rest));
            l.at++;
        }
    }
    if (wants_help(argc, argv)) return ST_OK;
    for (int32_t i = 0; i < n; i++) TRY(check_required(&tables[i], base[i]));
    return ST_OK;
}

/* ---- help ---- */

enum { HELP_COLUMN = 30, HELP_WIDTH = 110 };

/* Words up to the width, continued under the column. */
static void print_wrapped(const char *text, int column) {
    int at = column;
    for (const char *p = text; *p;) {
        int word = (int)strcspn(p, " ");
        if (at + word > HELP_WIDTH && at > column) {
            printf("\n%*s", column, "");
            at = column;
        }
        printf("%.*s%s", word, p, p[word] ? " " : "");
        at += word + 1;
        p += word + (p[word] == ' ');
    }
    putchar('\n');
}

static void print_row(const Option *o) {
    char left[80], right[512];
    int n = o->letter ? snprintf(left, sizeof left, "  -%c, --%s", o->letter, o->name)
                      : snprintf(left, sizeof left, "      --%s", o->name);
    if (o->argument) snprintf(left + n, sizeof left - (size_t)n, " %s", o->argument);
    snprintf(right, sizeof right, o->fallback ? "%s [%s]" : "%s", o->help, o->fallback);
    printf("%-*s", HELP_COLUMN, left);
    if (strlen(left) >= HELP_COLUMN) printf("\n%*s", HELP_COLUMN, "");
    print_wrapped(right, HELP_COLUMN);
}

static bool group_is_new(const OptionTable *t, int32_t i, int32_t j) {
    for (int32_t a = 0; a <= i; a++)
        for (int32_t b = 0; b < (a < i ? t[a].n : j); b++)
            if (!strcmp(t[a].row[b].group, t[i].row[j].group)) return false;
    return true;
}

void options_print(const OptionTable *t, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < t[i].n; j++) {
            if (!group_is_new(t, i, j)) continue;
            printf("\n%s\n", t[i].row[j].group);
            for (int32_t a = 0; a < n; a++)
                for (int32_t b = 0; b < t[a].n; b++)
                    if (!strcmp(t[a].row[b].group, t[i].row[j].group)) print_row(&t[a].row[b]);
        }
}
