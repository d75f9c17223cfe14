/* cartridge_torch.c -- see cartridge_torch.h. Everything is checked against the model and the size of the
 * file before memory for rows is asked for: lists may repeat one storage as often as they like. */
#include "engine/memory/cartridge_torch.h"

#include <stdlib.h>

enum { TRAINABLE_KEYS, TRAINABLE_VALUES, FROZEN_KEYS, FROZEN_VALUES, LISTS };
static const char *const new_names[LISTS] = {"trainable_keys", "trainable_values", "frozen_keys",
                                             "frozen_values"};
static const char *const old_names[LISTS] = {"trainable_keys", "trainable_values", "fixed_keys",
                                             "fixed_values"};

typedef struct Lists {
    const TorchFile *f;
    const char *const *name;
    const CartridgeInfo *of;
    TorchTensor *tensor[LISTS]; /* [layers] each, parts of one block */
    int32_t n[LISTS];
    int64_t rows[LISTS]; /* of every tensor of the list */
} Lists;

/* ---- what there is ---- */

static Status check_tensor(Lists *l, int32_t list, int32_t layer) {
    const TorchTensor *t = &l->tensor[list][layer];
    const CartridgeInfo *of = l->of;
    const char *where = torch_where(l->f), *name = l->name[list];
    NEED(t->ndim == 4 && t->dim[0] == 1, ST_FORMAT, "%s: %s[%d] is not [1,heads,rows,size]", where, name,
         layer);
    NEED(t->dim[1] == of->kv_heads && t->dim[3] == of->head_dim, ST_MISMATCH,
         "%s: %s[%d] has %lld heads of %lld, the model %d of %d", where, name, layer, (long long)t->dim[1],
         (long long)t->dim[3], of->kv_heads, of->head_dim);
    if (layer == 0) l->rows[list] = t->dim[2];
    NEED(t->dim[2] == l->rows[list], ST_FORMAT, "%s: %s[%d] has %lld rows, layer 0 has %lld", where, name,
         layer, (long long)t->dim[2], (long long)l->rows[list]);
    return ST_OK;
}

static Status read_list(Lists *l, int32_t list) {
    int32_t layers = l->of->layers;
    TRY(torch_tensors(l->f, l->name[list], l->tensor[list], layers, &l->n[list]));
    bool none = l->n[list] == 0 && list >= FROZEN_KEYS;
    NEED(none || l->n[list] == layers, ST_MISMATCH, "%s: \"%s\" has %d layers, the model %d",
         torch_where(l->f), l->name[list], l->n[list], layers);
    for (int32_t i = 0; i < l->n[list]; i++) TRY(check_tensor(l, list, i));
    return ST_OK;
}

static Status check_lists(const Lists *l) {
    const char *where = torch_where(l->f);
    for (int32_t i = 0; i < LISTS; i += 2)
        NEED(l->rows[i] == l->rows[i + 1], ST_FORMAT, "%s: %s has %lld rows, %s %lld", where, l->name[i],
             (long long)l->rows[i], l->name[i + 1], (long long)l->rows[i + 1]);
    uint64_t bytes = 0, size = torch_size(l->f);
    for (int32_t i = 0; i < LISTS; i++)
        for (int32_t j = 0; j < l->n[i]; j++) {
            const TorchTensor *t = &l->tensor[i][j]; /* no larger than its storage: no overflow */
            bytes += (uint64_t)(t->dim[1] * t->dim[2] * t->dim[3]) * dtype_bytes(t->dtype);
            NEED(bytes <= size, ST_FORMAT, "%s: its tensors together are larger than the file", where);
        }
    return ST_OK;
}

static Status read_lists(Lists *l) {
    const TorchFile *f = l->f;
    l->name = torch_has(f, old_names[FROZEN_KEYS]) ? old_names : new_names;
    TRY(torch_only(f, l->name, LISTS));
    for (int32_t i = 0; i < LISTS; i++) TRY(read_list(l, i));
    return check_lists(l);
}

/* ---- its rows ---- */

/* One tensor into rows first .. first+n of [G,P,D]. */
static Status take_tensor(Tensor to, int64_t first, const TorchTensor *t, Rounding *r, const char *where) {
    int64_t G = to.dim[0], P = to.dim[1], D = to.dim[2], n = t->dim[2];
    Tensor dense = tensor_of(NULL, t->dtype, G, n, D);
    dense.data = malloc((size_t)(G * n * D) * dtype_bytes(t->dtype) + 1);
    NEED(dense.data, ST_NOMEM, "%s: no memory for %lld rows of one layer", where, (long long)n);
    torch_copy(dense.data, t);
    Status st = ST_OK;
    for (int64_t g = 0; g < G && !st; g++)
        st = import_values(to, (g * P + first) * D, dense, g * n * D, n * D, r, where);
    free(dense.data);
    return st;
}

static Status take_rows(CartridgeData *out, const Lists *l, Rounding *r) {
    int64_t frozen = l->rows[FROZEN_KEYS];
    for (int32_t list = 0; list < LISTS; list++)
        for (int32_t i = 0; i < l->n[list]; i++)
            TRY(take_tensor(tensor_at(out->rows, 2 * i + list % 2), list < FROZEN_KEYS ? frozen : 0,
                            &l->tensor[list][i], r, torch_where(l->f)));
    return ST_OK;
}

static Status read_rows(CartridgeData *out, Lists *l, Rounding *r) {
    CartridgeInfo info;
    int64_t frozen = l->rows[FROZEN_KEYS];
    Status st = import_info(&info, l->of, frozen + l->rows[TRAINABLE_KEYS], frozen, "torch");
    if (st) return status_prefix(st, "%s", torch_where(l->f));
    st = cartridge_data_new(out, &info);
    cartridge_info_close(&info);
    if (!st) st = take_rows(out, l, r);
    return st ? st : import_note(&out->info, "a torch file of the published code", r);
}

Status cartridge_torch_read(CartridgeData *out, const TorchFile *f, const CartridgeInfo *of, Rounding *r) {
    *out = (CartridgeData){0};
    *r = (Rounding){0};
    Lists l = {.f = f, .of = of};
    TorchTensor *all = calloc((size_t)of->layers * LISTS, sizeof *all);
    NEED(all, ST_NOMEM, "%s: no memory for the list of %d layers", torch_where(f), of->layers);
    for (int32_t i = 0; i < LISTS; i++) l.tensor[i] = all + i * of->layers;
    Status st = read_lists(&l);
    if (!st) st = read_rows(out, &l, r);
    free(all);
    if (st) cartridge_data_close(out);
    return st;
}
