/* progress.h -- how far long work is, on stderr: a line that renews itself on a terminal, a plain line every
 * ten seconds elsewhere; with an estimate of the time left. Also where ^C is heard. */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include "engine/learn/watch.h"

typedef enum ProgressMode { PROGRESS_AUTO, PROGRESS_ALWAYS, PROGRESS_NEVER } ProgressMode;

/* Starts to hear SIGINT and SIGTERM: the first asks work to stop politely, the second ends the program. The
 * Watch is valid for the rest of the program. */
const Watch *progress_start(ProgressMode mode);
/* Ends the line of a stage, if one is being shown; before anything else is printed. */
void progress_end(void);
bool progress_interrupted(void);

#endif
