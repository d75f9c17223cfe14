/* fuzz.c -- see fuzz.h. */
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/file.h"

enum { PATHS = 4, PATH_BYTES = 512, NAMES = 8 };
static char folder[PATH_BYTES / 2];
static const char *written[NAMES];

void fuzz_broken(const char *file, int line, const char *what) {
    fprintf(stderr, "%s:%d: does not hold: %s\n  last failure: %s\n", file, line, what, status_message());
    abort();
}

/* The linker sends fsync here: these files need not outlive the power. */
int __wrap_fsync(int fd);
int __wrap_fsync(int fd) {
    (void)fd;
    return 0;
}

static void remove_folder(void) {
    for (int i = 0; i < NAMES && written[i]; i++) {
        char path[PATH_BYTES];
        snprintf(path, sizeof path, "%s/%s", folder, written[i]);
        unlink(path);
    }
    rmdir(folder);
}

const char *fuzz_folder(void) {
    if (*folder) return folder;
    const char *place = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/cartridge-fuzz-XXXXXX", place ? place : "/tmp");
    fuzz_check(mkdtemp(folder));
    atexit(remove_folder);
    return folder;
}

static void remember(const char *name) {
    int i = 0;
    while (i < NAMES && written[i] && strcmp(written[i], name)) i++;
    fuzz_check(i < NAMES);
    written[i] = name;
}

const char *fuzz_file(const char *name, const void *data, size_t size) {
    static char path[PATHS][PATH_BYTES];
    static int next;
    char *p = path[next++ % PATHS];
    remember(name);
    snprintf(p, PATH_BYTES, "%s/%s", fuzz_folder(), name);
    unlink(p); /* some file systems sync a file that is cut and written again */
    FILE *f = fopen(p, "wb");
    fuzz_check(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
    return p;
}

char *fuzz_part(FuzzInput *in) {
    const uint8_t *end = in->n ? memchr(in->p, 0, in->n) : NULL;
    size_t n = end ? (size_t)(end - in->p) : in->n;
    char *text = malloc(n + 1);
    fuzz_check(text);
    if (n) memcpy(text, in->p, n);
    text[n] = '\0';
    in->p += n + (end != NULL);
    in->n -= n + (end != NULL);
    return text;
}

uint8_t fuzz_byte(FuzzInput *in) {
    if (!in->n) return 0;
    in->n--;
    return *in->p++;
}

void fuzz_reseal(uint8_t *data, size_t size) {
    enum { DIGITS = 64 };
    static const char key[] = "\"sha256\":\"";
    char hex[DIGITS + 1];
    uint8_t *at = memmem(data, size, key, sizeof key - 1);
    if (!at || (size_t)(data + size - at) < sizeof key - 1 + DIGITS) return;
    at += sizeof key - 1;
    memset(at, '0', DIGITS);
    digest_hex(sha256_of(data, size), hex);
    memcpy(at, hex, DIGITS);
}
