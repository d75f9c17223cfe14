/* man.c -- see man.h. Nothing is said here that a table says: a page is the table in another dress. */
#include "tools/man.h"

#include <ctype.h>
#include <string.h>

#include "build_info.h"

/* ---- text ---- */

enum { WIDTH = 70, AS_IT_IS = 1 << 30 };

/* A line must not begin with a control character, a hyphen that is typed must stay one; a blank behind the
 * width becomes a new line. */
static void put_within(FILE *out, const char *p, int width) {
    int column = 0;
    if (*p == '.' || *p == '\'') fputs("\\&", out);
    for (; *p; p++, column++) {
        bool may_break = *p == ' ' && p[1] != '.' && p[1] != '\'';
        if (may_break && column >= width)
            fputc('\n', out), column = 0;
        else if (*p == '\\')
            fputs("\\e", out);
        else if (*p == '-')
            fputs("\\-", out);
        else
            fputc(*p, out);
    }
}

static void put_text(FILE *out, const char *text) {
    put_within(out, text, WIDTH);
}

static void put_line(FILE *out, const char *text) {
    put_text(out, text);
    fputc('\n', out);
}

static void put_font(FILE *out, char font, const char *text) {
    fprintf(out, "\\f%c", font);
    put_text(out, text);
    fputs("\\fR", out);
}

/* Lines as they are. */
static void put_literal(FILE *out, const char *text) {
    fputs(".nf\n", out);
    for (const char *p = text; *p;) {
        char line[1024];
        int n = (int)strcspn(p, "\n");
        snprintf(line, sizeof line, "%.*s", n, p);
        put_within(out, line, AS_IT_IS);
        fputc('\n', out);
        p += n + (p[n] == '\n');
    }
    fputs(".fi\n", out);
}

static void put_title(FILE *out, const char *name) {
    fputs(".TH \"", out);
    for (; *name; name++) fputc(toupper((unsigned char)*name), out);
    fprintf(out, "\" 1 \"%s\" \"cartridge %s\" \"User Commands\"\n.nh\n.ad l\n", BUILD_DATE, BUILD_VERSION);
}

/* ---- parts of a page ---- */

static void put_option(FILE *out, const Option *o) {
    char name[80], letter[4];
    fputs(".TP\n", out);
    if (o->letter) {
        snprintf(letter, sizeof letter, "-%c", o->letter);
        put_font(out, 'B', letter);
        fputs(", ", out);
    }
    snprintf(name, sizeof name, "--%s", o->name);
    put_font(out, 'B', name);
    if (o->argument) {
        fputc(' ', out);
        put_font(out, 'I', o->argument);
    }
    fputc('\n', out);
    put_text(out, o->help);
    if (o->required) fputs(" (required)", out);
    if (o->fallback) {
        fputs(" [", out);
        put_text(out, o->fallback);
        fputc(']', out);
    }
    fputc('\n', out);
}

static void put_options(FILE *out, const OptionSet *s) {
    fputs(".SH OPTIONS\n", out);
    for (int32_t i = 0; i < s->n; i++) {
        if (!options_begins_group(s, i)) continue;
        fputs(".SS ", out);
        put_line(out, s->slot[i].row->group);
        for (int32_t j = i; j < s->n; j++)
            if (!strcmp(s->slot[j].row->group, s->slot[i].row->group)) put_option(out, s->slot[j].row);
    }
}

static const char *const sources = "Options are read from the command line, from the environment and from "
                                   "the file that --config or $CARTRIDGE_CONFIG "
                                   "names, and count in this order. In the environment an option of a "
                                   "command is called like CARTRIDGE_TRAIN_LR, one that "
                                   "all commands have like CARTRIDGE_SEED; an empty variable counts as none, "
                                   "and lists are separated by colons.";
static const char *const file_form =
    "The file has lines \"name = value\" with the names of the long options. Those before the first section "
    "count for "
    "every command that has the option, those behind [train] for train. A # at the beginning of a line or "
    "behind a blank "
    "begins a comment; a value in double quotes is taken as it is, with \\\" \\\\ and \\n for what a "
    "quotation cannot hold. "
    "--print-config prints such a file with what is in effect and where each value came from.";

static const struct {
    int code;
    const char *text;
} exits[] = {
    {EXIT_DONE, "done"},
    {EXIT_FAILED, "failed while running"},
    {EXIT_USAGE, "wrong command line, environment or configuration file; nothing was started"},
    {EXIT_INPUT, "an input cannot be used: missing, damaged, made for another model"},
    {EXIT_SPACE, "does not fit: memory, disk, context length"},
    {EXIT_DEVICE, "a device or its driver failed"},
    {EXIT_BAR, "ran, but a stated bar was missed"},
    {EXIT_PEER, "a peer was lost"},
    {EXIT_RESUMABLE, "stopped on request after saving: run again with --resume"},
    {EXIT_INTERRUPTED, "interrupted"},
};

static void put_exits(FILE *out) {
    fputs(".SH \"EXIT STATUS\"\n", out);
    for (size_t i = 0; i < sizeof exits / sizeof *exits; i++) {
        fprintf(out, ".TP\n%d\n", exits[i].code);
        put_line(out, exits[i].text);
    }
}

static void put_sources(FILE *out, bool whole) {
    fputs(".SH \"CONFIGURATION AND ENVIRONMENT\"\n", out);
    put_line(out, sources);
    if (!whole) return;
    fputs(".PP\n", out);
    put_line(out, file_form);
}

static void put_others(FILE *out, const Command *but) {
    fputs(".SH \"SEE ALSO\"\n", out);
    if (but) fputs("\\fBcartridge\\fR(1)", out);
    for (int i = 0; commands[i]; i++) {
        if (commands[i] == but) continue;
        fprintf(out, "%s\\fBcartridge\\-%s\\fR(1)", i || but ? ",\n" : "", commands[i]->name);
    }
    fputc('\n', out);
}

/* ---- pages ---- */

static void program_page(FILE *out) {
    put_title(out, "cartridge");
    fputs(".SH NAME\ncartridge \\- train small KV caches for long documents, and answer from them\n"
          ".SH SYNOPSIS\n\\fBcartridge\\fR \\fIcommand\\fR [\\fIoptions\\fR]\n.SH DESCRIPTION\n",
          out);
    put_line(out, "A cartridge is a few rows of keys and values that were trained to stand for a long text: "
                  "loaded once, "
                  "shared by all users, and a model answers as if it had the text in its context.");
    fputs(".SH COMMANDS\n", out);
    for (int i = 0; commands[i]; i++) {
        fprintf(out, ".TP\n\\fBcartridge\\-%s\\fR(1)\n", commands[i]->name);
        put_line(out, commands[i]->summary);
    }
    put_sources(out, true);
    put_exits(out);
    put_others(out, NULL);
}

static void command_page(FILE *out, const Command *c, const OptionSet *s) {
    char name[64];
    snprintf(name, sizeof name, "cartridge-%s", c->name);
    put_title(out, name);
    fputs(".SH NAME\n", out);
    put_text(out, name);
    fputs(" \\- ", out);
    put_line(out, c->summary);
    fputs(".SH SYNOPSIS\n\\fBcartridge\\fR ", out);
    put_line(out, c->usage);
    fputs(".SH DESCRIPTION\n", out);
    put_line(out, c->about ? c->about : c->summary);
    put_options(out, s);
    if (c->examples) {
        fputs(".SH EXAMPLES\n", out);
        put_literal(out, c->examples);
    }
    put_sources(out, false);
    put_exits(out);
    put_others(out, c);
}

Status man_page(FILE *out, const Command *c) {
    CommandOptions o;
    if (!c) return program_page(out), ST_OK;
    TRY(command_options_open(&o, c));
    command_page(out, c, &o.set);
    command_options_close(&o);
    return ST_OK;
}
