/* compose.c -- see compose.h. */
#include "engine/memory/compose.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- do they belong together? ---- */

static Status same_number(int32_t i, const char *what, double first, double other) {
    NEED(first == other, ST_MISMATCH,
         "cartridge %d is for another model than the first: %s is %.17g there, %.17g here", i + 1, what,
         first, other);
    return ST_OK;
}

static Status same_text(int32_t i, const char *what, const char *first, const char *other) {
    bool same = first && other ? !strcmp(first, other) : first == other;
    NEED(same, ST_MISMATCH, "cartridge %d is for another model than the first: %s is %.12s there, %.12s here",
         i + 1, what, first ? first : "not stated", other ? other : "not stated");
    return ST_OK;
}

static Status check_fits(const CartridgeInfo *first, const CartridgeInfo *other, int32_t i) {
    TRY(same_number(i, "layers", first->layers, other->layers));
    TRY(same_number(i, "kv_heads", first->kv_heads, other->kv_heads));
    TRY(same_number(i, "head_dim", first->head_dim, other->head_dim));
    TRY(same_number(i, "rope_theta", first->rope_theta, other->rope_theta));
    TRY(same_number(i, "rope_factor", first->rope_factor, other->rope_factor));
    TRY(same_text(i, "model", first->model, other->model));
    TRY(same_text(i, "tokenizer", first->tokenizer, other->tokenizer));
    return same_text(i, "template", first->template_family, other->template_family);
}

/* ---- what is kept, and what is said of it ---- */

int32_t compose_left_out(const CartridgeData *part, int32_t i, Sinks sinks) {
    return sinks == SINKS_FIRST && i > 0 && part[0].info.frozen > 0 ? part[i].info.frozen : 0;
}

static Status count_rows(const CartridgeData *part, int32_t n, Sinks sinks, int64_t *rows, int64_t *end) {
    *rows = 0, *end = 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t kept = part[i].info.rows - compose_left_out(part, i, sinks);
        NEED(kept >= 1, ST_ARG, "cartridge %d has only frozen rows; without its sink nothing is left of it",
             i + 1);
        *rows += kept;
        if (part[i].info.pos_end > *end) *end = part[i].info.pos_end;
    }
    if (*rows > *end) *end = *rows;
    NEED(*rows <= INT32_MAX / 2 && *end <= INT32_MAX / 2, ST_ARG,
         "%lld rows, ending at position %lld, are too many", (long long)*rows, (long long)*end);
    return ST_OK;
}

/* "digest:first-end digest:first-end ..." */
static Status describe_parts(const CartridgeData *part, int32_t n, Sinks sinks, char **out) {
    enum { ONE = 64 + 2 * 11 + 4 };
    size_t cap = (size_t)n * ONE + 1, used = 0;
    char *text = malloc(cap);
    NEED(text, ST_NOMEM, "no memory to describe %d cartridges", n);
    for (int32_t i = 0; i < n; i++) {
        char hex[65];
        digest_hex(part[i].identity, hex);
        used += (size_t)snprintf(text + used, cap - used, "%s%s:%d-%d", i ? " " : "", hex,
                                 compose_left_out(part, i, sinks), part[i].info.rows);
    }
    *out = text;
    return ST_OK;
}

static Status describe_whole(const CartridgeData *part, int32_t n, Sinks sinks, char **out) {
    int32_t left = 0;
    char text[160];
    for (int32_t i = 0; i < n; i++) left += compose_left_out(part, i, sinks);
    snprintf(text, sizeof text,
             "composed of %d cartridges; positions as they were, overlapping; %s (%d rows left out)", n,
             sinks == SINKS_ALL ? "every sink kept" : "the sink of the first kept", left);
    *out = strdup(text);
    NEED(*out, ST_NOMEM, "no memory to describe %d cartridges", n);
    return ST_OK;
}

static void add_up(CartridgeInfo *info, const CartridgeData *part, int32_t n) {
    info->corpus_tokens = info->steps = info->conversations = info->supervised_tokens = 0;
    for (int32_t i = 0; i < n; i++) {
        info->corpus_tokens += part[i].info.corpus_tokens;
        info->steps += part[i].info.steps;
        info->conversations += part[i].info.conversations;
        info->supervised_tokens += part[i].info.supervised_tokens;
    }
}

/* Strings are the parts', but for parts and note, which are malloc'ed. */
static Status describe(CartridgeInfo *info, const CartridgeData *part, int32_t n, Sinks sinks) {
    int64_t rows, end;
    *info = part[0].info;
    info->parts = info->note = info->name = info->corpus = NULL;
    TRY(count_rows(part, n, sinks, &rows, &end));
    info->rows = (int32_t)rows, info->pos_end = (int32_t)end;
    info->init = (char *)(uintptr_t) "composed";
    info->learning_rate = info->loss_first = info->loss_last = info->kl_heldout = (double)NAN;
    info->seed = 0;
    add_up(info, part, n);
    TRY(describe_parts(part, n, sinks, &info->parts));
    return describe_whole(part, n, sinks, &info->note);
}

/* ---- rows ---- */

/* Rows skip .. of a part become rows at .. of the whole, in every layer and head. */
static void copy_rows(CartridgeData *to, int64_t at, const CartridgeData *from, int64_t skip) {
    int64_t blocks = to->rows.dim[0] * to->rows.dim[1], D = to->rows.dim[3];
    int64_t P = to->rows.dim[2], Q = from->rows.dim[2], n = Q - skip;
    uint16_t *t = to->rows.data;
    const uint16_t *f = from->rows.data;
    for (int64_t b = 0; b < blocks; b++)
        memcpy(t + (b * P + at) * D, f + (b * Q + skip) * D, (size_t)(n * D) * sizeof *t);
}

Status cartridge_compose(CartridgeData *out, const CartridgeData *part, int32_t n, Sinks sinks) {
    *out = (CartridgeData){0};
    NEED(n >= 2, ST_ARG, "%d cartridge: two or more can be composed", n);
    for (int32_t i = 1; i < n; i++) TRY(check_fits(&part[0].info, &part[i].info, i));
    CartridgeInfo info = {0};
    Status st = describe(&info, part, n, sinks);
    if (!st) st = cartridge_data_new(out, &info);
    free(info.parts);
    free(info.note);
    TRY(st);
    int64_t at = 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t skip = compose_left_out(part, i, sinks);
        copy_rows(out, at, &part[i], skip);
        at += part[i].info.rows - skip;
    }
    return ST_OK;
}
