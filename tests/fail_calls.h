/* fail_calls.h -- lets the n-th system call fail with which a test program's own code writes: open for
 * writing, write, fsync, close, mkdir, rename. The linker sends those calls here: link with the library
 * fail_calls. Calls inside shared libraries (SQLite) are not seen. */
#ifndef TESTS_FAIL_CALLS_H
#define TESTS_FAIL_CALLS_H

#include <stdbool.h>
#include <stdint.h>

/* After n calls that work, one fails with errno `why`; those after it work again. */
void fail_call(int64_t n, int why);
/* Whether it has; if not, there were no more than n calls. Nothing fails from here on. */
bool fail_call_happened(void);

/* How many files this process has open: a failure must not leave one more. */
int open_files(void);

#endif
