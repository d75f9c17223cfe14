/* scratch.h -- a folder of a test's own, for files that come and go. */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

void scratch_open(void);
void scratch_close(void); /* removes the folder and the files in it */

/* The path of a file in it; good until the eighth call after this one. */
const char *scratch_path(const char *name);
const char *scratch_folder(void);

/* Whole files; put replaces. */
void scratch_put(const char *name, const void *data, size_t size);
void scratch_remove(const char *name); /* fine when it does not exist */
int scratch_files(void);               /* how many there are */

#endif
