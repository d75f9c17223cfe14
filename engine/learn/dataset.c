/* dataset.c -- one SQLite file, readable with any SQLite tool:
 *
 *   meta          key, value         what the dataset was made with; "next", "rows" and a hash over all of it
 *   conversation  number             primary key; then the hash of the row, texts for people, and five blobs:
 *                                    token, at, first, id (i32) and logprob (f32), little-endian
 *   dropped       reason, count      what was filtered out
 *
 * A writer holds SQLite's RESERVED lock from one commit to the next, also while it only thinks: a second
 * writer is told at once instead of after its first batch, and readers read on. Every row's hash is checked
 * when the row is read, the hash of meta and the number of rows when the file is opened: a row can neither
 * change nor vanish unseen. */
#include "engine/learn/dataset.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/learn/settings.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "blobs are written as they lie in memory");

enum { APPLICATION_ID = 0x43415254 /* "CART" */, VERSION = 1, BUSY_MS = 5000 };

static const char SCHEMA[] =
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE conversation (number INTEGER PRIMARY KEY, sha256 BLOB NOT NULL, chunk INTEGER NOT NULL,"
    " kind TEXT NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, answer_logprob REAL,"
    " token BLOB NOT NULL, at BLOB NOT NULL, first BLOB NOT NULL, id BLOB NOT NULL, logprob BLOB NOT NULL);"
    "CREATE TABLE dropped (reason TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;";

static const char ADD[] = "INSERT INTO conversation VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)";
static const char GET[] = "SELECT * FROM conversation WHERE number = ?1";
static const char DROP[] =
    "INSERT INTO dropped VALUES (?1, 1) ON CONFLICT(reason) DO UPDATE SET count = count + 1";

struct Dataset {
    char *path;
    sqlite3 *db;
    sqlite3_stmt *add, *get, *drop;
    DatasetInfo info;       /* its strings are owned */
    int64_t *number;        /* [count] of committed conversations, rising; then those of the open batch */
    int64_t count, pending, cap;
    int64_t next;
    bool writes, begun;
    void *row;              /* owned copy of the row of the last get */
    size_t row_cap;
};

/* ---- what SQLite says, in our words ---- */

/* SQLite knows one cause of a full disk; a quota and a limit on file sizes are others. */
static bool is_full(sqlite3 *db, int rc) {
    int why = 0;
    if (rc == SQLITE_IOERR) sqlite3_file_control(db, "main", SQLITE_FCNTL_LAST_ERRNO, &why);
    return rc == SQLITE_FULL || why == EFBIG || why == EDQUOT;
}

static Status code_of(sqlite3 *db, int rc) {
    if (is_full(db, rc)) return ST_NOSPACE;
    switch (rc) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return ST_FULL;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_SCHEMA:
    case SQLITE_ERROR: return ST_FORMAT; /* our statements are right: the tables are not */
    case SQLITE_NOMEM: return ST_NOMEM;
    case SQLITE_CANTOPEN: return ST_NOTFOUND;
    default: return ST_IO;
    }
}

static Status sql_failed(const Dataset *d, int rc, const char *doing) {
    Status st = code_of(d->db, rc & 0xff);
    const char *next = st == ST_FULL      ? "; another program is writing to it: wait for it or stop it"
                       : st == ST_NOSPACE ? "; free some space and resume, what was committed is kept"
                                          : "";
    FAIL(st, "%s: %s failed: %s%s", d->path, doing, d->db ? sqlite3_errmsg(d->db) : sqlite3_errstr(rc), next);
}

static Status exec(const Dataset *d, const char *sql, const char *doing) {
    int rc = sqlite3_exec(d->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? ST_OK : sql_failed(d, rc, doing);
}

static Status prepare(const Dataset *d, sqlite3_stmt **out, const char *sql) {
    int rc = sqlite3_prepare_v2(d->db, sql, -1, out, NULL);
    return rc == SQLITE_OK ? ST_OK : sql_failed(d, rc, "reading its tables");
}

/* Runs a statement that returns no row, and makes it ready for the next time. */
static Status run(const Dataset *d, sqlite3_stmt *q, const char *doing) {
    int rc = sqlite3_step(q);
    Status st = rc == SQLITE_DONE ? ST_OK : sql_failed(d, rc, doing);
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
    return st;
}

/* Calls visit for each row of a query. */
typedef Status (*RowFn)(void *user, sqlite3_stmt *row);
static Status each_row(const Dataset *d, const char *sql, RowFn visit, void *user) {
    sqlite3_stmt *q;
    TRY(prepare(d, &q, sql));
    Status st = ST_OK;
    int rc;
    while ((rc = sqlite3_step(q)) == SQLITE_ROW) TRY_TO(done, visit(user, q));
    if (rc != SQLITE_DONE) st = sql_failed(d, rc, "reading");
done:
    sqlite3_finalize(q);
    return st;
}

static const char *text_at(sqlite3_stmt *q, int column) {
    const char *text = (const char *)sqlite3_column_text(q, column);
    return text ? text : "";
}

/* ---- meta ---- */

typedef struct InfoField { const char *key; size_t at; } InfoField;
static const InfoField text_fields[] = {{"model", offsetof(DatasetInfo, model)},
                                        {"tokenizer", offsetof(DatasetInfo, tokenizer)},
                                        {"template", offsetof(DatasetInfo, template_family)},
                                        {"corpus", offsetof(DatasetInfo, corpus)},
                                        {"settings", offsetof(DatasetInfo, settings)}};
enum { TEXT_FIELDS = sizeof text_fields / sizeof *text_fields };

static const char **info_text(const DatasetInfo *info, int i) {
    return (const char **)((uintptr_t)info + text_fields[i].at);
}

static const char *or_empty(const char *text) {
    return text ? text : "";
}

static Status keep_info(DatasetInfo *to, const DatasetInfo *from) {
    for (int i = 0; i < TEXT_FIELDS; i++) {
        const char *copy = strdup(or_empty(*info_text(from, i)));
        NEED(copy, ST_NOMEM, "no memory for the description of a dataset");
        *info_text(to, i) = copy;
    }
    to->corpus_tokens = from->corpus_tokens;
    return ST_OK;
}

static Status hash_pair(void *user, sqlite3_stmt *row) {
    for (int column = 0; column < 2; column++) {
        const char *text = text_at(row, column);
        sha256_add(user, text, strlen(text) + 1);
    }
    return ST_OK;
}

/* Over every pair of meta but itself, and over the counts of what was dropped. */
static Status meta_hash(const Dataset *d, char hex[65]) {
    Sha256 *h;
    TRY(sha256_open(&h));
    Status st = each_row(d, "SELECT key, value FROM meta WHERE key <> 'sha256' ORDER BY key", hash_pair, h);
    if (!st) st = each_row(d, "SELECT reason, count FROM dropped ORDER BY reason", hash_pair, h);
    digest_hex(sha256_finish(&h), hex);
    return st;
}

static Status put_meta(const Dataset *d, const char *key, const char *value) {
    sqlite3_stmt *q;
    TRY(prepare(d, &q, "INSERT OR REPLACE INTO meta VALUES (?1, ?2)"));
    sqlite3_bind_text(q, 1, key, -1, SQLITE_STATIC);
    sqlite3_bind_text(q, 2, value, -1, SQLITE_STATIC);
    Status st = run(d, q, "writing its description");
    sqlite3_finalize(q);
    return st;
}

static Status put_count(const Dataset *d, const char *key, int64_t n) {
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, n);
    return put_meta(d, key, text);
}

/* What changes with every commit. */
static Status put_progress(const Dataset *d, int64_t rows, int64_t next) {
    char hex[65];
    TRY(put_count(d, "rows", rows));
    TRY(put_count(d, "next", next));
    TRY(meta_hash(d, hex));
    return put_meta(d, "sha256", hex);
}

static Status put_info(const Dataset *d) {
    for (int i = 0; i < TEXT_FIELDS; i++) TRY(put_meta(d, text_fields[i].key, *info_text(&d->info, i)));
    TRY(put_count(d, "corpus_tokens", d->info.corpus_tokens));
    return put_progress(d, 0, 0);
}

/* The pairs of meta as they are found. */
typedef struct MetaRead { DatasetInfo info; int64_t rows, next; char seal[65]; int found; } MetaRead;

static Status read_pair(void *user, sqlite3_stmt *row) {
    MetaRead *r = user;
    const char *key = text_at(row, 0), *value = text_at(row, 1);
    r->found++;
    if (!strcmp(key, "rows")) r->rows = strtoll(value, NULL, 10);
    else if (!strcmp(key, "next")) r->next = strtoll(value, NULL, 10);
    else if (!strcmp(key, "corpus_tokens")) r->info.corpus_tokens = strtoll(value, NULL, 10);
    else if (!strcmp(key, "sha256")) snprintf(r->seal, sizeof r->seal, "%s", value);
    for (int i = 0; i < TEXT_FIELDS; i++) {
        if (strcmp(key, text_fields[i].key)) continue;
        const char *copy = strdup(value);
        NEED(copy, ST_NOMEM, "no memory for the description of a dataset");
        free((void *)(uintptr_t)*info_text(&r->info, i));
        *info_text(&r->info, i) = copy;
    }
    return ST_OK;
}

static Status read_number(void *user, sqlite3_stmt *row);

/* Meta, its hash, and the numbers of all rows. What is read replaces what d knew. */
static Status read_all(Dataset *d) {
    MetaRead r = {.rows = -1};
    char hex[65];
    Status st = each_row(d, "SELECT key, value FROM meta", read_pair, &r);
    d->info = r.info;
    d->next = r.next;
    TRY(st);
    TRY(meta_hash(d, hex));
    NEED(r.found == TEXT_FIELDS + 4 && !strcmp(hex, r.seal), ST_FORMAT,
         "%s: damaged: its description hashes to %.12s, its seal says %.12s", d->path, hex, r.seal);
    TRY(each_row(d, "SELECT number FROM conversation ORDER BY number", read_number, d));
    NEED(d->count == r.rows, ST_FORMAT,
         "%s: damaged: %" PRId64 " conversations are there, %" PRId64 " were written", d->path, d->count,
         r.rows);
    return ST_OK;
}

/* ---- the list of numbers ---- */

static Status push_number(Dataset *d, int64_t number) {
    int64_t used = d->count + d->pending;
    if (used == d->cap) {
        int64_t cap = d->cap ? 2 * d->cap : 256;
        int64_t *more = realloc(d->number, sizeof *more * (size_t)cap);
        NEED(more, ST_NOMEM, "%s: no memory for a list of %" PRId64 " conversations", d->path, cap);
        d->number = more;
        d->cap = cap;
    }
    d->number[used] = number;
    return ST_OK;
}

static Status read_number(void *user, sqlite3_stmt *row) {
    Dataset *d = user;
    TRY(push_number(d, sqlite3_column_int64(row, 0)));
    d->count++;
    return ST_OK;
}

static int by_number(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* The batch is durable: its numbers join the others. */
static void settle_numbers(Dataset *d) {
    d->count += d->pending;
    d->pending = 0;
    if (d->count) qsort(d->number, (size_t)d->count, sizeof *d->number, by_number);
}

/* ---- opening ---- */

static Status integer_pragma(const Dataset *d, const char *sql, int64_t *out) {
    sqlite3_stmt *q;
    TRY(prepare(d, &q, sql));
    int rc = sqlite3_step(q);
    *out = rc == SQLITE_ROW ? sqlite3_column_int64(q, 0) : 0;
    Status st = rc == SQLITE_ROW || rc == SQLITE_DONE ? ST_OK : sql_failed(d, rc, "reading its head");
    sqlite3_finalize(q);
    return st;
}

static Status check_kind(const Dataset *d) {
    int64_t id, version;
    TRY(integer_pragma(d, "PRAGMA application_id", &id));
    NEED(id == APPLICATION_ID, ST_FORMAT, "%s: is an SQLite file, but not a dataset of conversations",
         d->path);
    TRY(integer_pragma(d, "PRAGMA user_version", &version));
    NEED(version == VERSION, ST_UNSUPPORTED, "%s: dataset format %" PRId64 ", this program reads %d", d->path,
         version, VERSION);
    return ST_OK;
}

/* SQLite reads what is missing of a last page as zeros. */
static Status check_size(const Dataset *d) {
    int64_t pages, page;
    struct stat s = {0};
    TRY(integer_pragma(d, "PRAGMA page_count", &pages));
    TRY(integer_pragma(d, "PRAGMA page_size", &page));
    NEED(stat(d->path, &s) == 0 && s.st_size >= pages * page, ST_FORMAT,
         "%s: is truncated: %lld bytes, it says it has %lld", d->path, (long long)s.st_size,
         (long long)(pages * page));
    return ST_OK;
}

/* Opened for writing even when only reading: after a crash the first reader has to finish the rollback. */
static Status open_file(Dataset *d, bool create) {
    int flags = SQLITE_OPEN_READWRITE | (create ? SQLITE_OPEN_CREATE : 0);
    int rc = sqlite3_open_v2(d->path, &d->db, flags, NULL);
    if (rc != SQLITE_OK) return sql_failed(d, rc, "opening");
    sqlite3_busy_timeout(d->db, BUSY_MS);
    /* The file may come from a stranger: nothing in its schema may run by itself. */
    sqlite3_db_config(d->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(d->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(d->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    return exec(d, "PRAGMA cell_size_check = ON", "opening");
}

static Status dataset_alloc(Dataset **out, const char *path) {
    Dataset *d = calloc(1, sizeof *d);
    NEED(d, ST_NOMEM, "%s: no memory to open it", path);
    d->path = strdup(path);
    if (!d->path) {
        free(d);
        FAIL(ST_NOMEM, "%s: no memory to open it", path);
    }
    *out = d;
    return ST_OK;
}

static Status need_file(const char *path) {
    NEED(file_exists(path) && !file_is_folder(path), ST_NOTFOUND, "%s: there is no such file", path);
    return ST_OK;
}

static Status open_existing(Dataset *d) {
    TRY(need_file(d->path));
    TRY(open_file(d, false));
    TRY(check_kind(d));
    TRY(check_size(d));
    TRY(read_all(d));
    return prepare(d, &d->get, GET);
}

Status dataset_open(Dataset **out, const char *path) {
    *out = NULL;
    Dataset *d;
    TRY(dataset_alloc(&d, path));
    Status st = open_existing(d);
    if (st) {
        dataset_close(d);
        return st;
    }
    *out = d;
    return ST_OK;
}

static Status same_info(const Dataset *d, const DatasetInfo *info) {
    for (int i = 0; i < TEXT_FIELDS; i++) {
        const char *file = *info_text(&d->info, i), *here = or_empty(*info_text(info, i));
        if (!strcmp(file, here)) continue;
        if (!strcmp(text_fields[i].key, "settings")) return settings_same(d->path, file, here);
        FAIL(ST_MISMATCH, "%s: was made with another %s: %.12s there, %.12s now", d->path, text_fields[i].key,
             file, here);
    }
    NEED(d->info.corpus_tokens == info->corpus_tokens, ST_MISMATCH,
         "%s: was made with another corpus: %" PRId64 " tokens there, %" PRId64 " now", d->path,
         d->info.corpus_tokens, info->corpus_tokens);
    return ST_OK;
}

/* ---- writing ---- */

/* Becomes the only writer. Nobody may have written since we last looked: what we know would be wrong. */
static Status lock(Dataset *d) {
    if (!sqlite3_get_autocommit(d->db)) return ST_OK;
    TRY(exec(d, "BEGIN IMMEDIATE", "locking it for writing"));
    sqlite3_stmt *q;
    TRY(prepare(d, &q, "SELECT value FROM meta WHERE key = 'next'"));
    int64_t next = sqlite3_step(q) == SQLITE_ROW ? strtoll(text_at(q, 0), NULL, 10) : -1;
    sqlite3_finalize(q);
    if (next != d->next) {
        exec(d, "ROLLBACK", "unlocking it");
        FAIL(ST_FULL, "%s: another program has written to it; stop one of the two and resume", d->path);
    }
    return ST_OK;
}

static Status prepare_writing(Dataset *d) {
    TRY(exec(d, "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL", "setting its journal"));
    TRY(prepare(d, &d->add, ADD));
    TRY(prepare(d, &d->drop, DROP));
    d->writes = true;
    return lock(d);
}

static Status create_new(Dataset *d, const DatasetInfo *info) {
    char head[96];
    TRY(keep_info(&d->info, info));
    TRY(open_file(d, true));
    snprintf(head, sizeof head, "BEGIN IMMEDIATE; PRAGMA application_id = %d; PRAGMA user_version = %d",
             APPLICATION_ID, VERSION);
    TRY(exec(d, head, "creating"));
    TRY(exec(d, SCHEMA, "creating its tables"));
    TRY(put_info(d));
    TRY(exec(d, "COMMIT", "creating"));
    return prepare(d, &d->get, GET);
}

static Status open_for_writing(Dataset *d, const DatasetInfo *info, bool resume, bool *created) {
    if (resume) {
        TRY(open_existing(d));
        TRY(same_info(d, info));
        return prepare_writing(d);
    }
    NEED(!file_exists(d->path), ST_ARG,
         "%s: is there already, and nothing is overwritten; resume it or name another file", d->path);
    *created = true;
    TRY(create_new(d, info));
    return prepare_writing(d);
}

/* With its journal, which SQLite leaves behind when what fails is its removal: a file of that name that is made
 * later must not meet it. */
static void remove_new(const char *path) {
    char journal[PATH_MAX];
    int n = snprintf(journal, sizeof journal, "%s-journal", path);
    unlink(path);
    if (n > 0 && (size_t)n < sizeof journal) unlink(journal);
}

Status dataset_create(Dataset **out, const char *path, const DatasetInfo *info, bool resume) {
    *out = NULL;
    bool created = false;
    Dataset *d;
    TRY(dataset_alloc(&d, path));
    Status st = open_for_writing(d, info, resume, &created);
    if (st) {
        dataset_close(d);
        if (created) remove_new(path);
        return st;
    }
    *out = d;
    return ST_OK;
}

void dataset_close(Dataset *d) {
    if (!d) return;
    sqlite3_finalize(d->add);
    sqlite3_finalize(d->get);
    sqlite3_finalize(d->drop);
    sqlite3_close(d->db); /* rolls back what was not committed */
    for (int i = 0; i < TEXT_FIELDS; i++) free((void *)(uintptr_t)*info_text(&d->info, i));
    free(d->number);
    free(d->row);
    free(d->path);
    free(d);
}

const DatasetInfo *dataset_info(const Dataset *d) {
    return &d->info;
}

Status dataset_begin(Dataset *d) {
    NEED(d->writes, ST_ARG, "%s: was opened for reading", d->path);
    d->pending = 0;
    /* A batch that was given up; after some failures SQLite has rolled it back already. */
    if (d->begun && !sqlite3_get_autocommit(d->db)) TRY(exec(d, "ROLLBACK", "rolling back"));
    d->begun = false;
    TRY(lock(d));
    d->begun = true;
    return ST_OK;
}

Status dataset_commit(Dataset *d, int64_t next) {
    NEED(d->begun, ST_ARG, "%s: a commit without a begin", d->path);
    TRY(put_progress(d, d->count + d->pending, next));
    TRY(exec(d, "COMMIT", "committing"));
    d->begun = false;
    d->next = next;
    settle_numbers(d);
    (void)lock(
        d); /* not to get it back is no failure of this commit: the next begin asks again, and says so */
    return ST_OK;
}

int64_t dataset_next(const Dataset *d) {
    return d->next;
}

/* ---- rows ---- */

static void add_text(Sha256 *h, const char *text) {
    sha256_add(h, text, strlen(text) + 1);
}

/* Over every field, lengths included, so that no byte can move from one to the next. */
static Status row_hash(const Conversation *c, Digest *out) {
    int32_t candidates = c->first[c->targets];
    int64_t head[5] = {c->number, c->chunk, c->n, c->targets, candidates};
    Sha256 *h;
    TRY(sha256_open(&h));
    sha256_add(h, head, sizeof head);
    sha256_add(h, &c->answer_logprob, sizeof c->answer_logprob);
    add_text(h, c->kind);
    add_text(h, c->question);
    add_text(h, c->answer);
    sha256_add(h, c->token, sizeof *c->token * (size_t)c->n);
    sha256_add(h, c->at, sizeof *c->at * (size_t)c->targets);
    sha256_add(h, c->first, sizeof *c->first * ((size_t)c->targets + 1));
    sha256_add(h, c->id, sizeof *c->id * (size_t)candidates);
    sha256_add(h, c->logprob, sizeof *c->logprob * (size_t)candidates);
    *out = sha256_finish(&h);
    return ST_OK;
}

/* What every reader may rely on. A rounding above log 1 is let through. */
static const char *flaw(const Conversation *c) {
    if (c->n < 2 || c->targets < 1) return "it has fewer than two tokens or no target";
    if (c->first[0] != 0) return "its candidates do not begin at 0";
    for (int32_t j = 0; j < c->targets; j++) {
        if (c->at[j] < 1 || c->at[j] >= c->n || (j && c->at[j] <= c->at[j - 1]))
            return "its targets do not rise within it";
        if (c->first[j + 1] < c->first[j]) return "its candidates do not rise";
    }
    for (int32_t i = 0; i < c->n; i++)
        if (c->token[i] < 0) return "a token is negative";
    for (int32_t i = 0; i < c->first[c->targets]; i++)
        if (c->id[i] < 0 || !(c->logprob[i] <= 1e-4f))
            return "a candidate is negative or above probability 1";
    return NULL;
}

static void bind_ints(sqlite3_stmt *q, int column, const void *v, int64_t n) {
    sqlite3_bind_blob64(q, column, n ? v : "", 4 * (sqlite3_uint64)n, SQLITE_STATIC);
}

static void bind_row(sqlite3_stmt *q, const Conversation *c, const Digest *hash) {
    sqlite3_bind_int64(q, 1, c->number);
    sqlite3_bind_blob(q, 2, hash->byte, sizeof hash->byte, SQLITE_STATIC);
    sqlite3_bind_int64(q, 3, c->chunk);
    sqlite3_bind_text(q, 4, c->kind, -1, SQLITE_STATIC);
    sqlite3_bind_text(q, 5, c->question, -1, SQLITE_STATIC);
    sqlite3_bind_text(q, 6, c->answer, -1, SQLITE_STATIC);
    sqlite3_bind_double(q, 7, c->answer_logprob);
    bind_ints(q, 8, c->token, c->n);
    bind_ints(q, 9, c->at, c->targets);
    bind_ints(q, 10, c->first, c->targets + 1);
    bind_ints(q, 11, c->id, c->first[c->targets]);
    bind_ints(q, 12, c->logprob, c->first[c->targets]);
}

Status dataset_add(Dataset *d, const Conversation *c) {
    NEED(d->begun, ST_ARG, "%s: a conversation without a begin", d->path);
    const char *why = flaw(c);
    NEED(!why, ST_ARG, "%s: conversation %" PRId64 " cannot be kept: %s", d->path, c->number, why);
    Conversation row = *c;
    Digest hash;
    row.kind = or_empty(c->kind), row.question = or_empty(c->question), row.answer = or_empty(c->answer);
    /* SQLite has one NaN (NULL) and one zero. */
    row.answer_logprob = isnan(c->answer_logprob) ? (double)NAN : c->answer_logprob + 0.0;
    TRY(push_number(d, c->number));
    TRY(row_hash(&row, &hash));
    bind_row(d->add, &row, &hash);
    TRY(run(d, d->add, "adding a conversation"));
    d->pending++;
    return ST_OK;
}

Status dataset_drop(Dataset *d, const char *reason) {
    NEED(d->begun, ST_ARG, "%s: a dropped conversation without a begin", d->path);
    sqlite3_bind_text(d->drop, 1, reason, -1, SQLITE_STATIC);
    return run(d, d->drop, "counting a dropped conversation");
}

int64_t dataset_count(const Dataset *d) {
    return d->count;
}

/* SQLite's blobs need not be aligned and live only until the next step: the row is copied. */
static Status copy_columns(Dataset *d, const void *out[13]) {
    size_t used = 0, size[13];
    for (int column = 3; column <= 11; column++) {
        size[column] = (size_t)sqlite3_column_bytes(d->get, column);
        used += size[column] / 8 * 8 + 8;
    }
    if (used > d->row_cap) {
        void *more = realloc(d->row, used);
        NEED(more, ST_NOMEM, "%s: no memory for a row of %zu bytes", d->path, used);
        d->row = more;
        d->row_cap = used;
    }
    char *to = d->row;
    for (int column = 3; column <= 11; column++) {
        const void *from = sqlite3_column_blob(d->get, column);
        if (size[column]) memcpy(to, from, size[column]);
        to[size[column]] = '\0';
        out[column] = to;
        to += size[column] / 8 * 8 + 8;
    }
    return ST_OK;
}

static int64_t ints_in(sqlite3_stmt *q, int column) {
    int bytes = sqlite3_column_bytes(q, column);
    return bytes % 4 ? -1 : bytes / 4;
}

static Status read_row(Dataset *d, Conversation *out) {
    sqlite3_stmt *q = d->get;
    const void *column[13];
    int64_t n = ints_in(q, 7), targets = ints_in(q, 8), firsts = ints_in(q, 9), ids = ints_in(q, 10);
    bool unknown = sqlite3_column_type(q, 6) == SQLITE_NULL;
    double answer_logprob =
        unknown ? (double)NAN : sqlite3_column_double(q, 6); /* now: its bytes would make it a text */
    int64_t number = sqlite3_column_int64(q, 0), chunk = sqlite3_column_int64(q, 2);
    TRY(copy_columns(d, column));
    *out = (Conversation){.number = number, .n = (int32_t)n, .targets = (int32_t)targets, .token = column[7],
                          .at = column[8], .first = column[9], .id = column[10], .logprob = column[11],
                          .kind = column[3], .question = column[4], .answer = column[5], .chunk = chunk,
                          .answer_logprob = answer_logprob};
    bool sizes = n >= 1 && targets >= 1 && firsts == targets + 1 && ids >= 0 && ints_in(q, 11) == ids;
    NEED(sizes && out->first[targets] == ids, ST_FORMAT,
         "%s: conversation %" PRId64 " is damaged: its lists do not fit together", d->path, number);
    return ST_OK;
}

static Status verify_row(Dataset *d, const Conversation *c) {
    Digest hash;
    TRY(row_hash(c, &hash));
    bool same = sqlite3_column_bytes(d->get, 1) == sizeof hash.byte &&
                !memcmp(sqlite3_column_blob(d->get, 1), hash.byte, sizeof hash.byte);
    NEED(same, ST_FORMAT,
         "%s: conversation %" PRId64 " is damaged: its fields do not hash to what its row says", d->path,
         c->number);
    const char *why = flaw(c);
    NEED(!why, ST_FORMAT, "%s: conversation %" PRId64 " makes no sense: %s", d->path, c->number, why);
    return ST_OK;
}

Status dataset_get(Dataset *d, int64_t i, Conversation *out) {
    NEED(i >= 0 && i < d->count, ST_ARG, "%s: conversation %" PRId64 " of %" PRId64, d->path, i, d->count);
    sqlite3_bind_int64(d->get, 1, d->number[i]);
    int rc = sqlite3_step(d->get);
    Status st = ST_OK;
    if (rc == SQLITE_ROW) st = read_row(d, out);
    else if (rc == SQLITE_DONE)
        st = status_fail(ST_FORMAT, __FILE__, __LINE__, "%s: conversation %" PRId64 " is no longer there",
                         d->path, d->number[i]);
    else st = status_prefix(sql_failed(d, rc, "reading"), "conversation %" PRId64, d->number[i]);
    if (!st) st = verify_row(d, out);
    sqlite3_reset(d->get);
    return st;
}

typedef struct DropVisit {
    void (*visit)(void *user, const char *reason, int64_t count);
    void *user;
} DropVisit;

static Status visit_drop(void *user, sqlite3_stmt *row) {
    DropVisit *v = user;
    v->visit(v->user, text_at(row, 0), sqlite3_column_int64(row, 1));
    return ST_OK;
}

Status dataset_drops(Dataset *d, void (*visit)(void *user, const char *reason, int64_t count), void *user) {
    return each_row(d, "SELECT reason, count FROM dropped ORDER BY reason", visit_drop,
                    &(DropVisit){visit, user});
}
