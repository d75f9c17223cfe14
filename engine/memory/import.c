/* import.c -- see import.h. */
#include "engine/memory/import.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 256 };

static Status count_block(const double *was, const double *is, int64_t n, Rounding *r, const char *where) {
    r->values += n;
    for (int64_t i = 0; i < n; i++) {
        NEED(isfinite(was[i]) && isfinite(is[i]), ST_FORMAT,
             "%s: holds %g, which is no number for a cartridge", where, was[i]);
        if (was[i] == is[i]) continue;
        double change = fabs(is[i] - was[i]) / fabs(was[i]);
        r->rounded++;
        if (change > r->largest) r->largest = change;
    }
    return ST_OK;
}

Status import_values(Tensor to, int64_t i, Tensor from, int64_t j, int64_t n, Rounding *r,
                     const char *where) {
    double was[BLOCK], is[BLOCK];
    for (int64_t done = 0; done < n; done += BLOCK) {
        int64_t count = n - done < BLOCK ? n - done : BLOCK;
        tensor_convert(to, i + done, from, j + done, count);
        tensor_convert(tensor_of(was, DT_F64, count), 0, from, j + done, count);
        tensor_convert(tensor_of(is, DT_F64, count), 0, to, i + done, count);
        TRY(count_block(was, is, count, r, where));
    }
    return ST_OK;
}

Status import_info(CartridgeInfo *out, const CartridgeInfo *of, int64_t rows, int64_t frozen,
                   const char *init) {
    CartridgeInfo info = *of;
    NEED(rows >= 1 && rows <= INT32_MAX && frozen >= 0 && frozen <= rows, ST_FORMAT,
         "%lld rows, %lld of them frozen, make no cartridge", (long long)rows, (long long)frozen);
    info.rows = (int32_t)rows;
    info.frozen = (int32_t)frozen;
    info.pos_first = 0;
    info.pos_end = info.rows;
    info.init = (char *)(uintptr_t)init; /* the caller's until it is copied */
    return cartridge_info_copy(out, &info);
}

Status import_note(CartridgeInfo *info, const char *from, const Rounding *r) {
    char text[160], rounding[80] = "";
    if (r->rounded)
        snprintf(rounding, sizeof rounding, "; %lld of %lld numbers rounded to bf16", (long long)r->rounded,
                 (long long)r->values);
    snprintf(text, sizeof text, "imported from %s%s", from, rounding);
    free(info->note);
    info->note = strdup(text);
    NEED(info->note, ST_NOMEM, "no memory for a note");
    return ST_OK;
}
