/* study_args.c -- see study_args.h. Defaults come from study_defaults() where an option was not given. */
#include "tools/study_args.h"

#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(StudyArgs, field)
#define GROUP     "self-study"

const Option study_rows[STUDY_ROWS] = {
    {"samples", 'n', OPTION_WHOLE, "N", "400", 1, 1e9, GROUP, "conversations to keep", AT(samples), false},
    {"chunk", 0, OPTION_RANGE, "LO-HI", "64-512", 1, 1e7, GROUP,
     "tokens of the corpus in view of one conversation", AT(chunk), false},
    {"border", 0, OPTION_CHOICE, "tokens|paragraphs|lines", "paragraphs", 0, 0, GROUP,
     "where chunks may begin and end", AT(border), false},
    {"per-chunk", 0, OPTION_WHOLE, "N", "16", 1, 4096, GROUP,
     "conversations about one chunk, which is read once for all", AT(per_chunk), false},
    {"seeds", 0, OPTION_TEXT, "LIST", NULL, 0, 0, GROUP,
     "kinds of questions with weights, as question=1,focus=3; default: focus; also structuring, summarization, "
     "use-case, creative",
     AT(seeds), false},
    {"questions", 0, OPTION_TEXT, "FILE", NULL, 0, 0, GROUP,
     "JSONL of {\"question\"}: asked by somebody else; the model only answers", AT(questions), false},
    {"instruction", 0, OPTION_TEXT, "TEXT", NULL, 0, 0, GROUP,
     "stands behind the chunk in the teacher's system turn", AT(instruction), false},
    {"rounds", 0, OPTION_WHOLE, "N", "1", 1, 64, GROUP, "questions and answers of one conversation",
     AT(rounds), false},
    {"question-tokens", 0, OPTION_WHOLE, "N", "48", 1, 1e5, GROUP, "longest question", AT(question_tokens),
     false},
    {"answer-tokens", 0, OPTION_WHOLE, "N", "64", 1, 1e5, GROUP, "longest answer", AT(answer_tokens), false},
    {"temperature-q", 0, OPTION_REAL, "F", "0.6", 0, 10, GROUP, "of questions; answers are greedy",
     AT(question_temperature), false},
    {"top-k", 0, OPTION_WHOLE, "N", "20", 1, 32, GROUP, "teacher's candidates asked for per answer token",
     AT(top_k), false},
    {"mass", 0, OPTION_REAL, "F", "0.99", 0, 1, GROUP,
     "the fewest candidates that reach this probability are kept", AT(mass), false},
    {"answer-floor", 0, OPTION_REAL, "F", "-0.7", -1e9, 0, GROUP,
     "mean log-probability below which an answer counts as made up", AT(answer_floor), false},
    {"overlap", 0, OPTION_REAL, "F", "0.9", 0, 2, GROUP,
     "share of known word pairs that makes a question a repeat; above 1: keep all", AT(overlap), false},
    {"keep-unrelated", 0, OPTION_FLAG, NULL, NULL, 0, 0, GROUP,
     "keep questions that share no word with the chunk", AT(keep_unrelated), false},
    {"keep-cut", 0, OPTION_FLAG, NULL, NULL, 0, 0, GROUP, "keep answers that ran into their limit",
     AT(keep_cut), false},
    {"openings", 0, OPTION_FLAG, NULL, NULL, 0, 0, GROUP,
     "force the first words of questions: more kinds of answers, more of them made up", AT(openings), false},
    {"keep-invented", 0, OPTION_FLAG, NULL, NULL, 0, 0, GROUP,
     "keep questions and answers with names or numbers that the chunk lacks", AT(keep_invented), false},
};

static Status add_seed(StudyOptions *o, const char *p, size_t n) {
    const char *equals = memchr(p, '=', n);
    size_t length = equals ? (size_t)(equals - p) : n;
    for (int k = 0; k < SEED_ASK; k++) {
        const char *name = seed_kind_name((SeedKind)k);
        if (strlen(name) != length || strncmp(name, p, length)) continue;
        o->weight[k] = 1;
        if (equals) {
            char *end;
            o->weight[k] = strtod(equals + 1, &end);
            NEED(end != equals + 1 && end == p + n && o->weight[k] >= 0, ST_ARG,
                 "--seeds: \"%.*s\" has no weight", (int)n, p);
        }
        return ST_OK;
    }
    FAIL(ST_ARG,
         "--seeds: \"%.*s\" is no kind of seed; there are question, focus, structuring, summarization, "
         "use-case, "
         "creative",
         (int)length, p);
}

static Status read_seeds(StudyOptions *o, const char *list) {
    if (!list) return ST_OK;
    memset(o->weight, 0, sizeof o->weight);
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        TRY(add_seed(o, p, n));
        p += n + (p[n] == ',');
    }
    return ST_OK;
}

Status study_options(const StudyArgs *a, uint64_t seed, StudyOptions *out) {
    StudyOptions o = study_defaults();
    o.conversations = a->samples;
    o.per_chunk = (int32_t)a->per_chunk;
    o.chunk = (ChunkRule){(ChunkBorder)a->border, (int32_t)a->chunk.low, (int32_t)a->chunk.high};
    TRY(read_seeds(&o, a->seeds));
    if (a->instruction) o.instruction = a->instruction;
    o.questions_path = a->questions;
    o.force_openings = a->openings;
    o.drop_invented = !a->keep_invented;
    o.rounds = (int32_t)a->rounds;
    o.question_max = (int32_t)a->question_tokens;
    o.answer_max = (int32_t)a->answer_tokens;
    o.question_temperature = (float)a->question_temperature;
    o.topk = (int32_t)a->top_k;
    o.mass = (float)a->mass;
    o.answer_floor = (float)a->answer_floor;
    o.duplicate_overlap = (float)a->overlap;
    o.drop_unrelated = !a->keep_unrelated;
    o.keep_cut = a->keep_cut;
    o.seed = seed;
    *out = o;
    return ST_OK;
}
