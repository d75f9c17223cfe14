/* chat.c -- the two families of turns, and how a folder is told to be one of them.
 *
 * Templates are Jinja programs; none is executed here. A template is taken as ChatML when it writes <|im_start|> and
 * nothing of Llama 3, and as Llama 3 when it writes <|start_header_id|> and nothing of ChatML, and the folder's
 * tokenizer must have those tokens. What a template does beyond turns (default system messages, tools, dates) is left
 * out on purpose: see chat.h. A template of neither kind is an error, because guessing trains well and answers badly. */
#include "engine/text/chat.h"

#include <limits.h>
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
            if (name && !strcmp(name, "default")) text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(e, "template"));
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

/* In place: Jinja's two characters \n become a newline, so that both ways of writing one look the same. */
static void plain_newlines(char *s) {
    char *to = s;
    for (; *s; s++) {
        if (s[0] == '\\' && s[1] == 'n') {
            *to++ = '\n';
            s++;
        } else {
            *to++ = *s;
        }
    }
    *to = '\0';
}

static Status recognise(Chat *c, char *text, const char *folder) {
    plain_newlines(text);
    bool chatml = strstr(text, "<|im_start|>") != NULL, llama3 = strstr(text, "<|start_header_id|>") != NULL;
    if (chatml == llama3) {
        char hex[65];
        digest_hex(sha256_of(text, strlen(text)), hex);
        FAIL(ST_UNSUPPORTED, "%s: its chat template (SHA-256 %.12s) is neither ChatML nor Llama 3; other templates are not "
             "implemented", folder, hex);
    }
    c->family = llama3 ? LLAMA3 : strstr(text, "'] + '\n '") ? CHATML_SPACE : CHATML;
    return ST_OK;
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
    static const char *const line[] = {[ROLE_SYSTEM] = "system\n", [ROLE_USER] = "user\n", [ROLE_ASSISTANT] = "assistant\n"};
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
    if (c->begin >= 0) TRY(tokens_push(out, c->begin));
    TRY(whole_turn(c, ROLE_SYSTEM, text, out));
    int32_t have = out->n - before;
    NEED(rows <= have, ST_ARG, "a prefix of %d rows: the text gives %d; ask for at most that many", rows, have);
    if (rows > 0) out->n = before + rows;
    return ST_OK;
}
