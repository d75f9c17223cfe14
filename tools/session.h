/* session.h -- what most commands open: a model with its tokenizer and template, pages, and a scheduler. */
#ifndef TOOLS_SESSION_H
#define TOOLS_SESSION_H

#include "engine/memory/cartridge.h"
#include "engine/run/scheduler.h"
#include "engine/text/chat.h"
#include "engine/transformer/capture.h"
#include "tools/options.h"

typedef struct Session {
    Model *model;
    Tokenizer *tokenizer;
    Chat *chat;
    PagePool *pool;
    Scheduler *scheduler;
    CaptureTools capture; /* the scheduler's */
    char tokenizer_hex[65];
} Session;

/* Rows that will be held at once beside what the scheduler's sequences need: prefixes, captures, training. */
typedef struct SessionLimits {
    int64_t held_rows;
    int32_t seqs, seq_rows, pass_rows;
} SessionLimits;

/* What these limits make of the pool and the scheduler; whoever plans asks the same. */
Status session_pages(const SessionLimits *l, int32_t *pages);
SchedulerLimits session_scheduler(const SessionLimits *l);

Status session_open(Session *s, const char *folder, const SessionLimits *limits);
void session_close(Session *s);

/* A prefix from a text: the whole of it (rows 0) or its first rows. */
Status session_capture(Session *s, Bytes text, int32_t rows, Prefix **out);
/* Rows that these cartridge files will hold, for SessionLimits; opens none of them. */
Status cartridge_rows(const TextList *paths, int64_t *rows);
/* Opens them in order; *n counts those that are open, also when one fails: the caller closes them. */
Status session_cartridges(Session *s, const TextList *paths, Cartridge **out, int32_t *n);

#endif
