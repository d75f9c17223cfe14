/* zip.h -- the records of a zip file that stores them as they are, as torch.save does.
 *
 *   records        30 bytes, name, extra; then the data, never deflated
 *   directory      one entry of 46 bytes, name, extra, comment for each record
 *   [zip64 end]    56 bytes, and 20 that say where: only where the numbers of the end do not fit
 *   end            22 bytes, the last of the file: how many records, where the directory is
 *
 * Only the directory is believed, and only what it can show: every record lies inside the file, all of them
 * together are no larger than it, no name stands twice, and every CRC-32 holds. Anything else (deflate,
 * encryption, several disks, a comment behind the end) is an error that names it. Nothing is copied. */
#ifndef ENGINE_MODEL_ZIP_H
#define ENGINE_MODEL_ZIP_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

typedef struct ZipRecord {
    const char *name; /* not terminated */
    int32_t name_bytes;
    const uint8_t *data; /* aligned to nothing */
    uint64_t size;
} ZipRecord;

typedef struct ZipFile {
    ZipRecord *record; /* [count], owned, in order of their names; what it points to is the caller's */
    int32_t count;
} ZipFile;

/* `data` must outlive the ZipFile; `where` names it in messages. ST_FORMAT, ST_UNSUPPORTED, ST_NOMEM. */
Status zip_open(ZipFile *out, const uint8_t *data, size_t size, const char *where);
void zip_close(ZipFile *z); /* fine on a zeroed one, and twice */
/* NULL: none such. */
const ZipRecord *zip_find(const ZipFile *z, const char *name);

#endif
