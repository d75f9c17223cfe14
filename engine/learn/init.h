/* init.h -- a cartridge to start training from.
 *
 * A start from text is a capture of it: with zero steps the cartridge is the prefill of that text. */
#ifndef ENGINE_LEARN_INIT_H
#define ENGINE_LEARN_INIT_H

#include "engine/memory/cartridge.h"
#include "engine/text/chat.h"
#include "engine/transformer/capture.h"

typedef enum InitKind {
    INIT_FIRST,
    INIT_TEXT,
    INIT_RANDOM_TEXT,
    INIT_RANDOM_VECTORS,
    INIT_CARTRIDGE
} InitKind;

typedef struct InitOptions {
    InitKind kind;
    int32_t rows;   /* P; for INIT_CARTRIDGE 0 or that file's */
    int32_t frozen; /* 1 */
    /* INIT_FIRST: the corpus; INIT_TEXT: the given text. ST_ARG gives its rows when `rows` is larger. */
    Bytes text;
    const char *path; /* INIT_CARTRIDGE */
    /* Random text: words drawn from a small built-in list. Random vectors: normal with the mean square of a
     * real capture's keys and values, layer by layer; the first row is real. */
    uint64_t seed;
} InitOptions;

/* The result's info has model, tokenizer, template, positions and init; the rest is the caller's. */
Status cartridge_init(Cartridge **out, const CaptureTools *tools, const Chat *chat, const InitOptions *o);

#endif
