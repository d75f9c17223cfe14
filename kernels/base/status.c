/* status.c -- one message per thread; the place is kept behind the text, where a reader looks last. */
#include "kernels/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[1024];

const char *status_text(Status st) {
    static const char *const text[] = {
#define X(name, words) [ST_##name] = words,
        STATUS_MAP(X)
#undef X
    };
    return (size_t)st < sizeof text / sizeof text[0] ? text[st] : "unknown status";
}

const char *status_message(void) {
    return message;
}

Status status_fail(Status st, const char *file, int line, const char *fmt, ...) {
    /* Arguments may point into the old message (a cause being wrapped), so the new one is built beside it. */
    char fresh[sizeof message];
    va_list args;
    va_start(args, fmt);
    int used = vsnprintf(fresh, sizeof fresh, fmt, args);
    va_end(args);
    if (used < 0) used = 0;
    if ((size_t)used < sizeof fresh)
        snprintf(fresh + used, sizeof fresh - (size_t)used, " [%s:%d]", file, line);
    memcpy(message, fresh, sizeof message);
    return st;
}

Status status_prefix(Status st, const char *fmt, ...) {
    char fresh[sizeof message];
    va_list args;
    va_start(args, fmt);
    int used = vsnprintf(fresh, sizeof fresh, fmt, args);
    va_end(args);
    size_t at = used < 0 ? 0 : (size_t)used < sizeof fresh - 3 ? (size_t)used : sizeof fresh - 3;
    memcpy(fresh + at, ": ", 2);
    memcpy(fresh + at + 2, message, sizeof message - at - 2);
    fresh[sizeof fresh - 1] = '\0';
    memcpy(message, fresh, sizeof message);
    return st;
}
