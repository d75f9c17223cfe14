/* count_allocations.h -- how often a test program's own code asks for memory. The linker sends its calls
 * here: link with the library count_allocations. Calls inside shared libraries are not seen. */
#ifndef TESTS_COUNT_ALLOCATIONS_H
#define TESTS_COUNT_ALLOCATIONS_H

#include <stdint.h>

int64_t allocations_so_far(void);

#endif
