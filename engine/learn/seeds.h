/* seeds.h -- what the asker of conversation i is told, and the words its question is made to start with. */
#ifndef ENGINE_LEARN_SEEDS_H
#define ENGINE_LEARN_SEEDS_H

#include "engine/learn/study.h"

typedef struct Seed {
    SeedKind kind;
    char *text;          /* the message to the asker; owned */
    const char *opening; /* "" or the first words of the question */
} Seed;

/* A function of the options, the chunk and the conversation's number. `place`: the how-manieth of its chunk
 * it is. */
Status seed_draw(Seed *out, const StudyOptions *o, Bytes chunk, int64_t number, int32_t place);
void seed_close(Seed *s);

/* Turns that show how it is done, between the chunk and the seed: the same for all conversations of a study,
 * so they are captured once per chunk. Appends nothing for kinds without. */
Status seed_examples(SeedKind k, const Chat *c, TokenVec *out);

bool seed_must_ask(SeedKind k);     /* its text must end in a question mark */
bool seed_ends_at_mark(SeedKind k); /* the first question mark ends it: what follows is chatter */

/* The streams of random numbers of a study. */
enum { DRAW_KIND = 1, DRAW_VARIANT, DRAW_SENTENCE, DRAW_OPENING, DRAW_ASK, DRAW_QUESTION };

#endif
