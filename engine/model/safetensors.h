/* safetensors.h -- named tensors in a file; weights, cartridges and checkpoints all use it.
 *
 *   0  8  header length n, little-endian      8  n  JSON: {"name": {"dtype","shape","data_offsets"}, "__metadata__"}
 *   8+n   data, offsets relative to here
 *
 * Files come from others: every offset, overlap, shape and type is checked before a pointer is handed out. */
#ifndef ENGINE_MODEL_SAFETENSORS_H
#define ENGINE_MODEL_SAFETENSORS_H

#include "kernels/base/file.h"
#include "kernels/base/tensor.h"

typedef struct SafeFile SafeFile;
Status safe_open(SafeFile **out, const char *path); /* mapped; ST_FORMAT names path, tensor and what is wrong */
void safe_close(SafeFile *f);
const char *safe_path(const SafeFile *f);          /* as it was opened */
Status safe_find(const SafeFile *f, const char *name, Tensor *out); /* host memory; ST_FORMAT: none such */
bool safe_has(const SafeFile *f, const char *name);
int32_t safe_count(const SafeFile *f);
const char *safe_name(const SafeFile *f, int32_t i);              /* in file order */
const char *safe_meta(const SafeFile *f, const char *key);        /* NULL: none such; borrowed */
Digest safe_digest(const SafeFile *f);                            /* SHA-256 of the whole file */

/* One entry of a file to be written; metadata pairs are strings. */
typedef struct SafeEntry { const char *name; Tensor t; } SafeEntry;
typedef struct SafeMeta { const char *key, *value; } SafeMeta;

/* Writes aside and renames. The header is padded so that data starts on a multiple of 4096 bytes. With `sealed`, a
 * metadata key "sha256" is added: the digest of header (with 64 zeros in that place) and data; safe_verify checks
 * it and names what differs. Our own files are sealed, so that any truncated or flipped byte is an error. */
Status safe_write(const char *path, const SafeEntry *e, int32_t n, const SafeMeta *m, int32_t nm, bool sealed);
Status safe_verify(const SafeFile *f); /* ST_FORMAT: no seal, or it does not hold */

#endif
