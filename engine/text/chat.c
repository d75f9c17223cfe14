/* chat.c -- the two families of turns, and how a folder is told to be one of them.
 *
 * Templates are Jinja programs, and none is executed here. All templates of a family write their turns by one and the
 * same expression, whatever else they do (default system messages, tools, dates, thoughts; left out on purpose, see
 * chat.h):
 *
 *   ChatML   '<|im_start|>' + message['role'] + '\n' + message['content'] + ... '<|im_end|>'
 *   Llama 3  '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>'
 *
 * So this expression is looked for, after differences of writing are gone (blanks, quotes, m.role or m['role'], where
 * strings are joined). Its literal between role and content decides: "\n" or, in the demo's template, "\n ". A
 * template without it, or with one of each family, is an error with the hash of its text: a wrong guess trains well
 * and answers badly. (Other families share tokens with these: Phi-4 has <|im_start|>, and another literal.) */
#include "engine/text/chat.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json.h"

enum { STOPS_MAX = 16 };
typedef enum Family { CHATML, CHATML_SPACE, LLAMA3 } Family;

struct Chat {
    Family family;
    const Tokenizer *t; /* borrowed */
    int32_t begin;      /* begin-of-text token, -1: the family has none */
    int32_t open, middle, end; /* <|im_start|>, -, <|im_end|>   or header start, header end, end of turn */
    int32_t stop[STOPS_MAX], stops;
};

/* ---- recognising ---- */

/* The template's text, malloc: chat_template.jinja, or chat_template of tokenizer_config.json (a string, or a list of
 * named ones of which "default" counts). */
static Status template_of_config(char **out, const char *folder) {
    char path[PATH_MAX];
    cJSON *o;
    TRY(file_join(path, sizeof path, folder, "tokenizer_config.json"));
    TRY(json_load(&o, path));
    const cJSON *t = cJSON_GetObjectItemCaseSensitive(o, "chat_template"), *e;
    const char *text = cJSON_GetStringValue(t);
    if (cJSON_IsArray(t))
        cJSON_ArrayForEach(e, t) {
            const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(e, "name"));
            if (name && !strcmp(name, "default"))
                text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(e, "template"));
        }
    *out = text ? strdup(text) : NULL;
    cJSON_Delete(o);
    NEED(text, ST_UNSUPPORTED, "%s: has no chat_template; an instruction-tuned model is needed", path);
    NEED(*out, ST_NOMEM, "%s: no memory for its chat template", path);
    return ST_OK;
}

static Status load_template(char **out, const char *folder) {
    char path[PATH_MAX];
    size_t size;
    *out = NULL;
    TRY(file_join(path, sizeof path, folder, "chat_template.jinja"));
    return file_exists(path) ? file_read(out, &size, path) : template_of_config(out, folder);
}

/* One {{ }} or {% %} from s, whose end is returned: literals keep their blanks, have ' around them, \n for newlines,
 * and neighbours joined by + are one; everything else loses its blanks. At most twice as long as before. */
static const char *unify_block(const char *s, char **to) {
    char quote = 0, *start = *to, *p = *to;
    for (; *s && (quote || (strncmp(s, "}}", 2) && strncmp(s, "%}", 2))); s++) {
        if (quote && *s == '\n') {
            *p++ = '\\', *p++ = 'n';
        } else if (quote && *s == '\\' && s[1]) {
            *p++ = *s++, *p++ = *s;
        } else if (quote && *s == quote) {
            quote = 0, *p++ = '\'';
        } else if (!quote && (*s == '\'' || *s == '"')) {
            quote = *s;
            if (p - start >= 2 && p[-1] == '+' && p[-2] == '\'') p -= 2;
            else *p++ = '\'';
        } else if (quote || !strchr(" \t\r\n", *s)) {
            *p++ = *s;
        }
    }
    *to = p;
    return s;
}

/* Only what a template computes: comments and text between blocks may hold quotation marks and are left out. */
static void unify(const char *s, char *to) {
    char *start = to;
    while (*s) {
        if (!strncmp(s, "{#", 2)) {
            const char *end = strstr(s, "#}");
            s = end ? end + 2 : s + strlen(s);
        } else if (!strncmp(s, "{{", 2) || !strncmp(s, "{%", 2)) {
            *to++ = '{';
            s = unify_block(s + 2, &to);
            *to++ = '}';
        } else {
            s++;
        }
    }
    *to = '\0';
    for (char *p = start; (p = strstr(p, "['"));) { /* x['role'] is x.role */
        char *end = strstr(p + 2, "']"); /* behind it: in "[']" they share a quote */
        if (!end) break;
        size_t n = (size_t)(end - p) - 2;
        *p = '.';
        memmove(p + 1, p + 2, n);
        memmove(p + 1 + n, end + 2, strlen(end + 2) + 1);
    }
}

static const char *skip_name(const char *p) {
    while (isalnum((unsigned char)*p) || *p == '_') p++;
    return p;
}

/* The literal between role and content of the turns that begin with `opening`, "" where there is none such turn. */
static void middle_of_turns(const char *text, const char *opening, char *out, size_t cap) {
    char begin[64];
    snprintf(begin, sizeof begin, "'%s'+", opening);
    *out = '\0';
    for (const char *p = text; (p = strstr(p, begin));) {
        p = skip_name(p + strlen(begin));
        if (strncmp(p, ".role+'", 7)) continue;
        const char *literal = p + 7, *end = strchr(literal, '\'');
        if (!end || end[1] != '+' || (size_t)(end - literal) >= cap) continue;
        const char *content = skip_name(end + 2); /* a variable, or a member of the message */
        if (content == end + 2) continue;
        memcpy(out, literal, (size_t)(end - literal));
        out[end - literal] = '\0';
        return;
    }
}

static Status family_of(Family *out, const char *text, const char *original, const char *folder) {
    char chatml[40], llama3[40], hex[65];
    middle_of_turns(text, "<|im_start|>", chatml, sizeof chatml);
    middle_of_turns(text, "<|start_header_id|>", llama3, sizeof llama3);
    digest_hex(sha256_of(original, strlen(original)), hex);
    bool is_chatml = !strcmp(chatml, "\\n") && strstr(text, "<|im_end|>");
    bool is_spaced = !strcmp(chatml, "\\n ") && strstr(text, "<|im_end|>");
    bool is_llama3 = !strcmp(llama3, "<|end_header_id|>\\n\\n") && strstr(text, "<|eot_id|>");
    NEED(is_chatml + is_spaced + is_llama3 == 1 && !(*chatml && *llama3), ST_UNSUPPORTED,
         "%s: its chat template (SHA-256 %.12s) writes no turns as ChatML or Llama 3 do, and no others are known; between "
         "role and content it has \"%s\"",
         folder, hex, *chatml ? chatml : llama3);
    *out = is_llama3 ? LLAMA3 : is_spaced ? CHATML_SPACE : CHATML;
    return ST_OK;
}

static Status recognise(Chat *c, const char *text, const char *folder) {
    char *unified = malloc(2 * strlen(text) + 2);
    NEED(unified, ST_NOMEM, "%s: no memory for its chat template", folder);
    unify(text, unified);
    Status st = family_of(&c->family, unified, text, folder);
    free(unified);
    return st;
}

static Status need_token(const Chat *c, const char *spelling, int32_t *out, const char *folder) {
    *out = tokenizer_find(c->t, spelling);
    NEED(*out >= 0, ST_FORMAT, "%s: its chat template uses %s, its tokenizer has no such token", folder, spelling);
    return ST_OK;
}

static Status find_tokens(Chat *c, const char *folder) {
    c->begin = c->middle = -1;
    if (c->family != LLAMA3) {
        TRY(need_token(c, "<|im_start|>", &c->open, folder));
        return need_token(c, "<|im_end|>", &c->end, folder);
    }
    TRY(need_token(c, "<|begin_of_text|>", &c->begin, folder));
    TRY(need_token(c, "<|start_header_id|>", &c->open, folder));
    TRY(need_token(c, "<|end_header_id|>", &c->middle, folder));
    return need_token(c, "<|eot_id|>", &c->end, folder);
}

/* ---- stop tokens ---- */

static Status add_stop(Chat *c, const cJSON *id, const char *path) {
    NEED(cJSON_IsNumber(id) && id->valuedouble >= 0 && id->valuedouble < tokenizer_vocab(c->t) &&
             id->valuedouble == id->valueint,
         ST_FORMAT, "%s: eos_token_id is not a token of this tokenizer", path);
    for (int32_t i = 0; i < c->stops; i++)
        if (c->stop[i] == id->valueint) return ST_OK;
    NEED(c->stops < STOPS_MAX, ST_UNSUPPORTED, "%s: more than %d end tokens", path, STOPS_MAX);
    c->stop[c->stops++] = id->valueint;
    return ST_OK;
}

static Status read_stops(Chat *c, const char *folder) {
    char path[PATH_MAX];
    cJSON *o;
    Status st = ST_OK;
    c->stop[c->stops++] = c->end;
    TRY(file_join(path, sizeof path, folder, "generation_config.json"));
    if (!file_exists(path)) return ST_OK;
    TRY(json_load(&o, path));
    const cJSON *eos = cJSON_GetObjectItemCaseSensitive(o, "eos_token_id"), *e;
    if (cJSON_IsArray(eos)) {
        cJSON_ArrayForEach(e, eos) TRY_TO(done, add_stop(c, e, path));
    } else if (eos && !cJSON_IsNull(eos)) {
        TRY_TO(done, add_stop(c, eos, path));
    }
done:
    cJSON_Delete(o);
    return st;
}

Status chat_open(Chat **out, const char *folder, const Tokenizer *t) {
    *out = NULL;
    Status st = ST_OK;
    char *text = NULL;
    Chat *c = calloc(1, sizeof *c);
    NEED(c, ST_NOMEM, "%s: no memory for its chat template", folder);
    c->t = t;
    TRY_TO(failed, load_template(&text, folder));
    TRY_TO(failed, recognise(c, text, folder));
    TRY_TO(failed, find_tokens(c, folder));
    TRY_TO(failed, read_stops(c, folder));
    *out = c;
    c = NULL;
failed:
    free(text);
    chat_close(c);
    return st;
}

void chat_close(Chat *c) {
    free(c);
}

const char *chat_family(const Chat *c) {
    static const char *const name[] = {[CHATML] = "chatml", [CHATML_SPACE] = "chatml-space", [LLAMA3] = "llama3"};
    return name[c->family];
}

const Tokenizer *chat_tokenizer(const Chat *c) {
    return c->t;
}

int32_t chat_end(const Chat *c) {
    return c->end;
}

Status chat_stops(const Chat *c, const int32_t **id, int32_t *n) {
    *id = c->stop;
    *n = c->stops;
    return ST_OK;
}

/* ---- turns ---- */

static Status plain(const Chat *c, const char *text, TokenVec *out) {
    return tokenizer_encode(c->t, bytes_of(text), ENCODE_PLAIN, out);
}

Status chat_open_turn(const Chat *c, Role role, TokenVec *out) {
    static const char *const name[] = {[ROLE_SYSTEM] = "system", [ROLE_USER] = "user", [ROLE_ASSISTANT] = "assistant"};
    static const char *const line[] = {
        [ROLE_SYSTEM] = "system\n", [ROLE_USER] = "user\n", [ROLE_ASSISTANT] = "assistant\n"};
    TRY(tokens_push(out, c->open));
    if (c->family != LLAMA3) return plain(c, line[role], out);
    TRY(plain(c, name[role], out));
    TRY(tokens_push(out, c->middle));
    return plain(c, "\n\n", out);
}

Status chat_content(const Chat *c, Bytes text, TokenVec *out) {
    bool space = c->family == CHATML_SPACE && (!text.n || text.p[0] != ' ');
    if (!space) return tokenizer_encode(c->t, text, ENCODE_PLAIN, out);
    char *spaced = malloc(text.n + 1);
    NEED(spaced, ST_NOMEM, "no memory for a message of %zu bytes", text.n);
    spaced[0] = ' ';
    if (text.n) memcpy(spaced + 1, text.p, text.n);
    Status st = tokenizer_encode(c->t, (Bytes){spaced, text.n + 1}, ENCODE_PLAIN, out);
    free(spaced);
    return st;
}

Status chat_close_turn(const Chat *c, TokenVec *out) {
    TRY(tokens_push(out, c->end));
    return c->family == LLAMA3 ? ST_OK : plain(c, "\n", out);
}

static Status whole_turn(const Chat *c, Role role, Bytes text, TokenVec *out) {
    TRY(chat_open_turn(c, role, out));
    TRY(chat_content(c, text, out));
    return chat_close_turn(c, out);
}

Status chat_messages(const Chat *c, const Message *m, int32_t n, bool answer, TokenVec *out) {
    for (int32_t i = 0; i < n; i++) TRY(whole_turn(c, m[i].role, m[i].text, out));
    return answer ? chat_open_turn(c, ROLE_ASSISTANT, out) : ST_OK;
}

Status chat_prefix(const Chat *c, Bytes text, int32_t rows, TokenVec *out) {
    int32_t before = out->n;
    Status st = c->begin >= 0 ? tokens_push(out, c->begin) : ST_OK;
    if (!st) st = whole_turn(c, ROLE_SYSTEM, text, out);
    int32_t have = out->n - before;
    if (st || rows > 0) out->n = before + (st || rows > have ? 0 : rows);
    NEED(st || (rows >= 0 && rows <= have), ST_ARG,
         "a prefix of %d rows: the text gives %d; ask for at most that many", rows, have);
    return st;
}
