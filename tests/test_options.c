/* test_options.c -- what is made from the tables of options: every option of every command can be set in all
 * four ways, and the higher one counts; what --print-config writes reads back; manual pages and completion
 * name everything. The walk needs no list of its own, so a command that is added is tested too. */
#include "tests/run_program.h"

#include <wordexp.h>

#include "tools/complete.h"
#include "tools/config.h"
#include "tools/man.h"

#define CONF "some.conf"

/* ---- one option, four ways ---- */

/* The k-th value that is allowed and is not the default: two are enough for every type. */
static void sample_value(const Option *o, int k, char *out, size_t cap) {
    double low = o->low, high = o->high, fallback = o->fallback ? strtod(o->fallback, NULL) : 0;
    const char *word = o->argument;
    switch (o->type) {
    case OPTION_FLAG:
        snprintf(out, cap, "%s", k ? "false" : "true");
        break;
    case OPTION_WHOLE:
        for (low = ceil(low); low == fallback || k-- > 0;) low++;
        assert_true(low <= high);
        snprintf(out, cap, "%.0f", low);
        break;
    case OPTION_REAL:
        low += (high - low) * (k ? 0.25 : 0.125);
        snprintf(out, cap, "%.17g", low == fallback ? low * 1.0625 : low);
        break;
    case OPTION_CHOICE:
        for (k++; k > 0; k--) word = strchr(word, '|') ? strchr(word, '|') + 1 : o->argument;
        snprintf(out, cap, "%.*s", (int)strcspn(word, "|"), word);
        break;
    case OPTION_RANGE:
        snprintf(out, cap, "%.0f-%.0f", low + 1 + k, low + 3);
        break;
    case OPTION_TEXT:
    case OPTION_LIST:
        snprintf(out, cap, k ? "other # text" : "some = \"text\" # with \\ in it ");
        break;
    }
}

/* Whether the option has this value from this origin: numbers are compared as numbers. */
static void assert_set(const OptionSlot *slot, const char *want, OptionOrigin origin, const char *command) {
    char buffer[OPTION_TEXT_MAX];
    bool number = slot->row->type == OPTION_REAL || slot->row->type == OPTION_WHOLE;
    const char *got = option_values(slot) ? option_text(slot, 0, buffer) : "nothing";
    bool same = number ? strtod(got, NULL) == strtod(want, NULL) : !strcmp(got, want);
    if (!same || slot->origin != origin)
        fail_msg("%s --%s: \"%s\" from origin %d, wanted \"%s\" from %d", command, slot->row->name, got,
                 slot->origin, want, origin);
    if (slot->row->type == OPTION_LIST) assert_int_equal(option_values(slot), 1);
}

/* The ways that are used, as bits; sample 0 goes to the highest of them, sample 1 to the others. */
enum { BY_FILE = 1, BY_ENVIRONMENT = 2, BY_LINE = 4, WAYS = 8 };

static void write_config(const char *command, const Option *o, const char *value) {
    char text[512];
    int n = snprintf(text, sizeof text, "# of the test\n[%s]\n%s = \"", command, o->name);
    for (; *value; value++) n += sprintf(text + n, *value == '"' || *value == '\\' ? "\\%c" : "%c", *value);
    snprintf(text + n, sizeof text - (size_t)n, "\" # a comment\n");
    scratch_put_text(CONF, text);
}

static void set_by(const Command *c, int32_t i, int ways) {
    CommandOptions o;
    TextList rest;
    char sample[2][64], variable[96], argument[160], *line[] = {argument}, *in_file = NULL,
                                                     *in_environment = NULL;
    assert_ok(command_options_open(&o, c));
    OptionSlot *slot = &o.set.slot[i];
    OptionOrigin origin = ways & BY_LINE          ? FROM_LINE
                          : ways & BY_ENVIRONMENT ? FROM_ENVIRONMENT
                                                  : FROM_SECTION;
    for (int k = 0; k < 2; k++) sample_value(slot->row, k, sample[k], sizeof sample[k]);
    config_variable(variable, sizeof variable, c, slot);
    snprintf(argument, sizeof argument, "--%s=%s", slot->row->name, sample[0]);
    write_config(c->name, slot->row, sample[ways & (BY_LINE | BY_ENVIRONMENT) ? 1 : 0]);
    if (ways & BY_LINE) assert_ok(options_read_line(&o.set, 1, line, &rest));
    if (ways & BY_FILE) assert_ok(config_read_file(&o.set, c, scratch_path(CONF), &in_file));
    if (ways & BY_ENVIRONMENT) setenv(variable, sample[ways & BY_LINE ? 1 : 0], 1);
    assert_ok(config_read_environment(&o.set, c, &in_environment));
    unsetenv(variable);
    assert_set(slot, sample[0], origin, c->name);
    command_options_close(&o);
    free(in_file);
    free(in_environment);
}

static void test_every_option_can_be_set_in_every_way(void **state) {
    (void)state;
    for (int k = 0; commands[k]; k++) {
        CommandOptions o;
        assert_ok(command_options_open(&o, commands[k]));
        for (int32_t i = 0; i < o.set.n; i++) {
            const OptionSlot *slot = &o.set.slot[i];
            assert_int_equal(slot->origin, FROM_DEFAULT);
            if (slot->row->fallback) assert_set(slot, slot->row->fallback, FROM_DEFAULT, commands[k]->name);
            for (int ways = 1; slot->scope != OPTION_LINE && ways < WAYS; ways++)
                set_by(commands[k], i, ways);
        }
        command_options_close(&o);
    }
}

/* Two options of one command with one name or letter would hide each other; so would a help without its
 * value. */
static void test_tables_are_sound(void **state) {
    (void)state;
    for (int k = 0; commands[k]; k++) {
        CommandOptions o;
        assert_ok(command_options_open(&o, commands[k]));
        for (int32_t i = 0; i < o.set.n; i++) {
            const Option *row = o.set.slot[i].row;
            assert_ptr_equal(options_find(&o.set, row->name, strlen(row->name)), &o.set.slot[i]);
            if (row->letter) assert_ptr_equal(options_find_letter(&o.set, row->letter), &o.set.slot[i]);
            if ((row->argument == NULL) != (row->type == OPTION_FLAG))
                fail_msg("%s --%s: flags have no argument, others have one", commands[k]->name, row->name);
            assert_true(strlen(row->help) > 3 && row->help[strlen(row->help) - 1] != '.');
        }
        command_options_close(&o);
    }
}

/* What stands before the first section of a file counts for every command that has the option: it must be a
 * value for all of them. */
static void test_one_name_is_one_type(void **state) {
    (void)state;
    for (int k = 1; commands[k]; k++)
        for (int j = 0; j < k; j++) {
            CommandOptions a, b;
            assert_ok(command_options_open(&a, commands[k]));
            assert_ok(command_options_open(&b, commands[j]));
            for (int32_t i = 0; i < a.set.n; i++) {
                const Option *row = a.set.slot[i].row;
                const OptionSlot *other = options_find(&b.set, row->name, strlen(row->name));
                if (other && other->row->type != row->type)
                    fail_msg("--%s is of one type for %s and of another for %s", row->name, commands[k]->name,
                             commands[j]->name);
            }
            command_options_close(&a);
            command_options_close(&b);
        }
}

/* ---- a configuration file ---- */

static Status read_conf(const char *command, const char *text, CommandOptions *o, char **owned) {
    scratch_put_text(CONF, text);
    assert_ok(command_options_open(o, command_find(command)));
    return config_read_file(&o->set, command_find(command), scratch_path(CONF), owned);
}

static void expect_refused(const char *text, const char *says) {
    CommandOptions o;
    char *owned = NULL;
    assert_fails(ST_ARG, read_conf("train", text, &o, &owned));
    assert_says(scratch_path(CONF));
    assert_says(says);
    command_options_close(&o);
    free(owned);
}

static void test_wrong_files_name_line_and_nearest(void **state) {
    (void)state;
    expect_refused("[train]\n\nstep-token = 5\n",
                   ":3: \"step-token\" is no option of train; did you mean step-tokens?");
    expect_refused("modle = x\n", ":1: \"modle\" is no option of any command; did you mean model?");
    expect_refused("[eval]\nlr = 1\n", ":2: \"lr\" is no option of eval");
    expect_refused("# x\n[trian]\n", ":2: [trian]: no such command; did you mean [train]?");
    expect_refused("[train\n", ":1: \"[train\" has no ]");
    expect_refused("[train]\nlr\n", ":2: \"lr\" is neither");
    expect_refused("[train]\nlr = ten\n", ":2: --lr: \"ten\" is not a number");
    expect_refused("[eval]\nerrors = 1.5\n", ":2: --errors: \"1.5\" is not a whole number");
    expect_refused("[train]\nlr = 1\nlr = 2\n", ":3: lr stands in line 2 already");
    expect_refused("[train]\nname = \"x\n", ":2: the quotation has no end");
    expect_refused("[train]\nname = \"x\" y\n", ":2: \"y\" stands behind a quotation");
    expect_refused("[train]\nname = \"\\x\"\n", ":2: \\x is none of");
    expect_refused("[train]\nconfig = x\n", ":2: config stands on the command line only");
    expect_refused("config = x\n", ":1: config stands on the command line only");
    expect_refused("[train]\nresume = perhaps\n", ":2: --resume: \"perhaps\" is neither true nor false");
    /* what the command line overrides is checked all the same */
    CommandOptions o;
    TextList rest;
    char *line[] = {"--lr", "0.5"}, *owned = NULL;
    scratch_put_text(CONF, "[train]\nlr = ten\n");
    assert_ok(command_options_open(&o, &cmd_train));
    assert_ok(options_read_line(&o.set, 2, line, &rest));
    assert_fails(ST_ARG, config_read_file(&o.set, &cmd_train, scratch_path(CONF), &owned));
    command_options_close(&o);
    free(owned);
}

static const char *text_of(CommandOptions *o, const char *name, int32_t i) {
    static char buffer[OPTION_TEXT_MAX];
    OptionSlot *slot = options_find(&o->set, name, strlen(name));
    assert_true(i < option_values(slot));
    return option_text(slot, i, buffer);
}

static void test_a_file_is_read_as_described(void **state) {
    (void)state;
    CommandOptions o;
    char *owned = NULL;
    assert_ok(
        read_conf("train",
                  "model=m # of all\nseed = 7\r\n\n  lr = 0.5\n# [eval]\n[eval]\nmodel = other\nset = q\n"
                  "[train] # here\nlr = 0.25\nname = a#b # c\n\tnote = \" \\\"q\\\" \\\\ \\n\" # d\n"
                  "data = one\ndata = two\nrun-dir =\nresume = on",
                  &o, &owned));
    assert_string_equal(text_of(&o, "model", 0), "m");
    assert_string_equal(text_of(&o, "seed", 0), "7");
    assert_string_equal(text_of(&o, "lr", 0), "0.25"); /* the section beats what stands before it */
    assert_string_equal(text_of(&o, "name", 0), "a#b");
    assert_string_equal(text_of(&o, "note", 0), " \"q\" \\ \n");
    assert_string_equal(text_of(&o, "data", 0), "one");
    assert_string_equal(text_of(&o, "data", 1), "two");
    assert_string_equal(text_of(&o, "run-dir", 0), "");
    assert_string_equal(text_of(&o, "resume", 0), "true");
    command_options_close(&o);
    free(owned);
}

/* ---- the environment ---- */

static void expect_refused_variable(const char *name, const char *value, const char *says) {
    CommandOptions o;
    char *owned = NULL;
    assert_ok(command_options_open(&o, &cmd_train));
    setenv(name, value, 1);
    assert_fails(ST_ARG, config_read_environment(&o.set, &cmd_train, &owned));
    unsetenv(name);
    assert_says(name);
    assert_says(says);
    command_options_close(&o);
    free(owned);
}

static void test_the_environment(void **state) {
    (void)state;
    CommandOptions o;
    char *owned = NULL;
    expect_refused_variable("CARTRIDGE_TRAIN_LR", "ten", "not a number");
    expect_refused_variable("CARTRIDGE_TRAIN_EPOCH", "3", "did you mean CARTRIDGE_TRAIN_EPOCHS?");
    setenv("CARTRIDGE_TRAIN_DATA", "one::two", 1);
    setenv("CARTRIDGE_TRAIN_NAME", "", 1);
    setenv("CARTRIDGE_EVAL_NOTHING", "1", 1); /* of another command: not ours to judge */
    assert_ok(command_options_open(&o, &cmd_train));
    assert_ok(config_read_environment(&o.set, &cmd_train, &owned));
    assert_string_equal(text_of(&o, "data", 0), "one");
    assert_string_equal(text_of(&o, "data", 1), "two");
    assert_int_equal(option_values(options_find(&o.set, "data", 4)), 2);
    assert_int_equal(option_values(options_find(&o.set, "name", 4)), 0);
    unsetenv("CARTRIDGE_TRAIN_DATA");
    unsetenv("CARTRIDGE_TRAIN_NAME");
    unsetenv("CARTRIDGE_EVAL_NOTHING");
    command_options_close(&o);
    free(owned);
}

/* ---- --print-config ---- */

static char *print_config(CommandOptions *o, const Command *c) {
    char *text;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    assert_non_null(f);
    config_print(f, &o->set, c, "some.conf");
    fclose(f);
    return text;
}

/* Every option at a value that is not its default, printed, read into a fresh set: the same values, now from
 * a file. */
static void round_trip(const Command *c, int k) {
    CommandOptions from, to;
    char sample[OPTIONS_MAX][64], *owned = NULL;
    assert_ok(command_options_open(&from, c));
    for (int32_t i = 0; i < from.set.n; i++) {
        OptionSlot *slot = &from.set.slot[i];
        sample_value(slot->row, k, sample[i], sizeof sample[i]);
        if (slot->scope != OPTION_LINE) assert_ok(option_assign(slot, sample[i], FROM_LINE, 0));
        if (slot->row->type == OPTION_LIST) assert_ok(option_assign(slot, "second", FROM_LINE, 0));
    }
    char *text = print_config(&from, c);
    if (!strstr(text, "# command line")) fail_msg("no origin in:\n%s", text);
    assert_ok(read_conf(c->name, text, &to, &owned));
    for (int32_t i = 0; i < from.set.n; i++) {
        const OptionSlot *a = &from.set.slot[i], *b = &to.set.slot[i];
        char one[OPTION_TEXT_MAX], other[OPTION_TEXT_MAX];
        assert_int_equal(option_values(a), option_values(b));
        assert_int_equal(b->origin, a->scope == OPTION_LINE ? FROM_DEFAULT : FROM_SECTION);
        for (int32_t v = 0; v < option_values(a); v++)
            assert_string_equal(option_text(a, v, one), option_text(b, v, other));
    }
    command_options_close(&from);
    command_options_close(&to);
    free(text);
    free(owned);
}

static void test_print_config_reads_back(void **state) {
    (void)state;
    for (int i = 0; commands[i]; i++)
        for (int k = 0; k < 2; k++) round_trip(commands[i], k);
}

/* Real numbers keep their bits. */
static void test_reals_are_written_exactly(void **state) {
    (void)state;
    CommandOptions o;
    char buffer[OPTION_TEXT_MAX], text[64];
    assert_ok(command_options_open(&o, &cmd_train));
    OptionSlot *slot = options_find(&o.set, "lr", 2);
    for (int i = 0; i < 1000; i++) {
        double v = fabs((double)random_normal(1, 2, (uint64_t)i)) * (i % 2 ? 1 : 0.1);
        snprintf(text, sizeof text, "%.17g", v);
        assert_ok(option_assign(slot, text, FROM_LINE, 0));
        assert_true(strtod(option_text(slot, 0, buffer), NULL) == v);
    }
    command_options_close(&o);
}

/* ---- manual pages, help and completion ---- */

typedef Status (*PutCommand)(FILE *out, const Command *c);
static char *text_from(PutCommand put, const Command *c) {
    char *text;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    assert_non_null(f);
    assert_ok(put(f, c));
    fclose(f);
    return text;
}

/* roff's escapes undone and lines filled: what a reader sees. */
static void unescape(char *text) {
    char *to = text;
    for (char *p = text; *p; p++) {
        if (p[0] == '\\' && p[1] == 'f')
            p += 2;
        else if (p[0] == '\\' && p[1] == '&')
            p++;
        else if (p[0] == '\\' && p[1] == '-')
            *to++ = *++p;
        else
            *to++ = *p == '\n' ? ' ' : *p;
    }
    *to = '\0';
}

static void expect_all_options(const char *text, const Command *c, const char *what) {
    CommandOptions o;
    char name[64];
    assert_ok(command_options_open(&o, c));
    for (int32_t i = 0; i < o.set.n; i++) {
        const Option *row = o.set.slot[i].row;
        snprintf(name, sizeof name, "--%s", row->name);
        if (!strstr(text, name)) fail_msg("the %s of %s does not mention %s", what, c->name, name);
        if (row->argument && !strstr(text, row->argument))
            fail_msg("the %s of %s does not say %s %s", what, c->name, name, row->argument);
    }
    command_options_close(&o);
}

static void test_help_and_pages_mention_every_option(void **state) {
    (void)state;
    char *all = text_from(man_page, NULL);
    unescape(all);
    for (int i = 0; commands[i]; i++) {
        char *page = text_from(man_page, commands[i]), *help = text_from(command_help, commands[i]);
        unescape(page);
        expect_all_options(page, commands[i], "page");
        expect_all_options(help, commands[i], "help");
        assert_non_null(strstr(page, commands[i]->summary));
        assert_non_null(strstr(all, commands[i]->summary));
        free(page);
        free(help);
    }
    free(all);
}

/* An example of a page, as its command would read it. Those with pipes are a shell's affair. */
static void expect_parses(const char *line) {
    wordexp_t w;
    CommandOptions o;
    TextList rest;
    int words = wordexp(line, &w, WRDE_NOCMD);
    if (words) return;
    int first = !strcmp(w.we_wordv[0], "mpirun") ? 3 : 0;
    const Command *c = (int)w.we_wordc > first + 1 ? command_find(w.we_wordv[first + 1]) : NULL;
    if (strcmp(w.we_wordv[first], "cartridge") || !c) fail_msg("the example \"%s\" calls no command", line);
    assert_ok(command_options_open(&o, c));
    assert_ok(options_read_line(&o.set, (int)w.we_wordc - first - 2, w.we_wordv + first + 2, &rest));
    assert_ok(options_complete(&o.set));
    assert_true(rest.n <= c->operands_max);
    command_options_close(&o);
    wordfree(&w);
}

static void test_examples_can_be_typed(void **state) {
    (void)state;
    int examples = 0;
    for (int i = 0; commands[i]; i++)
        for (const char *p = commands[i]->examples; p && *p; examples++) {
            char line[1024];
            int n = (int)strcspn(p, "\n");
            snprintf(line, sizeof line, "%.*s", n, p);
            expect_parses(line);
            p += n + (p[n] == '\n');
        }
    assert_true(examples > 8);
}

static bool have(const char *program) {
    char line[128];
    snprintf(line, sizeof line, "command -v %s >/dev/null 2>&1", program);
    return system(line) == 0;
}

/* `command` reads the text from stdin and must say nothing. */
static void expect_silence(const char *command, const char *text) {
    char line[256];
    scratch_put_text("text", text);
    snprintf(line, sizeof line, "%s 2>&1 < text", command);
    if (shell_run(line) != 0 || program_output[0]) fail_msg("%s: %s", command, program_output);
}

static void test_pages_are_sound_roff(void **state) {
    (void)state;
    bool mandoc = have("mandoc"), groff = have("groff");
    if (!mandoc && !groff) skip();
    for (int i = -1; i < 0 || commands[i]; i++) {
        char *page = text_from(man_page, i < 0 ? NULL : commands[i]);
        if (groff) expect_silence("groff -man -ww -Tutf8 -z", page);
        if (mandoc) expect_silence("mandoc -Tlint -Wwarning", page);
        free(page);
        if (i >= 0 && !commands[i + 1]) break;
    }
}

static Status bash(FILE *out, const Command *c) {
    (void)c;
    return complete_bash(out);
}
static Status zsh(FILE *out, const Command *c) {
    (void)c;
    return complete_zsh(out);
}
static Status fish(FILE *out, const Command *c) {
    (void)c;
    return complete_fish(out);
}

static void test_completion_scripts_parse(void **state) {
    (void)state;
    char *text = text_from(bash, NULL);
    for (int i = 0; commands[i]; i++) assert_non_null(strstr(text, commands[i]->name));
    if (have("bash")) expect_silence("bash -n", text);
    free(text);
    text = text_from(zsh, NULL);
    if (have("zsh")) expect_silence("zsh -n", text);
    free(text);
    text = text_from(fish, NULL);
    if (have("fish")) expect_silence("fish --no-execute", text);
    free(text);
}

/* What bash would offer for a command line that ends in its last word. */
static void expect_offer(const char *words, int count, const char *offers) {
    char line[512], *text = text_from(bash, NULL);
    scratch_put_text("completion", text);
    free(text);
    snprintf(line, sizeof line,
             "bash -c 'source ./completion; COMP_WORDS=(cartridge %s); COMP_CWORD=%d; _cartridge; "
             "echo \"${COMPREPLY[*]}\"'",
             words, count);
    shell_run(line);
    program_output[strcspn(program_output, "\n")] = '\0';
    assert_string_equal(program_output, offers);
}

static void test_bash_offers_what_fits(void **state) {
    (void)state;
    if (!have("bash")) skip();
    expect_offer("tr", 1, "train");
    expect_offer("train --step-t", 2, "--step-tokens");
    expect_offer("train --schedule \"\"", 3, "constant linear cosine");
    expect_offer("train --init random-t", 3, "random-text");
    expect_offer("train --corpus some.c", 3, "some.conf");
    expect_offer("train -p \"\"", 3, "");
    expect_offer("completion f", 2, "fish");
    expect_offer("help synt", 2, "synth");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_are_sound),
        cmocka_unit_test(test_one_name_is_one_type),
        cmocka_unit_test(test_every_option_can_be_set_in_every_way),
        cmocka_unit_test(test_wrong_files_name_line_and_nearest),
        cmocka_unit_test(test_a_file_is_read_as_described),
        cmocka_unit_test(test_the_environment),
        cmocka_unit_test(test_print_config_reads_back),
        cmocka_unit_test(test_reals_are_written_exactly),
        cmocka_unit_test(test_help_and_pages_mention_every_option),
        cmocka_unit_test(test_examples_can_be_typed),
        cmocka_unit_test(test_pages_are_sound_roff),
        cmocka_unit_test(test_completion_scripts_parse),
        cmocka_unit_test(test_bash_offers_what_fits),
    };
    return cmocka_run_group_tests_name("options", tests, scratch_set_up, scratch_tear_down);
}
