/* settings.c -- a configuration file, read for each of the commands. What is accepted, printed as
 * --print-config does and read again, gives the same print but for where the values are from. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tools/config.h"

/* A value and the comment behind it; the comment says the line, which is another one in the print. */
static char *print_of(const OptionSet *s, const Command *c, size_t *n) {
    char *text;
    FILE *f = open_memstream(&text, n);
    fuzz_check(f);
    config_print(f, s, c, "a.conf");
    fuzz_check(fclose(f) == 0);
    return text;
}

static void same_values(const OptionSet *a, const OptionSet *b) {
    char one[OPTION_TEXT_MAX], other[OPTION_TEXT_MAX];
    for (int32_t i = 0; i < a->n; i++) {
        int32_t n = option_values(&a->slot[i]);
        fuzz_check(option_values(&b->slot[i]) == n);
        for (int32_t k = 0; k < n; k++)
            fuzz_check(!strcmp(option_text(&a->slot[i], k, one), option_text(&b->slot[i], k, other)));
    }
}

static void read_for(const Command *c, const uint8_t *data, size_t size) {
    CommandOptions o, again;
    char *text = NULL, *text_again = NULL;
    size_t n;
    fuzz_check(command_options_open(&o, c) == ST_OK);
    if (config_read_file(&o.set, c, fuzz_file("a.conf", data, size), &text) == ST_OK) {
        char *print = print_of(&o.set, c, &n);
        fuzz_check(command_options_open(&again, c) == ST_OK);
        fuzz_check(config_read_file(&again.set, c, fuzz_file("again.conf", print, n), &text_again) == ST_OK);
        same_values(&o.set, &again.set);
        command_options_close(&again);
        free(text_again);
        free(print);
    }
    command_options_close(&o);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    read_for(&cmd_train, data, size);
    read_for(&cmd_chat, data, size);
    return 0;
}
