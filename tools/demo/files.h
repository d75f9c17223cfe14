/* files.h -- the demo model's folder, inside the program, so that `cartridge demo` works anywhere. */
#ifndef TOOLS_DEMO_FILES_H
#define TOOLS_DEMO_FILES_H

typedef struct EmbeddedFile { const char *name; const unsigned char *data, *end; } EmbeddedFile;

/* Every file of tools/demo/model; the last entry's name is NULL. */
extern const EmbeddedFile demo_model_files[];

#endif
