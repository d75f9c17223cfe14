/* added.c -- see added.h. */
#include "engine/text/added.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/normalize.h"
#include "engine/text/utf8.h"
#include "kernels/base/json.h"

/* ---- reading ---- */

static int by_start_and_length(const void *x, const void *y) {
    const AddedToken *a = x, *b = y;
    int da = (uint8_t)a->text.p[0] - (uint8_t)b->text.p[0];
    if (da) return da;
    return a->text.n != b->text.n ? (a->text.n > b->text.n ? -1 : 1) : memcmp(a->text.p, b->text.p, a->text.n);
}

static Status read_token(AddedToken *a, const cJSON *e, const char **content, const char *where) {
    bool single_word = false;
    int64_t id;
    TRY(json_string(e, "content", content, where));
    TRY(json_integer(e, "id", 0, TOKEN_IDS_MAX - 1, &id, where));
    NEED(**content, ST_FORMAT, "%s: the added token %lld is empty", where, (long long)id);
    a->id = (int32_t)id;
    TRY(json_bool_or(e, "special", &a->special, where));
    TRY(json_bool_or(e, "lstrip", &a->lstrip, where));
    TRY(json_bool_or(e, "rstrip", &a->rstrip, where));
    TRY(json_bool_or(e, "normalized", &a->normalized, where));
    TRY(json_bool_or(e, "single_word", &single_word, where));
    NEED(!single_word, ST_UNSUPPORTED, "%s: the added token \"%.40s\" has single_word, which is not known here", where,
         *content);
    return ST_OK;
}

static Status own_text(AddedToken *a, const char *content, bool nfc, const char *where) {
    Bytes text;
    char *composed;
    TRY(normalize(&text, &composed, nfc, bytes_of(content)));
    char *copy = malloc(text.n + 1);
    if (copy) memcpy(copy, text.p, text.n);
    a->text = (Bytes){copy, text.n};
    free(composed);
    NEED(copy, ST_NOMEM, "%s: no memory for an added token", where);
    return ST_OK;
}

static Status read_all(AddedSet *a, const cJSON *list, bool normalized, bool nfc, Vocab *v, const char *where) {
    const cJSON *e;
    cJSON_ArrayForEach(e, list) {
        AddedToken t = {0};
        const char *content;
        TRY(read_token(&t, e, &content, where));
        if (t.normalized != normalized) continue;
        TRY(vocab_put_added(v, t.id, content, where));
        TRY(own_text(&t, content, nfc && normalized, where));
        a->token[a->n++] = t;
    }
    return ST_OK;
}

static Status index_starts(AddedSet *a, const char *where) {
    if (a->n) qsort(a->token, (size_t)a->n, sizeof *a->token, by_start_and_length);
    for (int32_t c = 0, i = 0; c <= 256; c++) {
        while (i < a->n && (uint8_t)a->token[i].text.p[0] < c) i++;
        a->first[c] = i;
    }
    for (int32_t i = 1; i < a->n; i++)
        NEED(by_start_and_length(&a->token[i - 1], &a->token[i]), ST_FORMAT,
             "%s: the added token \"%.*s\" is there twice", where,
             (int)(a->token[i].text.n < 40 ? a->token[i].text.n : 40), a->token[i].text.p);
    return ST_OK;
}

Status added_read(AddedSet *a, const cJSON *list, bool normalized, bool nfc, Vocab *v, const char *where) {
    *a = (AddedSet){0};
    NEED(!list || cJSON_IsNull(list) || cJSON_IsArray(list), ST_FORMAT, "%s: \"added_tokens\" is not a list", where);
    a->token = calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof *a->token);
    NEED(a->token, ST_NOMEM, "%s: no memory for its added tokens", where);
    TRY(read_all(a, list, normalized, nfc, v, where));
    return index_starts(a, where);
}

void added_close(AddedSet *a) {
    for (int32_t i = 0; i < a->n; i++) free((void *)(uintptr_t)a->token[i].text.p);
    free(a->token);
    *a = (AddedSet){0};
}

/* ---- finding ---- */

static const AddedToken *find(const AddedSet *a, Bytes text, size_t *at) {
    for (; *at < text.n; ++*at) {
        uint8_t c = (uint8_t)text.p[*at];
        for (int32_t i = a->first[c]; i < a->first[c + 1]; i++) {
            const AddedToken *t = &a->token[i];
            if (t->text.n <= text.n - *at && !memcmp(t->text.p, text.p + *at, t->text.n)) return t;
        }
    }
    return NULL;
}

/* Where the blanks that end at `end` begin, not before `low`. */
static size_t blanks_before(Bytes text, size_t low, size_t end) {
    for (size_t at = end; at > low;) {
        do at--;
        while (at > low && ((uint8_t)text.p[at] & 0xC0) == 0x80);
        const uint8_t *p = (const uint8_t *)text.p + at;
        int32_t length = utf8_length(p, end - at);
        if (!length || !utf8_is_blank(utf8_decode(p, length))) return end;
        end = at;
    }
    return end;
}

static size_t blanks_behind(Bytes text, size_t at) {
    while (at < text.n) {
        const uint8_t *p = (const uint8_t *)text.p + at;
        int32_t length = utf8_length(p, text.n - at);
        if (!length || !utf8_is_blank(utf8_decode(p, length))) break;
        at += (size_t)length;
    }
    return at;
}

Status added_cut(const AddedSet *a, Bytes text, bool plain, const AddedVisit *visit) {
    size_t done = 0, at = 0;
    for (const AddedToken *t; (t = find(a, text, &at));) {
        size_t begin = at, end = at + t->text.n;
        at = end;
        if (plain && t->special) continue;
        if (t->lstrip && begin > done) begin = blanks_before(text, done, begin);
        if (t->rstrip) end = blanks_behind(text, end);
        if (begin > done) TRY(visit->text(visit->user, (Bytes){text.p + done, begin - done}));
        TRY(visit->token(visit->user, t->id));
        done = end;
    }
    return done < text.n ? visit->text(visit->user, (Bytes){text.p + done, text.n - done}) : ST_OK;
}
