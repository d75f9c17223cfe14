/* study_args.h -- the options of self-study, shared by synth and train. */
#ifndef TOOLS_STUDY_ARGS_H
#define TOOLS_STUDY_ARGS_H

#include "engine/learn/study.h"
#include "tools/options.h"

typedef struct StudyArgs {
    int64_t samples, per_chunk, rounds, question_tokens, answer_tokens, top_k;
    const char *seeds, *questions, *instruction;
    Range chunk;
    int32_t border; /* ChunkBorder */
    double question_temperature, mass, answer_floor, overlap;
    bool keep_unrelated, keep_invented, keep_cut, openings;
} StudyArgs;

extern const Option study_rows[];
enum { STUDY_ROWS = 19 };

/* The study's options from the arguments. ST_ARG names a kind of seed that does not exist. */
Status study_options(const StudyArgs *a, uint64_t seed, StudyOptions *out);

#endif
