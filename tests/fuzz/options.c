/* options.c -- a command line: parts ended by zero bytes, the first one a command. What is accepted can be
 * said again, and is then the same. */
#include "tools/options.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tools/command.h"

enum { WORDS = 32 };

static void say_again(const OptionSet *s, const Command *c) {
    CommandOptions o;
    char one[OPTION_TEXT_MAX], other[OPTION_TEXT_MAX];
    fuzz_check(command_options_open(&o, c) == ST_OK);
    for (int32_t i = 0; i < s->n; i++) {
        const OptionSlot *slot = &s->slot[i];
        if (slot->origin != FROM_LINE) continue;
        int32_t n = option_values(slot);
        for (int32_t k = 0; k < n; k++)
            fuzz_check(option_assign(&o.set.slot[i], option_text(slot, k, one), FROM_LINE, 0) == ST_OK);
        fuzz_check(option_values(&o.set.slot[i]) == n);
        for (int32_t k = 0; k < n; k++)
            fuzz_check(!strcmp(option_text(slot, k, one), option_text(&o.set.slot[i], k, other)));
    }
    command_options_close(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzInput in = {data, size};
    char *name = fuzz_part(&in), *word[WORDS + 1];
    int n = 0;
    TextList rest;
    CommandOptions o;
    const Command *c = command_find(name);
    (void)command_nearest(name);
    while (in.n && n < WORDS) word[n++] = fuzz_part(&in);
    word[n] = NULL;
    if (!c) c = commands[0];
    fuzz_check(command_options_open(&o, c) == ST_OK);
    if (options_read_line(&o.set, n, word, &rest) == ST_OK) {
        fuzz_check(rest.n >= 0 && rest.n <= LIST_MAX);
        (void)options_complete(&o.set);
        say_again(&o.set, c);
    }
    command_options_close(&o);
    while (n > 0) free(word[--n]);
    free(name);
    return 0;
}
