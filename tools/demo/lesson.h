/* lesson.h -- one text of facts on its whole way: files, self-study, cartridges of several sizes, how well
 * each of them answers beside the text itself, and how fast. */
#ifndef TOOLS_DEMO_LESSON_H
#define TOOLS_DEMO_LESSON_H

#include <limits.h>

#include "engine/learn/watch.h"
#include "tools/demo/facts.h"

enum { LESSON_SIZES = 7, LESSON_CHAPTERS = 8, LESSON_LOADS = 3 };

typedef struct LessonPlan {
    const char *model, *folder, *name; /* name.txt, name.questions.jsonl, name.study, name.cartridge, ... */
    int32_t facts;
    /* The text has chapters, each about names of its own (at most LESSON_CHAPTERS), and each fact of a
     * chapter is told `tellings` times, in another order each time. Self-study sees a chapter at a time. */
    int32_t chapters, tellings;
    int64_t conversations, steps;
    int32_t size[LESSON_SIZES], sizes, main; /* rows, rising; which of them name.cartridge has */
    int32_t speed_tokens;                    /* for each user */
    double speed_seconds; /* of decoding, at least, for each kind of context and number of users */
    uint64_t seed;
    const Watch *watch;
    void (*tell)(void *user, const char *stage, const char *what); /* after each stage, a line for people */
    void *user;
} LessonPlan;

/* A context and the share of all questions that was answered right behind it. */
typedef struct Context {
    double accuracy;
    int32_t rows, pages;
} Context;

typedef struct Sized {
    int32_t rows;
    Context truncated, cartridge;
    double seconds; /* of training */
    char cartridge_path[PATH_MAX], metrics[PATH_MAX];
} Sized;

/* Each user's own copy of the text in context, one copy for all, one cartridge for all. */
typedef enum SpeedKind { SPEED_PRIVATE, SPEED_SHARED, SPEED_CARTRIDGE, SPEED_KINDS } SpeedKind;
typedef struct Load {
    int32_t users, own_pages;
    double tokens_per_second[SPEED_KINDS]; /* of all users together */
    int32_t context_pages[SPEED_KINDS];
} Load;

/* A question and what the model says to it. */
typedef struct Example {
    char question[64], gold[64], none[64], text[64], cartridge[64];
    bool text_right, cartridge_right;
} Example;

typedef struct Lesson {
    Facts facts;
    char opening[120]; /* of the text: three facts */
    int32_t tokens;    /* rows that the whole text takes in context */
    int64_t conversations, steps;
    double study_seconds, read_seconds; /* read: one user's copy of the text into context */
    bool fits;                          /* the whole text in context? */
    char refusal[200];                  /* why not */
    Context none, text;                 /* text: all of it, or the first rows with room for an answer */
    Sized size[LESSON_SIZES];
    Load load[LESSON_LOADS];
    Example example;
    int32_t layers, width, heads, head_dim, context_max;
    const char *device, *kv;       /* what computes, and the type in which it keeps keys and values */
    int64_t row_bytes, page_bytes; /* of a row as bf16, in a file; of a page in this run's pool */
    int64_t weight_bytes, pass_bytes;
} Lesson;

Status lesson_run(Lesson *out, const LessonPlan *plan);

#endif
