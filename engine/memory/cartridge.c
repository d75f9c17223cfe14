/* cartridge.c -- the file: its metadata as one JSON object, its rows as tensors, and the checks between it
 * and a model.
 *
 * One table names every field of CartridgeInfo once; writing, reading, copying and freeing all walk it, so a
 * field cannot be forgotten in one of them. */
#include "engine/memory/cartridge.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/json.h"

typedef enum FieldType { FIELD_I32, FIELD_I64, FIELD_U64, FIELD_DOUBLE, FIELD_TEXT } FieldType;
typedef struct Field {
    const char *name;
    FieldType type;
    size_t at;
} Field;

#define FIELD(name, type)                                                                                    \
    { #name, type, offsetof(CartridgeInfo, name) }
static const Field fields[] = {
    FIELD(version, FIELD_I32),
    FIELD(layers, FIELD_I32),
    FIELD(kv_heads, FIELD_I32),
    FIELD(head_dim, FIELD_I32),
    FIELD(rows, FIELD_I32),
    FIELD(frozen, FIELD_I32),
    FIELD(pos_first, FIELD_I32),
    FIELD(pos_end, FIELD_I32),
    FIELD(model, FIELD_TEXT),
    FIELD(tokenizer, FIELD_TEXT),
    FIELD(template_family, FIELD_TEXT),
    FIELD(rope_theta, FIELD_DOUBLE),
    FIELD(rope_factor, FIELD_DOUBLE),
    FIELD(name, FIELD_TEXT),
    FIELD(note, FIELD_TEXT),
    FIELD(corpus, FIELD_TEXT),
    FIELD(corpus_tokens, FIELD_I64),
    FIELD(init, FIELD_TEXT),
    FIELD(parts, FIELD_TEXT),
    FIELD(steps, FIELD_I64),
    FIELD(conversations, FIELD_I64),
    FIELD(supervised_tokens, FIELD_I64),
    FIELD(learning_rate, FIELD_DOUBLE),
    FIELD(loss_first, FIELD_DOUBLE),
    FIELD(loss_last, FIELD_DOUBLE),
    FIELD(kl_heldout, FIELD_DOUBLE),
    FIELD(seed, FIELD_U64),
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

static void *field_of(const CartridgeInfo *info, const Field *f) {
    return (char *)(uintptr_t)info + f->at;
}

void cartridge_info_close(CartridgeInfo *info) {
    for (int i = 0; i < FIELDS; i++)
        if (fields[i].type == FIELD_TEXT) free(*(char **)field_of(info, &fields[i]));
    *info = (CartridgeInfo){0};
}

Status cartridge_info_copy(CartridgeInfo *to, const CartridgeInfo *from) {
    CartridgeInfo copy = *from;
    bool short_of_memory = false;
    for (int i = 0; i < FIELDS; i++) {
        char **text = field_of(&copy, &fields[i]);
        if (fields[i].type != FIELD_TEXT || !*text) continue;
        *text = strdup(*text);
        short_of_memory |= !*text;
    }
    if (short_of_memory) {
        cartridge_info_close(&copy);
        FAIL(ST_NOMEM, "no memory for the description of a cartridge");
    }
    *to = copy;
    return ST_OK;
}

CartridgeInfo cartridge_info_for(const Model *m, const char *tokenizer, const char *template_family) {
    return (CartridgeInfo){
        .version = CARTRIDGE_VERSION,
        .layers = m->cfg.layers,
        .kv_heads = m->cfg.kv_heads,
        .head_dim = m->cfg.head_dim,
        .model = (char *)(uintptr_t)m->fingerprint,
        .tokenizer = (char *)(uintptr_t)tokenizer,
        .template_family = (char *)(uintptr_t)template_family,
        .rope_theta = m->cfg.rope_theta,
        .rope_factor = m->cfg.rope_factor,
        .learning_rate = (double)NAN,
        .loss_first = (double)NAN,
        .loss_last = (double)NAN,
        .kl_heldout = (double)NAN,
    };
}

/* ---- metadata ---- */

/* All 17 digits: cJSON stops at 15 when that is close enough, and then the number read is not the one
 * written. */
static void add_double(cJSON *o, const char *name, double v) {
    char text[32];
    snprintf(text, sizeof text, "%.17g", v);
    cJSON_AddRawToObject(o, name, text);
}

static void write_field(cJSON *o, const CartridgeInfo *info, const Field *f) {
    void *at = field_of(info, f);
    char text[24];
    switch (f->type) {
    case FIELD_I32:
        cJSON_AddNumberToObject(o, f->name, *(int32_t *)at);
        break;
    case FIELD_I64:
        cJSON_AddNumberToObject(o, f->name, (double)*(int64_t *)at);
        break;
    case FIELD_U64: /* beyond 2^53 a JSON number is not exact */
        snprintf(text, sizeof text, "%" PRIu64, *(uint64_t *)at);
        cJSON_AddStringToObject(o, f->name, text);
        break;
    case FIELD_DOUBLE:
        if (isfinite(*(double *)at))
            add_double(o, f->name, *(double *)at);
        else
            cJSON_AddNullToObject(o, f->name);
        break;
    case FIELD_TEXT:
        if (*(char **)at) cJSON_AddStringToObject(o, f->name, *(char **)at);
        break;
    }
}

Status cartridge_info_print(const CartridgeInfo *info, char **out) {
    cJSON *o = cJSON_CreateObject();
    for (int i = 0; o && i < FIELDS; i++) write_field(o, info, &fields[i]);
    *out = o ? cJSON_PrintUnformatted(o) : NULL;
    cJSON_Delete(o);
    NEED(*out, ST_NOMEM, "no memory for the metadata of a cartridge");
    return ST_OK;
}

static Status read_text(char **to, const cJSON *o, const char *name, const char *path) {
    if (!cJSON_HasObjectItem(o, name)) return ST_OK;
    const char *text;
    TRY(json_string(o, name, &text, path));
    *to = strdup(text);
    NEED(*to, ST_NOMEM, "%s: no memory for \"%s\"", path, name);
    return ST_OK;
}

static Status read_u64(uint64_t *to, const cJSON *o, const char *name, const char *path) {
    const char *text;
    TRY(json_string(o, name, &text, path));
    char *end;
    errno = 0;
    *to = strtoull(text, &end, 10);
    NEED(*text >= '0' && *text <= '9' && !*end && !errno, ST_FORMAT,
         "%s: \"%s\" is \"%s\", not a whole number of 64 bits", path, name, text);
    return ST_OK;
}

static Status read_field(CartridgeInfo *info, const cJSON *o, const Field *f, const char *path) {
    void *at = field_of(info, f);
    int64_t v = 0;
    switch (f->type) {
    case FIELD_I32:
        TRY(json_integer(o, f->name, 0, INT32_MAX, &v, path));
        *(int32_t *)at = (int32_t)v;
        return ST_OK;
    case FIELD_I64:
        return json_integer(o, f->name, 0, INT64_MAX, at, path);
    case FIELD_U64:
        return read_u64(at, o, f->name, path);
    case FIELD_DOUBLE:
        *(double *)at = NAN;
        return json_number_or(o, f->name, at, path);
    case FIELD_TEXT:
        return read_text(at, o, f->name, path);
    }
    return ST_OK;
}

Status cartridge_info_parse(CartridgeInfo *info, const char *text, const char *path) {
    *info = (CartridgeInfo){0};
    cJSON *o;
    TRY(json_parse(&o, text, strlen(text), path));
    Status st = ST_OK;
    int64_t version = 0;
    TRY_TO(done, json_integer(o, "version", 0, INT32_MAX, &version, path));
    NEED_TO(done, version == CARTRIDGE_VERSION, ST_UNSUPPORTED,
            "%s: cartridge format %lld, this program reads %d", path, (long long)version, CARTRIDGE_VERSION);
    for (int i = 0; i < FIELDS; i++) TRY_TO(done, read_field(info, o, &fields[i], path));
    bool whole = info->rows >= 1 && info->layers >= 1 && info->frozen <= info->rows;
    NEED_TO(done, whole && info->pos_end > info->pos_first && info->pos_first <= INT32_MAX - info->rows,
            ST_FORMAT, "%s: %d rows, %d frozen, %d layers, positions %d to %d make no cartridge", path,
            info->rows, info->frozen, info->layers, info->pos_first, info->pos_end);
done:
    cJSON_Delete(o);
    if (st) cartridge_info_close(info);
    return st;
}

static Status open_sealed(SafeFile **f, CartridgeInfo *info, const char *path) {
    Status st = ST_OK;
    TRY(safe_open(f, path));
    const char *meta = safe_meta(*f, "cartridge");
    NEED_TO(failed, meta, ST_FORMAT, "%s: is a safetensors file, but not a cartridge", path);
    TRY_TO(failed, safe_verify(*f));
    TRY_TO(failed, cartridge_info_parse(info, meta, path));
    return ST_OK;
failed:
    safe_close(*f);
    *f = NULL;
    return st;
}

Status cartridge_info_read(CartridgeInfo *out, const char *path) {
    SafeFile *f;
    TRY(open_sealed(&f, out, path));
    safe_close(f);
    return ST_OK;
}

/* ---- does it fit? ---- */

static Status same_number(const char *what, double file, double model) {
    NEED(file == model, ST_MISMATCH,
         "made for another model: %s is %.17g in the cartridge, %.17g in the model", what, file, model);
    return ST_OK;
}

static Status same_text(const char *what, const char *file, const char *have) {
    if (!have) return ST_OK;
    NEED(file && !strcmp(file, have), ST_MISMATCH,
         "made for another model: %s is %.12s in the cartridge, %.12s here", what, file ? file : "not stated",
         have);
    return ST_OK;
}

Status cartridge_fits(const CartridgeInfo *info, const Model *m, const char *tokenizer,
                      const char *template_family) {
    TRY(same_number("layers", info->layers, m->cfg.layers));
    TRY(same_number("kv_heads", info->kv_heads, m->cfg.kv_heads));
    TRY(same_number("head_dim", info->head_dim, m->cfg.head_dim));
    TRY(same_number("rope_theta", info->rope_theta, m->cfg.rope_theta));
    TRY(same_number("rope_factor", info->rope_factor, m->cfg.rope_factor));
    TRY(same_text("model", info->model, m->fingerprint));
    TRY(same_text("tokenizer", info->tokenizer, tokenizer));
    return same_text("template", info->template_family, template_family);
}

/* ---- open, save ---- */

Status cartridge_new(Cartridge **out, const CartridgeInfo *info, Prefix *prefix) {
    *out = NULL;
    Cartridge *c = calloc(1, sizeof *c);
    NEED(c, ST_NOMEM, "no memory for a cartridge");
    Status st = cartridge_info_copy(&c->info, info);
    if (st) {
        free(c);
        return st;
    }
    c->prefix = prefix_hold(prefix);
    *out = c;
    return ST_OK;
}

void cartridge_close(Cartridge *c) {
    if (!c) return;
    prefix_drop(c->prefix);
    cartridge_info_close(&c->info);
    free(c);
}

static void layer_names(char key[32], char value[32], int32_t layer) {
    snprintf(key, 32, "layer.%d.key", layer);
    snprintf(value, 32, "layer.%d.value", layer);
}

/* A layer's keys and values, in the mapped file. */
static Status find_layer(const SafeFile *f, const CartridgeInfo *info, int32_t layer, Tensor *key,
                         Tensor *value) {
    char kn[32], vn[32];
    layer_names(kn, vn, layer);
    TRY(safe_find(f, kn, key));
    TRY(safe_find(f, vn, value));
    NEED(tensor_is(*key, DT_BF16, info->kv_heads, info->rows, info->head_dim) &&
             tensor_is(*value, DT_BF16, info->kv_heads, info->rows, info->head_dim),
         ST_FORMAT, "%s: %s or %s is not bf16[%d,%d,%d]", safe_path(f), kn, vn, info->kv_heads, info->rows,
         info->head_dim);
    return ST_OK;
}

static Status load_rows(Prefix *p, Stream *s, const SafeFile *f, const CartridgeInfo *info) {
    Tensor key, value;
    for (int32_t l = 0; l < info->layers; l++) {
        TRY(find_layer(f, info, l, &key, &value));
        TRY(prefix_write(p, s, l, key, value));
    }
    return ST_OK;
}

Status cartridge_open(Cartridge **out, const char *path, const Model *m, const char *tokenizer,
                      const char *template_family, PagePool *pool, Stream *s) {
    *out = NULL;
    Status st = ST_OK;
    SafeFile *f = NULL;
    Prefix *p = NULL;
    CartridgeInfo info = {0};
    TRY(open_sealed(&f, &info, path));
    st = cartridge_fits(&info, m, tokenizer, template_family);
    if (st) TRY_TO(done, status_prefix(st, "%s", path));
    TRY_TO(done, prefix_new(&p, pool, info.rows, info.pos_first));
    p->pos_end = info.pos_end;
    p->identity = safe_digest(f);
    TRY_TO(done, load_rows(p, s, f, &info));
    TRY_TO(done, cartridge_new(out, &info, p));
done:
    prefix_drop(p);
    cartridge_info_close(&info);
    safe_close(f);
    return st;
}

/* ---- without a model ---- */

Status cartridge_data_new(CartridgeData *out, const CartridgeInfo *info) {
    *out = (CartridgeData){0};
    NEED(info->layers >= 1 && info->kv_heads >= 1 && info->head_dim >= 1 && info->rows >= 1, ST_ARG,
         "a cartridge of %d layers, %d heads of %d and %d rows", info->layers, info->kv_heads, info->head_dim,
         info->rows);
    Tensor rows =
        tensor_of(NULL, DT_BF16, 2 * (int64_t)info->layers, info->kv_heads, info->rows, info->head_dim);
    double bytes = 4.0 * info->layers * info->kv_heads * (double)info->rows * info->head_dim;
    NEED(bytes < 1e15, ST_NOMEM, "a cartridge of %.3g bytes", bytes);
    rows.data = calloc(1, (size_t)bytes);
    NEED(rows.data, ST_NOMEM, "no memory for the %.0f bytes of a cartridge's rows", bytes);
    Status st = cartridge_info_copy(&out->info, info);
    if (st) {
        free(rows.data);
        return st;
    }
    out->rows = rows;
    return ST_OK;
}

void cartridge_data_close(CartridgeData *c) {
    cartridge_info_close(&c->info);
    free(c->rows.data);
    *c = (CartridgeData){0};
}

static Status copy_layers(CartridgeData *c, const SafeFile *f) {
    Tensor key, value;
    for (int32_t l = 0; l < c->info.layers; l++) {
        TRY(find_layer(f, &c->info, l, &key, &value));
        memcpy(tensor_at(c->rows, 2 * l).data, key.data, tensor_bytes(key));
        memcpy(tensor_at(c->rows, 2 * l + 1).data, value.data, tensor_bytes(value));
    }
    return ST_OK;
}

Status cartridge_data_read(CartridgeData *out, const char *path) {
    *out = (CartridgeData){0};
    Status st = ST_OK;
    SafeFile *f;
    Tensor key, value;
    CartridgeInfo info = {0};
    TRY(open_sealed(&f, &info, path));
    /* the file shows that it has all that it claims before memory for it is asked for */
    for (int32_t l = 0; l < info.layers; l++) TRY_TO(done, find_layer(f, &info, l, &key, &value));
    TRY_TO(done, cartridge_data_new(out, &info));
    TRY_TO(done, copy_layers(out, f));
    out->identity = safe_digest(f);
done:
    if (st) cartridge_data_close(out);
    cartridge_info_close(&info);
    safe_close(f);
    return st;
}

Status cartridge_data_write(const CartridgeData *c, const char *path) {
    Status st = ST_OK;
    char *json = NULL;
    int32_t layers = c->info.layers;
    SafeEntry *entry = calloc((size_t)layers * 2, sizeof *entry);
    char(*name)[32] = calloc((size_t)layers * 2, sizeof *name);
    NEED_TO(done, entry && name, ST_NOMEM, "%s: no memory for the list of %d layers", path, layers);
    TRY_TO(done, cartridge_info_print(&c->info, &json));
    for (int32_t l = 0; l < layers; l++) {
        layer_names(name[2 * l], name[2 * l + 1], l);
        entry[2 * l] = (SafeEntry){name[2 * l], tensor_at(c->rows, 2 * l)};
        entry[2 * l + 1] = (SafeEntry){name[2 * l + 1], tensor_at(c->rows, 2 * l + 1)};
    }
    TRY_TO(done, safe_write(path, entry, layers * 2, &(SafeMeta){"cartridge", json}, 1, true));
done:
    free(json);
    free(name);
    free(entry);
    return st;
}

/* ---- from pages ---- */

static Status read_rows(const Cartridge *c, Stream *s, Tensor all) {
    for (int32_t l = 0; l < c->info.layers; l++)
        TRY(prefix_read(c->prefix, s, l, tensor_at(all, 2 * l), tensor_at(all, 2 * l + 1)));
    return ST_OK;
}

Status cartridge_save(const Cartridge *c, Stream *s, const char *path) {
    CartridgeInfo info = c->info; /* strings stay with c */
    info.version = CARTRIDGE_VERSION;
    info.rows = prefix_visible(c->prefix);
    info.pos_first = c->prefix->pos_first;
    info.pos_end = c->prefix->pos_end;
    CartridgeData d;
    TRY(cartridge_data_new(&d, &info));
    Status st = read_rows(c, s, d.rows);
    if (!st) st = cartridge_data_write(&d, path);
    cartridge_data_close(&d);
    return st;
}
