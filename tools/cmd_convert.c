/* cmd_convert.c -- cartridges from and for other programs. What a file does not say itself, which model it
 * belongs to, the command line has to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/memory/cartridge_peft.h"
#include "engine/memory/cartridge_torch.h"
#include "kernels/base/json.h"
#include "tools/command.h"
#include "tools/job.h"

typedef enum Format { FORMAT_AUTO, FORMAT_NATIVE, FORMAT_PEFT, FORMAT_TORCH } Format;
static const char *const format_name[] = {
    [FORMAT_NATIVE] = "native", [FORMAT_PEFT] = "peft", [FORMAT_TORCH] = "torch"};

typedef struct Args {
    const char *out, *model;
    int32_t to; /* Format, without FORMAT_TORCH */
    bool round;
} Args;
#define AT(field) offsetof(Args, field)

static const Option rows[] = {
    {"out", 'o', OPTION_TEXT, "OUT", NULL, 0, 0, "what",
     "the file or, for PEFT, the folder; must not be there yet", AT(out), true},
    {"model", 'm', OPTION_TEXT, "DIR", NULL, 0, 0, "what",
     "the base model: needed where the input does not name it, else a check; PEFT's folder will name it",
     AT(model), false},
    {"to", 0, OPTION_CHOICE, "auto|native|peft", "auto", 0, 0, "what",
     "auto: a cartridge file becomes a PEFT folder, anything else a cartridge file", AT(to), false},
    {"round", 0, OPTION_FLAG, NULL, NULL, 0, 0, "what",
     "round numbers that bf16 cannot hold; without it they are an error", AT(round), false},
};

typedef struct Job {
    const Args *a;
    const char *in;
    Format from, to;
    Session s; /* open if there is a model */
    CartridgeData c;
    Rounding rounding;
} Job;

/* ---- what it is ---- */

static Status find_format(const char *path, Format *out) {
    FileMap map;
    *out = FORMAT_PEFT;
    if (cartridge_peft_is(path)) return ST_OK;
    NEED(!file_is_folder(path), ST_FORMAT, "%s: is a folder without an adapter_config.json", path);
    TRY(file_map(&map, path));
    bool zip = map.size >= 2 && !memcmp(map.data, "PK", 2), pickle = map.size >= 1 && map.data[0] == 0x80;
    *out = zip || pickle ? FORMAT_TORCH : FORMAT_NATIVE;
    file_unmap(&map);
    return ST_OK;
}

static Status choose_formats(Job *j) {
    const Args *a = j->a;
    NEED(!file_exists(a->out), ST_ARG, "%s exists already; choose another name, or remove it", a->out);
    TRY(find_format(j->in, &j->from));
    j->to = (Format)a->to;
    if (j->to == FORMAT_AUTO) j->to = j->from == FORMAT_NATIVE ? FORMAT_PEFT : FORMAT_NATIVE;
    NEED(j->from != j->to, ST_ARG, "%s is %s already; nothing to convert", j->in,
         j->from == FORMAT_PEFT ? "a PEFT folder" : "a cartridge file");
    return ST_OK;
}

/* ---- in ---- */

static Status read_torch(Job *j, const CartridgeInfo *of) {
    TorchFile *f;
    NEED(of, ST_ARG, "%s: does not say which model it belongs to; name its folder with -m", j->in);
    TRY(torch_open(&f, j->in));
    Status st = cartridge_torch_read(&j->c, f, of, &j->rounding);
    torch_close(f);
    return st;
}

static Status read_cartridge(Job *j) {
    CartridgeInfo of, *known = NULL;
    if (j->s.model) {
        of = cartridge_info_for(j->s.model, j->s.tokenizer_hex, chat_family(j->s.chat));
        known = &of;
    }
    if (j->from == FORMAT_TORCH) return read_torch(j, known);
    if (j->from == FORMAT_PEFT) return cartridge_peft_read(&j->c, j->in, known, &j->rounding);
    return cartridge_data_read(&j->c, j->in);
}

static Status check_cartridge(const Job *j) {
    const Rounding *r = &j->rounding;
    NEED(!r->rounded || j->a->round, ST_UNSUPPORTED,
         "%s: %lld of its %lld numbers are no bf16 (the largest change would be %.2g of the number); --round "
         "accepts that",
         j->in, (long long)r->rounded, (long long)r->values, r->largest);
    if (!j->s.model) return ST_OK;
    Status st = cartridge_fits(&j->c.info, j->s.model, j->s.tokenizer_hex, chat_family(j->s.chat));
    return st ? status_prefix(st, "%s", j->in) : ST_OK;
}

/* ---- out ---- */

static void print_result(const Job *j) {
    const CartridgeInfo *i = &j->c.info;
    char bytes[24];
    job_bytes(bytes, sizeof bytes, (double)tensor_bytes(j->c.rows));
    printf("wrote %s (%s, from %s): %d rows (%d frozen), %d layers, %d heads of %d, %s\n", j->a->out,
           format_name[j->to], format_name[j->from], i->rows, i->frozen, i->layers, i->kv_heads, i->head_dim,
           bytes);
    if (j->rounding.rounded)
        printf("%lld of %lld numbers were rounded to bf16, the largest change is %.2g of the number\n",
               (long long)j->rounding.rounded, (long long)j->rounding.values, j->rounding.largest);
}

static void print_json(const Job *j) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "in", j->in);
    cJSON_AddStringToObject(o, "from", format_name[j->from]);
    cJSON_AddStringToObject(o, "out", j->a->out);
    cJSON_AddStringToObject(o, "to", format_name[j->to]);
    cJSON_AddNumberToObject(o, "rows", j->c.info.rows);
    cJSON_AddNumberToObject(o, "frozen", j->c.info.frozen);
    cJSON_AddNumberToObject(o, "rounded", (double)j->rounding.rounded);
    char *text = cJSON_PrintUnformatted(o);
    if (text) printf("%s\n", text);
    free(text);
    cJSON_Delete(o);
}

static Status convert(Job *j) {
    SessionLimits l = {.held_rows = KV_PAGE, .seqs = 1, .seq_rows = KV_PAGE, .pass_rows = 1};
    TRY(choose_formats(j));
    if (j->a->model) TRY(session_open(&j->s, j->a->model, &l));
    TRY(read_cartridge(j));
    TRY(check_cartridge(j));
    return j->to == FORMAT_PEFT ? cartridge_peft_write(&j->c, j->a->out, j->a->model)
                                : cartridge_data_write(&j->c, j->a->out);
}

static Status run(const void *options, const Common *common, const TextList *rest, const Watch *watch,
                  int *code) {
    (void)watch, (void)code;
    NEED(rest->n == 1, ST_ARG, "wanted one cartridge file, PEFT folder or .pt file, %d were given", rest->n);
    Job j = {.a = options, .in = rest->v[0]};
    Status st = convert(&j);
    if (!st && common->json)
        print_json(&j);
    else if (!st)
        print_result(&j);
    cartridge_data_close(&j.c);
    session_close(&j.s);
    return st;
}

const Command cmd_convert = {
    .name = "convert",
    .usage = "convert IN -o OUT [-m DIR] [--to native|peft] [--round]",
    .summary = "cartridges to and from PEFT, and from the published code's .pt files",
    .no_device = true,
    .operands = "FILE|DIR",
    .operands_max = 1,
    .about =
        "IN is a cartridge file, a folder of PEFT's CARTRIDGE adapter, or a .pt file of the published code. "
        "A .pt "
        "file is a pickle; it is read as data, and nothing in it is executed. A PEFT folder that was written "
        "here "
        "names its model and becomes the same cartridge file again, to the last byte; any other needs -m.",
    .examples = "cartridge convert harbour.cartridge -o harbour-peft -m models/smollm2-135m-instruct\n"
                "cartridge convert harbour-peft -o again.cartridge\n"
                "cartridge convert cache_last.pt -o theirs.cartridge -m models/llama-3.2-3b-instruct",
    .table = {{rows, OPTION_COUNT(rows)}},
    .at = {0},
    .bytes = sizeof(Args),
    .run = run};
