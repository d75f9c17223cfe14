/* run_program.h -- programs as a user calls them: by a shell, in the scratch folder, with what they say.
 * Whoever links the library run_program has the path of cartridge as CARTRIDGE_PROGRAM. */
#ifndef TESTS_RUN_PROGRAM_H
#define TESTS_RUN_PROGRAM_H

#include "tests/scratch.h"
#include "tests/test.h"

/* What the last call wrote. */
extern char program_output[1 << 16];

/* Runs a line of shell. Returns its exit code; 128 + N after signal N. */
int shell_run(const char *line);

/* Runs "cartridge <arguments>", stdout and stderr together. */
int program_run(const char *arguments);

/* The same, and it must leave with this code and have said this (NULL: anything). */
void expect(int code, const char *says, const char *arguments);

#endif
