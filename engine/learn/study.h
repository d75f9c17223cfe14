/* study.h -- self-study: chunk -> capture, once -> question -> answer with the teacher's thoughts -> dataset.
 *
 * The model talks to itself with the chunk in its context. What it thought of each answer token there is what
 * a cartridge must later reproduce without the chunk. The question becomes the user turn and the answer the
 * assistant turn of a conversation that shows neither chunk nor seed. arXiv:2506.06266; papers.md b.
 *
 * Conversation i is a function of (seed, i): a study can be stopped, resumed and extended. Chunks are worked
 * on a few at a time (a wave), so that many conversations share each pass; a wave is one transaction, and
 * nothing of it depends on what came before but the list of questions already asked. So a stopped study that
 * continues with the same settings writes the same rows, bit for bit. */
#ifndef ENGINE_LEARN_STUDY_H
#define ENGINE_LEARN_STUDY_H

#include "engine/learn/dataset.h"
#include "engine/learn/watch.h"
#include "engine/run/scheduler.h"
#include "engine/text/chat.h"
#include "engine/text/corpus.h"

/* What the asker is told. The first five are the seed types of the paper; FOCUS shows one sentence of the
 * chunk and asks for a question which that sentence answers, after a few examples; ASK sends nothing but the
 * words of StudyOptions.ask. */
typedef enum SeedKind {
    SEED_STRUCTURING,
    SEED_SUMMARIZATION,
    SEED_QUESTION,
    SEED_USE_CASE,
    SEED_CREATIVE,
    SEED_FOCUS,
    SEED_ASK,
    SEED_KINDS
} SeedKind;
const char *seed_kind_name(SeedKind k);

typedef struct StudyOptions {
    /* Kept ones wanted. A few more come, because chunks are finished; at most 4 times as many are tried. */
    int64_t conversations;
    int32_t per_chunk; /* conversations that share a chunk's capture */
    ChunkRule chunk;
    /* Stands behind the chunk in the system turn; "" for none. The student never sees it. */
    const char *instruction;
    double weight[SEED_KINDS]; /* how often each kind of seed is drawn */
    /* FOCUS and QUESTION: the question starts with drawn words such as "Who", "In which year". More varied,
     * but what does not suit the sentence invites invented answers. */
    bool force_openings;
    const char *const *ask; /* SEED_ASK: user messages for the asker, drawn by conversation number */
    int32_t asks;
    /* JSONL {"question": ...}: nobody asks; a chunk gets the questions that share most words with it. Ends
     * without complaint when every question had its chances. NULL: the model asks. */
    const char *questions_path;
    int32_t rounds;                   /* question and answer turns, 1 or more */
    int32_t question_max, answer_max; /* tokens */
    float question_temperature;       /* answers are greedy */
    int32_t topk;                     /* candidates asked for per answer token, 20 */
    float mass;                       /* keep the fewest that reach this, 0.99; all of them when none does */
    /* What is dropped, and counted by reason. */
    bool keep_cut;           /* keep answers that reached answer_max without an end of turn */
    float answer_floor;      /* drop when the mean log-probability of the answer is below; -inf: keep */
    bool drop_unrelated;     /* drop questions that share no content word with the chunk */
    bool drop_invented;      /* FOCUS, QUESTION: drop what has names or numbers that the chunk lacks */
    float duplicate_overlap; /* drop when one earlier question has this share of its word pairs; > 1: keep */
    uint64_t seed;
} StudyOptions;
StudyOptions study_defaults(void);

typedef struct StudySums {
    int64_t kept, tried, tokens;
} StudySums; /* of the whole dataset; tokens of kept ones */

/* Runs until o->conversations are kept, the tries are used up (ST_ARG tells what was dropped and why) or the
 * watch says stop (ST_STOPPED; whole batches are kept). Continues where the dataset stands. */
Status study_run(Scheduler *s, const Chat *chat, const Model *m, const Corpus *corpus, const StudyOptions *o,
                 Dataset *out, const Watch *watch, StudySums *sums);
/* The options as JSON (malloc), for DatasetInfo.settings. The number of conversations is left out: it may
 * grow. */
Status study_settings(const StudyOptions *o, char **json);

#endif
