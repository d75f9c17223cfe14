/* words.c -- text as a row of words.
 *
 * Letters and digits are what Unicode says they are, case is folded by utf8proc, so the comparison is fair in
 * any script that puts blanks between words. Only the list of everyday words is English: elsewhere it merely
 * leaves a few more words to count as content. */
#include "engine/learn/words.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static bool is_word_part(utf8proc_int32_t c) {
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return true;
    default:
        return false;
    }
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool groups_digits(const char *text, size_t n, size_t i) {
    return text[i] == ',' && i > 0 && i + 1 < n && is_digit(text[i - 1]) && is_digit(text[i + 1]);
}

/* Writes the words of folded text to out, which has room for n + 3 bytes. */
static void split(const char *text, size_t n, char *out) {
    size_t used = 0;
    out[used++] = ' ';
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t bytes =
            utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(n - i), &c);
        if (bytes < 1) bytes = 1, c = ' ';
        if (is_word_part(c)) {
            memcpy(out + used, text + i, (size_t)bytes);
            used += (size_t)bytes;
        } else if (out[used - 1] != ' ' && !groups_digits(text, n, i)) {
            out[used++] = ' ';
        }
        i += (size_t)bytes;
    }
    if (out[used - 1] != ' ') out[used++] = ' ';
    out[used] = 0;
}

Status words_of(char **out, Bytes text) {
    *out = NULL;
    utf8proc_uint8_t *folded = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text.p, (utf8proc_ssize_t)text.n, &folded,
                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_CASEFOLD);
    NEED(n >= 0, ST_FORMAT, "text of %zu bytes cannot be compared: %s", text.n, utf8proc_errmsg(n));
    char *words = malloc((size_t)n + 3);
    if (words) split((const char *)folded, (size_t)n, words);
    free(folded);
    NEED(words, ST_NOMEM, "out of memory: %zd bytes of words", n);
    *out = words;
    return ST_OK;
}

bool words_contain(const char *text, const char *part) {
    return part[1] && strstr(text, part);
}

static void count(void *user, Bytes word) {
    (void)word;
    ++*(int32_t *)user;
}

int32_t words_count(const char *words) {
    int32_t n = 0;
    words_each(words, count, &n);
    return n;
}

void words_each(const char *words, void (*visit)(void *user, Bytes word), void *user) {
    for (const char *p = words + 1; *p;) {
        size_t n = strcspn(p, " ");
        visit(user, (Bytes){p, n});
        p += n + 1;
    }
}

/* Sorted. Question words and what questions about texts are made of count as everyday words too. */
static const char *const everyday[] = {
    "about",   "after",    "all",   "also",     "and",      "any",       "are",   "been", "before",
    "being",   "but",      "can",   "could",    "describe", "did",       "does",  "each", "explain",
    "for",     "from",     "had",   "has",      "have",     "her",       "him",   "his",  "how",
    "into",    "its",      "known", "list",     "many",     "mentioned", "more",  "most", "much",
    "name",    "not",      "one",   "only",     "other",    "our",       "out",   "over", "passage",
    "please",  "question", "said",  "sentence", "she",      "should",    "some",  "such", "summarize",
    "summary", "tell",     "text",  "than",     "that",     "the",       "their", "them", "then",
    "there",   "these",    "they",  "this",     "those",    "type",      "use",   "used", "very",
    "was",     "were",     "what",  "when",     "where",    "which",     "who",   "whom", "whose",
    "why",     "will",     "with",  "would",    "you",      "your"};

static int against(const void *key, const void *item) {
    const Bytes *word = key;
    const char *other = *(const char *const *)item;
    int c = strncmp(word->p, other, word->n);
    return c ? c : other[word->n] ? -1 : 0;
}

bool word_is_content(Bytes word) {
    for (size_t i = 0; i < word.n; i++)
        if (is_digit(word.p[i])) return true;
    return word.n >= 3 &&
           !bsearch(&word, everyday, sizeof everyday / sizeof *everyday, sizeof *everyday, against);
}

/* The next stretch of letters and digits from *at on; empty at the end. *begins: whether it begins a
 * sentence. */
static Bytes next_raw_word(Bytes text, size_t *at, bool *begins) {
    size_t i = *at, first;
    while (i < text.n && !isalnum((uint8_t)text.p[i]) && (uint8_t)text.p[i] < 0x80) {
        if (strchr(".!?\"\n", text.p[i])) *begins = true;
        i++;
    }
    first = i;
    while (i < text.n &&
           (isalnum((uint8_t)text.p[i]) || (uint8_t)text.p[i] >= 0x80 || groups_digits(text.p, text.n, i)))
        i++;
    *at = i;
    return (Bytes){text.p + first, i - first};
}

static bool is_name_or_number(Bytes word, bool begins) {
    utf8proc_int32_t c = -1;
    for (size_t i = 0; i < word.n; i++)
        if (is_digit(word.p[i])) return true;
    utf8proc_iterate((const utf8proc_uint8_t *)word.p, (utf8proc_ssize_t)word.n, &c);
    return !begins && word.n > 1 && c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_LU;
}

Status words_invent(Bytes text, const char *known, const char *also, bool *yes) {
    bool begins = true;
    size_t at = 0;
    *yes = false;
    for (Bytes word = next_raw_word(text, &at, &begins); word.n && !*yes;
         word = next_raw_word(text, &at, &begins)) {
        char *folded;
        bool matters = is_name_or_number(word, begins);
        begins = false;
        if (!matters) continue;
        TRY(words_of(&folded, word));
        *yes = !words_contain(known, folded) && !words_contain(also, folded);
        free(folded);
    }
    return ST_OK;
}

/* FNV-1a. */
uint64_t word_hash(Bytes word) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < word.n; i++) h = (h ^ (uint8_t)word.p[i]) * 0x100000001b3u;
    return h;
}
