/* options.h -- one table of options per command, from which come the parser, the help, man pages, completion,
 * configuration files and the environment.
 *
 * A row says everything about an option: names, type, default, range, group, help, and where its value goes
 * (an offset into the command's own struct), so that none of these can disagree. A value may come from
 * several places; each value remembers its origin, and the higher origin wins in whatever order they are
 * read. */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "kernels/base/status.h"

typedef enum OptionType {
    OPTION_FLAG,   /* bool */
    OPTION_WHOLE,  /* int64_t in [low, high] */
    OPTION_REAL,   /* double in [low, high] */
    OPTION_TEXT,   /* const char *, borrowed from where it was read */
    OPTION_CHOICE, /* int32_t: which of `argument`, separated by | */
    OPTION_RANGE,  /* Range: LO-HI */
    OPTION_LIST,   /* TextList: the option may be repeated; order kept */
} OptionType;

enum { LIST_MAX = 32 };
typedef struct TextList {
    const char *v[LIST_MAX];
    int32_t n;
} TextList;
typedef struct Range {
    int64_t low, high;
} Range;

typedef struct Option {
    const char *name; /* without the dashes */
    char letter;      /* 0: none */
    OptionType type;
    const char *argument; /* as the help shows it: "N", "FILE", "a|b|c"; NULL for flags */
    const char *fallback; /* the default as one would write it; NULL: none (NULL, 0, false) */
    double low, high;     /* of numbers */
    const char *group;    /* heading in the help */
    const char *help;
    size_t at; /* offset into the command's struct */
    bool required;
} Option;

typedef struct OptionTable {
    const Option *row;
    int32_t n;
} OptionTable;
#define OPTION_COUNT(rows) ((int32_t)(sizeof(rows) / sizeof *(rows)))

/* ---- the options of one command, with their values ---- */

/* Rising: a value replaces one of a lower or the same origin. */
typedef enum OptionOrigin {
    FROM_DEFAULT,
    FROM_FILE,    /* a configuration file, before its first section */
    FROM_SECTION, /* the command's section of it */
    FROM_ENVIRONMENT,
    FROM_LINE, /* the command line */
} OptionOrigin;

typedef enum OptionScope {
    OPTION_OWN,    /* of one command */
    OPTION_COMMON, /* every command has it */
    OPTION_LINE,   /* every command has it, and it makes sense on the command line only */
} OptionScope;

typedef struct OptionSlot {
    const Option *row;
    void *base; /* the struct that the value goes into, borrowed */
    OptionScope scope;
    OptionOrigin origin;
    int32_t line; /* in the configuration file */
} OptionSlot;

enum { OPTIONS_MAX = 128 };
typedef struct OptionSet {
    OptionSlot slot[OPTIONS_MAX];
    int32_t n;
} OptionSet;

/* The rows of a table, written into base, at their defaults. ST_ARG: a default that is no value. */
Status options_add(OptionSet *s, OptionTable table, void *base, OptionScope scope);

/* NULL: there is none. By name (of that length), or by letter. */
OptionSlot *options_find(OptionSet *s, const char *name, size_t length);
OptionSlot *options_find_letter(OptionSet *s, char letter);
/* The known name that is nearest to one that is not; NULL: none is near. */
const char *options_nearest(const OptionSet *s, const char *name, size_t length);

/* Reads a value as one writes it ("true" or "false" for flags) and keeps it unless a higher origin has
 * spoken; what does not count is checked all the same. Lists grow by it, or start again when the origin is a
 * higher one. ST_ARG names the option, the value and what was wanted. */
Status option_assign(OptionSlot *slot, const char *text, OptionOrigin origin, int32_t line);

/* The command line; what is no option goes to *rest, in order. ST_ARG, also for an unknown option: with the
 * nearest. */
Status options_read_line(OptionSet *s, int argc, char **argv, TextList *rest);

/* ST_ARG names the first required option that has no value. */
Status options_complete(const OptionSet *s);

/* How many values it has: 0 or 1, more for lists. */
int32_t option_values(const OptionSlot *slot);
/* The i-th as one would write it; reading it back gives the same bits. What is not a text already is written
 * into the buffer. */
enum { OPTION_TEXT_MAX = 64 };
const char *option_text(const OptionSlot *slot, int32_t i, char buffer[OPTION_TEXT_MAX]);

/* The options as help text, by groups in the order of their first rows. */
void options_print(FILE *out, const OptionSet *s);
/* Whether slot i is the first of its group: whoever lists options by groups asks this. */
bool options_begins_group(const OptionSet *s, int32_t i);

/* The nearest of n words, NULL when none is near. */
const char *nearest_word(const char *word, const char *const *words, int32_t n);

#endif
