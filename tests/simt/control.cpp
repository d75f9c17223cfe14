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
