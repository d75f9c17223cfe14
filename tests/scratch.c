/* scratch.c -- see scratch.h. */
#include "tests/scratch.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/test.h"

enum { PATHS = 8, PATH_BYTES = 512 };
static char folder[PATH_BYTES / 2];

void scratch_open(void) {
    const char *place = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/cartridge-test-XXXXXX", place ? place : "/tmp");
    assert_non_null(mkdtemp(folder));
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
    scratch_remove(name); /* some file systems sync a file that is cut and written again; a new one they do not */
    FILE *f = fopen(scratch_path(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

void scratch_remove(const char *name) {
    unlink(scratch_path(name));
}

/* Calls `each` on every file; the count. */
static int walk(void (*each)(const char *name)) {
    DIR *d = opendir(folder);
    assert_non_null(d);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        n++;
        if (each) each(e->d_name);
    }
    closedir(d);
    return n;
}

int scratch_files(void) {
    return walk(NULL);
}

void scratch_close(void) {
    walk(scratch_remove);
    assert_int_equal(rmdir(folder), 0);
}
