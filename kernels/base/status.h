/* status.h -- how this project reports failure.
 *
 * Every function that can fail returns Status. ST_OK is 0, so `if (st)` reads "if it failed". The code says
 * what kind of failure it is (tools turn it into an exit code); status_message() says in one line what happened,
 * to which thing, which value was seen, which was wanted, and one next step. A broken promise inside the program
 * is not a Status: it is an assert. */
#ifndef KERNELS_BASE_STATUS_H
#define KERNELS_BASE_STATUS_H

#define STATUS_MAP(X)                                                                                        \
    X(OK, "ok")                                                                                              \
    X(ARG, "a caller's value is out of range")                                                               \
    X(NOTFOUND, "an input does not exist or cannot be read")                                                 \
    X(FORMAT, "malformed or truncated input")                                                                \
    X(MISMATCH, "well formed, but made for something else")                                                  \
    X(UNSUPPORTED, "well formed, but not implemented")                                                       \
    X(NOMEM, "out of memory, host or device")                                                                \
    X(NOSPACE, "the disk is full, or the context too short")                                                 \
    X(FULL, "no free page, slot or queue place; try later")                                                  \
    X(IO, "reading or writing failed half way")                                                              \
    X(DEVICE, "a device call or kernel failed")                                                              \
    X(COMM, "a peer failed or did not answer in time")                                                       \
    X(STOPPED, "stopped on request; what was finished is kept")                                              \
    X(DIVERGED, "training produced a value that is not a number")

typedef enum Status {
#define X(name, text) ST_##name,
    STATUS_MAP(X)
#undef X
} Status;

const char *status_text(Status st); /* the fixed text above */
const char *status_message(void);   /* this thread's last failure, "" if none; valid until its next failure */

/* Records the message and its place for this thread and returns st. */
Status status_fail(Status st, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "what: " in front of this thread's message, for callers that know more (a path, a step); returns st. */
Status status_prefix(Status st, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define FAIL(st, ...) return status_fail((st), __FILE__, __LINE__, __VA_ARGS__)
#define NEED(cond, st, ...)                                                                                  \
    do {                                                                                                     \
        if (!(cond)) FAIL(st, __VA_ARGS__);                                                                  \
    } while (0)
#define TRY(call)                                                                                            \
    do {                                                                                                     \
        Status try_ = (call);                                                                                \
        if (try_) return try_;                                                                               \
    } while (0)

/* The same inside a function that has something to clean up: it declares `Status st = ST_OK;` and ends in one
 * labelled exit. */
#define TRY_TO(label, call)                                                                                  \
    do {                                                                                                     \
        st = (call);                                                                                         \
        if (st) goto label;                                                                                  \
    } while (0)
#define NEED_TO(label, cond, code, ...)                                                                      \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            st = status_fail((code), __FILE__, __LINE__, __VA_ARGS__);                                       \
            goto label;                                                                                      \
        }                                                                                                    \
    } while (0)

#endif
