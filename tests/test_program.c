/* test_program.c -- the program as a user meets it: the demo from nothing, its files with the other commands,
 * wrong input with the exit codes that the README promises, and an interrupted run that is resumed. */
#include "tests/run_program.h"

#include "kernels/base/file.h"

/* Everything below uses what the demo leaves behind. */
static int make_demo(void **state) {
    (void)state;
    scratch_open();
    expect(0, "met", "demo --quick --progress never");
    return 0;
}

#define EVAL  "eval -q -m demo/model -c demo/facts.cartridge --set demo/facts.questions.jsonl "
#define TRAIN "train -m demo/model --corpus demo/facts.txt "

static void test_the_demo_can_be_used(void **state) {
    (void)state;
    expect(0, "belongs together", "inspect demo/facts.cartridge -m demo/model --tensors");
    expect(0, "3 layers", "inspect demo/model");
    expect(0, "cartridge",
           EVAL "--corpus demo/facts.txt --against none,full,truncate:8 --expect 'exact>=0.95'");
    expect(6, "missed", EVAL "--expect 'nll>=50'");
    char prompt[256], line[512];
    size_t n;
    char *text = scratch_read("demo/facts.txt", &n), *end = strchr(text, '.');
    assert_non_null(end);
    *end = '\0'; /* "Ada drinks tea": the question is its first two words */
    snprintf(prompt, sizeof prompt, "%.*s", (int)(strrchr(text, ' ') - text), text);
    snprintf(line, sizeof line, "chat -m demo/model -c demo/facts.cartridge --prompt '%s?'", prompt);
    expect(0, text, line);
    free(text);
}

static void test_help_comes_from_the_tables(void **state) {
    (void)state;
    static const char *const command[] = {"demo", "synth", "train", "eval", "chat", "inspect", "report"};
    char line[64];
    for (size_t i = 0; i < sizeof command / sizeof command[0]; i++) {
        snprintf(line, sizeof line, "%s --help", command[i]);
        expect(0, "--threads", line);
    }
    expect(0, "train", "");
    expect(0, "commit", "--version");
}

/* Every command line of the README is one that the parser takes; the demo's own ones run above, those on the
 * real model want minutes and are run by hand. */
static void test_commands_of_the_readme(void **state) {
    (void)state;
    char *text, line[1024];
    size_t n;
    int commands = 0;
    assert_ok(file_read(&text, &n, CARTRIDGE_SOURCE_DIR "/README.md"));
    for (char *p = text; p; p = strchr(p, '\n'), p += p ? 1 : 0) {
        if (strncmp(p, "cartridge ", 10) || !memchr(p, '-', strcspn(p, "\n"))) continue;
        snprintf(line, sizeof line, "%.*s --help", (int)strcspn(p + 10, "\n"), p + 10);
        expect(0, "usage:", line);
        commands++;
    }
    assert_true(commands >= 4);
    free(text);
}

static void test_wrong_command_lines(void **state) {
    (void)state;
    expect(2, "did you mean train?", "trian");
    expect(2, "did you mean --corpus?", "train --corpsu x");
    expect(2, "--model", "train --corpus x -o y");
    expect(2, "not a number", TRAIN "-o y -p ten");
    expect(2, "within", TRAIN "-o y --heldout 0.9");
    expect(2, "none of", TRAIN "-o y --schedule slow");
    expect(2, "exists already", TRAIN "-o demo/facts.cartridge");
}

static void test_inputs_that_cannot_be_used(void **state) {
    (void)state;
    scratch_put_text("latin1.txt", "caf\xE9");
    scratch_put_text("short.txt", "Ada drinks tea.");
    scratch_put_text("bad.jsonl", "{\"question\":\"x\"}\n");
    expect(3, "no/model", "chat -m no/model --prompt x");
    expect(3, "no.txt", "train -m demo/model --corpus no.txt -o y.cartridge");
    expect(3, "byte 3", "train -m demo/model --corpus latin1.txt -o y.cartridge");
    expect(3, "answer", "eval -m demo/model --set bad.jsonl");
    expect(3, "facts.txt", "inspect demo/facts.txt");
    expect(2, "chunk", "synth -m demo/model --corpus short.txt -o y.study --chunk 64-512");
    expect(2, "rows", TRAIN "--data demo/facts.study -o y.cartridge -p 4000");
}

/* The file with one byte changed; at < 0: counted from its end. */
static void flip(const char *from, const char *to, long at) {
    size_t n;
    char *data = scratch_read(from, &n);
    data[at < 0 ? (long)n + at : at] ^= 1;
    scratch_put(to, data, n);
    free(data);
}

static void test_damaged_cartridges_and_other_models(void **state) {
    (void)state;
    flip("demo/facts.cartridge", "flipped.cartridge", -1);
    expect(3, "damaged", "chat -m demo/model -c flipped.cartridge --prompt x");
    assert_int_equal(program_run("demo --quick --out other --progress never"), 0);
    flip("other/model/model.safetensors", "other/model/model.safetensors", -1);
    expect(3, "another model", "chat -m other/model -c demo/facts.cartridge --prompt x");
}

#define SMALL                                                                                                \
    TRAIN "--data demo/facts.study -p 8 --steps 60 --step-tokens 64 --lr 0.05 --save-every 5 -q "

/* Stopped in the middle it saves and leaves with 75, and --resume gives the very file that an undisturbed run
 * gives. SIGTERM, because a shell's background processes do not hear SIGINT; both take the same way. */
static void test_an_interrupted_run_is_resumed(void **state) {
    (void)state;
    expect(0, "wrote", SMALL "-o whole.cartridge");
    int code = program_run("--version; " CARTRIDGE_PROGRAM " " SMALL "-o parts.cartridge & pid=$!; i=0; "
                           "while [ ! -s parts.cartridge.run/metrics.jsonl ] && [ $i -lt 3000 ]; "
                           "do sleep 0.02; i=$((i+1)); done; kill -TERM $pid; wait $pid");
    if (code != 75 && code != 0) /* 0: it was faster than the signal */
        fail_msg("left with %d: %s", code, program_output);
    if (code == 75) expect(0, "wrote", SMALL "-o parts.cartridge --resume");
    assert_int_equal(program_run("--version && cmp whole.cartridge parts.cartridge"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_demo_can_be_used),
        cmocka_unit_test(test_help_comes_from_the_tables),
        cmocka_unit_test(test_commands_of_the_readme),
        cmocka_unit_test(test_wrong_command_lines),
        cmocka_unit_test(test_inputs_that_cannot_be_used),
        cmocka_unit_test(test_damaged_cartridges_and_other_models),
        cmocka_unit_test(test_an_interrupted_run_is_resumed),
    };
    return cmocka_run_group_tests_name("program", tests, make_demo, scratch_tear_down);
}
