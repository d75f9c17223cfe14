/* control_none.c -- tests/simt/control.h on a real GPU, which takes no orders: the tests that would give some run once
 * more as they are. */
#include "tests/simt/control.h"

void simt_control(const SimtRun *run) {
    (void)run;
}

void simt_memory_apart(int apart) {
    (void)apart;
}
