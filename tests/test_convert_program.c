/* test_convert_program.c -- the commands convert and compose as a user meets them: what they print, what they
 * leave with, and that nothing half made is left behind. On the demo's model; the rows are random. */
#include "tests/run_program.h"

#include "engine/memory/cartridge.h"
#include "engine/text/chat.h"

#define MODEL CARTRIDGE_SOURCE_DIR "/tools/demo/model"
#define TORCH CARTRIDGE_SOURCE_DIR "/tests/golden/torch"

/* A cartridge for the demo's model as train would write it. */
static void make_cartridge(const char *name, int32_t rows, double theta_times) {
    Model *m;
    Tokenizer *t;
    Chat *chat;
    char hex[65];
    assert_ok(model_open(&m, MODEL, &ops_cpu));
    assert_ok(tokenizer_open(&t, MODEL));
    assert_ok(chat_open(&chat, MODEL, t));
    digest_hex(tokenizer_digest(t), hex);
    CartridgeInfo info = cartridge_info_for(m, hex, chat_family(chat));
    info.rows = info.pos_end = rows, info.frozen = 1, info.rope_theta *= theta_times;
    CartridgeData c;
    assert_ok(cartridge_data_new(&c, &info));
    uint16_t *v = c.rows.data;
    for (int64_t i = 0; i < tensor_count(c.rows); i++)
        v[i] = f32_to_bf16(random_normal(3, (uint64_t)rows, (uint64_t)i));
    assert_ok(cartridge_data_write(&c, scratch_path(name)));
    cartridge_data_close(&c);
    chat_close(chat);
    tokenizer_close(t);
    model_close(m);
}

static int make_files(void **state) {
    (void)state;
    scratch_open();
    make_cartridge("a", 70, 1);
    make_cartridge("b", 33, 1);
    make_cartridge("other", 5, 2);
    return 0;
}

static void test_to_peft_and_back(void **state) {
    (void)state;
    expect(0, "70 rows (1 frozen)", "convert a -o a-peft -m " MODEL);
    expect(0, "native, from peft", "convert a-peft -o again");
    scratch_same("a", "again");
    expect(0, "\"rows\":70,\"frozen\":1,\"rounded\":0", "convert a-peft -o again2 --json -m " MODEL);
    scratch_same("a", "again2");
    size_t n;
    char *text = scratch_read("a-peft/adapter_config.json", &n);
    assert_non_null(strstr(text, "\"base_model_name_or_path\":\t\"" MODEL "\""));
    free(text);
    expect(0, NULL, "chat -m " MODEL " -c again --prompt 'Ada drinks?' --max-tokens 2 -q");
}

static void test_what_convert_refuses(void **state) {
    (void)state;
    int files = scratch_files();
    expect(2, "--out", "convert a");
    expect(2, "wanted one", "convert -o x");
    expect(2, "too many", "convert a b -o x");
    expect(2, "exists already", "convert a -o b");
    expect(2, "a cartridge file already", "convert a -o x --to native");
    expect(2, "a PEFT folder already", "convert a-peft -o x --to peft");
    expect(2, "-m", "convert " TORCH "/frozen.pt -o x");
    expect(3, "no/such", "convert no/such -o x");
    expect(3, "adapter_config.json", "convert . -o x");
    expect(3, "2 layers, the model 3", "convert " TORCH "/frozen.pt -o x -m " MODEL);
    expect(3, "nothing of it was executed", "convert " TORCH "/hostile.pt -o x -m " MODEL);
    expect(3, "rope_theta", "convert other -o x -m " MODEL);
    expect(3, "not a cartridge", "convert " MODEL "/model.safetensors -o x");
    assert_int_equal(scratch_files(), files);
}

/* What PEFT trained in f32 is no bf16: said, and rounded only if one says so. */
static void test_rounding_is_asked_for(void **state) {
    (void)state;
    char *text, line[256];
    size_t n;
    CartridgeInfo info;
    assert_ok(cartridge_info_read(&info, scratch_path("a")));
    int64_t width = 2LL * info.layers * info.kv_heads * info.head_dim;
    float *third = malloc((size_t)(70 * width) * sizeof *third);
    assert_non_null(third);
    for (int64_t i = 0; i < 70 * width; i++) third[i] = 1.0f / 3;
    assert_int_equal(mkdir(scratch_path("f32"), 0777), 0);
    SafeEntry e = {"prompt_embeddings", tensor_of(third, DT_F32, 70, width)};
    assert_ok(safe_write(scratch_path("f32/adapter_model.safetensors"), &e, 1, NULL, 0, false));
    text = scratch_read("a-peft/adapter_config.json", &n);
    scratch_put("f32/adapter_config.json", text, n);
    snprintf(line, sizeof line, "%lld of its %lld numbers are no bf16", (long long)(70 * width),
             (long long)(70 * width));
    expect(3, line, "convert f32 -o rounded -m " MODEL);
    assert_false(file_exists(scratch_path("rounded")));
    expect(0, "rounded to bf16, the largest change is 0.002", "convert f32 -o rounded --round -m " MODEL);
    expect(0, "numbers rounded to bf16", "inspect rounded -m " MODEL);
    expect(2, "which model", "convert f32 -o x");
    free(text), free(third);
    cartridge_info_close(&info);
}

static void test_compose(void **state) {
    (void)state;
    expect(0, "b, without its sink", "compose a b -o first");
    expect(0, "102 rows (1 frozen); what follows starts at position 102", "compose a b -o first2");
    scratch_same("first", "first2");
    expect(0, "103 rows", "compose a b -o all --sinks all");
    expect(0, "composed of 2 cartridges", "inspect first -m " MODEL);
    assert_non_null(strstr(program_output, ", rows 0 to 69\n"));
    assert_non_null(strstr(program_output, ", rows 1 to 32\n"));
    expect(0, "{\"path\":\"b\",\"first\":1,\"end\":33}", "compose a b -o first3 --json");
    expect(0, "native, from peft",
           "convert all -o all-peft && " CARTRIDGE_PROGRAM " convert all-peft -o all2");
    scratch_same("all", "all2");
    /* the list and the composed file say the same */
    static char list[sizeof program_output];
    expect(0, NULL, "chat -m " MODEL " -c a -c b --prompt 'Ada drinks?' --max-tokens 5 -q");
    snprintf(list, sizeof list, "%s", program_output);
    expect(0, list, "chat -m " MODEL " -c all --prompt 'Ada drinks?' --max-tokens 5 -q");
    assert_string_equal(program_output, list);
}

static void test_what_compose_refuses(void **state) {
    (void)state;
    int files = scratch_files();
    expect(2, "--out", "compose a b");
    expect(2, "wanted two", "compose a -o x");
    expect(2, "exists already", "compose a b -o a");
    expect(2, "none of", "compose a b -o x --sinks some");
    expect(3, "no/such", "compose a no/such -o x");
    expect(3, "rope_theta", "compose a b other -o x");
    expect(3, "safetensors", "compose a " TORCH "/frozen.pt -o x");
    assert_int_equal(scratch_files(), files);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_to_peft_and_back),      cmocka_unit_test(test_what_convert_refuses),
        cmocka_unit_test(test_rounding_is_asked_for), cmocka_unit_test(test_compose),
        cmocka_unit_test(test_what_compose_refuses),
    };
    return cmocka_run_group_tests_name("convert_program", tests, make_files, scratch_tear_down);
}
