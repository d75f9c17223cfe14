/* corpus.c -- documents from a file or a folder, and the sentences of a text. */
#include "engine/text/corpus.h"

#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/text/documents.h"

static const char GAP[] = "\n\n"; /* between two documents */

/* ---- building ---- */

/* Takes text and name over. */
static Status add_document(Corpus *c, char *text, size_t size, char *name) {
    Document *more = realloc(c->document, sizeof *more * ((size_t)c->documents + 1));
    if (!more || !name) {
        free(text);
        free(name);
        if (more) c->document = more;
        FAIL(ST_NOMEM, "no memory for a corpus of %d documents", c->documents + 1);
    }
    c->document = more;
    c->document[c->documents++] = (Document){.name = name, .text = {text, size}};
    return ST_OK;
}

/* A NUL is valid UTF-8, and no text: it betrays UTF-16 and programs. */
static Status check_text(Bytes text, const char *name) {
    int64_t bad = utf8_invalid_at(text);
    const char *nul = text.n ? memchr(text.p, 0, text.n) : NULL;
    if (bad < 0 && nul) bad = nul - text.p;
    NEED(bad < 0, ST_FORMAT, "%s: not UTF-8 text at byte %lld of %zu; convert it first, or leave it out", name,
         (long long)bad, text.n);
    return ST_OK;
}

static Status add_file(Corpus *c, const char *path) {
    char *text;
    size_t size;
    TRY(file_read(&text, &size, path));
    Status st = check_text((Bytes){text, size}, path);
    if (st) {
        free(text);
        return st;
    }
    return add_document(c, text, size, strdup(path));
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const Document *)a)->name, ((const Document *)b)->name);
}

static void free_names(char **name, int32_t n) {
    for (int32_t i = 0; i < n; i++) free(name[i]);
    free(name);
}

/* Names of a folder that are not hidden. */
static Status list_folder(const char *folder, char ***out, int32_t *n) {
    DIR *d = opendir(folder);
    NEED(d, ST_NOTFOUND, "%s: the folder cannot be read", folder);
    char **name = NULL;
    *n = 0;
    bool full = false;
    for (struct dirent *e; !full && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        char **more = realloc(name, sizeof *more * ((size_t)*n + 1));
        if (more) name = more, name[*n] = strdup(e->d_name);
        full = !more || !name[(*n)];
        *n += !full;
    }
    closedir(d);
    if (full) {
        free_names(name, *n);
        FAIL(ST_NOMEM, "%s: no memory to list it", folder);
    }
    *out = name;
    return ST_OK;
}

static Status add_path(Corpus *c, const char *path, int depth) {
    struct stat s;
    NEED(stat(path, &s) == 0, ST_NOTFOUND, "%s: does not exist or cannot be read", path);
    NEED(S_ISDIR(s.st_mode) || S_ISREG(s.st_mode), ST_FORMAT, "%s: is neither a regular file nor a folder; leave it out",
         path);
    if (S_ISREG(s.st_mode)) return add_file(c, path);
    NEED(depth < 32, ST_ARG, "%s: folders nested deeper than 32", path);
    char **name = NULL;
    int32_t n = 0;
    Status st = ST_OK;
    TRY(list_folder(path, &name, &n));
    for (int32_t i = 0; i < n && !st; i++) {
        char inner[PATH_MAX];
        st = file_join(inner, sizeof inner, path, name[i]);
        if (!st) st = add_path(c, inner, depth + 1);
    }
    free_names(name, n);
    return st;
}

/* ---- the whole ---- */

static Status join(Corpus *c) {
    size_t size = 1;
    for (int32_t i = 0; i < c->documents; i++) size += c->document[i].text.n + sizeof GAP;
    char *to = malloc(size);
    NEED(to, ST_NOMEM, "no memory to join a corpus of %zu bytes", size);
    c->all.p = to;
    for (int32_t i = 0; i < c->documents; i++) {
        Bytes t = c->document[i].text;
        if (i) memcpy(to, GAP, sizeof GAP - 1), to += sizeof GAP - 1;
        if (t.n) memcpy(to, t.p, t.n);
        to += t.n;
    }
    c->all.n = (size_t)(to - c->all.p);
    return ST_OK;
}

/* Texts only: the same book under another path is the same corpus. */
static Status hash(Corpus *c) {
    Sha256 *h;
    TRY(sha256_open(&h));
    for (int32_t i = 0; i < c->documents; i++) {
        uint64_t n = c->document[i].text.n;
        sha256_add(h, &n, sizeof n);
        sha256_add(h, c->document[i].text.p, n);
    }
    c->digest = sha256_finish(&h);
    return ST_OK;
}

/* The order of a corpus must not depend on the file system. */
static Status finish(Corpus *c, const char *name) {
    if (c->documents) qsort(c->document, (size_t)c->documents, sizeof *c->document, by_path);
    TRY(join(c));
    size_t i = 0;
    while (i < c->all.n && strchr(" \t\r\n", c->all.p[i])) i++;
    NEED(i < c->all.n, ST_FORMAT, "%s: the corpus has no text", name);
    return hash(c);
}

Status corpus_open(Corpus **out, const char *path) {
    *out = NULL;
    Corpus *c = calloc(1, sizeof *c);
    NEED(c, ST_NOMEM, "%s: no memory for a corpus", path);
    Status st = add_path(c, path, 0);
    if (!st) st = finish(c, path);
    if (st) {
        corpus_close(c);
        return st;
    }
    *out = c;
    return ST_OK;
}

static Status add_text(Corpus *c, Bytes text, const char *name) {
    TRY(check_text(text, name));
    char *copy = malloc(text.n + 1);
    NEED(copy, ST_NOMEM, "%s: no memory for a corpus", name);
    if (text.n) memcpy(copy, text.p, text.n);
    return add_document(c, copy, text.n, strdup(name));
}

Status corpus_of_text(Corpus **out, Bytes text, const char *name) {
    *out = NULL;
    Corpus *c = calloc(1, sizeof *c);
    NEED(c, ST_NOMEM, "%s: no memory for a corpus", name);
    Status st = add_text(c, text, name);
    if (!st) st = finish(c, name);
    if (st) {
        corpus_close(c);
        return st;
    }
    *out = c;
    return ST_OK;
}

void corpus_close(Corpus *c) {
    if (!c) return;
    for (int32_t i = 0; i < c->documents; i++) {
        free((char *)(uintptr_t)c->document[i].text.p);
        free(c->document[i].name);
    }
    free((char *)(uintptr_t)c->all.p);
    free(c->document);
    free(c);
}

Bytes corpus_text(const Corpus *c) {
    return c->all;
}

Digest corpus_digest(const Corpus *c) {
    return c->digest;
}

int32_t corpus_documents(const Corpus *c) {
    return c->documents;
}

/* ---- sentences ---- */

static bool blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool ends_sentence(Bytes t, size_t i) {
    if (t.p[i] == '\n') return true;
    return (t.p[i] == '.' || t.p[i] == '!' || t.p[i] == '?') && (i + 1 == t.n || blank(t.p[i + 1]));
}

int32_t text_sentences(Bytes text, size_t shortest, void (*visit)(void *user, Bytes sentence), void *user) {
    int32_t n = 0;
    size_t from = 0;
    for (size_t i = 0; i < text.n; i++) {
        if (!ends_sentence(text, i) && i + 1 < text.n) continue;
        size_t to = i + 1;
        while (from < to && blank(text.p[from])) from++;
        while (from < to && blank(text.p[to - 1])) to--;
        if (to - from >= shortest && to > from) {
            visit(user, (Bytes){text.p + from, to - from});
            n++;
        }
        from = i + 1;
    }
    return n;
}
