/* control.cpp -- see control.h. */
#include "tests/simt/control.h"

#include "tests/simt/machine.h"
#include "tests/simt/simt_runtime.h"

using namespace simt;

void simt_control(const SimtRun *run) {
    options.schedule = run->random ? RANDOM : IN_ORDER;
    options.async = run->random ? RANDOMLY : LATE;
    options.seed = run->seed;
    options.resident = run->resident;
}
void simt_memory(size_t bytes) {
    runtime.memory = bytes;
}
void simt_memory_apart(int apart) {
    runtime.apart = apart;
}
void simt_memory_fail_at(int n) {
    runtime.fail_at = n;
}
void simt_fault_at(int n) {
    runtime.fault_at = n;
}
void simt_reset(void) {
    device_reset();
}
size_t simt_blocks_live(void) {
    return device_blocks_live();
}
void simt_device(int devices, int compute, int driver) {
    runtime.devices = devices;
    runtime.compute = compute;
    runtime.driver = driver;
}

void simt_counters_clear(void) {
    counters_clear();
}

struct Sum { const char *kernel; SimtCounters *to; };

static void add_counters(void *user, const char *kernel, const Counters *c) {
    Sum *sum = (Sum *)user;
    if (!strstr(kernel, sum->kernel)) return;
    SimtCounters *to = sum->to;
    to->launches += c->launches, to->blocks += c->blocks, to->barriers += c->barriers, to->mma += c->mma;
    to->read += c->global_read, to->written += c->global_written;
    to->sectors += c->global_sectors, to->requests += c->global_requests;
    to->ldmatrix += c->ldmatrix, to->ldmatrix_waves += c->ldmatrix_waves;
    to->shared_waves += c->shared_waves, to->shared_ideal += c->shared_ideal;
}

SimtCounters simt_counters(const char *kernel) {
    SimtCounters c = {};
    Sum sum = {kernel, &c};
    counters_visit(add_counters, &sum);
    return c;
}
