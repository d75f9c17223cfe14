/* cmd_compose.c -- several cartridges become one. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/memory/compose.h"
#include "kernels/base/json.h"
#include "tools/command.h"

typedef struct Args {
    const char *out;
    int32_t sinks; /* Sinks */
} Args;
#define AT(field) offsetof(Args, field)

static const Option rows[] = {
    {"out", 'o', OPTION_TEXT, "FILE", NULL, 0, 0, "what", "the composed cartridge; must not be there yet",
     AT(out), true},
    {"sinks", 0, OPTION_CHOICE, "first|all", "first", 0, 0, "what",
     "first: leave out the frozen rows of all cartridges but the first; all: keep every row, as -c A -c B "
     "does",
     AT(sinks), false},
};

typedef struct Job {
    const Args *a;
    const TextList *path;
    CartridgeData part[LIST_MAX], whole;
} Job;

static Status read_parts(Job *j) {
    for (int32_t i = 0; i < j->path->n; i++) TRY(cartridge_data_read(&j->part[i], j->path->v[i]));
    return ST_OK;
}

static Status compose(Job *j) {
    NEED(j->path->n >= 2, ST_ARG, "wanted two cartridge files or more, %d given", j->path->n);
    NEED(!file_exists(j->a->out), ST_ARG, "%s exists already; choose another name, or remove it", j->a->out);
    TRY(read_parts(j));
    TRY(cartridge_compose(&j->whole, j->part, j->path->n, (Sinks)j->a->sinks));
    return cartridge_data_write(&j->whole, j->a->out);
}

static void print_result(const Job *j) {
    const CartridgeInfo *whole = &j->whole.info;
    for (int32_t i = 0; i < j->path->n; i++) {
        int32_t left = compose_left_out(j->part, i, (Sinks)j->a->sinks);
        printf("%-14s rows %d to %d of %s%s\n", i ? "" : "composed", left, j->part[i].info.rows - 1,
               j->path->v[i], left ? ", without its sink" : "");
    }
    printf("%-14s %s: %d rows (%d frozen); what follows starts at position %d\n", "wrote", j->a->out,
           whole->rows, whole->frozen, whole->pos_end);
}

static void print_json(const Job *j) {
    cJSON *o = cJSON_CreateObject(), *from = cJSON_AddArrayToObject(o, "from");
    for (int32_t i = 0; i < j->path->n; i++) {
        cJSON *part = cJSON_CreateObject();
        cJSON_AddStringToObject(part, "path", j->path->v[i]);
        cJSON_AddNumberToObject(part, "first", compose_left_out(j->part, i, (Sinks)j->a->sinks));
        cJSON_AddNumberToObject(part, "end", j->part[i].info.rows);
        cJSON_AddItemToArray(from, part);
    }
    cJSON_AddStringToObject(o, "out", j->a->out);
    cJSON_AddNumberToObject(o, "rows", j->whole.info.rows);
    cJSON_AddNumberToObject(o, "frozen", j->whole.info.frozen);
    cJSON_AddNumberToObject(o, "pos_end", j->whole.info.pos_end);
    char *text = cJSON_PrintUnformatted(o);
    if (text) printf("%s\n", text);
    free(text);
    cJSON_Delete(o);
}

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)watch, (void)code;
    Job j = {.a = options, .path = rest};
    Status st = compose(&j);
    if (!st && common->json)
        print_json(&j);
    else if (!st)
        print_result(&j);
    for (int32_t i = 0; i < LIST_MAX; i++) cartridge_data_close(&j.part[i]);
    cartridge_data_close(&j.whole);
    return st;
}

const Command cmd_compose = {
    .name = "compose",
    .usage = "compose FILE FILE... -o FILE [--sinks first|all]",
    .summary = "several cartridges of one model into one, in this order",
    .no_device = true,
    .operands = "FILE...",
    .operands_max = LIST_MAX,
    .about =
        "Rows are put behind each other as they are. Keys keep the positions that they were trained at, so "
        "positions of the parts overlap, exactly as when the files are given with -c one by one: with "
        "--sinks all "
        "the answers are the same. The file says what it was composed of.",
    .examples = "cartridge compose harbour.cartridge market.cartridge -o both.cartridge",
    .table = {{rows, OPTION_COUNT(rows)}},
    .at = {0},
    .bytes = sizeof(Args),
    .run = run};
