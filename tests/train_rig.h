/* train_rig.h -- training of tiny random models, for tests. The teacher is the model itself behind a longer
 * context, so that there is something to learn, and behind that very context the divergence is zero. */
#ifndef TESTS_TRAIN_RIG_H
#define TESTS_TRAIN_RIG_H

#include "engine/learn/trainer_state.h"
#include "engine/transformer/capture.h"
#include "tests/test.h"
#include "tests/tiny_model.h"

/* Pages of the pool; rows of the teacher's context and of a cartridge, of which some are frozen; the most
 * tokens of a conversation. */
enum { PAGES = 60, TEACHER_ROWS = 90, ROWS = 70, FROZEN = 1, TOKENS = 24 };

typedef struct World {
    Model *m;
    PagePool *pool;
    Stream *s;
    Batch *batch;
    Acts *acts;
    CaptureTools tools;
    Prefix *teacher;
} World;

/* A group's fixtures: *state becomes the one World; datasets lie in the scratch folder. The end asserts that
 * all pages are free. */
int world_set_up(void **state);
int world_tear_down(void **state);

/* n random tokens as a prefix; n at most TEACHER_ROWS. */
Prefix *world_capture(World *w, int32_t n, uint64_t stream);
/* A cartridge of ROWS such rows. */
Cartridge *world_cartridge(World *w);

/* What a dataset for this model says of itself. */
DatasetInfo world_info(const World *w);
/* A new dataset of conversations between 8 and TOKENS long with the teacher's best `topk` candidates; 0: with
 * the whole vocabulary. */
Dataset *world_data(World *w, const char *name, int64_t conversations, int32_t topk);
/* One of n tokens more, of which the second half is supervised; every fifth of those is skipped, as user
 * turns are. */
void world_add(World *w, Dataset *d, int64_t number, int32_t n, int32_t topk);

TrainerOptions train_options(void);
TrainerOptions harmful_options(void); /* a rate that only does harm, and patience that sees it at step 6 */

/* A trainer with a cartridge of its own. */
typedef struct Training {
    Cartridge *c;
    Ranks *ranks;
    Trainer *t;
} Training;

void training_open(Training *r, World *w, Dataset *d, const TrainerOptions *o);
void training_close(Training *r);

/* First moments of all that may learn: after one step its gradients, scaled. */
const float *training_moment(const Training *t);
/* Those of two trainings differ by 1e-4 of the largest at most. */
void training_alike(const Training *a, const Training *b);

#endif
