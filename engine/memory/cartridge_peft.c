/* cartridge_peft.c -- see cartridge_peft.h. */
#include "engine/memory/cartridge_peft.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base/json.h"

static const char CONFIG[] = "adapter_config.json", WEIGHTS[] = "adapter_model.safetensors";
static const char TENSOR[] = "prompt_embeddings", META[] = "cartridge", SEAL[] = "sha256";

bool cartridge_peft_is(const char *path) {
    char config[PATH_MAX];
    return file_is_folder(path) && !file_join(config, sizeof config, path, CONFIG) && file_exists(config);
}

/* ---- in: what the configuration says ---- */

typedef struct Config {
    int64_t rows, frozen, layers, heads, width, submodules; /* width: of one layer's keys; 0: not stated */
} Config;

static Status parse_config(Config *c, const cJSON *o, const char *path) {
    const char *type;
    TRY(json_string(o, "peft_type", &type, path));
    NEED(!strcmp(type, "CARTRIDGE"), ST_UNSUPPORTED, "%s: is a %.32s adapter; only CARTRIDGE is read", path,
         type);
    *c = (Config){.frozen = 1, .submodules = 1}; /* PEFT's own defaults */
    TRY(json_integer(o, "num_virtual_tokens", 1, INT32_MAX, &c->rows, path));
    TRY(json_integer_or(o, "num_frozen_tokens", 0, c->rows, &c->frozen, path));
    TRY(json_integer_or(o, "num_layers", 1, INT32_MAX, &c->layers, path));
    TRY(json_integer_or(o, "num_attention_heads", 1, INT32_MAX, &c->heads, path));
    TRY(json_integer_or(o, "token_dim", 1, INT32_MAX, &c->width, path));
    TRY(json_integer_or(o, "num_transformer_submodules", 1, 2, &c->submodules, path));
    NEED(c->submodules == 1, ST_UNSUPPORTED, "%s: is for an encoder and a decoder", path);
    return ST_OK;
}

static Status read_config(Config *c, const char *folder) {
    char path[PATH_MAX];
    cJSON *o;
    TRY(file_join(path, sizeof path, folder, CONFIG));
    TRY(json_load(&o, path));
    Status st = ST_OK;
    NEED_TO(done, cJSON_IsObject(o), ST_FORMAT, "%s: is no JSON object", path);
    st = parse_config(c, o, path);
done:
    cJSON_Delete(o);
    return st;
}

static Status same(const char *folder, const char *what, int64_t config, int64_t want) {
    NEED(!config || config == want, ST_MISMATCH, "%s: %s says %s %lld, wanted %lld", folder, CONFIG, what,
         (long long)config, (long long)want);
    return ST_OK;
}

static Status check_config(const Config *c, const char *folder, const CartridgeInfo *info) {
    TRY(same(folder, "num_virtual_tokens", c->rows, info->rows));
    TRY(same(folder, "num_layers", c->layers, info->layers));
    TRY(same(folder, "num_attention_heads", c->heads, info->kv_heads));
    TRY(same(folder, "token_dim", c->width, (int64_t)info->kv_heads * info->head_dim));
    NEED(c->frozen == info->frozen, ST_MISMATCH, "%s: %s says num_frozen_tokens %lld, its cartridge has %d",
         folder, CONFIG, (long long)c->frozen, info->frozen);
    return ST_OK;
}

/* ---- in: rows ---- */

static Status take_rows(CartridgeData *out, Tensor embeddings, Rounding *r, const char *where) {
    int64_t slices = out->rows.dim[0], G = out->rows.dim[1], P = out->rows.dim[2], D = out->rows.dim[3];
    for (int64_t slice = 0; slice < slices; slice++)
        for (int64_t g = 0; g < G; g++)
            for (int64_t p = 0; p < P; p++)
                TRY(import_values(out->rows, ((slice * G + g) * P + p) * D, embeddings,
                                  ((p * slices + slice) * G + g) * D, D, r, where));
    return ST_OK;
}

/* The description: the file's own where it went out from here, else the model's. */
static Status read_info(CartridgeInfo *info, const SafeFile *f, const Config *c, const char *folder,
                        const CartridgeInfo *of) {
    const char *own = safe_meta(f, META);
    if (own || safe_meta(f, SEAL)) { /* either: so that one damaged letter does not make it somebody else's */
        TRY(safe_verify(f));
        NEED(own, ST_FORMAT, "%s: is sealed, but no cartridge", safe_path(f));
        return cartridge_info_parse(info, own, safe_path(f));
    }
    NEED(of, ST_ARG, "%s: does not say which model it belongs to; name the model's folder", folder);
    Status st = import_info(info, of, c->rows, c->frozen, "peft");
    return st ? status_prefix(st, "%s", folder) : ST_OK;
}

static Status read_weights(CartridgeData *out, const SafeFile *f, const CartridgeInfo *info, Rounding *r) {
    Tensor t;
    TRY(safe_find(f, TENSOR, &t));
    double width = 2.0 * info->layers * info->kv_heads * info->head_dim;
    NEED(t.ndim == 2 && t.dtype != DT_I32, ST_FORMAT, "%s: %s is no table of numbers", safe_path(f), TENSOR);
    NEED(t.dim[0] == info->rows && (double)t.dim[1] == width, ST_MISMATCH,
         "%s: %s is [%lld,%lld], wanted [%d,%.0f] (rows; 2 x %d layers x %d heads x %d)", safe_path(f),
         TENSOR, (long long)t.dim[0], (long long)t.dim[1], info->rows, width, info->layers, info->kv_heads,
         info->head_dim);
    TRY(cartridge_data_new(out, info));
    TRY(take_rows(out, t, r, safe_path(f)));
    return safe_meta(f, META) ? ST_OK : import_note(&out->info, "a PEFT folder", r);
}

Status cartridge_peft_read(CartridgeData *out, const char *folder, const CartridgeInfo *of, Rounding *r) {
    *out = (CartridgeData){0};
    *r = (Rounding){0};
    Status st = ST_OK;
    char path[PATH_MAX];
    SafeFile *f = NULL;
    CartridgeInfo info = {0};
    Config c;
    TRY(read_config(&c, folder));
    TRY(file_join(path, sizeof path, folder, WEIGHTS));
    TRY(safe_open(&f, path));
    TRY_TO(done, read_info(&info, f, &c, folder, of));
    TRY_TO(done, check_config(&c, folder, &info));
    TRY_TO(done, read_weights(out, f, &info, r));
done:
    if (st) cartridge_data_close(out);
    cartridge_info_close(&info);
    safe_close(f);
    return st;
}

/* ---- out ---- */

/* In PEFT's own order, so that a folder which it loads and saves again shows no differences but real ones. */
static Status config_text(const CartridgeInfo *i, const char *base_model, char **out) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNullToObject(o, "auto_mapping");
    if (base_model)
        cJSON_AddStringToObject(o, "base_model_name_or_path", base_model);
    else
        cJSON_AddNullToObject(o, "base_model_name_or_path");
    cJSON_AddTrueToObject(o, "inference_mode");
    cJSON_AddNumberToObject(o, "num_attention_heads", i->kv_heads);
    cJSON_AddNumberToObject(o, "num_frozen_tokens", i->frozen);
    cJSON_AddNumberToObject(o, "num_layers", i->layers);
    cJSON_AddNumberToObject(o, "num_transformer_submodules", 1);
    cJSON_AddNumberToObject(o, "num_virtual_tokens", i->rows);
    cJSON_AddStringToObject(o, "peft_type", "CARTRIDGE");
    cJSON_AddNullToObject(o, "revision");
    cJSON_AddStringToObject(o, "task_type", "CAUSAL_LM");
    cJSON_AddNumberToObject(o, "token_dim", (double)i->kv_heads * i->head_dim);
    *out = o ? cJSON_Print(o) : NULL;
    cJSON_Delete(o);
    NEED(*out, ST_NOMEM, "no memory for %s", CONFIG);
    return ST_OK;
}

static Status write_config(const CartridgeInfo *info, const char *folder, const char *base_model) {
    char path[PATH_MAX], *text = NULL;
    Writer *w = NULL;
    Status st = ST_OK;
    TRY(file_join(path, sizeof path, folder, CONFIG));
    TRY_TO(done, config_text(info, base_model, &text));
    TRY_TO(done, writer_open(&w, path));
    TRY_TO(done, writer_put(w, text, strlen(text)));
    TRY_TO(done, writer_put(w, "\n", 1));
    TRY_TO(done, writer_finish(&w));
done:
    writer_abandon(&w);
    free(text);
    return st;
}

/* [2L,G,P,D] to [P,2L*G*D]; both bf16. */
static void lay_out(uint16_t *to, Tensor rows) {
    int64_t slices = rows.dim[0], G = rows.dim[1], P = rows.dim[2], D = rows.dim[3];
    const uint16_t *from = rows.data;
    for (int64_t slice = 0; slice < slices; slice++)
        for (int64_t g = 0; g < G; g++)
            for (int64_t p = 0; p < P; p++)
                memcpy(to + ((p * slices + slice) * G + g) * D, from + ((slice * G + g) * P + p) * D,
                       (size_t)D * sizeof *to);
}

static Status write_weights(const CartridgeData *c, const char *folder) {
    char path[PATH_MAX], *json = NULL;
    Status st = ST_OK;
    const CartridgeInfo *i = &c->info;
    Tensor t = tensor_of(NULL, DT_BF16, i->rows, tensor_count(c->rows) / i->rows);
    TRY(file_join(path, sizeof path, folder, WEIGHTS));
    t.data = malloc(tensor_bytes(c->rows));
    NEED_TO(done, t.data, ST_NOMEM, "%s: no memory for its rows", path);
    lay_out(t.data, c->rows);
    TRY_TO(done, cartridge_info_print(i, &json));
    SafeMeta meta[] = {{"format", "pt"}, {META, json}};
    TRY_TO(done, safe_write(path, &(SafeEntry){TENSOR, t}, 1, meta, 2, true));
done:
    free(json);
    free(t.data);
    return st;
}

static void remove_folder(const char *folder) {
    char path[PATH_MAX];
    if (!file_join(path, sizeof path, folder, CONFIG)) unlink(path);
    if (!file_join(path, sizeof path, folder, WEIGHTS)) unlink(path);
    rmdir(folder);
}

Status cartridge_peft_write(const CartridgeData *c, const char *folder, const char *base_model) {
    Status st = ST_OK;
    char aside[PATH_MAX];
    NEED(c->info.pos_end <= c->info.rows, ST_UNSUPPORTED,
         "%s: what follows this cartridge of %d rows starts at position %d, which PEFT cannot say: there it "
         "would "
         "start at %d",
         folder, c->info.rows, c->info.pos_end, c->info.rows);
    int n = snprintf(aside, sizeof aside, "%s.tmp.%ld", folder, (long)getpid());
    NEED(n > 0 && (size_t)n < sizeof aside, ST_ARG, "the path %s is too long", folder);
    NEED(mkdir(aside, 0777) == 0, ST_IO, "%s: cannot be made: %s", aside, strerror(errno));
    TRY_TO(done, write_weights(c, aside));
    TRY_TO(done, write_config(&c->info, aside, base_model));
    NEED_TO(done, rename(aside, folder) == 0, ST_IO, "%s: cannot be renamed to %s: %s", aside, folder,
            strerror(errno));
done:
    if (st) remove_folder(aside);
    return st;
}
