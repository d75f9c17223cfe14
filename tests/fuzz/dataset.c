/* dataset.c -- conversations of a stranger who can write hashes. What begins as an SQLite file is taken as
 * the file. Anything else is one row: a head (struct Head below), then the bytes of its columns; it is put
 * into a dataset with the hash that it should have, in a table that takes any type, so that what is behind
 * the hash is met. A row that is read is one that can be trained on. */
#include "engine/learn/dataset.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

/* Columns in the order of the table, from kind on: three texts, then five lists of four bytes each. */
enum { TEXTS = 3, LISTS = 5, PARTS = TEXTS + LISTS };
enum As { AS_IT_IS, AS_TEXT, AS_NULL, AS_NUMBER };

typedef struct Head {
    int64_t number, chunk;
    double answer_logprob;
    uint8_t bytes[PARTS]; /* of each column; fewer where the input ends */
    uint8_t as[PARTS];    /* enum As, two bits */
} Head;

typedef struct Part {
    const uint8_t *p;
    size_t n;
} Part;

static const char TABLE[] =
    "DROP TABLE conversation; CREATE TABLE conversation (number INTEGER PRIMARY KEY, sha256,"
    " chunk, kind, question, answer, answer_logprob, token, at, first, id, logprob)";

static void must(sqlite3 *db, int rc) {
    if (rc != SQLITE_OK && rc != SQLITE_DONE) fprintf(stderr, "%s\n", sqlite3_errmsg(db));
    fuzz_check(rc == SQLITE_OK || rc == SQLITE_DONE);
}

/* A dataset that says it has one row, and a statement that puts one there. */
static sqlite3_stmt *open_table(sqlite3 **db, const char *path) {
    static const int32_t token[2] = {1, 2}, at[1] = {1}, first[2] = {0, 1}, id[1] = {2};
    static const float logprob[1] = {-1};
    Conversation c = {
        .n = 2, .targets = 1, .token = token, .at = at, .first = first, .id = id, .logprob = logprob};
    Dataset *d;
    sqlite3_stmt *q;
    fuzz_check(dataset_create(&d, path, &(DatasetInfo){.settings = "{}"}, false) == ST_OK);
    fuzz_check(dataset_begin(d) == ST_OK && dataset_add(d, &c) == ST_OK && dataset_drop(d, "long") == ST_OK);
    fuzz_check(dataset_commit(d, 1) == ST_OK);
    dataset_close(d);
    must(*db, sqlite3_open(path, db));
    must(*db, sqlite3_exec(*db, "PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY", NULL, NULL, NULL));
    must(*db, sqlite3_exec(*db, TABLE, NULL, NULL, NULL));
    must(*db,
         sqlite3_prepare_v2(*db, "INSERT INTO conversation VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)",
                            -1, &q, NULL));
    return q;
}

/* As the reader takes it: over every field, texts up to their first zero byte. */
static Digest hash_of(const Head *h, const Part part[PARTS]) {
    int64_t head[5] = {h->number, h->chunk, (int64_t)part[3].n / 4, (int64_t)part[4].n / 4,
                       (int64_t)part[6].n / 4};
    double logprob = isnan(h->answer_logprob) ? (double)NAN : h->answer_logprob + 0.0;
    Sha256 *sha;
    fuzz_check(sha256_open(&sha) == ST_OK);
    sha256_add(sha, head, sizeof head);
    sha256_add(sha, &logprob, sizeof logprob);
    for (int i = 0; i < TEXTS; i++) {
        size_t n = part[i].n ? strnlen((const char *)part[i].p, part[i].n) : 0;
        sha256_add(sha, part[i].p, n);
        sha256_add(sha, "", 1);
    }
    for (int i = TEXTS; i < PARTS; i++) sha256_add(sha, part[i].p, part[i].n);
    return sha256_finish(&sha);
}

static void bind_part(sqlite3_stmt *q, int column, Part part, int as, bool text) {
    const char *p = part.n ? (const char *)part.p : "";
    if (as == AS_NULL)
        sqlite3_bind_null(q, column);
    else if (as == AS_NUMBER)
        sqlite3_bind_int64(q, column, (int64_t)part.n * 1000003);
    else if ((as == AS_TEXT) != text)
        sqlite3_bind_text(q, column, p, (int)part.n, SQLITE_TRANSIENT);
    else
        sqlite3_bind_blob(q, column, p, (int)part.n, SQLITE_TRANSIENT);
}

static void put_row(sqlite3 *db, sqlite3_stmt *q, const uint8_t *data, size_t size) {
    Head h;
    Part part[PARTS];
    memcpy(&h, data, sizeof h);
    data += sizeof h, size -= sizeof h;
    for (int i = 0; i < PARTS; i++) {
        size_t n = h.bytes[i] < size ? h.bytes[i] : size;
        part[i] = (Part){data, n};
        data += n, size -= n;
    }
    Digest hash = hash_of(&h, part);
    must(db, sqlite3_exec(db, "DELETE FROM conversation", NULL, NULL, NULL));
    sqlite3_bind_int64(q, 1, h.number);
    sqlite3_bind_blob(q, 2, hash.byte, sizeof hash.byte, SQLITE_TRANSIENT);
    sqlite3_bind_int64(q, 3, h.chunk);
    for (int i = 0; i < TEXTS; i++) bind_part(q, 4 + i, part[i], h.as[i] & 3, true);
    sqlite3_bind_double(q, 7, h.answer_logprob);
    for (int i = TEXTS; i < PARTS; i++) bind_part(q, 5 + i, part[i], h.as[i] & 3, false);
    must(db, sqlite3_step(q));
    must(db, sqlite3_reset(q));
}

static void check_conversation(const Conversation *c) {
    fuzz_check(c->n >= 2 && c->targets >= 1 && c->first[0] == 0);
    fuzz_check(strlen(c->kind) + strlen(c->question) + strlen(c->answer) < 1u << 30);
    for (int32_t i = 0; i < c->n; i++) fuzz_check(c->token[i] >= 0);
    for (int32_t j = 0; j < c->targets; j++) {
        fuzz_check(c->at[j] >= 1 && c->at[j] < c->n && (j == 0 || c->at[j] > c->at[j - 1]));
        fuzz_check(c->first[j] <= c->first[j + 1]);
        for (int32_t i = c->first[j]; i < c->first[j + 1]; i++)
            fuzz_check(c->id[i] >= 0 && c->logprob[i] < 0.001f);
    }
}

static void count_drop(void *user, const char *reason, int64_t count) {
    *(int64_t *)user += (count & 0xffff) + (int64_t)strlen(reason);
}

static void read_file(const char *path) {
    Dataset *d;
    Conversation c;
    int64_t drops = 0;
    if (dataset_open(&d, path)) {
        fuzz_check(!d);
        return;
    }
    for (int64_t i = 0; i < dataset_count(d); i++)
        if (dataset_get(d, i, &c) == ST_OK) check_conversation(&c);
    (void)dataset_drops(d, count_drop, &drops);
    fuzz_check(dataset_info(d)->settings);
    dataset_close(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static sqlite3 *db;
    static sqlite3_stmt *q;
    static char path[512];
    if (size >= 16 && !memcmp(data, "SQLite format 3", 16)) {
        read_file(fuzz_file("whole.study", data, size));
    } else if (size >= sizeof(Head)) {
        if (!q) {
            snprintf(path, sizeof path, "%s", fuzz_file("row.study", "", 0));
            remove(path);
            q = open_table(&db, path);
        }
        put_row(db, q, data, size);
        read_file(path);
    }
    return 0;
}
