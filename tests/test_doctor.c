/* test_doctor.c -- `doctor` run in environments that are well, odd and broken: each finding is one line with
 * a verdict, what is not well has a remedy, and only what cannot work makes it leave with 1. */
#include "tests/run_program.h"

#include "kernels/base/json.h"

/* `before` is shell: variables to set, limits. Returns the exit code. */
static int doctor(const char *before, const char *options) {
    static const char *const clean =
        "unset WORLD_SIZE RANK SLURM_NTASKS SLURM_PROCID OMPI_COMM_WORLD_SIZE PMI_SIZE PMI_RANK "
        "OMPI_COMM_WORLD_RANK CARTRIDGE_CONFIG; export OMP_NUM_THREADS=1; ";
    char line[1024];
    snprintf(line, sizeof line, "%s%s%s doctor %s 2>&1", clean, before, CARTRIDGE_PROGRAM, options);
    return shell_run(line);
}

static const char *field(const cJSON *o, const char *name) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsString(v) ? v->valuestring : "";
}

/* The verdict on `what`, where the finding or the remedy mentions `says`; "" if there is no such line. */
static const char *verdict(const char *what, const char *says) {
    static char found[16];
    found[0] = '\0';
    for (char *p = program_output, *next; *p && !found[0]; p = next) {
        next = p + strcspn(p, "\n");
        next += *next == '\n';
        char *line = strndup(p, (size_t)(next - p));
        cJSON *o = cJSON_Parse(line);
        if (!o) fail_msg("no JSON: %s", line);
        bool there = strstr(field(o, "finding"), says) || strstr(field(o, "remedy"), says);
        if (!strcmp(field(o, "what"), what) && there)
            snprintf(found, sizeof found, "%s", field(o, "verdict"));
        cJSON_Delete(o);
        free(line);
    }
    return found;
}

static void test_a_machine_that_is_well(void **state) {
    (void)state;
    assert_int_equal(doctor("", "--json"), 0);
    static const char *const what[] = {"arithmetic", "sqlite",    "pcre2", "utf8proc",
                                       "cjson",      "libcrypto", "ranks"};
    for (size_t i = 0; i < sizeof what / sizeof *what; i++) assert_string_equal(verdict(what[i], ""), "ok");
    bool some = verdict("gpu 0", "")[0] != '\0', none = verdict("gpu", "none: ")[0] != '\0';
    assert_true(some != none); /* there are GPUs, or it is said why there are none */
    assert_string_equal(verdict("threads", "1; cores"), "ok");
    assert_true(verdict("memory", "GB")[0] && verdict("disk", "free")[0] && verdict("folder", "")[0]);
}

static void test_what_is_not_well_has_a_remedy(void **state) {
    (void)state;
    assert_int_equal(
        doctor("export OMP_NUM_THREADS=512 CARTRIDGE_TRAIN_EPOCH=3 CARTRIDGE_SEED=1; ",
               "--json"),
        0);
    assert_string_equal(verdict("threads", "--threads N"), "warning");
    assert_string_equal(verdict("variables", "perhaps meant: CARTRIDGE_TRAIN_EPOCHS"), "warning");
    assert_string_equal(verdict("variables", "CARTRIDGE_SEED=1"), "ok");
    for (char *p = strstr(program_output, "warning"); p; p = strstr(p + 1, "warning"))
        assert_non_null(strstr(p, "\"remedy\":\""));
}

static void test_what_cannot_work_leaves_with_1(void **state) {
    (void)state;
    assert_int_equal(
        doctor("export WORLD_SIZE=3 RANK=0 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1; ", "--json"), 1);
    assert_string_equal(verdict("ranks", "OMPI_COMM_WORLD_SIZE=2, but WORLD_SIZE=3"), "problem");
    assert_int_equal(doctor("ulimit -n 20; ", "--json"), 1);
    assert_string_equal(verdict("open files", "20"), "problem");
    assert_int_equal(doctor("ulimit -n 20; ", ""), 1);
    assert_non_null(strstr(program_output, "-> ulimit -n 1024"));
    assert_non_null(strstr(program_output, "1 problem, "));
}

static void test_launchers_are_told(void **state) {
    (void)state;
    doctor("export SLURM_NTASKS=4 SLURM_PROCID=2; ", "--json");
    const char *slurm = verdict("ranks", "rank 2 of 4, says Slurm");
    assert_true(!strcmp(slurm, "warning") ||
                !strcmp(slurm, "problem"));      /* the latter in a build without MPI */
    doctor("export SLURM_NTASKS=1; ", "--json"); /* one task is one process: nothing to say */
    assert_string_equal(verdict("ranks", ""), "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_machine_that_is_well),
        cmocka_unit_test(test_what_is_not_well_has_a_remedy),
        cmocka_unit_test(test_what_cannot_work_leaves_with_1),
        cmocka_unit_test(test_launchers_are_told),
    };
    return cmocka_run_group_tests_name("doctor", tests, scratch_set_up, scratch_tear_down);
}
