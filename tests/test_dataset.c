/* test_dataset.c -- conversations on disk: what comes back, what a crash, a second writer, a full disk or a
 * flipped byte leave behind. Conversations are random lists, a function of their number. */
#include "tests/test.h"

#include <math.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/learn/dataset.h"
#include "kernels/base/random.h"
#include "tests/scratch.h"

#define FILE_NAME "data.study"
static char path[512]; /* of that file */

static const DatasetInfo INFO = {.model = "model-a", .tokenizer = "tokenizer-a", .template_family = "chatml",
                                 .corpus = "corpus-a", .corpus_tokens = 1234,
                                 .settings = "{\"per_chunk\":4,\"seed\":\"7\"}"};

/* ---- conversations ---- */

enum { TOKENS_MAX = 40, TOPK = 5 };
typedef struct Made {
    Conversation c;
    int32_t token[TOKENS_MAX], at[TOKENS_MAX], first[TOKENS_MAX + 1], id[TOKENS_MAX * TOPK];
    float logprob[TOKENS_MAX * TOPK];
    char question[40], answer[40];
} Made;

static void make(Made *m, int64_t number) {
    uint64_t key = (uint64_t)number;
    m->c = (Conversation){.number = number,
                          .token = m->token,
                          .at = m->at,
                          .first = m->first,
                          .id = m->id,
                          .logprob = m->logprob,
                          .kind = "focus",
                          .question = m->question,
                          .answer = m->answer,
                          .chunk = number / 3,
                          .answer_logprob = -0.1 * (double)(1 + number % 7)};
    m->c.n = 4 + (int32_t)random_below(1, key, 0, TOKENS_MAX - 4);
    m->first[0] = 0;
    for (int32_t i = 0; i < m->c.n; i++) {
        m->token[i] = (int32_t)random_below(2, key, (uint64_t)i, 100000);
        if (i < m->c.n / 2) continue;
        int32_t j = m->c.targets++, from = m->first[j];
        m->at[j] = i;
        m->first[j + 1] = from + 1 + i % TOPK;
        for (int32_t k = from; k < m->first[j + 1]; k++) {
            m->id[k] = k;
            m->logprob[k] = -0.25f * (float)(k - from);
        }
    }
    snprintf(m->question, sizeof m->question, "What is %lld?", (long long)number);
    snprintf(m->answer, sizeof m->answer, "It is \xc3\xa9 %lld.", (long long)number);
}

static void assert_same(const Conversation *a, const Conversation *b) {
    assert_int_equal(a->number, b->number);
    assert_int_equal(a->chunk, b->chunk);
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->targets, b->targets);
    assert_memory_equal(a->token, b->token, sizeof *a->token * (size_t)a->n);
    assert_memory_equal(a->at, b->at, sizeof *a->at * (size_t)a->targets);
    assert_memory_equal(a->first, b->first, sizeof *a->first * ((size_t)a->targets + 1));
    assert_memory_equal(a->id, b->id, sizeof *a->id * (size_t)a->first[a->targets]);
    assert_memory_equal(a->logprob, b->logprob, sizeof *a->logprob * (size_t)a->first[a->targets]);
    assert_string_equal(a->kind, b->kind);
    assert_string_equal(a->question, b->question);
    assert_string_equal(a->answer, b->answer);
    assert_memory_equal(&a->answer_logprob, &b->answer_logprob, sizeof a->answer_logprob);
}

static Status add(Dataset *d, int64_t number) {
    Made m;
    make(&m, number);
    return dataset_add(d, &m.c);
}

/* One batch of n conversations; `next` becomes next. */
static Status add_batch(Dataset *d, int64_t first, int64_t n, int64_t next) {
    TRY(dataset_begin(d));
    for (int64_t i = 0; i < n; i++) TRY(add(d, first + i));
    return dataset_commit(d, next);
}

static void assert_holds(Dataset *d, int64_t count) {
    assert_int_equal(dataset_count(d), count);
    for (int64_t i = 0; i < count; i++) {
        Made want;
        Conversation got;
        make(&want, i);
        assert_ok(dataset_get(d, i, &got));
        assert_same(&want.c, &got);
    }
}

static void fresh(Dataset **d) {
    unlink(path);
    assert_ok(dataset_create(d, path, &INFO, false));
}

/* ---- what comes back ---- */

static void count_drops(void *user, const char *reason, int64_t count) {
    int64_t *n = user;
    if (!strcmp(reason, "too long")) n[0] = count;
    if (!strcmp(reason, "unrelated")) n[1] = count;
}

static void test_comes_back(void **state) {
    (void)state;
    Dataset *d;
    int64_t drops[2] = {0};
    fresh(&d);
    assert_int_equal(dataset_count(d), 0);
    assert_int_equal(dataset_next(d), 0);
    assert_ok(add_batch(d, 4, 6, 2)); /* out of order: they come back by number */
    assert_ok(dataset_begin(d));
    for (int64_t i = 0; i < 4; i++) assert_ok(add(d, i));
    assert_ok(dataset_drop(d, "too long"));
    assert_ok(dataset_drop(d, "unrelated"));
    assert_ok(dataset_drop(d, "too long"));
    assert_ok(dataset_commit(d, 3));
    assert_holds(d, 10);
    dataset_close(d);

    assert_ok(dataset_open(&d, path));
    assert_holds(d, 10);
    assert_int_equal(dataset_next(d), 3);
    assert_string_equal(dataset_info(d)->model, "model-a");
    assert_string_equal(dataset_info(d)->template_family, "chatml");
    assert_string_equal(dataset_info(d)->settings, INFO.settings);
    assert_int_equal(dataset_info(d)->corpus_tokens, 1234);
    assert_ok(dataset_drops(d, count_drops, drops));
    assert_int_equal(drops[0], 2);
    assert_int_equal(drops[1], 1);
    assert_fails(ST_ARG, dataset_begin(d)); /* for reading */
    dataset_close(d);
}

static void test_an_unknown_likelihood_stays_unknown(void **state) {
    (void)state;
    Dataset *d;
    Made m;
    Conversation c;
    fresh(&d);
    make(&m, 0);
    m.c.answer_logprob = (double)NAN;
    m.c.kind = NULL;
    assert_ok(dataset_begin(d));
    assert_ok(dataset_add(d, &m.c));
    assert_ok(dataset_commit(d, 1));
    assert_ok(dataset_get(d, 0, &c));
    assert_true(isnan(c.answer_logprob));
    assert_string_equal(c.kind, "");
    dataset_close(d);
}

static void test_refuses_what_makes_no_sense(void **state) {
    (void)state;
    Dataset *d;
    Made m;
    fresh(&d);
    make(&m, 5);
    assert_fails(ST_ARG, dataset_add(d, &m.c)); /* no begin */
    assert_ok(dataset_begin(d));
    m.at[0] = 0;
    assert_fails(ST_ARG, dataset_add(d, &m.c));
    assert_says("conversation 5");
    make(&m, 5);
    m.logprob[0] = 0.5f;
    assert_fails(ST_ARG, dataset_add(d, &m.c));
    make(&m, 5);
    m.logprob[0] = NAN;
    assert_fails(ST_ARG, dataset_add(d, &m.c));
    make(&m, 5);
    assert_ok(dataset_add(d, &m.c));
    assert_fails(ST_IO, dataset_add(d, &m.c)); /* the same number twice */
    dataset_close(d);
}

/* ---- batches ---- */

static void test_a_batch_that_is_not_committed_leaves_nothing(void **state) {
    (void)state;
    Dataset *d;
    fresh(&d);
    assert_ok(add_batch(d, 0, 3, 1));
    assert_ok(dataset_begin(d));
    assert_ok(add(d, 3));
    assert_ok(dataset_begin(d)); /* begins again: 3 is given up */
    assert_ok(add(d, 4));
    dataset_close(d);
    assert_ok(dataset_create(&d, path, &INFO, true));
    assert_holds(d, 3);
    assert_int_equal(dataset_next(d), 1);
    assert_ok(add_batch(d, 3, 2, 2));
    assert_holds(d, 5);
    dataset_close(d);
}

static void copy_file(const char *to, const char *from) {
    size_t size;
    char *data = scratch_read(from, &size);
    scratch_put(to, data, size);
    free(data);
}

/* A crash between the first and the last write of a commit: file and journal as they are then. The batch is
 * larger than SQLite's cache, so that pages reach the file before the commit. */
static void test_a_crash_in_the_middle_rolls_back(void **state) {
    (void)state;
    Dataset *d, *after;
    struct stat before, now;
    fresh(&d);
    assert_ok(add_batch(d, 0, 20, 1));
    assert_int_equal(stat(path, &before), 0);
    assert_ok(dataset_begin(d));
    for (int64_t i = 20; i < 6000; i++) assert_ok(add(d, i));
    assert_int_equal(stat(path, &now), 0);
    assert_true(now.st_size > before.st_size); /* else this test shows nothing */
    copy_file("crashed", FILE_NAME);
    copy_file("crashed-journal", FILE_NAME "-journal");
    dataset_close(d);
    assert_ok(dataset_open(&after, scratch_path("crashed")));
    assert_holds(after, 20);
    dataset_close(after);
}

static void test_one_writer_many_readers(void **state) {
    (void)state;
    Dataset *writer, *other, *reader;
    fresh(&writer);
    assert_ok(add_batch(writer, 0, 3, 1));
    assert_ok(dataset_open(&reader, path));
    assert_holds(reader, 3);
    assert_fails(ST_FULL, dataset_create(&other, path, &INFO, true));
    assert_says("another program is writing to it");
    assert_ok(add_batch(writer, 3, 2, 2)); /* the reader is in nobody's way */
    assert_holds(reader, 3);
    dataset_close(reader);
    dataset_close(writer);
    assert_ok(dataset_create(&other, path, &INFO, true));
    assert_holds(other, 5);
    dataset_close(other);
}

/* Writes beyond `bytes` of any file fail as on a full disk. */
static void limit_files(rlim_t bytes) {
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void test_a_full_disk_keeps_what_was_committed(void **state) {
    (void)state;
    Dataset *d;
    struct stat s;
    signal(SIGXFSZ, SIG_IGN);
    fresh(&d);
    assert_ok(add_batch(d, 0, 5, 1));
    assert_int_equal(stat(path, &s), 0);
    limit_files((rlim_t)s.st_size + 8192);
    assert_fails(ST_NOSPACE, add_batch(d, 5, 200, 2));
    assert_says(path);
    limit_files(RLIM_INFINITY);
    assert_ok(add_batch(d, 5, 3, 2)); /* the same handle goes on */
    dataset_close(d);
    assert_ok(dataset_open(&d, path));
    assert_holds(d, 8);
    dataset_close(d);
}

static void test_a_full_disk_leaves_no_new_file(void **state) {
    (void)state;
    Dataset *d;
    signal(SIGXFSZ, SIG_IGN);
    unlink(path);
    limit_files(2048);
    assert_fails(ST_NOSPACE, dataset_create(&d, path, &INFO, false));
    limit_files(RLIM_INFINITY);
    assert_false(file_exists(path));
}

/* ---- who made it ---- */

static void assert_differs(const DatasetInfo *info, const char *what) {
    Dataset *d;
    assert_fails(ST_MISMATCH, dataset_create(&d, path, info, true));
    assert_says(what);
    assert_says(path);
}

static void test_resume_names_the_first_difference(void **state) {
    (void)state;
    Dataset *d;
    fresh(&d);
    dataset_close(d);
    assert_fails(ST_ARG, dataset_create(&d, path, &INFO, false));
    assert_says("is there already");
    DatasetInfo info = INFO;
    info.model = "model-b", info.corpus = "corpus-b";
    assert_differs(&info, "another model: model-a there, model-b now");
    info = INFO, info.corpus_tokens = 5;
    assert_differs(&info, "1234 tokens there, 5 now");
    info = INFO, info.settings = "{\"seed\":\"7\",\"per_chunk\":8}";
    assert_differs(&info, "per_chunk is 4 there, 8 now");
    info.settings = "{\"per_chunk\":4,\"seed\":\"7\",\"rounds\":2}";
    assert_differs(&info, "rounds is absent there, 2 now");
    info.settings = "something else";
    assert_differs(&info, "the text is");
    assert_ok(dataset_create(&d, path, &INFO, true));
    dataset_close(d);
}

static void test_files_of_others(void **state) {
    (void)state;
    Dataset *d;
    sqlite3 *db;
    const char *other = scratch_path("other");
    assert_fails(ST_NOTFOUND, dataset_open(&d, other));
    assert_fails(ST_NOTFOUND, dataset_create(&d, other, &INFO, true));
    assert_fails(ST_NOTFOUND, dataset_open(&d, scratch_folder()));
    Writer *w;
    assert_ok(writer_open(&w, other));
    for (int i = 0; i < 500; i++) assert_ok(writer_put(w, "not a database", 14));
    assert_ok(writer_finish(&w));
    assert_fails(ST_FORMAT, dataset_open(&d, other));
    assert_says(other);
    unlink(other);
    assert_int_equal(sqlite3_open(other, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "CREATE TABLE conversation (number INTEGER)", NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);
    assert_fails(ST_FORMAT, dataset_open(&d, other));
    assert_says("not a dataset");
    unlink(other);
}

/* ---- damage ---- */

/* Reads everything; ST_OK only if it is all as it was written. */
static Status read_everything(const char *file, int64_t count) {
    Dataset *d;
    TRY(dataset_open(&d, file));
    Status st = ST_OK;
    if (dataset_count(d) != count) fail_msg("%s: %lld rows", file, (long long)dataset_count(d));
    for (int64_t i = 0; i < count; i++) {
        Made want;
        Conversation got;
        st = dataset_get(d, i, &got);
        if (st) break;
        make(&want, got.number);
        assert_same(&want.c, &got);
    }
    dataset_close(d);
    return st;
}

/* Every 37th byte in turn, turned upside down: the file reads as before (the byte was unused), or there is an
 * error. */
static void test_flipped_bytes(void **state) {
    (void)state;
    enum { ROWS = 12 };
    Dataset *d;
    size_t size, errors = 0;
    fresh(&d);
    assert_ok(add_batch(d, 0, ROWS, 3));
    dataset_close(d);
    char *data = scratch_read(FILE_NAME, &size);
    copy_file("hurt", FILE_NAME);
    for (size_t at = 0; at < size; at += 37) {
        scratch_put_byte("hurt", at, (char)(data[at] ^ 0xff));
        Status st = read_everything(scratch_path("hurt"), ROWS);
        errors += st != ST_OK;
        if (st && st != ST_FORMAT && st != ST_UNSUPPORTED && st != ST_NOTFOUND && st != ST_IO)
            fail_msg("byte %zu: %s (%s)", at, status_message(), status_text(st));
        if (st && !strstr(status_message(), scratch_path("hurt")))
            fail_msg("byte %zu: no path in \"%s\"", at, status_message());
        scratch_put_byte("hurt", at, data[at]);
    }
    assert_true(errors > 100);
    assert_ok(read_everything(scratch_path("hurt"), ROWS));
    free(data);
}

static void test_truncated_files(void **state) {
    (void)state;
    enum { ROWS = 12 };
    Dataset *d;
    struct stat s;
    fresh(&d);
    assert_ok(add_batch(d, 0, ROWS, 3));
    dataset_close(d);
    assert_int_equal(stat(path, &s), 0);
    for (off_t size = 0; size < s.st_size; size += 509) {
        copy_file("hurt", FILE_NAME);
        assert_int_equal(truncate(scratch_path("hurt"), size), 0);
        Status st = read_everything(scratch_path("hurt"), ROWS);
        if (st != ST_FORMAT)
            fail_msg("%lld bytes: %s (%s)", (long long)size, st ? status_message() : "", status_text(st));
    }
}

static void change(const char *sql) {
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* Changes that SQLite itself finds nothing wrong with. */
static void test_changed_rows(void **state) {
    (void)state;
    static const char *const edits[] = {
        "UPDATE conversation SET answer = 'another' WHERE number = 2",
        "UPDATE conversation SET number = 99 WHERE number = 2",
        "UPDATE conversation SET token = substr(token, 1, length(token) - 4) WHERE number = 2",
        "UPDATE conversation SET first = zeroblob(length(first)) WHERE number = 2",
        "UPDATE conversation SET logprob = 'text' WHERE number = 2",
        "UPDATE conversation SET sha256 = NULL || 'x' WHERE number = 77 OR number = 2 AND 0",
        "DELETE FROM conversation WHERE number = 2",
        "UPDATE meta SET value = 'model-b' WHERE key = 'model'",
        "UPDATE meta SET value = '9' WHERE key = 'next'",
        "DELETE FROM meta WHERE key = 'tokenizer'",
        "INSERT INTO dropped VALUES ('x', 1)",
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        Dataset *d;
        fresh(&d);
        assert_ok(add_batch(d, 0, 4, 1));
        dataset_close(d);
        change(edits[i]);
        bool harmless = strstr(edits[i], "AND 0") != NULL;
        Status st = read_everything(path, 4);
        if (st != (harmless ? ST_OK : ST_FORMAT)) fail_msg("%s: %s", edits[i], status_text(st));
    }
}

static int set_up(void **state) {
    scratch_set_up(state);
    snprintf(path, sizeof path, "%s", scratch_path(FILE_NAME));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comes_back),
        cmocka_unit_test(test_an_unknown_likelihood_stays_unknown),
        cmocka_unit_test(test_refuses_what_makes_no_sense),
        cmocka_unit_test(test_a_batch_that_is_not_committed_leaves_nothing),
        cmocka_unit_test(test_a_crash_in_the_middle_rolls_back),
        cmocka_unit_test(test_one_writer_many_readers),
        cmocka_unit_test(test_a_full_disk_keeps_what_was_committed),
        cmocka_unit_test(test_a_full_disk_leaves_no_new_file),
        cmocka_unit_test(test_resume_names_the_first_difference),
        cmocka_unit_test(test_files_of_others),
        cmocka_unit_test(test_flipped_bytes),
        cmocka_unit_test(test_truncated_files),
        cmocka_unit_test(test_changed_rows),
    };
    return cmocka_run_group_tests(tests, set_up, scratch_tear_down);
}
