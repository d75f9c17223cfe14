/* metrics.c -- a metrics.jsonl of a stranger, drawn as `report` draws it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"
#include "tests/fuzz/fuzz.h"
#include "tools/report_run.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Run r;
    if (run_read(&r, fuzz_file("metrics.jsonl", data, size))) return 0;
    char *page, path[512];
    size_t n;
    fuzz_check(r.steps >= 1 && r.notes <= RUN_NOTES);
    snprintf(path, sizeof path, "%s", fuzz_file("report.html", "", 0));
    fuzz_check(run_report(&r, "a run", path) == ST_OK);
    fuzz_check(file_read(&page, &n, path) == ST_OK);
    fuzz_check(n == strlen(page) && !strstr(page, "<script"));
    free(page);
    run_close(&r);
    return 0;
}
