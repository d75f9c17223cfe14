/* config.c -- see config.h. */
#include "tools/config.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"

enum { VARIABLE_MAX = 96 };

/* ---- lines ---- */

static char *skip_blanks(char *p) {
    while (*p == ' ' || *p == '\t') p++;
    return p;
}

static void cut_blanks(char *from, char *end) {
    while (end > from && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r')) end--;
    *end = '\0';
}

/* "..." in place, with \" \\ and \n; what follows may only be a comment. */
static Status unquote(char *p, char **value) {
    char *to = *value = p + 1;
    for (p++; *p && *p != '"'; p++) {
        if (*p == '\\' && p[1]) {
            p++;
            NEED(*p == '"' || *p == '\\' || *p == 'n', ST_ARG, "\\%c is none of \\\" \\\\ \\n", *p);
            *to++ = *p == 'n' ? '\n' : *p;
        } else {
            *to++ = *p;
        }
    }
    NEED(*p == '"', ST_ARG, "the quotation has no end");
    char *after = skip_blanks(p + 1);
    NEED(!*after || *after == '#' || *after == '\r', ST_ARG, "\"%.20s\" stands behind a quotation", after);
    *to = '\0';
    return ST_OK;
}

static Status read_value(char *p, char **value) {
    p = skip_blanks(p);
    if (*p == '"') return unquote(p, value);
    *value = p;
    while (*p && !(*p == '#' && (p == *value || p[-1] == ' ' || p[-1] == '\t'))) p++;
    cut_blanks(*value, p);
    return ST_OK;
}

/* ---- a file ---- */

/* A file that is being read for one command. */
typedef struct Reading {
    OptionSet *set;
    const Command *command;
    const Command *section; /* NULL: before the first one */
} Reading;

static Status begin_section(Reading *r, char *p) {
    char *end = strchr(p, ']');
    NEED(end, ST_ARG, "\"%.40s\" has no ]", p);
    *end = '\0';
    r->section = command_find(p + 1);
    const char *near = command_nearest(p + 1);
    NEED(r->section, ST_ARG, "[%s]: no such command%s%s%s", p + 1, near ? "; did you mean [" : "",
         near ? near : "", near ? "]?" : "");
    end = skip_blanks(end + 1);
    NEED(!*end || *end == '#' || *end == '\r', ST_ARG, "\"%.20s\" stands behind [%s]", end, p + 1);
    return ST_OK;
}

static Status assign_here(OptionSlot *slot, const char *value, OptionOrigin origin, int32_t line) {
    NEED(slot->origin != origin || slot->row->type == OPTION_LIST, ST_ARG, "%s stands in line %d already",
         slot->row->name, slot->line);
    return option_assign(slot, value, origin, line);
}

/* Names that were looked at in vain. */
enum { NAMES_MAX = 1024 };
typedef struct Names {
    const char *v[NAMES_MAX];
    int32_t n;
} Names;

/* Whether a command has an option of that name, and would take the value. */
static Status try_elsewhere(const Command *c, const char *name, const char *value, bool *known, Names *seen) {
    CommandOptions o;
    TRY(command_options_open(&o, c));
    OptionSlot *slot = options_find(&o.set, name, strlen(name));
    *known = slot && slot->scope != OPTION_LINE;
    Status st = *known ? option_assign(slot, value, FROM_SECTION, 0) : ST_OK;
    for (int32_t i = 0; !*known && i < o.set.n && seen->n < NAMES_MAX; i++)
        if (o.set.slot[i].scope != OPTION_LINE) seen->v[seen->n++] = o.set.slot[i].row->name;
    command_options_close(&o);
    return st;
}

/* For a name that is not this command's: it must be one of the section's command, or of some command at all.
 */
static Status check_elsewhere(const Command *section, const char *name, const char *value) {
    Names seen = {.n = 0};
    for (int i = 0; commands[i]; i++) {
        bool known = false;
        if (section && section != commands[i]) continue;
        TRY(try_elsewhere(commands[i], name, value, &known, &seen));
        if (known) return ST_OK;
    }
    const char *near = nearest_word(name, seen.v, seen.n);
    FAIL(ST_ARG, "\"%s\" is no option of %s%s%s%s", name, section ? section->name : "any command",
         near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static Status read_setting(Reading *r, const char *name, const char *value, int32_t line) {
    bool mine = !r->section || r->section == r->command;
    OptionSlot *slot = mine ? options_find(r->set, name, strlen(name)) : NULL;
    NEED(!slot || slot->scope != OPTION_LINE, ST_ARG, "%s stands on the command line only", name);
    return slot ? assign_here(slot, value, r->section ? FROM_SECTION : FROM_FILE, line)
                : check_elsewhere(r->section, name, value);
}

static Status read_line(Reading *r, char *p, int32_t line) {
    p = skip_blanks(p);
    cut_blanks(p, p + strlen(p));
    if (!*p || *p == '#') return ST_OK;
    if (*p == '[') return begin_section(r, p);
    char *equals = strchr(p, '='), *value;
    NEED(equals, ST_ARG, "\"%.40s\" is neither \"name = value\" nor [command]", p);
    TRY(read_value(equals + 1, &value));
    cut_blanks(p, equals);
    return read_setting(r, p, value, line);
}

Status config_read_file(OptionSet *s, const Command *c, const char *path, char **text) {
    size_t n;
    TRY(file_read(text, &n, path));
    NEED(strlen(*text) == n, ST_ARG, "%s: byte %zu is zero; a configuration is text", path, strlen(*text));
    Reading r = {s, c, NULL};
    int32_t line = 0;
    for (char *p = *text, *next; p; p = next) {
        next = strchr(p, '\n');
        if (next) *next++ = '\0';
        Status st = read_line(&r, p, ++line);
        if (st) return status_prefix(st, "%s:%d", path, line);
    }
    return ST_OK;
}

/* ---- the environment ---- */

extern char **environ;

static size_t add_upper(char *out, size_t cap, size_t n, const char *text) {
    for (; *text && n + 1 < cap; text++) out[n++] = *text == '-' ? '_' : (char)toupper((unsigned char)*text);
    out[n] = '\0';
    return n;
}

void config_variable(char *out, size_t cap, const Command *c, const OptionSlot *slot) {
    size_t n = add_upper(out, cap, 0, "cartridge-");
    if (slot->scope == OPTION_OWN) n = add_upper(out, cap, add_upper(out, cap, n, c->name), "-");
    add_upper(out, cap, n, slot->row->name);
}

static Status read_variable(OptionSlot *slot, char *value) {
    if (slot->row->type != OPTION_LIST) return option_assign(slot, value, FROM_ENVIRONMENT, 0);
    for (char *part; (part = strsep(&value, ":"));)
        if (*part) TRY(option_assign(slot, part, FROM_ENVIRONMENT, 0));
    return ST_OK;
}

/* NULL: an option of this command has that variable. */
static Status check_variable(const OptionSet *s, const Command *c, const char *variable, size_t length) {
    char name[OPTIONS_MAX][VARIABLE_MAX], seen[VARIABLE_MAX];
    const char *words[OPTIONS_MAX];
    int32_t n = 0;
    for (int32_t i = 0; i < s->n; i++) {
        if (s->slot[i].scope != OPTION_OWN) continue;
        config_variable(name[n], VARIABLE_MAX, c, &s->slot[i]);
        words[n] = name[n];
        if (strlen(name[n]) == length && !strncmp(name[n], variable, length)) return ST_OK;
        n++;
    }
    snprintf(seen, sizeof seen, "%.*s", (int)(length < 90 ? length : 90), variable);
    const char *near = nearest_word(seen, words, n);
    FAIL(ST_ARG, "the environment has %s, which is no option of %s%s%s%s; unset it", seen, c->name,
         near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

static Status check_variables(const OptionSet *s, const Command *c) {
    char start[VARIABLE_MAX];
    size_t n = add_upper(start, sizeof start, add_upper(start, sizeof start, 0, "cartridge-"), c->name);
    n = add_upper(start, sizeof start, n, "-");
    for (char **e = environ; e && *e; e++)
        if (!strncmp(*e, start, n) && strchr(*e, '=')) TRY(check_variable(s, c, *e, strcspn(*e, "=")));
    return ST_OK;
}

Status config_read_environment(OptionSet *s, const Command *c, char **text) {
    size_t all = 1;
    *text = NULL;
    TRY(check_variables(s, c));
    for (char **e = environ; e && *e; e++) all += strlen(*e) + 1;
    char *copy = *text =
        malloc(all); /* lists are cut into their parts, and others may change the environment */
    NEED(copy, ST_NOMEM, "no memory to read the environment");
    for (int32_t i = 0; i < s->n; i++) {
        char variable[VARIABLE_MAX];
        if (s->slot[i].scope == OPTION_LINE) continue;
        config_variable(variable, sizeof variable, c, &s->slot[i]);
        const char *value = getenv(variable);
        if (!value || !*value) continue;
        size_t n = strlen(value) + 1;
        char *mine = memcpy(copy, value, n);
        copy += n;
        Status st = read_variable(&s->slot[i], mine);
        if (st) return status_prefix(st, "%s", variable);
    }
    return ST_OK;
}

/* ---- printing ---- */

static bool wants_quotes(const char *v) {
    size_t n = strlen(v);
    return n == 0 || strpbrk(v, "#\"\n\r") || v[0] == ' ' || v[0] == '\t' || v[n - 1] == ' ' ||
           v[n - 1] == '\t';
}

/* Returns the width. */
static int print_value(FILE *out, const char *v) {
    if (!wants_quotes(v)) return fprintf(out, "%s", v);
    int width = 2;
    fputc('"', out);
    for (; *v; v++, width++) {
        if (*v == '"' || *v == '\\' || *v == '\n') fputc('\\', out), width++;
        fputc(*v == '\n' ? 'n' : *v, out);
    }
    fputc('"', out);
    return width;
}

static void print_origin(FILE *out, const OptionSlot *slot, const Command *c, const char *path) {
    char variable[VARIABLE_MAX];
    switch (slot->origin) {
    case FROM_DEFAULT:
        fprintf(out, "# default\n");
        break;
    case FROM_FILE:
    case FROM_SECTION:
        fprintf(out, "# %s:%d\n", path, slot->line);
        break;
    case FROM_ENVIRONMENT:
        config_variable(variable, sizeof variable, c, slot);
        fprintf(out, "# environment, %s\n", variable);
        break;
    case FROM_LINE:
        fprintf(out, "# command line\n");
        break;
    }
}

enum { NAME_COLUMN = 18, ORIGIN_COLUMN = 52 };

static void print_slot(FILE *out, const OptionSlot *slot, const Command *c, const char *path) {
    const Option *o = slot->row;
    int32_t n = option_values(slot);
    if (n == 0)
        fprintf(out, "# %-*s =   (%s) %s\n", NAME_COLUMN - 2, o->name, o->required ? "required" : "not set",
                o->argument);
    for (int32_t i = 0; i < n; i++) {
        char number[OPTION_TEXT_MAX];
        int width = fprintf(out, "%-*s = ", NAME_COLUMN, o->name);
        width += print_value(out, option_text(slot, i, number));
        fprintf(out, "%*s", width < ORIGIN_COLUMN ? ORIGIN_COLUMN - width : 1, "");
        print_origin(out, slot, c, path);
    }
}

void config_print(FILE *out, const OptionSet *s, const Command *c, const char *path) {
    fprintf(out, "[%s]\n", c->name);
    for (int32_t i = 0; i < s->n; i++)
        if (s->slot[i].scope != OPTION_LINE) print_slot(out, &s->slot[i], c, path);
}
