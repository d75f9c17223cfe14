/* file.h -- files: mapped for reading; written aside, synced and renamed, so that a reader sees the old file or
 * the new one and never half of either. */
#ifndef KERNELS_BASE_FILE_H
#define KERNELS_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

typedef struct FileMap {
    const uint8_t *data; /* read-only; NULL for an empty file */
    size_t size;
} FileMap;

Status file_map(FileMap *out, const char *path); /* ST_NOTFOUND names path and errno; a folder is ST_NOTFOUND too */
void file_unmap(FileMap *m);                     /* fine on a zeroed map, and twice */

/* The whole file with a NUL behind it, from malloc; for small files that a parser wants as a string. */
Status file_read(char **out, size_t *size, const char *path);

bool file_exists(const char *path);
bool file_is_folder(const char *path);
Status file_join(char *out, size_t cap, const char *folder, const char *name); /* ST_ARG when it does not fit */

/* A file being written. Nothing is seen under `path` before writer_finish(); writer_abandon() leaves no trace.
 * The temporary lies in the same folder ("path.tmp.<pid>"). Disk full is ST_NOSPACE, anything else ST_IO. */
typedef struct Writer Writer;
Status writer_open(Writer **out, const char *path);
Status writer_put(Writer *w, const void *data, size_t bytes);
Status writer_finish(Writer **w); /* flush, fsync, rename, fsync the folder; closes even when it fails */
void writer_abandon(Writer **w);  /* fine on NULL */

/* Test hook: after this many more bytes every write fails as if the disk were full; negative: never (default). */
void file_fail_after(int64_t bytes);

/* SHA-256, as 32 bytes and as 64 lower-case hex digits. */
typedef struct Sha256 Sha256;
typedef struct Digest { uint8_t byte[32]; } Digest;
Status sha256_open(Sha256 **out);
void sha256_add(Sha256 *h, const void *data, size_t bytes);
Digest sha256_finish(Sha256 **h); /* closes */
Digest sha256_of(const void *data, size_t bytes);
void digest_hex(Digest d, char out[65]);
bool digest_equal(Digest a, Digest b);

#endif
