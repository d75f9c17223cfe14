/* facts.h -- a corpus of facts, four tokens each: "Ada drinks tea." */
#ifndef TOOLS_DEMO_FACTS_H
#define TOOLS_DEMO_FACTS_H

#include <stdint.h>

#include "kernels/base/status.h"

enum { FACTS_MAX = 512 };
typedef struct Fact {
    const char *name, *relation, *value;
} Fact;
typedef struct Facts {
    Fact fact[FACTS_MAX];
    const char *name[FACTS_MAX / 8]; /* who occurs */
    int32_t n, names;
} Facts;

/* n facts (at most FACTS_MAX) about n/8 names, in drawn order; a function of (n, seed). */
void facts_make(Facts *f, int32_t n, uint64_t seed);
/* Those about names first .. first+names of f, in an order drawn from seed. */
void facts_part(Facts *out, const Facts *f, int32_t first, int32_t names, uint64_t seed);
Status facts_text(const Facts *f, char **out);      /* all of them on one line; malloc */
Status facts_questions(const Facts *f, char **out); /* one question for each, as JSONL; malloc */

#endif
