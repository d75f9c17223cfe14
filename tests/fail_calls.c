/* fail_calls.c -- see fail_calls.h. What fails is not done, but a file is closed whatever close() says. */
#include "tests/fail_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/types.h>

#include "tests/test.h"

static int64_t left = -1; /* negative: nothing fails */
static int reason;
static bool happened;

int __real_open(const char *path, int flags, ...);
ssize_t __real_write(int fd, const void *data, size_t n);
int __real_fsync(int fd);
int __real_close(int fd);
int __real_mkdir(const char *path, mode_t mode);
int __real_rename(const char *from, const char *to);
int __wrap_open(const char *path, int flags, ...);
ssize_t __wrap_write(int fd, const void *data, size_t n);
int __wrap_fsync(int fd);
int __wrap_close(int fd);
int __wrap_mkdir(const char *path, mode_t mode);
int __wrap_rename(const char *from, const char *to);

void fail_call(int64_t n, int why) {
    left = n;
    reason = why;
    happened = false;
}

bool fail_call_happened(void) {
    left = -1;
    return happened;
}

static bool fails(void) {
    if (left < 0 || left-- > 0) return false;
    happened = true;
    errno = reason;
    return true;
}

int __wrap_open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    bool writes = (flags & O_ACCMODE) != O_RDONLY;
    return writes && fails() ? -1 : __real_open(path, flags, mode);
}

ssize_t __wrap_write(int fd, const void *data, size_t n) {
    return fails() ? -1 : __real_write(fd, data, n);
}

int __wrap_fsync(int fd) {
    return fails() ? -1 : __real_fsync(fd);
}

int __wrap_close(int fd) {
    int closed = __real_close(fd);
    return fails() ? -1 : closed;
}

int __wrap_mkdir(const char *path, mode_t mode) {
    return fails() ? -1 : __real_mkdir(path, mode);
}

int __wrap_rename(const char *from, const char *to) {
    return fails() ? -1 : __real_rename(from, to);
}

int open_files(void) {
    return test_folder_count("/proc/self/fd");
}
