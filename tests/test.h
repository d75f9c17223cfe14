/* test.h -- what all tests share: cmocka with its includes in the order it wants, asserts on Status and on
 * floats, inputs from a seed or in blocks of their own. */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base/random.h"
#include "kernels/base/status.h"

/* The call succeeds; else its message is printed. */
#define assert_ok(call)                                                                                      \
    do {                                                                                                     \
        Status ok_ = (call);                                                                                 \
        if (ok_) fail_msg("%s\n  gave: %s (%s)", #call, status_message(), status_text(ok_));                 \
    } while (0)

/* The call fails with this code. */
#define assert_fails(code, call)                                                                             \
    do {                                                                                                     \
        Status is_ = (call);                                                                                 \
        if (is_ != (code))                                                                                   \
            fail_msg("%s\n  gave: %s (%s), wanted: %s", #call, status_text(is_),                             \
                     is_ ? status_message() : "", status_text(code));                                        \
    } while (0)

/* This thread's last failure mentions `text`. */
#define assert_says(text)                                                                                    \
    do {                                                                                                     \
        if (!strstr(status_message(), (text)))                                                               \
            fail_msg("the message \"%s\" does not mention \"%s\"", status_message(), (text));                \
    } while (0)

/* Entry i of a table of wrong inputs gave `is`: this code is wanted, and a message that mentions `says`. */
static inline void test_refused(size_t i, const char *what, Status is, Status code, const char *says) {
    if (is != code || !strstr(status_message(), says))
        fail_msg("entry %zu, %s\n  gave: %s (%s), wanted: %s and \"%s\"", i, what, is ? status_message() : "",
                 status_text(is), status_text(code), says);
}

/* |a - b| is at most `within`. A NaN is near nothing. */
#define assert_within(a, b, within)                                                                          \
    do {                                                                                                     \
        double a_ = (a), b_ = (b), within_ = (within);                                                       \
        if (!(fabs(a_ - b_) <= within_))                                                                     \
            fail_msg("%s = %.9g, %s = %.9g: they differ by %.3g, allowed: %.3g", #a, a_, #b, b_,             \
                     fabs(a_ - b_), within_);                                                                \
    } while (0)

/* Entries of a folder, hidden ones included. */
static inline int test_folder_count(const char *folder) {
    DIR *d = opendir(folder);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    if (d) closedir(d);
    return n;
}

/* A copy in a block of its own, so that a sanitizer sees what reads beyond its end; free() it. */
static inline void *test_exact(const void *data, size_t n) {
    void *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    return memcpy(copy, data, n);
}

/* The text with its first `from` replaced by `to`; free() it. */
static inline char *test_replaced(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    if (!at) fail_msg("no %s in %s", from, text);
    size_t cap = strlen(text) + strlen(to) + 1;
    char *changed = malloc(cap);
    assert_non_null(changed);
    snprintf(changed, cap, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return changed;
}

/* n standard normal numbers times `scale`. */
static inline void test_normals(float *x, int64_t n, float scale, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) x[i] = scale * random_normal(seed, 0, (uint64_t)i);
}

#endif
