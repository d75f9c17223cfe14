/* test_convert_program.c -- the commands convert and compose as a user meets them: what they print, what they
 * leave with, and that nothing half made is left behind. On the demo's model; the rows are random. */
#include "tests/run_program.h"

#include "engine/memory/cartridge.h"
#include "engine/text/chat.h"

#define MODEL CARTRIDGE_SOURCE_DIR "/tools/demo/model"
#define TORCH CARTRIDGE_SOURCE_DIR "/tests/golden/torch"

static char folder[] = "convert.XXXXXX";

static const char *in_folder(const char *name) {
    static char path[4][512];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static void expect(int code, const char *says, const char *arguments) {
    program_expect(folder, code, says, arguments);
}

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
    assert_ok(cartridge_data_write(&c, in_folder(name)));
    cartridge_data_close(&c);
    chat_close(chat);
    tokenizer_close(t);
    model_close(m);
}

static int make_files(void **state) {
    (void)state;
    test_folder(folder);
    make_cartridge("a", 70, 1);
    make_cartridge("b", 33, 1);
    make_cartridge("other", 5, 2);
    return 0;
}

static int remove_files(void **state) {
    (void)state;
    test_folder_remove(folder);
    return 0;
}

static void same_file(const char *a, const char *b) {
    char *x, *y;
    size_t n, m;
    assert_ok(file_read(&x, &n, in_folder(a)));
    assert_ok(file_read(&y, &m, in_folder(b)));
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x), free(y);
}

static void test_to_peft_and_back(void **state) {
    (void)state;
    expect(0, "70 rows (1 frozen)", "convert a -o a-peft -m " MODEL);
    expect(0, "native, from peft", "convert a-peft -o again");
    same_file("a", "again");
    expect(0, "\"rows\":70,\"frozen\":1,\"rounded\":0", "convert a-peft -o again2 --json -m " MODEL);
    same_file("a", "again2");
    char *text;
    size_t n;
    assert_ok(file_read(&text, &n, in_folder("a-peft/adapter_config.json")));
    assert_non_null(strstr(text, "\"base_model_name_or_path\":\t\"" MODEL "\""));
    free(text);
    expect(0, NULL, "chat -m " MODEL " -c again --prompt 'Ada drinks?' --max-tokens 2 -q");
}

static void test_what_convert_refuses(void **state) {
    (void)state;
    int files = test_folder_count(folder);
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
    assert_int_equal(test_folder_count(folder), files);
}

/* What PEFT trained in f32 is no bf16: said, and rounded only if one says so. */
static void test_rounding_is_asked_for(void **state) {
    (void)state;
    char *text, line[256];
    size_t n;
    CartridgeInfo info;
    assert_ok(cartridge_info_read(&info, in_folder("a")));
    int64_t width = 2LL * info.layers * info.kv_heads * info.head_dim;
    float *third = malloc((size_t)(70 * width) * sizeof *third);
    assert_non_null(third);
    for (int64_t i = 0; i < 70 * width; i++) third[i] = 1.0f / 3;
    assert_int_equal(mkdir(in_folder("f32"), 0777), 0);
    SafeEntry e = {"prompt_embeddings", tensor_of(third, DT_F32, 70, width)};
    assert_ok(safe_write(in_folder("f32/adapter_model.safetensors"), &e, 1, NULL, 0, false));
    assert_ok(file_read(&text, &n, in_folder("a-peft/adapter_config.json")));
    FILE *f = fopen(in_folder("f32/adapter_config.json"), "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    snprintf(line, sizeof line, "%lld of its %lld numbers are no bf16", (long long)(70 * width),
             (long long)(70 * width));
    expect(3, line, "convert f32 -o rounded -m " MODEL);
    assert_false(file_exists(in_folder("rounded")));
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
    same_file("first", "first2");
    expect(0, "103 rows", "compose a b -o all --sinks all");
    expect(0, "composed of 2 cartridges", "inspect first -m " MODEL);
    assert_non_null(strstr(program_output, ", rows 0 to 69\n"));
    assert_non_null(strstr(program_output, ", rows 1 to 32\n"));
    expect(0, "{\"path\":\"b\",\"first\":1,\"end\":33}", "compose a b -o first3 --json");
    expect(0, "native, from peft",
           "convert all -o all-peft && " CARTRIDGE_PROGRAM " convert all-peft -o all2");
    same_file("all", "all2");
    /* the list and the composed file say the same */
    static char list[sizeof program_output];
    expect(0, NULL, "chat -m " MODEL " -c a -c b --prompt 'Ada drinks?' --max-tokens 5 -q");
    snprintf(list, sizeof list, "%s", program_output);
    expect(0, list, "chat -m " MODEL " -c all --prompt 'Ada drinks?' --max-tokens 5 -q");
    assert_string_equal(program_output, list);
}

static void test_what_compose_refuses(void **state) {
    (void)state;
    int files = test_folder_count(folder);
    expect(2, "--out", "compose a b");
    expect(2, "wanted two", "compose a -o x");
    expect(2, "exists already", "compose a b -o a");
    expect(2, "none of", "compose a b -o x --sinks some");
    expect(3, "no/such", "compose a no/such -o x");
    expect(3, "rope_theta", "compose a b other -o x");
    expect(3, "safetensors", "compose a " TORCH "/frozen.pt -o x");
    assert_int_equal(test_folder_count(folder), files);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_to_peft_and_back),      cmocka_unit_test(test_what_convert_refuses),
        cmocka_unit_test(test_rounding_is_asked_for), cmocka_unit_test(test_compose),
        cmocka_unit_test(test_what_compose_refuses),
    };
    return cmocka_run_group_tests_name("convert_program", tests, make_files, remove_files);
}
