/* questions.c -- files of questions, and which of them a text is likely to answer. */
#include "engine/learn/questions.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/learn/words.h"
#include "kernels/base/json.h"

/* ---- reading ---- */

static Status copy_string(char **out, const char *text) {
    *out = strdup(text);
    NEED(*out, ST_NOMEM, "out of memory for a question file");
    return ST_OK;
}

static Status read_list(char ***out, int32_t *n, const cJSON *o, const char *key, const char *where) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, key), *item;
    if (!list || cJSON_IsNull(list)) return ST_OK;
    NEED(cJSON_IsArray(list), ST_FORMAT, "%s: \"%s\" must be a list of strings", where, key);
    *out = calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof **out);
    NEED(*out, ST_NOMEM, "out of memory for a question file");
    cJSON_ArrayForEach(item, list) {
        NEED(cJSON_IsString(item), ST_FORMAT, "%s: item %d of \"%s\" is not a string", where, *n, key);
        TRY(copy_string(&(*out)[*n], item->valuestring));
        ++*n;
    }
    return ST_OK;
}

static Status fill_question(Question *q, const cJSON *o, const char *where, bool answers) {
    const char *text;
    NEED(cJSON_IsObject(o), ST_FORMAT, "%s: not a JSON object", where);
    TRY(json_string(o, "question", &text, where));
    NEED(*text, ST_FORMAT, "%s: \"question\" is empty", where);
    TRY(copy_string(&q->question, text));
    if (answers || cJSON_GetObjectItemCaseSensitive(o, "answer")) {
        TRY(json_string(o, "answer", &text, where));
        TRY(copy_string(&q->answer, text));
    }
    TRY(read_list(&q->choices, &q->n_choices, o, "choices", where));
    return read_list(&q->contains, &q->n_contains, o, "contains", where);
}

static Status add_line(QuestionSet *s, Bytes line, const char *where, bool answers) {
    if ((s->n & (s->n + 1)) == 0) { /* room doubles at 1, 3, 7, ... */
        Question *larger = realloc(s->q, (size_t)(2 * s->n + 2) * sizeof *larger);
        NEED(larger, ST_NOMEM, "out of memory for %d questions", s->n);
        s->q = larger;
    }
    Question *q = &s->q[s->n++];
    *q = (Question){0};
    cJSON *o;
    TRY(json_parse(&o, line.p, line.n, where));
    Status st = fill_question(q, o, where, answers);
    cJSON_Delete(o);
    return st;
}

static bool is_blank(Bytes line) {
    return strspn(line.p, " \t\r") >= line.n;
}

static Status read_lines(QuestionSet *s, const char *text, const char *path, bool answers) {
    char where[512];
    for (int line = 1; *text; line++) {
        Bytes b = {text, strcspn(text, "\n")};
        snprintf(where, sizeof where, "%s line %d", path, line);
        if (!is_blank(b)) TRY(add_line(s, b, where, answers));
        text += b.n + (text[b.n] == '\n');
    }
    NEED(s->n > 0, ST_FORMAT, "%s: no question in it; one JSON object a line is expected", path);
    return ST_OK;
}

Status questions_read(QuestionSet *out, const char *path, bool answers) {
    *out = (QuestionSet){0};
    char *text;
    size_t size;
    TRY(file_read(&text, &size, path));
    int64_t bad = utf8_invalid_at((Bytes){text, size});
    Status st = bad < 0 ? read_lines(out, text, path, answers)
                        : status_fail(ST_FORMAT, __FILE__, __LINE__, "%s: not UTF-8 at byte %lld", path,
                                      (long long)bad);
    free(text);
    if (st) questions_close(out);
    return st;
}

static void close_list(char **list, int32_t n) {
    for (int32_t i = 0; i < n; i++) free(list[i]);
    free(list);
}

void questions_close(QuestionSet *s) {
    for (int32_t i = 0; i < s->n; i++) {
        Question *q = &s->q[i];
        free(q->question);
        free(q->answer);
        close_list(q->choices, q->n_choices);
        close_list(q->contains, q->n_contains);
    }
    free(s->q);
    *s = (QuestionSet){0};
}

/* ---- ranking ---- */

typedef struct Rated {
    double rating;
    int32_t i;
} Rated;

struct QuestionRanks {
    const QuestionSet *set;
    uint64_t *all, *held; /* hashes of content words: of all questions, sorted; of the text at hand, sorted */
    int32_t alls, helds;
    char **words; /* [n] from words_of */
    Rated *rated; /* [n] */
};

typedef struct HashList {
    uint64_t *v;
    int32_t n;
} HashList;

static void push_content(void *user, Bytes word) {
    HashList *l = user;
    if (word_is_content(word)) l->v[l->n++] = word_hash(word);
}

static int by_hash(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static Status split_questions(QuestionRanks *r) {
    int32_t n = 0;
    for (int32_t i = 0; i < r->set->n; i++) {
        TRY(words_of(&r->words[i], bytes_of(r->set->q[i].question)));
        n += words_count(r->words[i]);
    }
    HashList all = {.v = malloc(((size_t)n + 1) * sizeof *all.v)};
    NEED(all.v, ST_NOMEM, "out of memory: %d words of questions", n);
    for (int32_t i = 0; i < r->set->n; i++) words_each(r->words[i], push_content, &all);
    qsort(all.v, (size_t)all.n, sizeof *all.v, by_hash);
    r->all = all.v;
    r->alls = all.n;
    return ST_OK;
}

Status question_ranks_open(QuestionRanks **out, const QuestionSet *s) {
    *out = NULL;
    QuestionRanks *r = calloc(1, sizeof *r);
    NEED(r, ST_NOMEM, "out of memory for ranking questions");
    r->set = s;
    r->words = calloc((size_t)s->n, sizeof *r->words);
    r->rated = calloc((size_t)s->n, sizeof *r->rated);
    Status st = r->words && r->rated
                    ? split_questions(r)
                    : status_fail(ST_NOMEM, __FILE__, __LINE__, "out of memory for %d questions", s->n);
    if (st)
        question_ranks_close(r);
    else
        *out = r;
    return st;
}

void question_ranks_close(QuestionRanks *r) {
    if (!r) return;
    if (r->words) close_list(r->words, r->set->n);
    free(r->rated);
    free(r->all);
    free(r->held);
    free(r);
}

static int32_t first_at_least(const uint64_t *v, int32_t n, uint64_t x) {
    int32_t low = 0;
    while (n > 0) {
        int32_t half = n / 2;
        if (v[low + half] < x)
            low += half + 1, n -= half + 1;
        else
            n = half;
    }
    return low;
}

static int32_t occurrences(const uint64_t *v, int32_t n, uint64_t x) {
    int32_t first = first_at_least(v, n, x), last = first;
    while (last < n && v[last] == x) last++;
    return last - first;
}

typedef struct Rating {
    const QuestionRanks *r;
    double sum;
} Rating;

static void rate_word(void *user, Bytes word) {
    Rating *t = user;
    const QuestionRanks *r = t->r;
    if (!word_is_content(word)) return;
    uint64_t h = word_hash(word);
    if (occurrences(r->held, r->helds, h))
        t->sum += log(1 + (double)r->set->n / occurrences(r->all, r->alls, h));
}

static int by_rating(const void *pa, const void *pb) {
    const Rated *a = pa, *b = pb;
    if (a->rating != b->rating) return a->rating > b->rating ? -1 : 1;
    return a->i < b->i ? -1 : a->i > b->i;
}

static Status hold_text(QuestionRanks *r, const char *words) {
    int32_t n = words_count(words);
    HashList held = {.v = realloc(r->held, ((size_t)n + 1) * sizeof *held.v)};
    NEED(held.v, ST_NOMEM, "out of memory: %d words of a chunk", n);
    words_each(words, push_content, &held);
    qsort(held.v, (size_t)held.n, sizeof *held.v, by_hash);
    r->held = held.v;
    r->helds = held.n;
    return ST_OK;
}

Status question_ranks_best(QuestionRanks *r, const char *words, bool (*skip)(void *user, int32_t i),
                           void *user, int32_t n, int32_t *best, int32_t *found) {
    TRY(hold_text(r, words));
    for (int32_t i = 0; i < r->set->n; i++) {
        Rating t = {r, 0};
        if (!skip || !skip(user, i)) words_each(r->words[i], rate_word, &t);
        r->rated[i] = (Rated){t.sum, i};
    }
    qsort(r->rated, (size_t)r->set->n, sizeof *r->rated, by_rating);
    for (*found = 0; *found < n && *found < r->set->n && r->rated[*found].rating > 0; ++*found)
        best[*found] = r->rated[*found].i;
    return ST_OK;
}
