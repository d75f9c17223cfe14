/* fuzz.h -- what the fuzz targets share. A target is one file with LLVMFuzzerTestOneInput, which feeds its
 * bytes to a reader and checks what the reader promises of everything that it accepts. clang's libFuzzer
 * (preset `fuzz`) looks for bytes that break this; in the other builds replay.c feeds it the seeds that are
 * kept, and damaged copies. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A folder of this process, made at the first call, removed at its end. */
const char *fuzz_folder(void);
/* Writes a file there and returns its path, for readers that want one; good until the fourth call after this
 * one. */
const char *fuzz_file(const char *name, const void *data, size_t size);

/* The next part of the input, up to a zero byte or the end, as a string from malloc. */
typedef struct FuzzInput {
    const uint8_t *p;
    size_t n;
} FuzzInput;
char *fuzz_part(FuzzInput *in);
uint8_t fuzz_byte(FuzzInput *in); /* 0 at the end */

/* Puts the digest of a safetensors file where its seal stands, if it has the place of one. */
void fuzz_reseal(uint8_t *data, size_t size);

/* A promise that does not hold ends the process, as a bad access does. */
#define fuzz_check(holds)                                                                                    \
    do {                                                                                                     \
        if (!(holds)) fuzz_broken(__FILE__, __LINE__, #holds);                                               \
    } while (0)
void fuzz_broken(const char *file, int line, const char *what) __attribute__((noreturn));

#endif
