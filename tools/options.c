/* options.c -- see options.h. Both "--name value" and "--name=value"; letters as "-p 128". A flag may say
 * "--name=false", for it may be on in a configuration file. "--" ends the options. */
#include "tools/options.h"

#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

/* Room for a value of any type. */
typedef union Value {
    bool flag;
    int64_t whole;
    double real;
    const char *text;
    int32_t choice;
    Range range;
} Value;

static Status read_flag(const Option *o, const char *text, bool *out) {
    static const char *const word[] = {"false", "no", "off", "0", "true", "yes", "on", "1"};
    for (int i = 0; i < 8; i++)
        if (!strcmp(text, word[i])) {
            *out = i >= 4;
            return ST_OK;
        }
    FAIL(ST_ARG, "--%s: \"%s\" is neither true nor false", o->name, text);
}

static Status read_real(const Option *o, const char *text, double *out) {
    char *end;
    *out = strtod(text, &end);
    NEED(end != text && !*end, ST_ARG, "--%s: \"%s\" is not a number", o->name, text);
    NEED(*out >= o->low && *out <= o->high, ST_ARG, "--%s: %s is not within %g to %g", o->name, text, o->low,
         o->high);
    return ST_OK;
}

static Status read_whole(const Option *o, const char *text, int64_t *out) {
    double v;
    TRY(read_real(o, text, &v));
    char *end;
    *out = strtoll(text, &end, 10);
    NEED(!*end, ST_ARG, "--%s: \"%s\" is not a whole number", o->name, text);
    return ST_OK;
}

/* The i-th of "a|b|c"; NULL behind the last. */
static const char *choice_word(const char *choices, int32_t i, size_t *length) {
    const char *p = choices;
    for (; p && i > 0; i--) {
        p = strchr(p, '|');
        p = p ? p + 1 : NULL;
    }
    if (p) *length = strcspn(p, "|");
    return p;
}

static Status read_choice(const Option *o, const char *text, int32_t *out) {
    size_t n = strlen(text), length;
    const char *word;
    for (int32_t i = 0; (word = choice_word(o->argument, i, &length)); i++)
        if (length == n && !strncmp(word, text, n)) {
            *out = i;
            return ST_OK;
        }
    FAIL(ST_ARG, "--%s: \"%s\" is none of %s", o->name, text, o->argument);
}

static Status read_range(const Option *o, const char *text, Range *out) {
    char *end;
    out->low = strtoll(text, &end, 10);
    out->high = *end == '-' && end != text ? strtoll(end + 1, &end, 10) : out->low;
    NEED(end != text && !*end && out->low >= (int64_t)o->low && out->high >= out->low &&
             out->high <= (int64_t)o->high,
         ST_ARG, "--%s: \"%s\" is not a range LO-HI within %g-%g", o->name, text, o->low, o->high);
    return ST_OK;
}

static Status read_value(const Option *o, const char *text, Value *out) {
    switch (o->type) {
    case OPTION_FLAG:
        return read_flag(o, text, &out->flag);
    case OPTION_WHOLE:
        return read_whole(o, text, &out->whole);
    case OPTION_REAL:
        return read_real(o, text, &out->real);
    case OPTION_CHOICE:
        return read_choice(o, text, &out->choice);
    case OPTION_RANGE:
        return read_range(o, text, &out->range);
    case OPTION_TEXT:
    case OPTION_LIST:
        out->text = text;
        return ST_OK;
    }
    return ST_OK;
}

static Status append(const char *name, const char *text, TextList *to) {
    NEED(to->n < LIST_MAX, ST_ARG, "%s: more than %d of them", name, LIST_MAX);
    to->v[to->n++] = text;
    return ST_OK;
}

static void *place_of(const OptionSlot *slot) {
    return (char *)slot->base + slot->row->at;
}

static size_t value_size(OptionType type) {
    static const size_t size[] = {
        [OPTION_FLAG] = sizeof(bool),   [OPTION_WHOLE] = sizeof(int64_t),  [OPTION_REAL] = sizeof(double),
        [OPTION_TEXT] = sizeof(char *), [OPTION_CHOICE] = sizeof(int32_t), [OPTION_RANGE] = sizeof(Range)};
    return size[type];
}

Status option_assign(OptionSlot *slot, const char *text, OptionOrigin origin, int32_t line) {
    Value v;
    TRY(read_value(slot->row, text, &v));
    if (origin < slot->origin) return ST_OK;
    if (slot->row->type == OPTION_LIST) {
        TextList *list = place_of(slot);
        if (origin > slot->origin) list->n = 0;
        TRY(append(slot->row->name, text, list));
    } else {
        memcpy(place_of(slot), &v, value_size(slot->row->type));
    }
    slot->origin = origin;
    slot->line = line;
    return ST_OK;
}

int32_t option_values(const OptionSlot *slot) {
    if (slot->row->type == OPTION_LIST) return ((const TextList *)place_of(slot))->n;
    if (slot->row->type == OPTION_TEXT) return *(const char *const *)place_of(slot) != NULL;
    return 1;
}

/* The fewest digits that give the same number when read. */
static void write_real(double v, char *out) {
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(out, OPTION_TEXT_MAX, "%.*g", digits, v);
        if (strtod(out, NULL) == v) return;
    }
}

static void write_choice(const Option *o, int32_t i, char *out) {
    size_t length = 0;
    const char *word = choice_word(o->argument, i, &length);
    snprintf(out, OPTION_TEXT_MAX, "%.*s", (int)length, word ? word : "");
}

const char *option_text(const OptionSlot *slot, int32_t i, char buffer[OPTION_TEXT_MAX]) {
    const void *at = place_of(slot);
    const Range *range = at;
    switch (slot->row->type) {
    case OPTION_FLAG:
        return *(const bool *)at ? "true" : "false";
    case OPTION_WHOLE:
        snprintf(buffer, OPTION_TEXT_MAX, "%lld", (long long)*(const int64_t *)at);
        break;
    case OPTION_REAL:
        write_real(*(const double *)at, buffer);
        break;
    case OPTION_TEXT:
        return *(const char *const *)at;
    case OPTION_CHOICE:
        write_choice(slot->row, *(const int32_t *)at, buffer);
        break;
    case OPTION_RANGE:
        snprintf(buffer, OPTION_TEXT_MAX, "%lld-%lld", (long long)range->low, (long long)range->high);
        break;
    case OPTION_LIST:
        return ((const TextList *)at)->v[i];
    }
    return buffer;
}

/* ---- looking up ---- */

static int distance(const char *a, const char *b) {
    enum { WORD_MAX = 64 };
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

Status options_add(OptionSet *s, OptionTable table, void *base, OptionScope scope) {
    for (int32_t i = 0; i < table.n; i++) {
        NEED(s->n < OPTIONS_MAX, ST_ARG, "a command has more than %d options", OPTIONS_MAX);
        OptionSlot *slot = &s->slot[s->n++];
        *slot = (OptionSlot){.row = &table.row[i], .base = base, .scope = scope};
        if (table.row[i].fallback) TRY(option_assign(slot, table.row[i].fallback, FROM_DEFAULT, 0));
    }
    return ST_OK;
}

OptionSlot *options_find(OptionSet *s, const char *name, size_t length) {
    for (int32_t i = 0; i < s->n; i++) {
        const char *known = s->slot[i].row->name;
        if (strlen(known) == length && !strncmp(known, name, length)) return &s->slot[i];
    }
    return NULL;
}

OptionSlot *options_find_letter(OptionSet *s, char letter) {
    for (int32_t i = 0; i < s->n; i++)
        if (letter && s->slot[i].row->letter == letter) return &s->slot[i];
    return NULL;
}

const char *options_nearest(const OptionSet *s, const char *name, size_t length) {
    const char *words[OPTIONS_MAX];
    char word[64];
    for (int32_t i = 0; i < s->n; i++) words[i] = s->slot[i].row->name;
    snprintf(word, sizeof word, "%.*s", (int)(length < 60 ? length : 60), name);
    return nearest_word(word, words, s->n);
}

static Status unknown(const OptionSet *s, const char *argument, const char *name, size_t length) {
    const char *near = options_nearest(s, name, length);
    FAIL(ST_ARG, "%s: no such option%s%s%s; --help lists them", argument, near ? "; did you mean --" : "",
         near ? near : "", near ? "?" : "");
}

/* ---- the command line ---- */

typedef struct Line {
    int argc, at;
    char **argv;
} Line;

static Status take(OptionSet *s, Line *l) {
    const char *argument = l->argv[l->at++];
    bool is_long = argument[1] == '-';
    const char *name = argument + (is_long ? 2 : 1), *equals = is_long ? strchr(name, '=') : NULL;
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    OptionSlot *slot = is_long ? options_find(s, name, length) : options_find_letter(s, argument[1]);
    if (!slot || (!is_long && argument[2])) return unknown(s, argument, name, length);
    if (equals) return option_assign(slot, equals + 1, FROM_LINE, 0);
    if (slot->row->type == OPTION_FLAG) return option_assign(slot, "true", FROM_LINE, 0);
    NEED(l->at < l->argc, ST_ARG, "--%s: a value is missing: %s", slot->row->name, slot->row->argument);
    return option_assign(slot, l->argv[l->at++], FROM_LINE, 0);
}

Status options_read_line(OptionSet *s, int argc, char **argv, TextList *rest) {
    Line l = {argc, 0, argv};
    *rest = (TextList){.n = 0};
    while (l.at < argc) {
        const char *a = argv[l.at];
        if (!strcmp(a, "--")) {
            for (l.at++; l.at < argc; l.at++) TRY(append("arguments", argv[l.at], rest));
        } else if (a[0] == '-' && a[1]) {
            TRY(take(s, &l));
        } else {
            TRY(append("arguments", a, rest));
            l.at++;
        }
    }
    return ST_OK;
}

Status options_complete(const OptionSet *s) {
    for (int32_t i = 0; i < s->n; i++) {
        const OptionSlot *slot = &s->slot[i];
        NEED(!slot->row->required || slot->origin != FROM_DEFAULT, ST_ARG, "--%s %s is missing: %s",
             slot->row->name, slot->row->argument, slot->row->help);
    }
    return ST_OK;
}

/* ---- help ---- */

enum { HELP_COLUMN = 30, HELP_WIDTH = 110 };

/* Words up to the width, continued under the column. */
static void print_wrapped(FILE *out, const char *text, int column) {
    int at = column;
    for (const char *p = text; *p;) {
        int word = (int)strcspn(p, " ");
        if (at + word > HELP_WIDTH && at > column) {
            fprintf(out, "\n%*s", column, "");
            at = column;
        }
        fprintf(out, "%.*s%s", word, p, p[word] ? " " : "");
        at += word + 1;
        p += word + (p[word] == ' ');
    }
    fputc('\n', out);
}

static void print_row(FILE *out, const Option *o) {
    char left[80], right[512];
    int n = o->letter ? snprintf(left, sizeof left, "  -%c, --%s", o->letter, o->name)
                      : snprintf(left, sizeof left, "      --%s", o->name);
    if (o->argument) snprintf(left + n, sizeof left - (size_t)n, " %s", o->argument);
    snprintf(right, sizeof right, o->fallback ? "%s [%s]" : "%s", o->help, o->fallback);
    fprintf(out, "%-*s", HELP_COLUMN, left);
    if (strlen(left) >= HELP_COLUMN) fprintf(out, "\n%*s", HELP_COLUMN, "");
    print_wrapped(out, right, HELP_COLUMN);
}

bool options_begins_group(const OptionSet *s, int32_t i) {
    for (int32_t a = 0; a < i; a++)
        if (!strcmp(s->slot[a].row->group, s->slot[i].row->group)) return false;
    return true;
}

void options_print(FILE *out, const OptionSet *s) {
    for (int32_t i = 0; i < s->n; i++) {
        if (!options_begins_group(s, i)) continue;
        fprintf(out, "\n%s\n", s->slot[i].row->group);
        for (int32_t j = i; j < s->n; j++)
            if (!strcmp(s->slot[j].row->group, s->slot[i].row->group)) print_row(out, s->slot[j].row);
    }
}
