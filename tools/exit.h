/* exit.h -- what a command leaves with; the same numbers in every command and script. */
#ifndef TOOLS_EXIT_H
#define TOOLS_EXIT_H

#include "kernels/base/status.h"

enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,     /* failed while running */
    EXIT_USAGE = 2,      /* wrong command line; nothing was started */
    EXIT_INPUT = 3,      /* an input cannot be used: missing, corrupt, made for another model */
    EXIT_SPACE = 4,      /* does not fit: memory, disk, context length */
    EXIT_DEVICE = 5,     /* device or driver failed */
    EXIT_BAR = 6,        /* ran, but a stated bar was missed */
    EXIT_PEER = 7,       /* a peer was lost */
    EXIT_RESUMABLE = 75, /* stopped on request after saving: run again with --resume */
    EXIT_INTERRUPTED = 130,
};

static inline int exit_code(Status st) {
    switch (st) {
    case ST_OK:
        return EXIT_DONE;
    case ST_ARG:
        return EXIT_USAGE;
    case ST_NOTFOUND:
    case ST_FORMAT:
    case ST_MISMATCH:
    case ST_UNSUPPORTED:
        return EXIT_INPUT;
    case ST_NOMEM:
    case ST_NOSPACE:
    case ST_FULL:
        return EXIT_SPACE;
    case ST_DEVICE:
        return EXIT_DEVICE;
    case ST_DIVERGED:
        return EXIT_BAR;
    case ST_COMM:
        return EXIT_PEER;
    case ST_STOPPED:
        return EXIT_RESUMABLE;
    default:
        return EXIT_FAILED;
    }
}

#endif
