/* torch_file.c -- from the notes that pickle.c takes to tensors. What torch would call has a fixed form here:
 * _rebuild_tensor_v2(storage, offset, size, stride, ...), perhaps inside _rebuild_parameter(tensor, ...). */
#include "engine/model/torch_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/pickle.h"
#include "engine/model/zip.h"
#include "kernels/base/file.h"

enum {
    NAME_BF16,
    NAME_F16,
    NAME_F32,
    NAME_F64,
    NAME_TENSOR,
    NAME_PARAMETER,
    NAME_LIST,
    NAME_DICT,
    NAME_SET,
    NAMES
};
static const char *const names[NAMES] = {
    [NAME_BF16] = "torch BFloat16Storage",
    [NAME_F16] = "torch HalfStorage",
    [NAME_F32] = "torch FloatStorage",
    [NAME_F64] = "torch DoubleStorage",
    [NAME_TENSOR] = "torch._utils _rebuild_tensor_v2",
    [NAME_PARAMETER] = "torch._utils _rebuild_parameter",
    [NAME_LIST] = "torch.nn.modules.container ParameterList",
    [NAME_DICT] = "collections OrderedDict",
    [NAME_SET] = "__builtin__ set",
};
static const DType types[] = {
    [NAME_BF16] = DT_BF16, [NAME_F16] = DT_F16, [NAME_F32] = DT_F32, [NAME_F64] = DT_F64};

enum { PATH_MAX_BYTES = 1200 };

struct TorchFile {
    char *where;
    size_t size;
    FileMap map; /* empty when the bytes are the caller's */
    ZipFile zip;
    Pickle pickle;
    char folder[1056]; /* "NAME/" */
};

/* ---- opening ---- */

static bool ends_with(const ZipRecord *r, const char *end) {
    size_t n = strlen(end);
    return (size_t)r->name_bytes >= n && !memcmp(r->name + r->name_bytes - n, end, n);
}

static Status find_pickle(TorchFile *f, const ZipRecord **out) {
    static const char end[] = "/data.pkl";
    for (int32_t i = 0; i < f->zip.count; i++) {
        const ZipRecord *r = &f->zip.record[i];
        if (!ends_with(r, end)) continue;
        NEED(!*out, ST_FORMAT, "%s: has more than one data.pkl", f->where);
        *out = r;
    }
    NEED(*out, ST_FORMAT, "%s: is a zip file without a data.pkl; torch.save did not write it", f->where);
    snprintf(f->folder, sizeof f->folder, "%.*s", (*out)->name_bytes - (int)strlen(end) + 1, (*out)->name);
    return ST_OK;
}

static const ZipRecord *record_of(const TorchFile *f, const char *name, int32_t n) {
    char path[PATH_MAX_BYTES];
    int used = snprintf(path, sizeof path, "%s%.*s", f->folder, n, name);
    return used >= 0 && (size_t)used < sizeof path ? zip_find(&f->zip, path) : NULL;
}

static Status check_byteorder(const TorchFile *f) {
    static const char name[] = "byteorder";
    const ZipRecord *r = record_of(f, name, (int32_t)strlen(name));
    NEED(!r || (r->size == 6 && !memcmp(r->data, "little", 6)), ST_UNSUPPORTED,
         "%s: was written on a big-endian machine; load and save it on a little-endian one", f->where);
    return ST_OK;
}

static bool is_dict(const Pickle *p, int32_t node) {
    if (node < 0) return false;
    const PickleNode *n = &p->node[node];
    return n->kind == PICKLE_DICT || (n->kind == PICKLE_CALL && p->node[n->to].number == NAME_DICT);
}

static Status read_file(TorchFile *f, const uint8_t *data, size_t size) {
    const ZipRecord *pickle = NULL;
    f->size = size;
    NEED(size < 2 || data[0] != 0x80, ST_UNSUPPORTED,
         "%s: is a bare pickle, as torch before 1.6 wrote it; load it in Python and torch.save it again",
         f->where);
    TRY(zip_open(&f->zip, data, size, f->where));
    TRY(find_pickle(f, &pickle));
    TRY(check_byteorder(f));
    TRY(pickle_open(&f->pickle, pickle->data, (size_t)pickle->size, names, NAMES, f->where));
    NEED(is_dict(&f->pickle, f->pickle.root), ST_FORMAT, "%s: holds no dictionary of tensors", f->where);
    return ST_OK;
}

static Status new_file(TorchFile **out, const char *where) {
    TorchFile *f = calloc(1, sizeof *f);
    if (f) f->where = strdup(where);
    *out = f;
    NEED(f && f->where, ST_NOMEM, "%s: no memory to open it", where);
    return ST_OK;
}

Status torch_parse(TorchFile **out, const uint8_t *data, size_t size, const char *where) {
    Status st = new_file(out, where);
    if (!st) st = read_file(*out, data, size);
    if (!st) return ST_OK;
    torch_close(*out);
    *out = NULL;
    return st;
}

Status torch_open(TorchFile **out, const char *path) {
    FileMap map;
    *out = NULL;
    TRY(file_map(&map, path));
    Status st = torch_parse(out, map.data, map.size, path);
    if (st)
        file_unmap(&map);
    else
        (*out)->map = map;
    return st;
}

void torch_close(TorchFile *f) {
    if (!f) return;
    pickle_close(&f->pickle);
    zip_close(&f->zip);
    file_unmap(&f->map);
    free(f->where);
    free(f);
}

const char *torch_where(const TorchFile *f) {
    return f->where;
}

size_t torch_size(const TorchFile *f) {
    return f->size;
}

bool torch_has(const TorchFile *f, const char *key) {
    return pickle_value(&f->pickle, f->pickle.root, key) >= 0;
}

/* A text of the file in a message: what can be printed of its beginning. */
static void printable(char out[33], const PickleNode *text) {
    int32_t n = text->number < 32 ? (int32_t)text->number : 32;
    for (int32_t i = 0; i < n; i++)
        out[i] = text->text[i] >= 0x20 && text->text[i] < 0x7f ? text->text[i] : '?';
    out[n] = '\0';
}

Status torch_only(const TorchFile *f, const char *const *keys, int32_t n) {
    const Pickle *p = &f->pickle;
    for (int32_t c = p->node[p->root].first; c >= 0; c = p->cell[p->cell[c].next].next) {
        int32_t key = p->cell[c].node;
        char text[33] = "no text";
        bool known = false;
        for (int32_t i = 0; i < n; i++) known |= pickle_is_text(p, key, keys[i]);
        if (p->node[key].kind == PICKLE_TEXT) printable(text, &p->node[key]);
        NEED(known, ST_UNSUPPORTED, "%s: has \"%s\", which is none of the lists of a cartridge", f->where,
             text);
    }
    return ST_OK;
}

/* ---- one tensor ---- */

/* Which tensor of which list, for messages. */
typedef struct Place {
    const TorchFile *f;
    const char *key;
    int32_t i;
} Place;

#define NEED_AT(place, cond, st, ...)                                                                        \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            Status at_ = status_fail((st), __FILE__, __LINE__, __VA_ARGS__);                                 \
            return status_prefix(at_, "%s: %s[%d]", (place)->f->where, (place)->key, (place)->i);            \
        }                                                                                                    \
    } while (0)

static const PickleNode *item(const Pickle *p, const PickleNode *n, int32_t i, PickleKind kind) {
    int32_t at = pickle_item(p, (int32_t)(n - p->node), i);
    return at >= 0 && p->node[at].kind == kind ? &p->node[at] : NULL;
}

/* ('storage', a type of storage, its key, where it lived, its elements) */
static Status read_storage(const Place *at, const PickleNode *stored, DType *type, const ZipRecord **out,
                           int64_t *elements) {
    const Pickle *p = &at->f->pickle;
    const PickleNode *of = &p->node[stored->to], *class_name = item(p, of, 1, PICKLE_NAME);
    const PickleNode *key = item(p, of, 2, PICKLE_TEXT), *count = item(p, of, 4, PICKLE_INT);
    int32_t tag = pickle_item(p, stored->to, 0);
    NEED_AT(at, tag >= 0 && pickle_is_text(p, tag, "storage") && class_name && key && count, ST_FORMAT,
            "its storage is not described as torch.save does");
    NEED_AT(at, class_name->number <= NAME_F64, ST_UNSUPPORTED, "its storage is of the type %s",
            names[class_name->number]);
    NEED_AT(at, key->number >= 1 && key->number <= 20, ST_FORMAT, "its storage has a key of %lld bytes",
            (long long)key->number);
    char name[32];
    int used = snprintf(name, sizeof name, "data/%.*s", (int)key->number, key->text);
    *type = types[class_name->number];
    *elements = count->number;
    *out = record_of(at->f, name, used);
    NEED_AT(at, *out, ST_FORMAT, "the file has no record for its storage");
    int64_t bytes = (int64_t)dtype_bytes(*type);
    NEED_AT(at,
            *elements >= 0 && *elements == (int64_t)((*out)->size / (uint64_t)bytes) &&
                (*out)->size % (uint64_t)bytes == 0,
            ST_FORMAT, "its storage should have %lld elements of %lld bytes, its record has %llu bytes",
            (long long)*elements, (long long)bytes, (unsigned long long)(*out)->size);
    return ST_OK;
}

static Status read_numbers(const Place *at, const PickleNode *tuple, int32_t ndim, int64_t out[TENSOR_DIMS]) {
    const Pickle *p = &at->f->pickle;
    for (int32_t i = 0; i < ndim; i++) {
        const PickleNode *n = item(p, tuple, i, PICKLE_INT);
        NEED_AT(at, n && n->number >= 0, ST_FORMAT, "dimension %d is no whole number", i);
        out[i] = n->number;
    }
    return ST_OK;
}

/* The last element that dim and stride reach must be one of the storage, and there must not be more than it
 * has: else a few bytes could claim to be any number of elements. */
static Status check_reach(const Place *at, const TorchTensor *t, int64_t offset, int64_t elements) {
    int64_t count = 1, last = offset;
    NEED_AT(at, offset >= 0 && offset <= elements, ST_FORMAT,
            "it begins at element %lld of a storage of %lld", (long long)offset, (long long)elements);
    for (int32_t i = 0; i < t->ndim; i++)
        if (t->dim[i] == 0) return ST_OK;
    for (int32_t i = 0; i < t->ndim; i++) {
        int64_t steps = t->dim[i] - 1, left = elements - 1 - last;
        NEED_AT(at,
                left >= 0 && t->dim[i] <= elements / count && (steps == 0 || t->stride[i] <= left / steps),
                ST_FORMAT, "its shape reaches outside its storage of %lld elements", (long long)elements);
        count *= t->dim[i];
        last += steps * t->stride[i];
    }
    NEED_AT(at, last < elements, ST_FORMAT, "its shape reaches outside its storage of %lld elements",
            (long long)elements);
    return ST_OK;
}

static Status read_tensor(const Place *at, const PickleNode *args, TorchTensor *t) {
    const Pickle *p = &at->f->pickle;
    const PickleNode *stored = item(p, args, 0, PICKLE_STORED), *offset = item(p, args, 1, PICKLE_INT);
    const PickleNode *size = item(p, args, 2, PICKLE_TUPLE), *stride = item(p, args, 3, PICKLE_TUPLE);
    NEED_AT(at, stored && offset && size && stride, ST_FORMAT, "is not described as torch.save does");
    NEED_AT(at, size->items <= TENSOR_DIMS && stride->items == size->items, ST_UNSUPPORTED,
            "%d dimensions with %d strides; at most %d", size->items, stride->items, TENSOR_DIMS);
    const ZipRecord *record = NULL;
    int64_t elements = 0;
    *t = (TorchTensor){.ndim = size->items};
    TRY(read_storage(at, stored, &t->dtype, &record, &elements));
    TRY(read_numbers(at, size, t->ndim, t->dim));
    TRY(read_numbers(at, stride, t->ndim, t->stride));
    TRY(check_reach(at, t, offset->number, elements));
    t->data = record->data + (size_t)offset->number * dtype_bytes(t->dtype);
    return ST_OK;
}

/* A tensor, or a parameter around one. */
static Status read_any(const Place *at, int32_t node, TorchTensor *t) {
    const Pickle *p = &at->f->pickle;
    const PickleNode *n = &p->node[node];
    if (n->kind == PICKLE_CALL && p->node[n->to].number == NAME_PARAMETER) {
        int32_t inner = pickle_item(p, n->with, 0);
        NEED_AT(at, inner >= 0, ST_FORMAT, "is a parameter without a tensor");
        n = &p->node[inner];
    }
    NEED_AT(at, n->kind == PICKLE_CALL && p->node[n->to].number == NAME_TENSOR, ST_UNSUPPORTED,
            "is not a tensor");
    return read_tensor(at, &p->node[n->with], t);
}

/* ---- a list of them ---- */

/* A ParameterList keeps its tensors in state["_parameters"] under "0", "1", "2" ... */
static Status read_parameters(const TorchFile *f, const char *key, int32_t object, TorchTensor *out,
                              int32_t cap, int32_t *n) {
    const Pickle *p = &f->pickle;
    int32_t state = p->node[object].state;
    int32_t parameters = is_dict(p, state) ? pickle_value(p, state, "_parameters") : -1;
    NEED(is_dict(p, parameters), ST_FORMAT, "%s: \"%s\" is a ParameterList without parameters", f->where,
         key);
    for (int32_t c = p->node[parameters].first; c >= 0; ++*n) {
        char number[16];
        int32_t value = p->cell[c].next;
        snprintf(number, sizeof number, "%d", *n);
        NEED(pickle_is_text(p, p->cell[c].node, number), ST_FORMAT,
             "%s: \"%s\" has no parameter %d in its place", f->where, key, *n);
        NEED(*n < cap, ST_UNSUPPORTED, "%s: \"%s\" has more than %d tensors", f->where, key, cap);
        TRY(read_any(&(Place){f, key, *n}, p->cell[value].node, &out[*n]));
        c = p->cell[value].next;
    }
    return ST_OK;
}

static Status read_list(const TorchFile *f, const char *key, int32_t list, TorchTensor *out, int32_t cap,
                        int32_t *n) {
    const Pickle *p = &f->pickle;
    for (int32_t c = p->node[list].first; c >= 0; c = p->cell[c].next, ++*n) {
        NEED(*n < cap, ST_UNSUPPORTED, "%s: \"%s\" has more than %d tensors", f->where, key, cap);
        TRY(read_any(&(Place){f, key, *n}, p->cell[c].node, &out[*n]));
    }
    return ST_OK;
}

Status torch_tensors(const TorchFile *f, const char *key, TorchTensor *out, int32_t cap, int32_t *n) {
    const Pickle *p = &f->pickle;
    int32_t value = pickle_value(p, p->root, key);
    *n = 0;
    NEED(value >= 0, ST_FORMAT, "%s: has no \"%s\"", f->where, key);
    const PickleNode *v = &p->node[value];
    if (v->kind == PICKLE_NONE) return ST_OK;
    if (v->kind == PICKLE_LIST || v->kind == PICKLE_TUPLE) return read_list(f, key, value, out, cap, n);
    NEED(v->kind == PICKLE_OBJECT && p->node[v->to].number == NAME_LIST, ST_UNSUPPORTED,
         "%s: \"%s\" is no list of tensors", f->where, key);
    return read_parameters(f, key, value, out, cap, n);
}

void torch_copy(void *out, const TorchTensor *t) {
    size_t bytes = dtype_bytes(t->dtype);
    int64_t at[TENSOR_DIMS] = {0}, count = 1;
    for (int32_t i = 0; i < t->ndim; i++)
        if (t->dim[i] == 0) return;
    for (int32_t i = 0; i < t->ndim; i++) count *= t->dim[i];
    uint64_t from = 0; /* unsigned: the stride of a dimension of one may be anything, and comes off again */
    uint8_t *to = out;
    for (int64_t done = 0; done < count; done++, to += bytes) {
        memcpy(to, t->data + from, bytes);
        for (int32_t i = t->ndim - 1; i >= 0; i--) { /* to the next element, as an odometer does */
            uint64_t step = (uint64_t)t->stride[i] * bytes;
            from += step;
            if (++at[i] < t->dim[i]) break;
            from -= step * (uint64_t)at[i];
            at[i] = 0;
        }
    }
}
