/* compose.h -- several cartridges in one file.
 *
 * Rows are put behind each other as they are: keys are rotated already and stay at the positions that they
 * were trained at, so positions of the parts overlap, as they do when the cartridges are used side by side.
 * What follows starts at the larger of the number of rows and the largest end of a part, which is also where
 * it starts behind the parts themselves (prefix_start): the composed cartridge and the list of its parts give
 * the same logits.
 *
 * Each cartridge begins with frozen rows, its attention sink. Two or more sinks take more of the attention
 * than one; the published code keeps only the first. Without the others the result equals the list of parts
 * without them. Eyuboglu et al. 2025, arXiv:2506.06266, section on composition. */
#ifndef ENGINE_MEMORY_COMPOSE_H
#define ENGINE_MEMORY_COMPOSE_H

#include "engine/memory/cartridge.h"

typedef enum Sinks {
    SINKS_FIRST, /* the frozen rows of all but the first are left out, if the first has some */
    SINKS_ALL,
} Sinks;

/* Rows at the front of part i that are left out. */
int32_t compose_left_out(const CartridgeData *part, int32_t i, Sinks sinks);

/* n >= 2 of them, in this order. Frozen are the rows that the first froze; corpus, learning rate and losses
 * are no longer anybody's and not stated, steps and conversations are sums, `parts` and `note` say what was
 * done. ST_ARG, ST_MISMATCH (names the first field in which one differs from the first, both values),
 * ST_NOMEM. */
Status cartridge_compose(CartridgeData *out, const CartridgeData *part, int32_t n, Sinks sinks);

#endif
