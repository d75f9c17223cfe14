/* device.c -- see device.h. */
#include "tools/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda_device.h"

static const Ops *chosen = &ops_cpu;

const Ops *device_ops(void) {
    return chosen;
}

Status device_index(const char *name, int32_t *index) {
    enum { DEVICES_MAX = 1024 };
    *index = strcmp(name, "cpu") ? 0 : -1;
    if (*index < 0 || !strcmp(name, "cuda") || !strcmp(name, "auto")) return ST_OK;
    char *end;
    long n = strncmp(name, "cuda:", 5) ? -1 : strtol(name + 5, &end, 10);
    NEED(n >= 0 && n < DEVICES_MAX && end > name + 5 && *end == '\0', ST_ARG,
         "--device is \"%s\", wanted auto, cpu, cuda or cuda:N", name);
    *index = (int32_t)n;
    return ST_OK;
}

Status device_choose(const char *name) {
    bool automatic = !strcmp(name, "auto");
    int32_t index;
    const Ops *ops;
    chosen = &ops_cpu;
    TRY(device_index(name, &index));
    if (index < 0) return ST_OK;
    Status st = cuda_ops(&ops, index);
    if (!st) chosen = ops;
    bool unusable = automatic && st == ST_UNSUPPORTED;
    if (st != ST_NOTFOUND && !unusable) return st;
    if (!automatic || unusable) fprintf(stderr, "cartridge: %s; going on with the CPU\n", status_message());
    return ST_OK;
}
