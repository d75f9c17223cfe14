/* scratch.c -- see scratch.h. */
#include "tests/scratch.h"

#include "kernels/base/file.h"
#include "tests/test.h"

enum { PATHS = 8, PATH_BYTES = 512 };
static char folder[PATH_BYTES / 2];

void scratch_open(void) {
    const char *place = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/cartridge-test-XXXXXX", place ? place : "/tmp");
    if (!mkdtemp(folder)) fail_msg("%s: no folder could be made", folder);
}

const char *scratch_folder(void) {
    return folder;
}

const char *scratch_path(const char *name) {
    static char path[PATHS][PATH_BYTES];
    static int next;
    char *p = path[next++ % PATHS];
    assert_true(snprintf(p, PATH_BYTES, "%s/%s", folder, name) < PATH_BYTES);
    return p;
}

void scratch_put(const char *name, const void *data, size_t size) {
    /* some file systems sync a file that is cut and written again; a new one they do not */
    scratch_remove(name);
    FILE *f = fopen(scratch_path(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

void scratch_put_text(const char *name, const char *text) {
    scratch_put(name, text, strlen(text));
}

char *scratch_read(const char *name, size_t *size) {
    char *data;
    assert_ok(file_read(&data, size, scratch_path(name)));
    return data;
}

/* Removes a folder with its files and folders. */
static void remove_folder(const char *of) {
    DIR *d = opendir(of);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char path[1024];
        if (snprintf(path, sizeof path, "%s/%s", of, e->d_name) >= (int)sizeof path) continue;
        struct stat s;
        if (lstat(path, &s) == 0 && S_ISDIR(s.st_mode)) remove_folder(path);
        else unlink(path);
    }
    if (d) closedir(d);
    rmdir(of);
}

void scratch_remove(const char *name) {
    const char *path = scratch_path(name);
    if (unlink(path)) remove_folder(path);
}

void scratch_put_byte(const char *name, size_t at, char byte) {
    FILE *f = fopen(scratch_path(name), "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)at, SEEK_SET), 0);
    assert_int_equal(fwrite(&byte, 1, 1, f), 1);
    assert_int_equal(fclose(f), 0);
}

void scratch_same(const char *a, const char *b) {
    size_t n, m;
    char *x = scratch_read(a, &n), *y = scratch_read(b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x), free(y);
}

int scratch_files(void) {
    return test_folder_count(folder);
}

void scratch_close(void) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') scratch_remove(e->d_name);
    closedir(d);
    assert_int_equal(rmdir(folder), 0);
}

int scratch_set_up(void **state) {
    (void)state;
    scratch_open();
    return 0;
}

int scratch_tear_down(void **state) {
    (void)state;
    scratch_close();
    return 0;
}
