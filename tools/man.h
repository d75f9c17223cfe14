/* man.h -- manual pages (roff, man macros), written from the tables of options. */
#ifndef TOOLS_MAN_H
#define TOOLS_MAN_H

#include "tools/command.h"

/* cartridge-<command>(1), or with NULL cartridge(1). */
Status man_page(FILE *out, const Command *c);

#endif
