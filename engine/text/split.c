/* split.c -- see split.h. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/text/split.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/utf8.h"
#include "kernels/base/json.h"

enum { STAGES_MAX = 8 };

/* What becomes of the text that a pattern matches. */
typedef enum Behavior { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS } Behavior;

typedef struct Stage {
    pcre2_code *pattern; /* owned; NULL: the stage cuts nothing */
    Behavior behavior;
    bool invert;         /* the pattern describes the pieces, what lies between is the delimiter */
    bool prefix_space;   /* ByteLevel.add_prefix_space */
} Stage;

struct Splitter {
    Stage stage[STAGES_MAX];
    int32_t stages;
};

/* GPT-2's cut: contractions, then runs of letters, of digits and of the rest, each with one leading space. */
static const char GPT2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- patterns ---- */

/* Rewrites \s and \S; every other escape passes as a pair, so that "\\s" (a backslash and an s) is left alone. */
static char *rewrite_blanks(const char *pattern) {
    static const char in[] = "\\p{White_Space}", out[] = "\\P{White_Space}";
    char *text = malloc(strlen(pattern) * sizeof in + 1), *to = text;
    if (!text) return NULL;
    for (const char *p = pattern; *p; p++) {
        if (p[0] == '\\' && (p[1] == 's' || p[1] == 'S')) {
            memcpy(to, p[1] == 's' ? in : out, sizeof in - 1);
            to += sizeof in - 1;
            p++;
        } else {
            *to++ = *p;
            if (p[0] == '\\' && p[1]) *to++ = *++p;
        }
    }
    *to = '\0';
    return text;
}

/* What Oniguruma and PCRE2 take for different sets of characters: words (marks), and \h (digits there, blanks here). */
static Status refuse_escapes(const char *pattern, const char *where) {
    for (const char *p = pattern; (p = strchr(p, '\\')) && p[1]; p += 2)
        NEED(!strchr("wWbBhH", p[1]), ST_UNSUPPORTED,
             "%s: the pre-tokenizer pattern \"%.60s\" has \\%c, which is not known here", where, pattern, p[1]);
    return ST_OK;
}

static Status compile(pcre2_code **out, const char *pattern, uint32_t options, const char *where) {
    int code;
    size_t at;
    if (!(options & PCRE2_LITERAL)) TRY(refuse_escapes(pattern, where));
    char *text = options & PCRE2_LITERAL ? strdup(pattern) : rewrite_blanks(pattern);
    NEED(text, ST_NOMEM, "%s: no memory for a pattern", where);
    uint32_t common = PCRE2_UTF | PCRE2_MULTILINE; /* ^ and $ stand at every line, as in Oniguruma */
    *out = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED,
                         options & PCRE2_LITERAL ? PCRE2_UTF | PCRE2_LITERAL : common | PCRE2_UCP, &code, &at, NULL);
    free(text);
    if (!*out) {
        char why[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        FAIL(ST_UNSUPPORTED, "%s: the pre-tokenizer pattern \"%.60s\" cannot be used: %s", where, pattern, why);
    }
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without it matching is slower and the same */
    return ST_OK;
}

static Status read_behavior(const cJSON *o, Behavior *out, const char *where) {
    static const char *const name[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *text;
    TRY(json_string(o, "behavior", &text, where));
    for (int i = 0; i < 5; i++) {
        if (strcmp(text, name[i])) continue;
        *out = (Behavior)i;
        return ST_OK;
    }
    FAIL(ST_UNSUPPORTED, "%s: Split behavior \"%.40s\" is not known", where, text);
}

static Status read_split(Stage *s, const cJSON *o, const char *where) {
    const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(o, "pattern");
    const char *regex = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(pattern, "Regex"));
    const char *literal = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(pattern, "String"));
    NEED(regex || literal, ST_FORMAT, "%s: a Split pre-tokenizer has neither a Regex nor a String", where);
    TRY(read_behavior(o, &s->behavior, where));
    TRY(json_bool_or(o, "invert", &s->invert, where));
    return compile(&s->pattern, regex ? regex : literal, regex ? 0 : PCRE2_LITERAL, where);
}

static Status read_digits(Stage *s, const cJSON *o, const char *where) {
    bool each = false;
    TRY(json_bool_or(o, "individual_digits", &each, where));
    s->behavior = ISOLATED;
    return compile(&s->pattern, each ? "\\p{N}" : "\\p{N}+", 0, where);
}

static Status read_byte_level(Stage *s, const cJSON *o, const char *where) {
    bool use_regex = true;
    TRY(json_bool_or(o, "use_regex", &use_regex, where));
    s->prefix_space = true; /* the library's default */
    TRY(json_bool_or(o, "add_prefix_space", &s->prefix_space, where));
    s->behavior = ISOLATED;
    return use_regex ? compile(&s->pattern, GPT2, 0, where) : ST_OK;
}

static Status add_stage(Splitter *sp, const cJSON *o, const char *where, bool *byte_level, int depth) {
    const char *type;
    TRY(json_string(o, "type", &type, where));
    if (!strcmp(type, "Sequence")) {
        const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, "pretokenizers"), *e;
        NEED(cJSON_IsArray(list) && depth < 4, ST_FORMAT, "%s: a Sequence pre-tokenizer without a list", where);
        cJSON_ArrayForEach(e, list) TRY(add_stage(sp, e, where, byte_level, depth + 1));
        return ST_OK;
    }
    NEED(sp->stages < STAGES_MAX, ST_UNSUPPORTED, "%s: more than %d pre-tokenizer stages", where, STAGES_MAX);
    NEED(!*byte_level, ST_UNSUPPORTED, "%s: a pre-tokenizer \"%.40s\" stands behind ByteLevel, which must be the last",
         where, type);
    Stage *s = &sp->stage[sp->stages++];
    if (!strcmp(type, "Split")) return read_split(s, o, where);
    if (!strcmp(type, "Digits")) return read_digits(s, o, where);
    if (!strcmp(type, "ByteLevel")) {
        *byte_level = true;
        return read_byte_level(s, o, where);
    }
    FAIL(ST_UNSUPPORTED, "%s: pre-tokenizer \"%.40s\" is not known; known are Split, Digits, ByteLevel, Sequence", where,
         type);
}

Status splitter_open(Splitter **out, const cJSON *o, const char *where, bool *byte_level) {
    *out = NULL;
    *byte_level = false;
    Splitter *s = calloc(1, sizeof *s);
    NEED(s, ST_NOMEM, "%s: no memory for its pre-tokenizer", where);
    Status st = o && !cJSON_IsNull(o) ? add_stage(s, o, where, byte_level, 0) : ST_OK;
    if (st) {
        splitter_close(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

void splitter_close(Splitter *s) {
    if (!s) return;
    for (int32_t i = 0; i < s->stages; i++) pcre2_code_free(s->stage[i].pattern);
    free(s);
}

/* ---- cutting ---- */

/* A run through the stages; `next` is the stage that the pieces of this one go to. */
typedef struct Run { const Splitter *s; PieceFn visit; void *user; } Run;

static Status run_stage(const Run *r, int32_t next, Bytes text);

/* Pieces of one stage as they are found: a match and what stands before it. `held` waits for a neighbour to merge. */
typedef struct Cut { const Run *r; int32_t next; Behavior behavior; Bytes held; bool held_is_match; } Cut;

static Status emit(const Cut *c, Bytes piece) {
    return piece.n ? run_stage(c->r, c->next, piece) : ST_OK;
}

static Status flush(Cut *c) {
    Bytes piece = c->held;
    c->held = (Bytes){NULL, 0};
    return emit(c, piece);
}

/* Pieces come in order and without gaps, so two neighbours are one stretch of text. */
static void extend(Cut *c, Bytes piece) {
    if (c->held.n) c->held.n += piece.n;
    else c->held = piece;
}

static Status add_piece(Cut *c, Bytes piece, bool match) {
    if (!piece.n) return ST_OK;
    switch (c->behavior) {
    case REMOVED: return match ? ST_OK : emit(c, piece);
    case ISOLATED: return emit(c, piece);
    case MERGED_WITH_PREVIOUS: /* a match ends the piece before it */
        if (!match) TRY(flush(c));
        extend(c, piece);
        return match ? flush(c) : ST_OK;
    case MERGED_WITH_NEXT: /* a match begins the piece after it */
        if (match) TRY(flush(c));
        extend(c, piece);
        return match ? ST_OK : flush(c);
    case CONTIGUOUS: /* neighbouring matches are one */
        if (c->held.n && c->held_is_match != match) TRY(flush(c));
        c->held_is_match = match;
        extend(c, piece);
        return ST_OK;
    }
    return ST_OK;
}

static Status cut_by_pattern(const Run *r, int32_t next, const Stage *s, Bytes text, pcre2_match_data *data) {
    Cut c = {.r = r, .next = next, .behavior = s->behavior};
    size_t done = 0;
    for (size_t at = 0; at <= text.n;) {
        int found = pcre2_match(s->pattern, (PCRE2_SPTR)text.p, text.n, at, PCRE2_NO_UTF_CHECK, data, NULL);
        if (found == PCRE2_ERROR_NOMATCH) break;
        NEED(found >= 0, ST_FORMAT, "the pre-tokenizer gave up at byte %zu of a text of %zu (PCRE2 error %d)", at, text.n,
             found);
        const size_t *range = pcre2_get_ovector_pointer(data);
        size_t begin = range[0], end = range[1];
        TRY(add_piece(&c, (Bytes){text.p + done, begin - done}, s->invert));
        TRY(add_piece(&c, (Bytes){text.p + begin, end - begin}, !s->invert));
        done = end;
        at = end;
        if (end == begin) /* an empty match moves on by a character */
            at += end < text.n ? (size_t)utf8_length((const uint8_t *)text.p + end, text.n - end) : 1;
    }
    TRY(add_piece(&c, (Bytes){text.p + done, text.n - done}, s->invert));
    return flush(&c);
}

static Status cut(const Run *r, int32_t next, const Stage *s, Bytes text) {
    if (!s->pattern) return run_stage(r, next, text);
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(s->pattern, NULL);
    NEED(data, ST_NOMEM, "no memory to cut a text of %zu bytes", text.n);
    Status st = cut_by_pattern(r, next, s, text, data);
    pcre2_match_data_free(data);
    return st;
}

static Status cut_with_space(const Run *r, int32_t next, const Stage *s, Bytes text) {
    char *spaced = malloc(text.n + 1);
    NEED(spaced, ST_NOMEM, "no memory to cut a text of %zu bytes", text.n);
    spaced[0] = ' ';
    memcpy(spaced + 1, text.p, text.n);
    Status st = cut(r, next, s, (Bytes){spaced, text.n + 1});
    free(spaced);
    return st;
}

static Status run_stage(const Run *r, int32_t next, Bytes text) {
    if (next == r->s->stages) return r->visit(r->user, text);
    const Stage *s = &r->s->stage[next];
    bool spaced = s->prefix_space && text.n && text.p[0] != ' ';
    return spaced ? cut_with_space(r, next + 1, s, text) : cut(r, next + 1, s, text);
}

Status splitter_run(const Splitter *s, Bytes text, PieceFn visit, void *user) {
    if (!text.n) return ST_OK;
    return run_stage(&(Run){s, visit, user}, 0, text);
}
