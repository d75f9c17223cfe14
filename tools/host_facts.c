/* host_facts.c -- see host_facts.h. Linux: /proc and control groups of both versions; what is missing there
 * is unknown, not an error. A limit may stand on any group above ours, so all of them are looked at. */
#include "tools/host_facts.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* The first line of a file; false: there is none. */
static bool first_line(const char *path, char *out, int cap) {
    FILE *f = fopen(path, "r");
    out[0] = '\0';
    if (!f) return false;
    bool got = fgets(out, cap, f) != NULL;
    fclose(f);
    out[strcspn(out, "\n")] = '\0';
    return got;
}

/* The rest of the line "name : value" of a file of such lines. */
static bool find_value(const char *path, const char *name, char *out, size_t cap) {
    FILE *f = fopen(path, "r");
    char line[512];
    bool found = false;
    out[0] = '\0';
    while (f && !found && fgets(line, sizeof line, f)) {
        if (strncmp(line, name, strlen(name))) continue;
        const char *p = strchr(line, ':');
        if (!p) continue;
        p += 1 + strspn(p + 1, " \t");
        snprintf(out, cap, "%.*s", (int)strcspn(p, "\n"), p);
        found = true;
    }
    if (f) fclose(f);
    return found;
}

static int64_t kilobytes(const char *name) {
    char text[64];
    return find_value("/proc/meminfo", name, text, sizeof text) ? strtoll(text, NULL, 10) * 1024 : 0;
}

/* ---- control groups ---- */

static int64_t smaller(int64_t a, int64_t b) {
    return a < 0 || (b >= 0 && b < a) ? b : a; /* -1: no limit */
}

/* What is left of a limit; -1: none. Version 1 says "no limit" by a number beyond all memory. */
static int64_t group_left(const char *folder, const char *limit, const char *used) {
    char path[PATH_MAX], text[64];
    snprintf(path, sizeof path, "%s/%s", folder, limit);
    if (!first_line(path, text, sizeof text) || !strcmp(text, "max")) return -1;
    int64_t most = strtoll(text, NULL, 10);
    if (most >= INT64_MAX / 2) return -1;
    snprintf(path, sizeof path, "%s/%s", folder, used);
    int64_t now = first_line(path, text, sizeof text) ? strtoll(text, NULL, 10) : 0;
    return most > now ? most - now : 0;
}

static double group_quota(const char *folder) {
    char path[PATH_MAX], text[64];
    double quota = 0, period = 0;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (first_line(path, text, sizeof text) && sscanf(text, "%lf %lf", &quota, &period) == 2 && period > 0)
        return quota / period;
    return 0;
}

static void look_at_group(HostFacts *f, const char *folder) {
    f->memory_limit = smaller(f->memory_limit, group_left(folder, "memory.max", "memory.current"));
    double quota = group_quota(folder);
    if (quota > 0 && (f->quota == 0 || quota < f->quota)) f->quota = quota;
}

/* Our group and all above it. */
static void look_at_groups(HostFacts *f) {
    char line[PATH_MAX], folder[PATH_MAX + 16];
    const char *root = "/sys/fs/cgroup";
    if (first_line("/proc/self/cgroup", line, sizeof line) && !strncmp(line, "0::/", 4)) {
        snprintf(folder, sizeof folder, "%s%s", root, line + 3);
        for (char *end; strlen(folder) > strlen(root); *end = '\0') {
            look_at_group(f, folder);
            end = strrchr(folder, '/');
        }
    }
    look_at_group(f, root);
    f->memory_limit = smaller(f->memory_limit, group_left("/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                                          "memory.usage_in_bytes"));
}

/* ---- all of it ---- */

/* Those that this process may be put on: set bits of "Cpus_allowed:  ff,ffffffff". */
static int allowed_cores(int otherwise) {
    char mask[512];
    int n = 0;
    if (!find_value("/proc/self/status", "Cpus_allowed:", mask, sizeof mask)) return otherwise;
    for (const char *p = mask; *p; p++)
        if (isxdigit((unsigned char)*p))
            n += __builtin_popcount((unsigned)(isdigit((unsigned char)*p) ? *p - '0' : (*p | 32) - 'a' + 10));
    return n < otherwise ? n : otherwise;
}

static void look_at_limits(HostFacts *f) {
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur != RLIM_INFINITY) f->files = (int64_t)l.rlim_cur;
    if (getrlimit(RLIMIT_AS, &l) == 0 && l.rlim_cur != RLIM_INFINITY)
        f->memory_limit = smaller(f->memory_limit, (int64_t)l.rlim_cur);
}

static void look_at_folder(HostFacts *f) {
    struct statvfs s;
    if (statvfs(".", &s) == 0) f->disk_free = (int64_t)s.f_bavail * (int64_t)s.f_frsize;
    f->writable = access(".", W_OK) == 0;
}

void host_facts(HostFacts *out) {
    *out = (HostFacts){.memory_limit = -1, .files = -1, .disk_free = -1};
    find_value("/proc/cpuinfo", "model name", out->cpu, sizeof out->cpu);
    out->cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    out->allowed = allowed_cores(out->cores);
    out->memory = kilobytes("MemTotal");
    out->available = kilobytes("MemAvailable");
    look_at_groups(out);
    look_at_limits(out);
    look_at_folder(out);
}

int64_t host_memory_usable(const HostFacts *f) {
    return smaller(f->available > 0 ? f->available : -1, f->memory_limit);
}
