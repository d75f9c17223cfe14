/* test_writes.c -- every system call with which a file is written fails in turn, once: there is an error and
 * what was there before, or success and the new file; never a half of either, a file beside them, or one that
 * stays open. */
#include "tests/test.h"

#include <errno.h>
#include <sqlite3.h>

#include "engine/learn/dataset.h"
#include "engine/memory/cartridge_peft.h"
#include "engine/memory/compose.h"
#include "kernels/base/file.h"
#include "tests/fail_calls.h"
#include "tests/scratch.h"
#include "tools/report.h"

enum { LAYERS = 2, HEADS = 2, WIDTH = 32, ROWS = 300 }; /* more bytes than a Writer keeps before it writes */

static void make_cartridge(CartridgeData *out, int32_t rows, int64_t steps) {
    CartridgeInfo info = {.version = CARTRIDGE_VERSION,
                          .layers = LAYERS,
                          .kv_heads = HEADS,
                          .head_dim = WIDTH,
                          .rows = rows,
                          .frozen = 1,
                          .pos_end = rows,
                          .rope_theta = 1e4,
                          .steps = steps};
    assert_ok(cartridge_data_new(out, &info));
    for (int64_t i = 0; i < tensor_count(out->rows); i++)
        ((uint16_t *)out->rows.data)[i] = (uint16_t)(i % 16000);
}

static void same_bytes(const char *path, const char *want, size_t size) {
    char *now;
    size_t n;
    assert_ok(file_read(&now, &n, path));
    assert_int_equal(n, size);
    assert_memory_equal(now, want, size);
    free(now);
}

/* ---- files of a Writer ---- */

/* A failure is forgiven in two calls for each file: when its folder, where the new name is there already, is
 * synced and closed. */
enum { FORGIVEN = 2 };

/* Something that writes one file, the same every time. */
typedef struct Work {
    Status (*write)(const struct Work *w, const char *path);
    const CartridgeData *part; /* [2] */
} Work;

static Status write_cartridge(const Work *w, const char *path) {
    return cartridge_data_write(&w->part[0], path);
}

static Status write_composed(const Work *w, const char *path) {
    CartridgeData whole;
    TRY(cartridge_compose(&whole, w->part, 2, SINKS_FIRST));
    Status st = cartridge_data_write(&whole, path);
    cartridge_data_close(&whole);
    return st;
}

/* One call after the other fails; the file is the old one with an error, or the new one. The number of calls.
 */
static int64_t fail_each(const Work *w, int why, Status code) {
    char *fresh;
    size_t size;
    assert_ok(w->write(w, scratch_path("new")));
    assert_ok(file_read(&fresh, &size, scratch_path("new")));
    scratch_remove("new");
    int files = open_files(), forgiven = 0;
    for (int64_t n = 0;; n++) {
        scratch_put("kept", "old", 3);
        fail_call(n, why);
        Status st = w->write(w, scratch_path("kept"));
        bool happened = fail_call_happened();
        if (st) assert_int_equal(st, code);
        if (st) assert_says(scratch_path("kept"));
        if (st)
            same_bytes(scratch_path("kept"), "old", 3);
        else
            same_bytes(scratch_path("kept"), fresh, size);
        assert_int_equal(scratch_files(), 1);
        assert_int_equal(open_files(), files);
        forgiven += happened && !st;
        if (happened) continue;
        assert_int_equal(st, ST_OK);
        assert_int_equal(forgiven, FORGIVEN);
        free(fresh);
        scratch_remove("kept");
        return n;
    }
}

/* Opening, two writes at the least, syncing, closing, renaming, and the two that are forgiven. */
static void test_cartridges(void **state) {
    (void)state;
    CartridgeData part[2];
    make_cartridge(&part[0], ROWS, 1);
    make_cartridge(&part[1], ROWS / 2, 2);
    assert_true(fail_each(&(Work){.write = write_cartridge, .part = part}, EIO, ST_IO) >= 7);
    assert_true(fail_each(&(Work){.write = write_composed, .part = part}, ENOSPC, ST_NOSPACE) >= 7);
    cartridge_data_close(&part[0]);
    cartridge_data_close(&part[1]);
}

static Status write_page(const Work *w, const char *path) {
    (void)w;
    Page *p;
    TRY(page_open(&p, "a run", "in one page"));
    for (int i = 0; i < 2000; i++)
        page_paragraph(p, "paragraph %d of a page that does not fit into one write", i);
    Status st = page_write(p, path);
    page_close(p);
    return st;
}

static void test_report(void **state) {
    (void)state;
    assert_true(fail_each(&(Work){.write = write_page}, EIO, ST_IO) >= 6);
}

/* A folder is written aside, too: it is there with both files, or not at all. */
static void test_folder_for_peft(void **state) {
    (void)state;
    CartridgeData c, back;
    Rounding rounding;
    make_cartridge(&c, ROWS, 1);
    int files = open_files(), forgiven = 0;
    int64_t n = 0;
    for (Status st = ST_IO; st; n++) {
        fail_call(n, EIO);
        st = cartridge_peft_write(&c, scratch_path("out"), NULL);
        bool happened = fail_call_happened();
        assert_int_equal(open_files(), files);
        assert_int_equal(scratch_files(), st ? 0 : 1);
        if (st) assert_int_equal(st, ST_IO);
        if (st || !happened) continue;
        scratch_remove("out");
        forgiven++;
        st = ST_IO;
    }
    assert_true(n > 12);
    assert_int_equal(forgiven, 2 * FORGIVEN); /* two files */
    assert_ok(cartridge_peft_read(&back, scratch_path("out"), NULL, &rounding));
    assert_memory_equal(back.rows.data, c.rows.data, tensor_bytes(c.rows));
    scratch_remove("out");
    cartridge_data_close(&back);
    cartridge_data_close(&c);
}

/* ---- datasets: SQLite writes them, through an interface that can be stood in front of ---- */

static int64_t calls_left = -1;
static bool call_failed;
static sqlite3_vfs *disk;           /* SQLite's own */
static sqlite3_io_methods front[4]; /* its methods with ours in their place */
static const sqlite3_io_methods *behind[4];
enum { METHODS = sizeof front / sizeof *front };

static bool call_fails(void) {
    if (calls_left < 0 || calls_left-- > 0) return false;
    return call_failed = true;
}

static const sqlite3_io_methods *real_methods(const sqlite3_file *f) {
    return behind[f->pMethods - front];
}

static int failing_write(sqlite3_file *f, const void *data, int n, sqlite3_int64 at) {
    return call_fails() ? SQLITE_FULL : real_methods(f)->xWrite(f, data, n, at);
}

static int failing_truncate(sqlite3_file *f, sqlite3_int64 size) {
    return call_fails() ? SQLITE_IOERR_TRUNCATE : real_methods(f)->xTruncate(f, size);
}

static int failing_sync(sqlite3_file *f, int flags) {
    return call_fails() ? SQLITE_IOERR_FSYNC : real_methods(f)->xSync(f, flags);
}

static const sqlite3_io_methods *front_of(const sqlite3_io_methods *real) {
    int i = 0;
    while (i < METHODS && behind[i] && behind[i] != real) i++;
    assert_true(i < METHODS);
    behind[i] = real;
    front[i] = *real;
    front[i].xWrite = failing_write;
    front[i].xTruncate = failing_truncate;
    front[i].xSync = failing_sync;
    return &front[i];
}

static int failing_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out) {
    (void)v;
    bool journal = flags & SQLITE_OPEN_MAIN_JOURNAL;
    if (journal && call_fails()) {
        f->pMethods = NULL;
        return SQLITE_CANTOPEN;
    }
    int rc = disk->xOpen(disk, name, f, flags, out);
    if (f->pMethods) f->pMethods = front_of(f->pMethods);
    return rc;
}

static int failing_delete(sqlite3_vfs *v, const char *name, int sync) {
    (void)v;
    return call_fails() ? SQLITE_IOERR_DELETE : disk->xDelete(disk, name, sync);
}

static sqlite3_vfs failing;

static void stand_in_front(void) {
    disk = sqlite3_vfs_find(NULL);
    failing = *disk;
    failing.zName = "failing";
    failing.xOpen = failing_open;
    failing.xDelete = failing_delete;
    assert_int_equal(sqlite3_vfs_register(&failing, 1), SQLITE_OK);
}

static const DatasetInfo INFO = {
    .model = "m", .tokenizer = "t", .template_family = "chatml", .corpus = "c", .settings = "{}"};

static Status add_rows(Dataset *d, int64_t from, int64_t to) {
    enum { TOKENS = 600 };
    static int32_t token[TOKENS];
    const int32_t at[1] = {1}, first[2] = {0, 1}, id[1] = {3};
    const float logprob[1] = {-1};
    TRY(dataset_begin(d));
    for (int64_t i = from; i < to; i++)
        TRY(dataset_add(d, &(Conversation){.number = i,
                                           .n = TOKENS,
                                           .targets = 1,
                                           .token = token,
                                           .at = at,
                                           .first = first,
                                           .id = id,
                                           .logprob = logprob}));
    return dataset_commit(d, to);
}

/* All rows can be read, and there are so many. */
static void assert_rows(const char *path, int64_t rows) {
    Dataset *d;
    Conversation c;
    assert_ok(dataset_open(&d, path));
    assert_int_equal(dataset_count(d), rows);
    assert_int_equal(dataset_next(d), rows);
    for (int64_t i = 0; i < rows; i++) assert_ok(dataset_get(d, i, &c));
    dataset_close(d);
}

static bool calls_failed(void) {
    calls_left = -1;
    return call_failed;
}

static void let_call_fail(int64_t n) {
    calls_left = n;
    call_failed = false;
}

enum { BEFORE = 3, AFTER = 20 }; /* rows */

/* A new dataset with some rows, and a batch of more, of which the n-th call fails. */
static Status fail_batch(Dataset **d, int64_t n) {
    assert_ok(dataset_create(d, scratch_path("a.study"), &INFO, false));
    assert_ok(add_rows(*d, 0, BEFORE));
    let_call_fail(n);
    return add_rows(*d, BEFORE, AFTER);
}

/* The dataset, closed: so many rows, no file beside it, no memory kept. Then it goes. */
static void check_and_remove(int64_t rows) {
    assert_rows(scratch_path("a.study"), rows);
    assert_int_equal(scratch_files(), 1);
    scratch_remove("a.study");
    assert_int_equal(sqlite3_memory_used(), 0);
}

/* A batch of which any call fails is not there, and the same handle goes on. */
static void test_dataset_batches(void **state) {
    (void)state;
    int files = open_files();
    bool happened = true;
    int64_t n = 0;
    for (; happened; n++) {
        Dataset *d;
        Status st = fail_batch(&d, n);
        happened = calls_failed();
        if (!happened) assert_ok(st);
        if (st) assert_true(st == ST_NOSPACE || st == ST_IO || st == ST_NOTFOUND);
        if (st) assert_ok(add_rows(d, BEFORE, AFTER));
        dataset_close(d);
        check_and_remove(AFTER);
        assert_int_equal(open_files(), files);
    }
    assert_true(n > 20);
}

/* The same, given up at the failure: the file as it was before the batch. */
static void test_dataset_left_at_a_failure(void **state) {
    (void)state;
    bool happened = true;
    for (int64_t n = 0; happened; n++) {
        Dataset *d;
        Status st = fail_batch(&d, n);
        dataset_close(d);
        happened = calls_failed();
        check_and_remove(st ? BEFORE : AFTER);
    }
}

/* A dataset that cannot be made is not there, nor is its journal. */
static void test_dataset_creation(void **state) {
    (void)state;
    const char *path = scratch_path("a.study");
    int files = open_files();
    bool happened = true;
    int64_t n = 0;
    for (; happened; n++) {
        Dataset *d;
        let_call_fail(n);
        Status st = dataset_create(&d, path, &INFO, false);
        happened = calls_failed();
        if (!happened) assert_ok(st);
        if (st) assert_null(d);
        dataset_close(d);
        assert_int_equal(scratch_files(), st ? 0 : 1);
        if (!st) assert_rows(path, 0);
        scratch_remove("a.study");
        assert_int_equal(open_files(), files);
        assert_int_equal(sqlite3_memory_used(), 0);
    }
    assert_true(n > 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cartridges),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_folder_for_peft),
        cmocka_unit_test(test_dataset_batches),
        cmocka_unit_test(test_dataset_left_at_a_failure),
        cmocka_unit_test(test_dataset_creation),
    };
    scratch_open();
    stand_in_front();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    scratch_close();
    return failed;
}
