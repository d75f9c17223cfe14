/* replay.c -- the main() of a fuzz target where there is no libFuzzer: feeds it every seed of its folder,
 * then the seed's beginnings and copies with one byte changed, at every place near its start and some further
 * on. One TAP test per seed; whatever the target finds ends the process, under the name printed last. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "tests/fuzz/fuzz.h"

/* Places further on: steps that meet each place of a word. */
enum { SEEDS_MAX = 256, NEAR = 400, STEP = 61 };

static size_t next_place(size_t at) {
    return at + (at < NEAR ? 1 : STEP);
}

/* Exactly as many bytes as the input has, so that the sanitizer sees a read behind them. */
static void feed(const uint8_t *data, size_t size, size_t flipped, uint8_t by) {
    uint8_t *copy = malloc(size ? size : 1);
    fuzz_check(copy);
    if (size) memcpy(copy, data, size);
    if (flipped < size) copy[flipped] ^= by;
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void replay(const uint8_t *data, size_t size) {
    feed(data, size, size, 0);
    for (size_t at = 0; at < size; at = next_place(at)) {
        feed(data, at, at, 0);
        feed(data, size, at, (uint8_t)(1 << at % 8));
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int list_seeds(const char *folder, char *name[SEEDS_MAX]) {
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.' && n < SEEDS_MAX) name[n++] = strdup(e->d_name);
    if (d) closedir(d);
    qsort(name, (size_t)n, sizeof *name, by_name);
    return n;
}

static int replay_file(const char *folder, const char *name) {
    char path[1024];
    FileMap map;
    if (file_join(path, sizeof path, folder, name) || file_map(&map, path)) return 1;
    replay(map.data, map.size);
    file_unmap(&map);
    return 0;
}

int main(int argc, char **argv) {
    static char *name[SEEDS_MAX];
    const char *folder = argc > 1 ? argv[1] : ".";
    int n = list_seeds(folder, name), failed = n == 0;
    if (!n) printf("not ok 1 - %s has no seeds\n", folder);
    for (int i = 0; i < n; i++) {
        printf("# %s\n", name[i]);
        fflush(stdout);
        int bad = replay_file(folder, name[i]);
        printf("%sok %d - %s\n", bad ? "not " : "", i + 1, name[i]);
        failed |= bad;
        free(name[i]);
    }
    printf("1..%d\n", n ? n : 1);
    return failed;
}
