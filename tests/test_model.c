/* test_model.c -- folders as they come: what is read is what the files hold, whatever they are cut into and
 * whichever float type they use; what is not understood is refused by name. Folders are made from those in
 * tests/golden by changing one thing at a time. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/model/model.h"
#include "engine/model/safetensors.h"
#include "kernels/host.h"
#include "tests/scratch.h"

#define GOLDEN CARTRIDGE_SOURCE_DIR "/tests/golden/"
static const char *const families[] = {"llama", "qwen2", "qwen3"};
enum { FAMILIES = 3, TENSORS_MAX = 40 };

static const char *golden(const char *family, const char *file) {
    static char path[2][512];
    static int next;
    char *p = path[next++ % 2];
    snprintf(p, sizeof path[0], GOLDEN "%s/%s", family, file);
    return p;
}

/* ---- a folder made of changed parts ---- */

/* The tensors of a golden model, free to be changed. */
typedef struct Weights { SafeFile *file; SafeEntry e[TENSORS_MAX]; int32_t n; } Weights;

static void weights_open(Weights *w, const char *family) {
    assert_ok(safe_open(&w->file, golden(family, "model.safetensors")));
    w->n = safe_count(w->file);
    assert_in_range(w->n, 1, TENSORS_MAX - 1);
    for (int32_t i = 0; i < w->n; i++) {
        w->e[i].name = safe_name(w->file, i);
        assert_ok(safe_find(w->file, w->e[i].name, &w->e[i].t));
    }
}

static void put_weights(const char *name, const SafeEntry *e, int32_t n) {
    assert_ok(safe_write(scratch_path(name), e, n, NULL, 0, false));
}

/* config.json of a family with the first `from` replaced; NULL: as it is. */
static void put_config(const char *family, const char *from, const char *to) {
    char *text;
    size_t size;
    assert_ok(file_read(&text, &size, golden(family, "config.json")));
    char *changed = from ? test_replaced(text, from, to) : strdup(text);
    scratch_put_text("config.json", changed);
    free(text), free(changed);
}

static void clear_scratch(void) {
    static const char *const names[] = {"config.json", "model.safetensors", "model.safetensors.index.json",
                                        "a.safetensors", "b.safetensors"};
    for (int i = 0; i < 5; i++) scratch_remove(names[i]);
}

/* The model in the scratch folder must be this one, all of it. */
static void assert_same_model(const char *fingerprint) {
    Model *m;
    assert_ok(model_open(&m, scratch_folder(), &ops_ref));
    assert_string_equal(m->fingerprint, fingerprint);
    model_close(m);
}

static void fingerprint_of(const char *folder, char out[65]) {
    Model *m;
    assert_ok(model_open(&m, folder, &ops_ref));
    memcpy(out, m->fingerprint, 65);
    model_close(m);
}

/* ---- what is read ---- */

static const ModelConfig expected[FAMILIES] = {
    {.layers = 2, .width = 64, .ffn = 96, .heads = 4, .kv_heads = 2, .head_dim = 32, .vocab = 300,
     .context_max = 512, .norm_eps = 1e-5f, .rope_theta = 10000, .tied_head = true, .rope_factor = 8,
     .rope_low = 1, .rope_high = 4, .rope_original = 64},
    {.layers = 2, .width = 32, .ffn = 96, .heads = 7, .kv_heads = 1, .head_dim = 32, .vocab = 300,
     .context_max = 512, .norm_eps = 1e-6f, .rope_theta = 1e6, .qkv_bias = true},
    {.layers = 2, .width = 48, .ffn = 96, .heads = 3, .kv_heads = 1, .head_dim = 64, .vocab = 300,
     .context_max = 512, .norm_eps = 1e-6f, .rope_theta = 1e6, .qk_norm = true, .tied_head = true},
};

static void assert_same_config(const ModelConfig *a, const ModelConfig *b) {
    const int32_t *whole_a = &a->layers, *whole_b = &b->layers;
    for (int i = 0; i < 8; i++) assert_int_equal(whole_a[i], whole_b[i]);
    assert_true(a->norm_eps == b->norm_eps && a->rope_theta == b->rope_theta &&
                a->rope_factor == b->rope_factor);
    assert_true(a->rope_low == b->rope_low && a->rope_high == b->rope_high &&
                a->rope_original == b->rope_original);
    assert_true(a->qk_norm == b->qk_norm && a->qkv_bias == b->qkv_bias && a->tied_head == b->tied_head);
}

static void assert_weight(Tensor got, const SafeFile *f, const char *name) {
    Tensor want;
    assert_ok(safe_find(f, name, &want));
    assert_true(tensor_matches(got, DT_BF16, want.ndim, want.dim));
    assert_memory_equal(got.data, want.data, tensor_bytes(want));
}

static void check_layer(const Model *m, const SafeFile *f, int32_t i) {
    const Layer *l = &m->layer[i];
    const struct { Tensor t; const char *name; } part[] = {
        {l->norm_attn, "input_layernorm.weight"},    {l->wq, "self_attn.q_proj.weight"},
        {l->wk, "self_attn.k_proj.weight"},          {l->wv, "self_attn.v_proj.weight"},
        {l->wo, "self_attn.o_proj.weight"},          {l->norm_ffn, "post_attention_layernorm.weight"},
        {l->w_gate, "mlp.gate_proj.weight"},         {l->w_up, "mlp.up_proj.weight"},
        {l->w_down, "mlp.down_proj.weight"},         {l->bq, "self_attn.q_proj.bias"},
        {l->bk, "self_attn.k_proj.bias"},            {l->bv, "self_attn.v_proj.bias"},
        {l->norm_q, "self_attn.q_norm.weight"},      {l->norm_k, "self_attn.k_norm.weight"},
    };
    for (size_t j = 0; j < sizeof part / sizeof part[0]; j++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.%s", i, part[j].name);
        if (safe_has(f, name)) assert_weight(part[j].t, f, name);
        else assert_null(part[j].t.data);
    }
}

static void check_rope_freq(const Model *m, const char *family) {
    SafeFile *g;
    Tensor want;
    assert_ok(safe_open(&g, golden(family, "golden.safetensors")));
    assert_ok(safe_find(g, "rope_freq", &want));
    assert_true(tensor_is(m->rope_freq, DT_F32, m->cfg.head_dim / 2) &&
                tensor_is(want, DT_F32, m->cfg.head_dim / 2));
    for (int32_t i = 0; i < m->cfg.head_dim / 2; i++) {
        float a = ((const float *)m->rope_freq.data)[i], b = ((const float *)want.data)[i];
        if (fabsf(a / b - 1) > 1e-6f)
            fail_msg("%s: frequency %d is %.9g, transformers has %.9g", family, i, a, b);
    }
    safe_close(g);
}

static void test_a_folder_is_read_as_it_is(void **state) {
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        Model *m;
        SafeFile *f;
        assert_ok(model_open(&m, golden(families[i], ""), &ops_ref));
        assert_ok(safe_open(&f, golden(families[i], "model.safetensors")));
        assert_same_config(&m->cfg, &expected[i]);
        assert_weight(m->embed, f, "model.embed_tokens.weight");
        assert_weight(m->norm_out, f, "model.norm.weight");
        if (m->cfg.tied_head) assert_ptr_equal(m->head.data, m->embed.data);
        else assert_weight(m->head, f, "lm_head.weight");
        for (int32_t l = 0; l < m->cfg.layers; l++) check_layer(m, f, l);
        check_rope_freq(m, families[i]);
        assert_true(m->attn_scale == 1 / sqrtf((float)m->cfg.head_dim));
        assert_int_equal(strlen(m->fingerprint), 64);
        safe_close(f);
        model_close(m);
    }
    model_close(NULL);
    assert_int_equal(model_row_bytes(&expected[0], DT_BF16), 2 * 2 * 2 * 32 * 2);
}

/* ---- other folders that hold the same ---- */

static void put_index(const Weights *w, int32_t cut, const char *a, const char *b) {
    char text[8192];
    int n = snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (int32_t i = 0; i < w->n; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s\"%s\":\"%s\"", i ? "," : "", w->e[i].name,
                      i < cut ? a : b);
    n += snprintf(text + n, sizeof text - (size_t)n, "}}");
    assert_in_range(n, 1, sizeof text - 1);
    scratch_put("model.safetensors.index.json", text, (size_t)n);
}

static void test_shards_hold_the_same_model(void **state) {
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        char whole[65];
        Weights w;
        Model *m;
        fingerprint_of(golden(families[i], ""), whole);
        weights_open(&w, families[i]);
        clear_scratch();
        put_config(families[i], NULL, NULL);
        put_weights("a.safetensors", w.e, 7);
        put_weights("b.safetensors", w.e + 7, w.n - 7);
        put_index(&w, 7, "a.safetensors", "b.safetensors");
        assert_same_model(whole);
        scratch_remove("b.safetensors");
        assert_fails(ST_NOTFOUND, model_open(&m, scratch_folder(), &ops_ref));
        assert_says("b.safetensors");
        put_index(&w, 7, "a.safetensors", "../b.safetensors");
        assert_fails(ST_FORMAT, model_open(&m, scratch_folder(), &ops_ref));
        assert_says("outside");
        scratch_put("model.safetensors.index.json", "{}", 2);
        assert_fails(ST_FORMAT, model_open(&m, scratch_folder(), &ops_ref));
        assert_says("weight_map");
        safe_close(w.file);
    }
}

/* All tensors as another type, from malloc. */
static void convert_weights(Weights *w, DType type, double factor) {
    for (int32_t i = 0; i < w->n; i++) {
        int64_t n = tensor_count(w->e[i].t);
        Tensor t = tensor_view(malloc((size_t)n * dtype_bytes(type)), type, w->e[i].t.ndim, w->e[i].t.dim);
        assert_non_null(t.data);
        for (int64_t j = 0; j < n; j++) {
            double v;
            tensor_convert(tensor_of(&v, DT_F64, 1), 0, w->e[i].t, j, 1);
            v *= factor;
            tensor_convert(t, j, tensor_of(&v, DT_F64, 1), 0, 1);
        }
        w->e[i].t = t;
    }
}

static void free_weights(Weights *w) {
    for (int32_t i = 0; i < w->n; i++) free(w->e[i].t.data);
}

/* f32 and f64 that round to the bf16 they came from. */
static void test_other_float_types_are_rounded_once(void **state) {
    (void)state;
    static const struct {
        DType type;
        double factor;
    } kinds[] = {{DT_F32, 1}, {DT_F32, 1 + 1.0 / 1024}, {DT_F64, 1}};
    char whole[65];
    fingerprint_of(golden("qwen2", ""), whole);
    for (int i = 0; i < 3; i++) {
        Weights w;
        weights_open(&w, "qwen2");
        clear_scratch();
        put_config("qwen2", NULL, NULL);
        convert_weights(&w, kinds[i].type, kinds[i].factor);
        put_weights("model.safetensors", w.e, w.n);
        assert_same_model(whole);
        free_weights(&w);
        safe_close(w.file);
    }
}

/* The bits of each weight taken for f16, without the exponent that means infinity. */
static void as_f16(Weights *w) {
    for (int32_t i = 0; i < w->n; i++) {
        Tensor t = w->e[i].t;
        uint16_t *bits = malloc(tensor_bytes(t));
        assert_non_null(bits);
        for (int64_t j = 0; j < tensor_count(t); j++) bits[j] = ((const uint16_t *)t.data)[j] & 0xbfff;
        w->e[i].t.data = bits;
        w->e[i].t.dtype = DT_F16;
    }
}

static void test_f16_becomes_bf16(void **state) {
    (void)state;
    Weights w;
    Model *m;
    weights_open(&w, "llama");
    clear_scratch();
    put_config("llama", NULL, NULL);
    as_f16(&w);
    put_weights("model.safetensors", w.e, w.n);
    assert_ok(model_open(&m, scratch_folder(), &ops_ref));
    for (int32_t i = 0; i < w.n; i++) {
        if (strcmp(w.e[i].name, "model.layers.1.mlp.down_proj.weight")) continue;
        for (int64_t j = 0; j < tensor_count(w.e[i].t); j++) {
            uint16_t want = f32_to_bf16(f16_to_f32(((const uint16_t *)w.e[i].t.data)[j]));
            assert_int_equal(((const uint16_t *)m->layer[1].w_down.data)[j], want);
        }
    }
    model_close(m);
    free_weights(&w);
    safe_close(w.file);
}

/* ---- the fingerprint ---- */

/* One bit of any weight makes it another model. */
static void test_every_weight_counts_in_the_fingerprint(void **state) {
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        char whole[65], changed[65];
        Weights w;
        fingerprint_of(golden(families[i], ""), whole);
        weights_open(&w, families[i]);
        clear_scratch();
        put_config(families[i], NULL, NULL);
        for (int32_t j = 0; j < w.n; j++) {
            Tensor kept = w.e[j].t, t = kept;
            t.data = malloc(tensor_bytes(t));
            assert_non_null(t.data);
            memcpy(t.data, kept.data, tensor_bytes(t));
            ((uint16_t *)t.data)[tensor_count(t) - 1] ^= 1;
            w.e[j].t = t;
            put_weights("model.safetensors", w.e, w.n);
            fingerprint_of(scratch_folder(), changed);
            assert_string_not_equal(changed, whole);
            w.e[j].t = kept;
            free(t.data);
        }
        put_weights("model.safetensors", w.e, w.n);
        assert_same_model(whole);
        safe_close(w.file);
    }
}

static void put_model(const char *family) {
    Weights w;
    clear_scratch();
    weights_open(&w, family);
    put_weights("model.safetensors", w.e, w.n);
    put_config(family, NULL, NULL);
    safe_close(w.file);
}

static void test_settings_count_in_the_fingerprint(void **state) {
    (void)state;
    static const char *const change[][2] = {
        {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 1e-06"},
        {"\"rope_theta\": 10000.0", "\"rope_theta\": 10001.0"},
        {"\"factor\": 8.0", "\"factor\": 8.5"},
        {"\"low_freq_factor\": 1.0", "\"low_freq_factor\": 1.5"},
        {"\"high_freq_factor\": 4.0", "\"high_freq_factor\": 5"},
        {"\"original_max_position_embeddings\": 64", "\"original_max_position_embeddings\": 65"},
        {"\"rope_type\": \"llama3\"", "\"rope_type\": \"default\""},
    };
    char whole[65], changed[65];
    fingerprint_of(golden("llama", ""), whole);
    put_model("llama");
    for (size_t i = 0; i < sizeof change / sizeof change[0]; i++) {
        put_config("llama", change[i][0], change[i][1]);
        fingerprint_of(scratch_folder(), changed);
        assert_string_not_equal(changed, whole);
    }
    put_config("llama", "\"max_position_embeddings\": 512", "\"max_position_embeddings\": 1024");
    assert_same_model(whole); /* the weights are the same, whatever length is asked of them */
}

/* ---- config.json: other spellings of the same ---- */

static const char ROPE_PARAMETERS[] =
    "\"rope_parameters\": {\n    \"factor\": 8.0,\n    \"high_freq_factor\": 4.0,\n    "
    "\"low_freq_factor\": 1.0,\n    \"original_max_position_embeddings\": 64,\n    "
    "\"rope_theta\": 10000.0,\n    \"rope_type\": \"llama3\"\n  }";
#define LLAMA3(name) "{\"factor\":8.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"                    \
                     "\"original_max_position_embeddings\":64,\"" name "\":\"llama3\"}"

static void test_older_spellings(void **state) {
    (void)state;
    static const char *const same[][2] = {
        {ROPE_PARAMETERS, "\"rope_theta\": 10000, \"rope_scaling\": " LLAMA3("rope_type")},
        /* 10000 is what is meant when nothing is said */
        {ROPE_PARAMETERS, "\"rope_scaling\": " LLAMA3("type")},
        {"\"hidden_act\": \"silu\",", ""},
        {"\"attention_bias\": false,", ""},
        {"\"mlp_bias\": false,",
         "\"mlp_bias\": null, \"sliding_window\": 4096, \"use_sliding_window\": false,"},
        {"\"mlp_bias\": false,", "\"quantization_config\": null, \"layer_types\": [\"full_attention\"],"},
    };
    ModelConfig c;
    clear_scratch();
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        put_config("llama", same[i][0], same[i][1]);
        assert_ok(model_config_read(&c, scratch_folder()));
        assert_same_config(&c, &expected[0]);
    }
}

static void test_what_is_left_out(void **state) {
    (void)state;
    ModelConfig c;
    clear_scratch();
    put_config("llama", "\"head_dim\": 32", "\"rope_scaling\": null");
    assert_fails(ST_UNSUPPORTED, model_config_read(&c, scratch_folder())); /* 64 / 4 = 16 */
    assert_says("head_dim 16");
    put_config("llama", "\"num_attention_heads\": 4", "\"num_attention_heads\": 2");
    assert_ok(model_config_read(&c, scratch_folder()));
    put_config("llama", "\"head_dim\": 32,\n  \"hidden_act\": \"silu\",\n  \"hidden_size\": 64",
               "\"hidden_size\": 128");
    assert_ok(model_config_read(&c, scratch_folder()));
    assert_int_equal(c.head_dim, 32);
    put_config("qwen3", "\"head_dim\": 64,", "");
    assert_ok(model_config_read(&c, scratch_folder()));
    assert_int_equal(c.head_dim, 128);
    put_config("llama", "\"num_key_value_heads\": 2,", "");
    assert_ok(model_config_read(&c, scratch_folder()));
    assert_int_equal(c.kv_heads, 4);
    put_config("llama", "\"tie_word_embeddings\": true,", "");
    assert_ok(model_config_read(&c, scratch_folder()));
    assert_false(c.tied_head);
    put_config("llama", ROPE_PARAMETERS, "\"rope_theta\": 5e5, \"rope_scaling\": {\"type\": \"default\"}");
    assert_ok(model_config_read(&c, scratch_folder()));
    assert_true(c.rope_theta == 5e5 && c.rope_factor == 0);
}

/* ---- config.json: what is refused ---- */

typedef struct Refused { const char *family, *from, *to; Status status; const char *says; } Refused;
static const Refused refused[] = {
    {"llama", "\"model_type\": \"llama\"", "\"model_type\": \"mamba\"", ST_UNSUPPORTED, "mamba"},
    {"llama", "\"model_type\": \"llama\",", "", ST_FORMAT, "model_type"},
    {"llama", "\"rope_type\": \"llama3\"", "\"rope_type\": \"yarn\"", ST_UNSUPPORTED, "yarn"},
    {"llama", "\"rope_type\": \"llama3\"", "\"type\": \"linear\"", ST_UNSUPPORTED, "linear"},
    {"llama", "\"rope_type\": \"llama3\"", "\"rope_type\": 3", ST_FORMAT, "rope_type"},
    {"llama", "\"factor\": 8.0,", "", ST_FORMAT, "factor"},
    {"llama", "\"factor\": 8.0,", "\"factor\": 0,", ST_FORMAT, "factor 0"},
    {"llama", "\"high_freq_factor\": 4.0", "\"high_freq_factor\": 1.0", ST_FORMAT, "high 1"},
    {"llama", "\"original_max_position_embeddings\": 64", "\"original_max_position_embeddings\": 64.5",
     ST_FORMAT, "64.5"},
    {"llama", "\"rope_theta\": 10000.0", "\"rope_theta\": 0", ST_FORMAT, "rope_theta is 0"},
    {"llama", "\"rope_theta\": 10000.0", "\"rope_theta\": \"big\"", ST_FORMAT, "rope_theta"},
    {"llama", "\"rope_theta\": 10000.0", "\"partial_rotary_factor\": 0.5", ST_UNSUPPORTED,
     "partial_rotary_factor"},
    {"llama", "\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", ST_UNSUPPORTED, "gelu"},
    {"llama", "\"attention_bias\": false", "\"attention_bias\": true", ST_UNSUPPORTED, "attention_bias"},
    {"qwen3", "\"attention_bias\": false", "\"attention_bias\": true", ST_UNSUPPORTED, "attention_bias"},
    {"llama", "\"mlp_bias\": false", "\"mlp_bias\": true", ST_UNSUPPORTED, "mlp_bias"},
    {"qwen2", "\"use_sliding_window\": false", "\"use_sliding_window\": true", ST_UNSUPPORTED,
     "use_sliding_window"},
    {"qwen2", "\"full_attention\",", "\"sliding_attention\",", ST_UNSUPPORTED, "sliding_attention"},
    {"llama", "\"mlp_bias\": false", "\"quantization_config\": {\"bits\": 4}", ST_UNSUPPORTED,
     "quantization_config"},
    {"llama", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", ST_UNSUPPORTED,
     "3 key/value heads"},
    {"llama", "\"head_dim\": 32", "\"head_dim\": 48", ST_UNSUPPORTED, "head_dim 48"},
    {"llama", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0", ST_FORMAT, "num_hidden_layers"},
    {"llama", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1000000", ST_FORMAT, "num_hidden_layers"},
    {"llama", "\"hidden_size\": 64", "\"hidden_size\": \"64\"", ST_FORMAT, "hidden_size"},
    {"llama", "\"hidden_size\": 64", "\"hidden_size\": -64", ST_FORMAT, "hidden_size"},
    {"llama", "\"vocab_size\": 300", "\"vocab_size\": 3e20", ST_FORMAT, "vocab_size"},
    {"llama", "\"vocab_size\": 300", "\"vocab_size\": 300, }", ST_FORMAT, "JSON"},
};

static void test_unknown_settings_are_refused_by_name(void **state) {
    (void)state;
    clear_scratch();
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const Refused *r = &refused[i];
        ModelConfig c;
        put_config(r->family, r->from, r->to);
        test_refused(i, r->to, model_config_read(&c, scratch_folder()), r->status, r->says);
        assert_says("config.json");
    }
}

static void test_a_cut_config_is_an_error(void **state) {
    (void)state;
    char *text;
    size_t size;
    ModelConfig c;
    clear_scratch();
    assert_fails(ST_NOTFOUND, model_config_read(&c, scratch_folder()));
    assert_says("config.json");
    assert_ok(file_read(&text, &size, golden("llama", "config.json")));
    while (text[size - 1] != '}') size--;
    for (size_t n = 0; n < size; n++) {
        scratch_put("config.json", text, n);
        assert_fails(ST_FORMAT, model_config_read(&c, scratch_folder()));
    }
    free(text);
}

/* ---- weights that do not fit ---- */

static void test_a_missing_tensor_is_named(void **state) {
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        Weights w;
        Model *m;
        put_model(families[i]);
        weights_open(&w, families[i]);
        for (int32_t j = 0; j < w.n; j++) {
            SafeEntry gone = w.e[j];
            w.e[j] = w.e[w.n - 1];
            put_weights("model.safetensors", w.e, w.n - 1);
            assert_fails(ST_FORMAT, model_open(&m, scratch_folder(), &ops_ref));
            assert_null(m);
            assert_says(gone.name);
            w.e[j] = gone;
        }
        safe_close(w.file);
    }
}

/* Too small, too many dimensions, whole numbers: file, tensor, shape seen and shape wanted. */
static void test_a_wrong_shape_is_named(void **state) {
    (void)state;
    static int32_t whole_numbers[1 << 15];
    for (int i = 0; i < FAMILIES; i++) {
        Weights w;
        Model *m;
        put_model(families[i]);
        weights_open(&w, families[i]);
        for (int32_t j = 0; j < w.n; j++) {
            Tensor kept = w.e[j].t, wrong[3] = {kept, kept, kept};
            wrong[0].dim[kept.ndim - 1]--;
            wrong[1].dim[wrong[1].ndim++] = 1;
            wrong[2].dtype = DT_I32;
            wrong[2].data = whole_numbers;
            assert_in_range(tensor_bytes(wrong[2]), 1, sizeof whole_numbers);
            for (int k = 0; k < 3; k++) {
                char seen[96], want[96];
                w.e[j].t = wrong[k];
                put_weights("model.safetensors", w.e, w.n);
                assert_fails(ST_FORMAT, model_open(&m, scratch_folder(), &ops_ref));
                tensor_print(wrong[k], seen, sizeof seen);
                tensor_print(kept, want, sizeof want);
                assert_says(w.e[j].name);
                assert_says(seen);
                assert_says(want);
                assert_says("model.safetensors");
            }
            w.e[j].t = kept;
        }
        safe_close(w.file);
    }
}

/* More than the family needs is no error. */
static void test_other_tensors_are_left_alone(void **state) {
    (void)state;
    static float zeros[12];
    char whole[65];
    Weights w;
    fingerprint_of(golden("llama", ""), whole);
    put_model("llama");
    weights_open(&w, "llama");
    w.e[w.n++] = (SafeEntry){"model.layers.0.self_attn.rotary_emb.inv_freq", tensor_of(zeros, DT_F32, 12)};
    put_weights("model.safetensors", w.e, w.n);
    assert_same_model(whole);
    safe_close(w.file);
}

/* Sizes that no memory could hold are held against the files first. */
static void test_absurd_sizes_are_held_against_the_files(void **state) {
    (void)state;
    static const char *const change[][2] = {{"\"hidden_size\": 64", "\"hidden_size\": 16777216"},
                                            {"\"vocab_size\": 300", "\"vocab_size\": 16777216"},
                                            {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4096"},
                                            {"\"intermediate_size\": 96", "\"intermediate_size\": 16777216"}};
    Model *m;
    put_model("llama");
    for (int i = 0; i < 4; i++) {
        put_config("llama", change[i][0], change[i][1]);
        int64_t opens = host_mem_opens();
        assert_fails(ST_FORMAT, model_open(&m, scratch_folder(), &ops_ref));
        assert_int_equal(host_mem_opens(), opens);
    }
}

static void test_truncated_weights_are_an_error(void **state) {
    (void)state;
    char *bytes;
    size_t size;
    Model *m;
    put_model("qwen3");
    assert_ok(file_read(&bytes, &size, golden("qwen3", "model.safetensors")));
    for (size_t n = 0; n < size; n += n < 3000 ? 97 : 9973) {
        scratch_put("model.safetensors", bytes, n);
        assert_fails(ST_FORMAT, model_open(&m, scratch_folder(), &ops_ref));
        assert_says("model.safetensors");
    }
    scratch_remove("model.safetensors");
    assert_fails(ST_NOTFOUND, model_open(&m, scratch_folder(), &ops_ref));
    assert_says("model.safetensors");
    free(bytes);
}

/* Every allocation of the backend fails once; nothing stays behind. */
static void test_no_memory(void **state) {
    (void)state;
    Model *m;
    int64_t live = host_mem_live(), before = host_mem_opens();
    assert_ok(model_open(&m, golden("llama", ""), &ops_ref));
    model_close(m);
    int64_t takes = host_mem_opens() - before;
    assert_in_range(takes, 1, 20);
    for (int64_t n = 1; n <= takes; n++) {
        host_mem_fail_at(n);
        assert_fails(ST_NOMEM, model_open(&m, golden("llama", ""), &ops_ref));
        assert_null(m);
        assert_int_equal(host_mem_live(), live);
    }
    host_mem_fail_at(0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_folder_is_read_as_it_is),
        cmocka_unit_test(test_shards_hold_the_same_model),
        cmocka_unit_test(test_other_float_types_are_rounded_once),
        cmocka_unit_test(test_f16_becomes_bf16),
        cmocka_unit_test(test_every_weight_counts_in_the_fingerprint),
        cmocka_unit_test(test_settings_count_in_the_fingerprint),
        cmocka_unit_test(test_older_spellings),
        cmocka_unit_test(test_what_is_left_out),
        cmocka_unit_test(test_unknown_settings_are_refused_by_name),
        cmocka_unit_test(test_a_cut_config_is_an_error),
        cmocka_unit_test(test_a_missing_tensor_is_named),
        cmocka_unit_test(test_a_wrong_shape_is_named),
        cmocka_unit_test(test_other_tensors_are_left_alone),
        cmocka_unit_test(test_absurd_sizes_are_held_against_the_files),
        cmocka_unit_test(test_truncated_weights_are_an_error),
        cmocka_unit_test(test_no_memory),
    };
    scratch_open();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    scratch_close();
    return failed;
}
