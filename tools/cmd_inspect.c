/* cmd_inspect.c -- what a cartridge file or a model folder is, and whether the two belong together. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/safetensors.h"
#include "tools/command.h"
#include "tools/job.h"

typedef struct Args {
    const char *model;
    bool tensors;
} Args;
#define AT(field) offsetof(Args, field)

static const Option rows[] = {
    {"model", 'm', OPTION_TEXT, "DIR", NULL, 0, 0, "what",
     "check that the cartridge belongs to this model; leaves with 3 if not", AT(model), false},
    {"tensors", 0, OPTION_FLAG, NULL, NULL, 0, 0, "what",
     "per layer: mean norm of keys and values, numbers that are none", AT(tensors), false},
};

static const char *or_dash(const char *text) {
    return text ? text : "-";
}

static void print_number(const char *name, double v) {
    if (isnan(v))
        printf("%-14s not measured\n", name);
    else
        printf("%-14s %.6g\n", name, v);
}

/* "digest:first-end ..." as the file has it, one a line with the beginning of the digest. */
static void print_parts(const char *parts) {
    for (const char *p = parts; p && *p; p += strspn(p, " ")) {
        int digest = (int)strcspn(p, ": "), first = 0, end = 0;
        if (sscanf(p + digest, ":%d-%d", &first, &end) == 2)
            printf("%-14s %.*s, rows %d to %d\n", p == parts ? "composed of" : "", digest < 16 ? digest : 16,
                   p, first, end - 1);
        p += strcspn(p, " ");
    }
}

static void print_info(const char *path, const CartridgeInfo *i) {
    char bytes[24];
    job_bytes(bytes, sizeof bytes, (double)i->layers * 2 * i->kv_heads * i->head_dim * 2 * i->rows);
    printf("%-14s %s, format %d, seal holds\n", "cartridge", path, i->version);
    printf("%-14s %s\n%-14s %s\n", "name", or_dash(i->name), "note", or_dash(i->note));
    printf("%-14s %d (%d frozen), %s as bf16, %d pages of %d\n", "rows", i->rows, i->frozen, bytes,
           pages_for(i->rows), KV_PAGE);
    printf("%-14s %d layers, %d key/value heads of %d\n", "shape", i->layers, i->kv_heads, i->head_dim);
    printf("%-14s %d to %d; what follows starts at %d or later\n", "positions", i->pos_first, i->pos_end - 1,
           i->pos_end);
    printf("%-14s %.16s\n%-14s %.16s\n%-14s %s\n", "model", or_dash(i->model), "tokenizer",
           or_dash(i->tokenizer), "template", or_dash(i->template_family));
    printf("%-14s %.16s, %lld tokens\n%-14s %s\n", "corpus", or_dash(i->corpus), (long long)i->corpus_tokens,
           "start", or_dash(i->init));
    print_parts(i->parts);
    printf("%-14s %lld steps, %lld conversations, %lld supervised tokens, seed %" PRIu64 "\n", "training",
           (long long)i->steps, (long long)i->conversations, (long long)i->supervised_tokens, i->seed);
    print_number("learning rate", i->learning_rate);
    print_number("first loss", i->loss_first);
    print_number("last loss", i->loss_last);
    print_number("held-out KL", i->kl_heldout);
}

static void print_info_json(const char *path, const CartridgeInfo *i) {
    printf("{\"path\":\"%s\",\"rows\":%d,\"frozen\":%d,\"layers\":%d,\"kv_heads\":%d,\"head_dim\":%d,"
           "\"model\":\"%s\",\"corpus\":\"%s\","
           "\"corpus_tokens\":%lld,\"steps\":%lld,\"conversations\":%lld,\"kl_heldout\":",
           path, i->rows, i->frozen, i->layers, i->kv_heads, i->head_dim, or_dash(i->model),
           or_dash(i->corpus), (long long)i->corpus_tokens, (long long)i->steps, (long long)i->conversations);
    printf(isnan(i->kl_heldout) ? "null}\n" : "%.6g}\n", i->kl_heldout);
}

static double mean_norm(Tensor t, int64_t *bad) {
    const uint16_t *p = t.data;
    int64_t vectors = t.dim[0] * t.dim[1], D = t.dim[2];
    double sum = 0;
    for (int64_t i = 0; i < vectors; i++) {
        double square = 0;
        for (int64_t d = 0; d < D; d++) {
            double v = bf16_to_f32(p[i * D + d]);
            *bad += !isfinite(v);
            square += v * v;
        }
        sum += sqrt(square);
    }
    return sum / (double)vectors;
}

static Status print_tensors(const char *path, const CartridgeInfo *i) {
    SafeFile *f;
    TRY(safe_open(&f, path));
    Status st = ST_OK;
    printf("\nlayer  |key|     |value|   not finite\n");
    for (int32_t l = 0; l < i->layers && !st; l++) {
        char name[40];
        Tensor key, value;
        int64_t bad = 0;
        snprintf(name, sizeof name, "layer.%d.key", l);
        st = safe_find(f, name, &key);
        snprintf(name, sizeof name, "layer.%d.value", l);
        if (!st) st = safe_find(f, name, &value);
        if (st) break;
        double k = mean_norm(key, &bad), v = mean_norm(value, &bad);
        printf("%5d  %-9.3f %-9.3f %lld\n", l, k, v, (long long)bad);
    }
    safe_close(f);
    return st;
}

static Status check_model(const char *path, const CartridgeInfo *info, const char *folder) {
    Session s;
    SessionLimits l = {.held_rows = KV_PAGE, .seqs = 1, .seq_rows = KV_PAGE, .pass_rows = 1};
    TRY(session_open(&s, folder, &l));
    Status st = cartridge_fits(info, s.model, s.tokenizer_hex, chat_family(s.chat));
    session_close(&s);
    if (st) return status_prefix(st, "%s", path);
    printf("%-14s %s: belongs together\n", "checked", folder);
    return ST_OK;
}

static Status inspect_cartridge(const Args *a, const Common *common, const char *path) {
    CartridgeInfo info;
    TRY(cartridge_info_read(&info, path));
    if (common->json)
        print_info_json(path, &info);
    else
        print_info(path, &info);
    Status st = a->tensors ? print_tensors(path, &info) : ST_OK;
    if (!st && a->model) st = check_model(path, &info, a->model);
    cartridge_info_close(&info);
    return st;
}

static Status inspect_model(const char *folder) {
    ModelConfig c;
    TRY(model_config_read(&c, folder));
    char row[24];
    job_bytes(row, sizeof row, (double)model_row_bytes(&c, DT_BF16));
    printf("%-14s %s\n%-14s %d layers, width %d, ffn %d, %d query heads over %d key/value heads of %d\n",
           "model", folder, "shape", c.layers, c.width, c.ffn, c.heads, c.kv_heads, c.head_dim);
    printf("%-14s %d%s, context %d\n", "vocabulary", c.vocab, c.tied_head ? " (tied)" : "", c.context_max);
    printf("%-14s theta %g%s%s%s\n", "attention", c.rope_theta, c.rope_factor > 0 ? ", llama3 scaling" : "",
           c.qk_norm ? ", qk-norm" : "", c.qkv_bias ? ", q/k/v bias" : "");
    printf("%-14s %s of keys and values a row (bf16)\n", "row", row);
    return ST_OK;
}

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)watch, (void)code;
    NEED(rest->n == 1, ST_ARG, "wanted one cartridge file or model folder, %d were given", rest->n);
    return file_is_folder(rest->v[0]) ? inspect_model(rest->v[0])
                                      : inspect_cartridge(options, common, rest->v[0]);
}

const Command cmd_inspect = {
    .name = "inspect",
    .usage = "inspect FILE|DIR [-m DIR] [options]",
    .summary = "what a cartridge or model folder is, and whether the two belong together",
    .operands = "FILE|DIR",
    .operands_max = 1,
    .about = "Of a cartridge: its rows, positions, identities and training, after its seal was checked; with "
             "--model also whether it belongs to that model. Of a model folder: its sizes.",
    .examples = "cartridge inspect harbour.cartridge -m models/smollm2-135m-instruct\n",
    .table = {{rows, OPTION_COUNT(rows)}},
    .at = {0},
    .bytes = sizeof(Args),
    .run = run};
