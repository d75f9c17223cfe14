/* chat.c -- a folder's chat template and end tokens, then messages, of strangers. The input is parts ended by
 * zero bytes: the template (empty: the one of the model at hand), generation_config.json, messages (their
 * first byte: the role). Whatever a message says, it cannot end its turn: no token of its content is special,
 * and the content comes back as it was. */
#include "engine/text/chat.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static const char *const templates[] = {
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% "
    "endfor %}",
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] "
    "| trim +"
    " '<|eot_id|>' }}{% endfor %}",
};
static const char *const files[] = {CARTRIDGE_SOURCE_DIR "/tests/fuzz/seeds/tokenizer/chatml",
                                    CARTRIDGE_SOURCE_DIR "/tests/fuzz/seeds/tokenizer/llama3"};

static Tokenizer *tokenizer_at(int family) {
    static Tokenizer *open[2];
    char *text;
    size_t size;
    if (open[family]) return open[family];
    fuzz_check(file_read(&text, &size, files[family]) == ST_OK);
    fuzz_check(tokenizer_of_json(&open[family], text, size, files[family]) == ST_OK);
    free(text);
    return open[family];
}

/* The content, with or without the blank that the demo model's template puts in front of it. */
static void check_content(const Chat *c, const char *text) {
    const Tokenizer *t = chat_tokenizer(c);
    TokenVec v = {0};
    char *back;
    if (chat_content(c, bytes_of(text), &v) == ST_OK) {
        for (int32_t i = 0; i < v.n; i++) fuzz_check(!tokenizer_is_special(t, v.v[i]));
        fuzz_check(tokenizer_decode(t, v.v, v.n, &back) == ST_OK);
        fuzz_check(!strcmp(back, text) || (*back == ' ' && !strcmp(back + 1, text)));
        free(back);
    } else {
        fuzz_check(utf8_invalid_at(bytes_of(text)) >= 0 && v.n == 0);
    }
    tokens_close(&v);
}

/* As many ends of turns as there are turns. */
static void check_messages(const Chat *c, const Message *m, int32_t n) {
    TokenVec v = {0};
    int32_t ends = 0;
    if (chat_messages(c, m, n, true, &v) == ST_OK) {
        for (int32_t i = 0; i < v.n; i++) ends += v.v[i] == chat_end(c);
        fuzz_check(ends == n);
    }
    tokens_close(&v);
}

static void check_prefix(const Chat *c, Bytes text, int32_t rows) {
    TokenVec v = {0};
    Status st = chat_prefix(c, text, rows, &v);
    fuzz_check(st ? v.n == 0 : rows == 0 || v.n == rows);
    tokens_close(&v);
}

static void render(const Chat *c, FuzzInput in) {
    enum { MESSAGES = 4 };
    char *part[MESSAGES];
    Message m[MESSAGES];
    int32_t n = 0;
    while (in.n && n < MESSAGES) {
        Role role = (Role)(fuzz_byte(&in) % 3);
        part[n] = fuzz_part(&in);
        m[n] = (Message){role, bytes_of(part[n])};
        check_content(c, part[n]);
        check_prefix(c, m[n].text, (int32_t)(strlen(part[n]) % 40));
        n++;
    }
    check_messages(c, m, n);
    for (int32_t i = 0; i < n; i++) free(part[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzInput in = {data, size};
    int family = fuzz_byte(&in) % 2;
    char *template = fuzz_part(&in), *stops = fuzz_part(&in);
    const char *text = *template ? template : templates[family];
    Chat *c;
    fuzz_file("chat_template.jinja", text, strlen(text));
    fuzz_file("generation_config.json", *stops ? stops : "{}", *stops ? strlen(stops) : 2);
    if (chat_open(&c, fuzz_folder(), tokenizer_at(family)) == ST_OK) {
        const int32_t *stop;
        int32_t n;
        fuzz_check(chat_stops(c, &stop, &n) == ST_OK && n >= 1 && stop[0] == chat_end(c));
        render(c, in);
        chat_close(c);
    } else {
        fuzz_check(*template || *stops);
    }
    free(template);
    free(stops);
    return 0;
}
