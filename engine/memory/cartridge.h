/* cartridge.h -- a cartridge file, and the prefix it becomes.
 *
 * One sealed safetensors file: `layer.N.key` and `layer.N.value`, [G,P,D] bf16, and metadata, one JSON object
 * under the key "cartridge" with every field of CartridgeInfo. Any Python reads it in three lines. Nothing in
 * it depends on the clock, the host, or how often the run was resumed: the same inputs and seed give the same
 * file. Eyuboglu et al. 2025, arXiv:2506.06266. */
#ifndef ENGINE_MEMORY_CARTRIDGE_H
#define ENGINE_MEMORY_CARTRIDGE_H

#include "engine/memory/prefix.h"
#include "engine/model/safetensors.h"

enum { CARTRIDGE_VERSION = 1 };

/* What a file says beside its rows. Strings are owned (malloc), NULL: not stated. */
typedef struct CartridgeInfo {
    int32_t version;
    int32_t layers, kv_heads, head_dim;
    int32_t rows, frozen; /* P; rows 0 .. frozen never learn (the attention sink) */
    int32_t pos_first, pos_end;
    char *model;           /* fingerprint of the model it was trained against */
    char *tokenizer;       /* digest of tokenizer.json */
    char *template_family; /* chat_family() */
    double rope_theta, rope_factor;
    char *name, *note;
    char *corpus; /* digest of the corpus */
    int64_t corpus_tokens;
    char *init;  /* "first", "text", "random-text", "random-vectors", or the digest of a cartridge;
                  * "composed"; of what was imported: "peft", "torch" */
    char *parts; /* of a composed one: "digest:first-end" for each part, in order, the rows kept of it */
    /* training summary; 0 steps: untrained */
    int64_t steps, conversations, supervised_tokens;
    double learning_rate, loss_first, loss_last, kl_heldout; /* NaN: not measured */
    uint64_t seed; /* written as a string: JSON numbers are doubles */
} CartridgeInfo;

void cartridge_info_close(CartridgeInfo *info); /* frees the strings, zeroes */
Status cartridge_info_copy(CartridgeInfo *to, const CartridgeInfo *from);
/* What every cartridge of a model says of it; untrained, without rows. Strings are the caller's (either may
 * be NULL). */
CartridgeInfo cartridge_info_for(const Model *m, const char *tokenizer, const char *template_family);
/* As the file has it: one JSON object. free() it. Parsing checks every field; `where` is for messages. */
Status cartridge_info_print(const CartridgeInfo *info, char **json);
Status cartridge_info_parse(CartridgeInfo *out, const char *json, const char *where);

typedef struct Cartridge {
    CartridgeInfo info;
    Prefix *prefix; /* held */
} Cartridge;

/* Opens, verifies the seal, checks it against the model and its tokenizer digest and template family (either
 * NULL: not checked) and loads it into pages. ST_MISMATCH names the first field that differs with both
 * values. */
Status cartridge_open(Cartridge **out, const char *path, const Model *m, const char *tokenizer,
                      const char *template_family, PagePool *pool, Stream *s);
/* A cartridge around a prefix that was just made (takes its own hold); copies info. */
Status cartridge_new(Cartridge **out, const CartridgeInfo *info, Prefix *prefix);
/* Rows are rounded to bf16 (they are already, where training wrote them). Written aside, synced, renamed. */
Status cartridge_save(const Cartridge *c, Stream *s, const char *path);
void cartridge_close(Cartridge *c);

/* A cartridge as its file has it, without a model and without pages: what is converted and composed. */
typedef struct CartridgeData {
    CartridgeInfo info;
    Tensor rows;     /* [2L,G,P,D] bf16, owned (malloc): keys of layer l at 2l, values at 2l+1 */
    Digest identity; /* of the file that it was read from; else zeros */
} CartridgeData;

/* Copies info, whose shape says how many rows of what size; the rows are zero. ST_ARG: no such shape,
 * ST_NOMEM. */
Status cartridge_data_new(CartridgeData *out, const CartridgeInfo *info);
/* Opens and verifies as cartridge_open does, with nothing to fit to. */
Status cartridge_data_read(CartridgeData *out, const char *path);
Status cartridge_data_write(const CartridgeData *c, const char *path); /* as cartridge_save */
void cartridge_data_close(CartridgeData *c);                           /* fine on a zeroed one, and twice */

/* Only the metadata, seal verified. For `inspect`. */
Status cartridge_info_read(CartridgeInfo *out, const char *path);
/* The first field in which the file does not fit a model, as an error; ST_OK when it fits. */
Status cartridge_fits(const CartridgeInfo *info, const Model *m, const char *tokenizer,
                      const char *template_family);

#endif
