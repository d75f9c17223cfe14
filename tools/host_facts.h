/* host_facts.h -- what the operating system says of this machine and of what this process may use of it. */
#ifndef TOOLS_HOST_FACTS_H
#define TOOLS_HOST_FACTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct HostFacts {
    char cpu[96];       /* its name, "" if unknown */
    int cores, allowed; /* online; of these, those that this process may run on */
    double quota;       /* processor time per time that its control group may use, in cores; 0: no limit */
    int64_t memory, available; /* bytes, of the machine; 0: unknown */
    int64_t memory_limit; /* bytes that this process may still take by its control group or `ulimit -v`; -1:
                             no limit */
    int64_t files;        /* open files at most; -1: no limit */
    int64_t disk_free;    /* bytes in the current folder; -1: unknown */
    bool writable;        /* the current folder */
} HostFacts;

void host_facts(HostFacts *out);
/* Bytes that can still be taken: what is available, or less where there is a limit. */
int64_t host_memory_usable(const HostFacts *f);

#endif
