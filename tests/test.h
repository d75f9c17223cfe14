/* test.h -- what all tests share: cmocka with its includes in the order it wants, and asserts on Status. */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

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
            fail_msg("%s\n  gave: %s (%s), wanted: %s", #call, status_text(is_), is_ ? status_message() : "",  \
                     status_text(code));                                                                     \
    } while (0)

/* This thread's last failure mentions `text`. */
#define assert_says(text)                                                                                    \
    do {                                                                                                     \
        if (!strstr(status_message(), (text)))                                                               \
            fail_msg("the message \"%s\" does not mention \"%s\"", status_message(), (text));                \
    } while (0)

#endif
