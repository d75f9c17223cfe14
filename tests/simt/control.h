/* control.h -- the emulated device as tests in C set it: how blocks and copies are ordered, and what fails. */
#ifndef TESTS_SIMT_CONTROL_H
#define TESTS_SIMT_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A run of the emulator: what the hardware leaves open, decided. */
typedef struct SimtRun {
    const char *name;
    int random;       /* warps and blocks in random order, copies landing at any time; else in order, as late as possible */
    uint64_t seed;
    int resident;     /* blocks at the same time */
} SimtRun;
void simt_control(const SimtRun *run);

void simt_memory(size_t bytes); /* of the device */
void simt_memory_apart(int apart); /* the host crashes when it touches device memory; before anything is opened */
void simt_memory_fail_at(int n); /* the n-th call for memory from now on fails; 0: none */
void simt_fault_at(int n);       /* the n-th kernel from now on faults; 0: none */
void simt_reset(void);           /* after a fault */
size_t simt_blocks_live(void);   /* of device and pinned memory */
void simt_device(int devices, int compute, int driver); /* compute capability times ten; driver 0: none */

/* What kernels did since simt_counters_clear: the sum over all whose name contains `kernel` ("" is all of them). Bytes,
 * sectors and waves are counted in the counting build only. */
typedef struct SimtCounters {
    uint64_t launches, blocks, barriers, mma;
    uint64_t read, written;         /* bytes of device memory, each byte once per access of a warp */
    uint64_t sectors, requests;     /* 32-byte pieces touched; accesses of warps */
    uint64_t ldmatrix, ldmatrix_waves; /* 8 x 8 matrices; a wave serves all banks once: one a matrix without conflicts */
    uint64_t shared_waves, shared_ideal; /* of plain loads and stores: waves needed, and without conflicts */
} SimtCounters;
void simt_counters_clear(void);
SimtCounters simt_counters(const char *kernel);

#ifdef __cplusplus
}
#endif

#endif
