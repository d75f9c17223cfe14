/* torch_file.h -- lists of tensors in a file that torch.save wrote.
 *
 * The file is a zip: NAME/data.pkl says what there is, NAME/data/K holds the elements of storage K,
 * NAME/byteorder their order. It is read as data (zip.h, pickle.h): nothing in it is executed, and what is
 * neither a tensor nor a container of tensors is an error that names it. Read is a dictionary of lists:
 * Python lists and tuples, and torch's ParameterList, whose tensors stand in its state as an object. */
#ifndef ENGINE_MODEL_TORCH_FILE_H
#define ENGINE_MODEL_TORCH_FILE_H

#include "kernels/base/tensor.h"

/* A view of a storage. Every element that dim and stride reach lies inside the file, and there are no more of
 * them than the storage has. */
typedef struct TorchTensor {
    DType dtype; /* bf16, f16, f32 or f64 */
    int32_t ndim;
    int64_t dim[TENSOR_DIMS], stride[TENSOR_DIMS]; /* in elements */
    const uint8_t *data; /* its first element, aligned to nothing; borrowed from the file */
} TorchTensor;

typedef struct TorchFile TorchFile;

/* ST_NOTFOUND, ST_FORMAT, ST_UNSUPPORTED, ST_NOMEM. */
Status torch_open(TorchFile **out, const char *path);
/* The same from memory that outlives the file; `where` names it in messages. */
Status torch_parse(TorchFile **out, const uint8_t *data, size_t size, const char *where);
void torch_close(TorchFile *f); /* fine on NULL */

const char *torch_where(const TorchFile *f);
size_t torch_size(const TorchFile *f); /* bytes of the whole file */

/* Whether the file has a list (or anything else) of that name. */
bool torch_has(const TorchFile *f, const char *key);
/* ST_UNSUPPORTED: it has something that is none of these [n]. */
Status torch_only(const TorchFile *f, const char *const *keys, int32_t n);
/* The tensors of a list, in order: *n of them, at most cap. None (nothing was saved under that name) is an
 * empty list. */
Status torch_tensors(const TorchFile *f, const char *key, TorchTensor *out, int32_t cap, int32_t *n);
/* Its elements in row-major order, host memory for all of them; nothing is converted. */
void torch_copy(void *out, const TorchTensor *t);

#endif
