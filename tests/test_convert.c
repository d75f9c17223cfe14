/* test_convert.c -- cartridges of other programs: PEFT's folder gives PEFT's logits, what goes out comes in
 * again to the last bit, the published code's files hold the same rows under any of their names, and nothing
 * that is wrong, cut off or half written passes for a cartridge. tests/golden/README.md says how PEFT and
 * torch made what is read here. */
#include "tests/rig.h"

#include "engine/memory/cartridge_peft.h"
#include "engine/memory/cartridge_torch.h"
#include "tests/scratch.h"

#define GOLDEN CARTRIDGE_SOURCE_DIR "/tests/golden"

typedef struct Desk {
    Rig r;
    CartridgeInfo of; /* what the rig's model is; strings are its own */
} Desk;

static void open_desk(Desk *d, const Ops *ops, DType act) {
    *d = (Desk){0};
    scratch_open();
    rig_open_folder(&d->r, ops, act, GOLDEN "/llama", false);
    d->of = cartridge_info_for(d->r.model, "0123", "chatml");
}

static void close_desk(Desk *d) {
    rig_close(&d->r);
    scratch_close();
}

static CartridgeData read_peft(Desk *d, const char *folder) {
    CartridgeData c;
    Rounding r;
    assert_ok(cartridge_peft_read(&c, folder, &d->of, &r));
    assert_int_equal(r.values, tensor_count(c.rows));
    assert_int_equal(r.rounded, 0);
    return c;
}

static Status read_torch(Desk *d, const char *name, CartridgeData *c, Rounding *r) {
    char path[512];
    TorchFile *f;
    snprintf(path, sizeof path, GOLDEN "/torch/%s.pt", name);
    TRY(torch_open(&f, path));
    Status st = cartridge_torch_read(c, f, &d->of, r);
    torch_close(f);
    return st;
}

static void same_rows(const CartridgeData *a, const CartridgeData *b) {
    assert_int_equal(tensor_bytes(a->rows), tensor_bytes(b->rows));
    assert_memory_equal(a->rows.data, b->rows.data, tensor_bytes(a->rows));
}

/* ---- PEFT's folder ---- */

static void test_a_folder_gives_the_logits_of_peft(void **state) {
    (void)state;
    static const struct {
        const Ops *ops;
        DType act;
    } backend[] = {{&ops_ref, DT_F64}, {&ops_ref, DT_F32}, {&ops_cpu, DT_F32}};
    for (int b = 0; b < 3; b++) {
        Desk d;
        open_desk(&d, backend[b].ops, backend[b].act);
        CartridgeData c = read_peft(&d, GOLDEN "/peft");
        assert_int_equal(c.info.rows, 10);
        assert_int_equal(c.info.frozen, 2);
        assert_int_equal(c.info.pos_end, 10);
        assert_string_equal(c.info.init, "peft");
        assert_ok(cartridge_data_write(&c, scratch_path("c")));
        Cartridge *opened;
        assert_ok(
            cartridge_open(&opened, scratch_path("c"), d.r.model, "0123", "chatml", d.r.pool, d.r.stream));
        SafeFile *golden;
        Tensor token, want;
        assert_ok(safe_open(&golden, GOLDEN "/peft/golden.safetensors"));
        assert_ok(safe_find(golden, "tokens", &token));
        assert_ok(safe_find(golden, "logits", &want));
        const Prefix *p = opened->prefix;
        double *got = rig_ask(&d.r, &(Talk){&p, 1, token.data, (int32_t)token.dim[0], 0}, 1);
        double *wanted = malloc((size_t)tensor_count(want) * sizeof *wanted);
        assert_non_null(wanted);
        tensor_convert(tensor_of(wanted, DT_F64, tensor_count(want)), 0, want, 0, tensor_count(want));
        assert_close(got, wanted, tensor_count(want), 3e-6,
                     "logits behind PEFT's rows"); /* as in test_golden.c */
        free(got), free(wanted);
        safe_close(golden);
        cartridge_close(opened);
        cartridge_data_close(&c);
        close_desk(&d);
    }
}

/* What PEFT saved and what we save of it: the same table of numbers, whatever the type it is stored in. */
static void test_the_table_is_peft_s(void **state) {
    Desk *d = *state;
    CartridgeData c = read_peft(d, GOLDEN "/peft");
    assert_ok(cartridge_peft_write(&c, scratch_path("out"), "base"));
    SafeFile *theirs, *ours;
    Tensor a, b;
    assert_ok(safe_open(&theirs, GOLDEN "/peft/adapter_model.safetensors"));
    assert_ok(safe_open(&ours, scratch_path("out/adapter_model.safetensors")));
    assert_int_equal(safe_count(ours), 1);
    assert_ok(safe_find(theirs, "prompt_embeddings", &a));
    assert_ok(safe_find(ours, "prompt_embeddings", &b));
    assert_true(a.ndim == 2 && tensor_is(b, DT_BF16, a.dim[0], a.dim[1]));
    for (int64_t i = 0; i < tensor_count(a); i++) assert_true(rig_get(a, i) == rig_get(b, i));
    safe_close(theirs);
    safe_close(ours);
    CartridgeData again = read_peft(d, scratch_path("out"));
    same_rows(&c, &again);
    cartridge_data_close(&again);
    cartridge_data_close(&c);
}

/* A trained cartridge with everything that can be said of it. */
static CartridgeData full_cartridge(Desk *d) {
    CartridgeInfo info = d->of;
    char name[] = "h\xc3\xa4"
                  "fen \"quoted\" \\ \n",
         note[] = "", corpus[] = "feed", init[] = "first", parts[] = "a:0-1";
    info.rows = 70, info.frozen = 3, info.pos_end = 70;
    info.name = name, info.note = note, info.corpus = corpus, info.init = init, info.parts = parts;
    info.corpus_tokens = 123456789012, info.steps = 400, info.conversations = 7, info.supervised_tokens = 99;
    info.learning_rate = 0.1, info.loss_first = 2.3456789012345678, info.loss_last = 1.0 / 3,
    info.seed = UINT64_MAX;
    CartridgeData c;
    assert_ok(cartridge_data_new(&c, &info));
    uint16_t *v = c.rows.data;
    for (int64_t i = 0; i < tensor_count(c.rows); i++) v[i] = f32_to_bf16(random_normal(5, 1, (uint64_t)i));
    v[1] = 0x8000; /* -0, the smallest number, the largest: bits that arithmetic would lose */
    v[2] = 0x0001;
    v[3] = 0x7f7f;
    return c;
}

static void test_out_and_in_again_is_the_same_file(void **state) {
    Desk *d = *state;
    Rounding r;
    CartridgeData c = full_cartridge(d), again;
    assert_ok(cartridge_data_write(&c, scratch_path("c")));
    assert_ok(cartridge_peft_write(&c, scratch_path("out"), NULL));
    assert_ok(cartridge_peft_read(&again, scratch_path("out"), NULL, &r)); /* it says itself whose it is */
    assert_int_equal(r.rounded, 0);
    assert_ok(cartridge_data_write(&again, scratch_path("again")));
    scratch_same("c", "again");
    cartridge_data_close(&c);
    cartridge_data_close(&again);
}

/* ---- folders that do not fit ---- */

/* The golden folder's configuration, with `from` replaced by `to`. */
static void put_config(const char *from, const char *to) {
    char *text;
    size_t n;
    assert_ok(file_read(&text, &n, GOLDEN "/peft/adapter_config.json"));
    char *changed = test_replaced(text, from, to);
    scratch_put_text("adapter_config.json", changed);
    free(text), free(changed);
}

static void put_weights(const char *name, Tensor t) {
    assert_ok(
        safe_write(scratch_path("adapter_model.safetensors"), &(SafeEntry){name, t}, 1, NULL, 0, false));
}

static void refused_folder(Desk *d, const CartridgeInfo *of, Status st, const char *says) {
    CartridgeData c;
    Rounding r;
    assert_fails(st, cartridge_peft_read(&c, scratch_folder(), of ? of : &d->of, &r));
    assert_says(says);
    assert_says(scratch_folder());
    assert_null(c.rows.data);
}

/* What becomes of a word of the configuration, and what is said then. */
static const struct {
    const char *from, *to;
    Status st;
    const char *says;
} configs[] = {
    {"CARTRIDGE", "LORA", ST_UNSUPPORTED, "LORA"},
    {"\"peft_type\"", "\"type\"", ST_FORMAT, "peft_type"},
    {"\"num_virtual_tokens\": 10", "\"num_virtual_tokens\": 11", ST_MISMATCH, "[10,256], wanted [11,256]"},
    {"\"num_virtual_tokens\": 10", "\"num_virtual_tokens\": 0", ST_FORMAT, "num_virtual_tokens"},
    {"\"num_virtual_tokens\": 10", "\"num_virtual_tokens\": null", ST_FORMAT, "num_virtual_tokens"},
    {"\"num_frozen_tokens\": 2", "\"num_frozen_tokens\": 11", ST_FORMAT, "num_frozen_tokens"},
    {"\"num_layers\": 2", "\"num_layers\": 3", ST_MISMATCH, "num_layers 3, wanted 2"},
    {"\"num_attention_heads\": 2", "\"num_attention_heads\": 1", ST_MISMATCH,
     "num_attention_heads 1, wanted 2"},
    {"\"token_dim\": 64", "\"token_dim\": 128", ST_MISMATCH, "token_dim 128, wanted 64"},
    {"\"num_transformer_submodules\": 1", "\"num_transformer_submodules\": 2", ST_UNSUPPORTED, "decoder"},
    {"{", "[{", ST_FORMAT, "JSON"},
};

enum { TABLE = 10 * 256 }; /* the golden folder's numbers */

static void put_table(float *number) {
    put_weights("prompt_embeddings", tensor_of(number, DT_F32, 10, 256));
}

static void test_configurations_that_do_not_fit(void **state) {
    Desk *d = *state;
    static float number[TABLE];
    put_table(number);
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        put_config(configs[i].from, configs[i].to);
        refused_folder(d, NULL, configs[i].st, configs[i].says);
    }
    put_config("\"num_frozen_tokens\": 2,", ""); /* PEFT's default is 1 */
    CartridgeData one = read_peft(d, scratch_folder());
    assert_int_equal(one.info.frozen, 1);
    cartridge_data_close(&one);
    put_config("{", "{");
    CartridgeInfo other = d->of;
    other.layers = 3;
    refused_folder(d, &other, ST_MISMATCH, "wanted 3");
    CartridgeData c;
    Rounding r;
    assert_fails(ST_ARG, cartridge_peft_read(&c, scratch_folder(), NULL, &r));
    assert_says("which model");
    assert_true(cartridge_peft_is(scratch_folder()));
    assert_false(cartridge_peft_is(scratch_path("adapter_config.json")));
    assert_false(cartridge_peft_is(GOLDEN "/llama"));
}

static void test_tables_that_do_not_fit(void **state) {
    Desk *d = *state;
    static float number[TABLE];
    static int32_t whole[TABLE];
    put_config("{", "{");
    put_weights("embeddings", tensor_of(number, DT_F32, 10, 256));
    refused_folder(d, NULL, ST_FORMAT, "prompt_embeddings");
    put_weights("prompt_embeddings", tensor_of(whole, DT_I32, 10, 256));
    refused_folder(d, NULL, ST_FORMAT, "no table of numbers");
    put_weights("prompt_embeddings", tensor_of(number, DT_F32, 10, 2, 128));
    refused_folder(d, NULL, ST_FORMAT, "no table of numbers");
    put_weights("prompt_embeddings", tensor_of(number, DT_F32, 5, 256));
    refused_folder(d, NULL, ST_MISMATCH, "[5,256]");
    number[7] = NAN;
    put_table(number);
    refused_folder(d, NULL, ST_FORMAT, "nan");
    number[7] = 3.4e38f; /* no bf16 is near */
    put_table(number);
    refused_folder(d, NULL, ST_FORMAT, "3.4e+38");
    scratch_remove("adapter_model.safetensors");
    refused_folder(d, NULL, ST_NOTFOUND, "adapter_model.safetensors");
}

static void refused_own(Desk *d, const char *folder, Status st, const char *says) {
    CartridgeData c;
    Rounding r;
    assert_fails(st, cartridge_peft_read(&c, folder, &d->of, &r));
    assert_says(says);
}

/* A folder that was written here is held to what it says: a changed configuration and changed numbers are
 * errors. */
static void test_a_folder_of_ours_that_was_changed(void **state) {
    Desk *d = *state;
    CartridgeData c = full_cartridge(d);
    const char *folder = "out";
    char path[600], *data;
    size_t n;
    assert_ok(cartridge_peft_write(&c, scratch_path(folder), NULL));
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", scratch_path(folder));
    assert_ok(file_read(&data, &n, path));
    for (size_t i = 0; i < 1000; i++) {
        size_t at = i < 800 ? i : n - 1 - 13 * (i - 800);
        data[at] ^= 4;
        scratch_put("out/adapter_model.safetensors", data, n);
        CartridgeData got;
        Rounding r;
        Status st = cartridge_peft_read(&got, scratch_path(folder), &d->of, &r);
        if (st != ST_FORMAT && st != ST_UNSUPPORTED && st != ST_MISMATCH)
            fail_msg("byte %zu flipped: %s", at, st ? status_message() : "read as if nothing were wrong");
        data[at] ^= 4;
    }
    scratch_put("out/adapter_model.safetensors", data, n);
    free(data);
    snprintf(path, sizeof path, "%s/adapter_config.json", scratch_path(folder));
    assert_ok(file_read(&data, &n, path));
    char *at = strstr(data, "\"num_frozen_tokens\":\t3");
    assert_non_null(at);
    at[strlen("\"num_frozen_tokens\":\t")] = '4';
    scratch_put("out/adapter_config.json", data, n);
    refused_own(d, scratch_path(folder), ST_MISMATCH, "num_frozen_tokens 4, its cartridge has 3");
    free(data);
    cartridge_data_close(&c);
}

/* PEFT numbers what follows from the number of rows. */
static void test_positions_that_peft_cannot_say(void **state) {
    Desk *d = *state;
    CartridgeData c = full_cartridge(d);
    c.info.pos_first = 10, c.info.pos_end = 80;
    assert_fails(ST_UNSUPPORTED, cartridge_peft_write(&c, scratch_path("out"), NULL));
    assert_says("position 80");
    assert_int_equal(scratch_files(), 0);
    cartridge_data_close(&c);
}

/* Wherever the disk is full: no folder, no half of one. */
static void test_a_full_disk_leaves_nothing(void **state) {
    Desk *d = *state;
    CartridgeData c = full_cartridge(d);
    Status st = ST_NOSPACE;
    int64_t room = 0;
    for (; st; room += 97) {
        file_fail_after(room);
        st = cartridge_peft_write(&c, scratch_path("out"), NULL);
        file_fail_after(-1);
        assert_true(st == ST_OK || st == ST_NOSPACE);
        if (st) assert_int_equal(scratch_files(), 0);
    }
    assert_true(room > 70 * 512);
    assert_int_equal(scratch_files(), 1);
    assert_int_equal(test_folder_count(scratch_path("out")), 2);
    assert_fails(ST_IO, cartridge_peft_write(&c, scratch_path("out"), NULL)); /* never over another */
    assert_int_equal(scratch_files(), 1);
    assert_fails(ST_IO, cartridge_peft_write(&c, scratch_path("no/out"), NULL));
    assert_says("no/out");
    cartridge_data_close(&c);
}

/* ---- the published code's files ---- */

static void test_torch_files_hold_the_same_rows(void **state) {
    Desk *d = *state;
    static const struct {
        const char *name;
        int32_t frozen;
    } file[] = {{"frozen", 2}, {"fixed", 2}, {"none-frozen", 0}, {"float32", 2}, {"views", 2}};
    CartridgeData want = read_peft(d, GOLDEN "/peft");
    for (size_t i = 0; i < sizeof file / sizeof file[0]; i++) {
        CartridgeData c;
        Rounding r;
        assert_ok(read_torch(d, file[i].name, &c, &r));
        assert_int_equal(r.values, tensor_count(c.rows));
        assert_int_equal(r.rounded, 0);
        same_rows(&c, &want);
        assert_int_equal(c.info.frozen, file[i].frozen);
        assert_int_equal(c.info.rows, 10);
        assert_int_equal(c.info.pos_first, 0);
        assert_int_equal(c.info.pos_end, 10);
        assert_string_equal(c.info.model, d->r.model->fingerprint);
        assert_string_equal(c.info.init, "torch");
        cartridge_data_close(&c);
    }
    cartridge_data_close(&want);
}

/* A third is between two bf16: both sides are told how many numbers changed, and by how much. */
static void test_rounding_is_counted(void **state) {
    Desk *d = *state;
    CartridgeData c;
    Rounding r;
    assert_ok(read_torch(d, "inexact", &c, &r));
    assert_int_equal(r.values, tensor_count(c.rows));
    assert_int_equal(r.rounded, tensor_count(c.rows));
    assert_true(r.largest > 1e-4 && r.largest <= 1.0 / 256);
    for (int64_t i = 0; i < tensor_count(c.rows); i++) assert_int_equal(((uint16_t *)c.rows.data)[i], 0x3eab);
    assert_non_null(strstr(c.info.note, "2560 of 2560 numbers rounded"));
    cartridge_data_close(&c);
}

static void test_nothing_is_executed(void **state) {
    Desk *d = *state;
    CartridgeData c;
    Rounding r;
    assert_fails(ST_UNSUPPORTED, read_torch(d, "hostile", &c, &r));
    assert_says("posix.system");
    assert_false(file_exists("executed"));
}

static void refused_torch(Desk *d, CartridgeInfo of, const char *says) {
    CartridgeData c;
    Rounding r;
    CartridgeInfo was = d->of;
    d->of = of;
    assert_fails(ST_MISMATCH, read_torch(d, "frozen", &c, &r));
    assert_says(says);
    assert_null(c.rows.data);
    d->of = was;
}

static void test_torch_files_of_other_models(void **state) {
    Desk *d = *state;
    CartridgeInfo of = d->of;
    of.layers = 3, refused_torch(d, of, "2 layers, the model 3"), of = d->of;
    of.kv_heads = 1, refused_torch(d, of, "2 heads of 32, the model 1"), of = d->of;
    of.head_dim = 64, refused_torch(d, of, "2 heads of 32, the model 2 of 64"), of = d->of;
    CartridgeData c;
    Rounding r;
    of.layers = 1; /* fewer than the file has: there is no place for the second */
    d->of = of;
    assert_fails(ST_UNSUPPORTED, read_torch(d, "frozen", &c, &r));
    assert_says("more than 1");
}

static void test_torch_files_that_contradict_themselves(void **state) {
    Desk *d = *state;
    static const struct {
        const char *name;
        Status st;
        const char *says;
    } file[] = {{"wrong-layer", ST_FORMAT, "trainable_keys[1] has 7 rows, layer 0 has 8"},
                {"wrong-values", ST_FORMAT, "trainable_keys has 8 rows, trainable_values 7"},
                {"wrong-entry", ST_UNSUPPORTED, "\"segment_keys\""},
                {"repeated", ST_FORMAT, "larger than the file"}};
    for (size_t i = 0; i < sizeof file / sizeof file[0]; i++) {
        CartridgeData c;
        Rounding r;
        assert_fails(file[i].st, read_torch(d, file[i].name, &c, &r));
        assert_says(file[i].says);
        assert_null(c.rows.data);
    }
}

/* Any bit of the file: an error, or a cartridge in which nothing changed (dates, padding and the like). */
static void test_any_bit_of_a_torch_file(void **state) {
    Desk *d = *state;
    CartridgeData want, c;
    Rounding r;
    char *data;
    size_t n;
    int same = 0;
    assert_ok(read_torch(d, "frozen", &want, &r));
    assert_ok(file_read(&data, &n, GOLDEN "/torch/frozen.pt"));
    for (size_t at = 0; at < n; at++) {
        TorchFile *f;
        data[at] ^= (char)(1 << at % 8);
        Status st = torch_parse(&f, (const uint8_t *)data, n, "flipped.pt");
        if (!st) {
            st = cartridge_torch_read(&c, f, &d->of, &r);
            torch_close(f);
        }
        if (!st) {
            same_rows(&c, &want);
            assert_int_equal(c.info.frozen, want.info.frozen);
            cartridge_data_close(&c);
            same++;
        }
        data[at] ^= (char)(1 << at % 8);
    }
    assert_true(same > 0 && same < (int)n / 2);
    free(data);
    cartridge_data_close(&want);
}

static int set_up(void **state) {
    static Desk d;
    open_desk(&d, &ops_ref, DT_F64);
    *state = &d;
    return 0;
}

static int tear_down(void **state) {
    close_desk(*state);
    return 0;
}

#define AT_A_DESK(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_folder_gives_the_logits_of_peft),
        AT_A_DESK(test_the_table_is_peft_s),
        AT_A_DESK(test_out_and_in_again_is_the_same_file),
        AT_A_DESK(test_configurations_that_do_not_fit),
        AT_A_DESK(test_tables_that_do_not_fit),
        AT_A_DESK(test_a_folder_of_ours_that_was_changed),
        AT_A_DESK(test_positions_that_peft_cannot_say),
        AT_A_DESK(test_a_full_disk_leaves_nothing),
        AT_A_DESK(test_torch_files_hold_the_same_rows),
        AT_A_DESK(test_rounding_is_counted),
        AT_A_DESK(test_nothing_is_executed),
        AT_A_DESK(test_torch_files_of_other_models),
        AT_A_DESK(test_torch_files_that_contradict_themselves),
        AT_A_DESK(test_any_bit_of_a_torch_file),
    };
    return cmocka_run_group_tests_name("convert", tests, NULL, NULL);
}
