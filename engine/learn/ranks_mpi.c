/* ranks_mpi.c -- ranks that are the processes of one MPI world.
 *
 * A sum must have the same bits in every run, and MPI_SUM may add in any order. So each rank adds up one
 * slice of the tensor itself, rank after rank, and the slices are then handed round. That moves no more bytes
 * than the usual ring. It goes through host buffers of fixed size, a piece at a time: nothing of tensor size
 * is allocated. */
#include "engine/learn/ranks_calls.h"

#ifdef CARTRIDGE_MPI

#include <limits.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 4 << 20 };

typedef struct World {
    char *mine, *theirs; /* owned, PIECE_BYTES each */
    bool ours;           /* we started MPI, so we end it */
} World;

static Status check(int rc, const char *doing) {
    if (rc == MPI_SUCCESS) return ST_OK;
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(rc, text, &n);
    FAIL(ST_COMM, "%s failed: %s", doing, text);
}

/* ---- sums ---- */

/* mine[i] = the sum over ranks of theirs[rank][i], in rank order. */
static void add_slices(const World *w, DType type, int64_t slice, int32_t ranks) {
    for (int64_t i = 0; i < slice; i++) {
        double sum = 0;
        for (int32_t k = 0; k < ranks; k++) {
            int64_t at = k * slice + i;
            sum += type == DT_F64 ? ((const double *)(const void *)w->theirs)[at]
                                  : (double)((const float *)(const void *)w->theirs)[at];
        }
        if (type == DT_F64) ((double *)(void *)w->mine)[i] = sum;
        else ((float *)(void *)w->mine)[i] = (float)sum;
    }
}

/* The piece lies in `mine`, `ranks` slices of the same size; afterwards its sum lies in `theirs`. */
static Status sum_piece(const Ranks *r, DType type, int64_t slice) {
    World *w = r->state;
    MPI_Datatype kind = type == DT_F64 ? MPI_DOUBLE : MPI_FLOAT;
    int n = (int)slice;
    TRY(check(MPI_Alltoall(w->mine, n, kind, w->theirs, n, kind, MPI_COMM_WORLD),
              "handing slices to their ranks"));
    add_slices(w, type, slice, r->count);
    return check(MPI_Allgather(w->mine, n, kind, w->theirs, n, kind, MPI_COMM_WORLD),
                 "collecting sums from all ranks");
}

static Status sum_mpi(Ranks *r, const Ops *ops, Stream *s, Tensor t) {
    World *w = r->state;
    size_t size = dtype_bytes(t.dtype);
    int64_t most = (int64_t)(PIECE_BYTES / size) / r->count * r->count, total = tensor_count(t);
    for (int64_t at = 0; at < total; at += most) {
        int64_t n = total - at < most ? total - at : most, slice = (n + r->count - 1) / r->count;
        char *place = (char *)t.data + (size_t)at * size;
        memset(w->mine + (size_t)n * size, 0, (size_t)(slice * r->count - n) * size);
        TRY(ops->copy(s, w->mine, place, (size_t)n * size));
        TRY(ops->sync(s));
        TRY(sum_piece(r, t.dtype, slice));
        TRY(ops->copy(s, place, w->theirs, (size_t)n * size));
        TRY(ops->sync(s)); /* the buffers are about to be used again */
    }
    return ST_OK;
}

static Status share_mpi(Ranks *r, void *host, size_t bytes, int32_t from) {
    (void)r;
    for (size_t at = 0; at < bytes; at += INT_MAX) {
        size_t n = bytes - at < INT_MAX ? bytes - at : INT_MAX;
        TRY(check(MPI_Bcast((char *)host + at, (int)n, MPI_BYTE, from, MPI_COMM_WORLD),
                  "sharing a block with all ranks"));
    }
    return ST_OK;
}

/* ---- open, close ---- */

static void world_close(World *w) {
    if (w->ours) MPI_Finalize();
    free(w->mine);
    free(w->theirs);
    free(w);
}

static void close_mpi(Ranks *r) {
    world_close(r->state);
}

static Status world_open(World *w) {
    int running = 0, level;
    w->mine = malloc(PIECE_BYTES);
    w->theirs = malloc(PIECE_BYTES);
    NEED(w->mine && w->theirs, ST_NOMEM, "no memory for two buffers of %d bytes between ranks", PIECE_BYTES);
    MPI_Initialized(&running);
    if (!running) {
        TRY(check(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level), "starting MPI"));
        w->ours = true;
    }
    return check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "asking MPI to report errors");
}

Status ranks_mpi(Ranks **out) {
    static const RanksCalls calls = {sum_mpi, share_mpi, close_mpi};
    *out = NULL;
    Ranks *r = calloc(1, sizeof *r);
    World *w = calloc(1, sizeof *w);
    if (!r || !w) {
        free(r);
        free(w);
        FAIL(ST_NOMEM, "no memory for the ranks of an MPI world");
    }
    Status st = world_open(w);
    if (st) {
        world_close(w);
        free(r);
        return st;
    }
    *r = (Ranks){.call = &calls, .state = w};
    MPI_Comm_rank(MPI_COMM_WORLD, &r->me);
    MPI_Comm_size(MPI_COMM_WORLD, &r->count);
    *out = r;
    return ST_OK;
}

#else

Status ranks_mpi(Ranks **out) {
    *out = NULL;
    FAIL(ST_UNSUPPORTED, "built without MPI: several ranks need a build on a machine that has it");
}

#endif
