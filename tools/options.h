/* options.h -- one table of options per command, from which come the parser and the help.
 *
 * A row says everything about an option: names, type, default, range, group, help, and where its value goes
 * (an offset into the command's own struct), so that help, man pages, completion and configuration files
 * cannot disagree. */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

typedef enum OptionType {
    OPTION_FLAG,   /* bool */
    OPTION_WHOLE,  /* int64_t in [low, high] */
    OPTION_REAL,   /* double in [low, high] */
    OPTION_TEXT,   /* const char *, borrowed from the command line */
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

/* Sets every option of the tables to its default, then reads the command line. tables[i] writes into base[i];
 * what is no option goes to *rest, in order. ST_ARG names the option, the value and what was wanted, and for
 * an unknown option the nearest known one. */
Status options_parse(const OptionTable *tables, void *const *base, int32_t n, int argc, char **argv,
                     TextList *rest);

/* The options as help text, by groups in the order of their first rows. */
void options_print(const OptionTable *tables, int32_t n);

/* The nearest of n words, NULL when none is near. */
const char *nearest_word(const char *word, const char *const *words, int32_t n);

#endif
