/* scratch.h -- a folder of a test's own, for files that come and go, and what tests do to files in it. */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

void scratch_open(void);
void scratch_close(void); /* removes the folder with the files and folders in it; a hidden one is a failure */

/* The two, as cmocka's groups want them. */
int scratch_set_up(void **state);
int scratch_tear_down(void **state);

/* The path of a file in it; good until the eighth call after this one. */
const char *scratch_path(const char *name);
const char *scratch_folder(void);

/* Whole files; put replaces, what is read has a NUL behind it and is yours to free(). */
void scratch_put(const char *name, const void *data, size_t size);
void scratch_put_text(const char *name, const char *text);
char *scratch_read(const char *name, size_t *size);
void scratch_remove(const char *name); /* a folder, too; fine when it does not exist */
int scratch_files(void);               /* how many there are, folders and hidden ones included */

void scratch_put_byte(const char *name, size_t at, char byte); /* into a file that is there */
void scratch_same(const char *a, const char *b);               /* both have the same bytes */

#endif
