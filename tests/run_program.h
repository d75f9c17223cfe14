/* run_program.h -- the program as a test calls it: in a folder, by a shell, with what it says. For test
 * programs that are built with CARTRIDGE_PROGRAM, the path of cartridge. */
#ifndef TESTS_RUN_PROGRAM_H
#define TESTS_RUN_PROGRAM_H

#include "tests/test.h"

#include <sys/wait.h>

/* What the last call wrote, stdout and stderr together. */
static char program_output[1 << 16];

/* Runs "cartridge <arguments>" inside the folder. Returns the exit code; 128 + N after signal N. */
static inline int program_run(const char *folder, const char *arguments) {
    char line[2048];
    snprintf(line, sizeof line, "cd %s && OMP_NUM_THREADS=2 %s %s 2>&1", folder, CARTRIDGE_PROGRAM,
             arguments);
    FILE *p = popen(line, "r");
    assert_non_null(p);
    size_t n = fread(program_output, 1, sizeof program_output - 1, p);
    program_output[n] = '\0';
    int status = pclose(p);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The same, and it must leave with this code and have said this (NULL: anything). */
static inline void program_expect(const char *folder, int code, const char *says, const char *arguments) {
    int got = program_run(folder, arguments);
    if (got != code)
        fail_msg("cartridge %s: left with %d, wanted %d; it said:\n%s", arguments, got, code, program_output);
    if (says && !strstr(program_output, says))
        fail_msg("cartridge %s: did not say \"%s\" but:\n%s", arguments, says, program_output);
}

#endif
