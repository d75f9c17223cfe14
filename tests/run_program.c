/* run_program.c -- see run_program.h. */
#include "tests/run_program.h"

#include <sys/wait.h>

char program_output[1 << 16];

int shell_run(const char *line) {
    char there[4096];
    assert_true(snprintf(there, sizeof there, "cd %s && %s", scratch_folder(), line) < (int)sizeof there);
    FILE *p = popen(there, "r");
    assert_non_null(p);
    size_t n = fread(program_output, 1, sizeof program_output - 1, p);
    program_output[n] = '\0';
    int status = pclose(p);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int program_run(const char *arguments) {
    char line[2048];
    snprintf(line, sizeof line, "OMP_NUM_THREADS=2 %s %s 2>&1", CARTRIDGE_PROGRAM, arguments);
    return shell_run(line);
}

void expect(int code, const char *says, const char *arguments) {
    int got = program_run(arguments);
    if (got != code)
        fail_msg("cartridge %s: left with %d, wanted %d; it said:\n%s", arguments, got, code, program_output);
    if (says && !strstr(program_output, says))
        fail_msg("cartridge %s: did not say \"%s\" but:\n%s", arguments, says, program_output);
}
