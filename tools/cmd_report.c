/* cmd_report.c -- a page with the curves of a training run, from the metrics.jsonl that every run folder has;
 * also while the run goes on. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "kernels/base/file.h"
#include "tools/command.h"
#include "tools/report_run.h"

typedef struct Args {
    const char *out;
} Args;
#define AT(field) offsetof(Args, field)

static const Option rows[] = {
    {"out", 'o', OPTION_TEXT, "FILE", "report.html", 0, 0, "report",
     "the page; one that is there is replaced", AT(out), false},
};

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)watch, (void)code;
    const Args *a = options;
    char path[PATH_MAX];
    Run r;
    NEED(rest->n == 1, ST_ARG, "%d runs are given, wanted one: its folder (FILE.run) or its metrics.jsonl",
         rest->n);
    const char *given = rest->v[0];
    if (file_is_folder(given))
        TRY(file_join(path, sizeof path, given, "metrics.jsonl"));
    else
        snprintf(path, sizeof path, "%s", given);
    TRY(run_read(&r, path));
    Status st = run_report(&r, given, a->out);
    if (!st && common->json)
        printf("{\"steps\":%d,\"evaluations\":%d}\n", r.steps, r.helds);
    else if (!st)
        printf("wrote %s: %d steps, %d evaluations\n", a->out, r.steps, r.helds);
    run_close(&r);
    return st;
}

const Command cmd_report = {
    .name = "report",
    .usage = "report RUN [-o FILE]",
    .summary = "a page with the curves of a training run, from its folder or its metrics.jsonl",
    .operands = "RUN",
    .operands_max = 1,
    .about = "RUN is the folder that train leaves beside a cartridge (FILE.run), or a metrics.jsonl. The "
             "page is one HTML "
             "file without scripts that needs no network.",
    .examples = "cartridge report harbour.cartridge.run -o harbour.html",
    .table = {{rows, OPTION_COUNT(rows)}},
    .at = {0},
    .bytes = sizeof(Args),
    .run = run};
