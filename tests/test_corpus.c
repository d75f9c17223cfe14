/* test_corpus.c -- texts become a corpus, and chunks of it have the size and the borders that were asked for,
 * whatever the text is like. */
#include "tests/test.h"

#include "engine/text/corpus.h"
#include "tests/scratch.h"

/* ---- corpus ---- */

static void test_corpus_of_files(void **state) {
    (void)state;
    Corpus *c;
    scratch_open();
    assert_int_equal(mkdir(scratch_path("sub"), 0777), 0);
    scratch_put_text("b.txt", "second");
    scratch_put_text("a.txt", "first");
    scratch_put_text(".hidden", "\xFF");
    scratch_put_text("sub/c.txt", "fourth");
    scratch_put_text("sub-d.txt", "third"); /* before "sub/": the order is that of whole paths */
    assert_ok(corpus_open(&c, scratch_folder()));
    assert_int_equal(corpus_documents(c), 4);
    assert_int_equal(corpus_text(c).n, strlen("first\n\nsecond\n\nthird\n\nfourth"));
    assert_memory_equal(corpus_text(c).p, "first\n\nsecond\n\nthird\n\nfourth", corpus_text(c).n);
    corpus_close(c);
    assert_int_equal(mkfifo(scratch_path("pipe"), 0666), 0);
    assert_fails(ST_FORMAT, corpus_open(&c, scratch_folder())); /* and does not wait for a writer */
    assert_says("pipe");
    assert_int_equal(remove(scratch_path("pipe")), 0);
    scratch_put_text("z.bin", "ab\xFE");
    assert_fails(ST_FORMAT, corpus_open(&c, scratch_folder()));
    assert_says("z.bin");
    assert_says("byte 2");
    assert_fails(ST_NOTFOUND, corpus_open(&c, "no/such/path"));
    scratch_put_text("blank.txt", " \n\t");
    assert_fails(ST_FORMAT, corpus_open(&c, scratch_path("blank.txt")));
    scratch_remove(".hidden");
    scratch_close();
}

static void test_corpus_of_text(void **state) {
    (void)state;
    Corpus *a, *b;
    assert_ok(corpus_of_text(&a, bytes_of("one text"), "a"));
    assert_ok(corpus_of_text(&b, bytes_of("one text"), "b"));
    assert_true(digest_equal(corpus_digest(a), corpus_digest(b)));
    corpus_close(b);
    assert_ok(corpus_of_text(&b, bytes_of("one texT"), "a"));
    assert_false(digest_equal(corpus_digest(a), corpus_digest(b)));
    corpus_close(a);
    corpus_close(b);
    assert_fails(ST_FORMAT, corpus_of_text(&a, (Bytes){NULL, 0}, "nothing"));
    assert_says("nothing");
    assert_fails(ST_FORMAT, corpus_of_text(&a, bytes_of("ab\xFF"), "bytes"));
    assert_says("byte 2");
    assert_fails(ST_FORMAT, corpus_of_text(&a, (Bytes){"a\0b", 3}, "utf-16"));
    assert_says("byte 1");
}

/* ---- chunks ---- */

/* A text with the tokens of a golden tokenizer. */
typedef struct Book {
    Tokenizer *t;
    Corpus *c;
} Book;

static void open_book(Book *b, const char *text) {
    static const char path[] = CARTRIDGE_SOURCE_DIR "/tests/golden/tokenizer/gpt2.json";
    char *json;
    size_t size;
    assert_ok(file_read(&json, &size, path));
    assert_ok(tokenizer_of_json(&b->t, json, size, path));
    free(json);
    assert_ok(corpus_of_text(&b->c, bytes_of(text), "book"));
}

static void close_book(Book *b) {
    corpus_close(b->c);
    tokenizer_close(b->t);
}

/* Ten paragraphs of a few words each, numbered. */
static void open_numbered(Book *b) {
    char text[1024] = "";
    for (int i = 0; i < 10; i++)
        snprintf(text + strlen(text), 64, "Paragraph %d says a thing.\nIt has two lines.\n\n", i);
    open_book(b, text);
}

/* A round visits every paragraph before any comes twice, and a chunk is whole paragraphs. */
static void test_chunks_cover_the_corpus(void **state) {
    (void)state;
    Book book;
    Chunks *chunks;
    open_numbered(&book);
    assert_ok(chunks_open(&chunks, book.c, book.t, (ChunkRule){CHUNK_PARAGRAPHS, 1, 40}));
    for (uint64_t round = 0; round < 3; round++) {
        bool begun[10] = {false};
        for (uint64_t i = 0; i < 10; i++) {
            Bytes b = chunks_draw(chunks, 7, round * 10 + i), again = chunks_draw(chunks, 7, round * 10 + i);
            assert_true(b.p == again.p && b.n == again.n);
            assert_memory_equal(b.p, "Paragraph ", 10);
            assert_true(b.p[b.n - 1] == '.');
            for (size_t j = 0; j + 10 < b.n; j++)
                if (!memcmp(b.p + j, "Paragraph ", 10)) begun[b.p[j + 10] - '0'] = true;
        }
        for (int i = 0; i < 10; i++) assert_true(begun[i]);
    }
    chunks_close(chunks);
    close_book(&book);
}

static void test_chunks_keep_their_size(void **state) {
    (void)state;
    Book book;
    Chunks *chunks;
    open_numbered(&book);
    for (ChunkBorder border = CHUNK_TOKENS; border <= CHUNK_LINES; border++) {
        assert_ok(chunks_open(&chunks, book.c, book.t, (ChunkRule){border, 20, 60}));
        for (uint64_t i = 0; i < 30; i++) {
            TokenVec v = {0};
            assert_ok(tokenizer_encode(book.t, chunks_draw(chunks, 1, i), ENCODE_PLAIN, &v));
            assert_in_range(v.n, 1, 60);
            tokens_close(&v);
        }
        chunks_close(chunks);
    }
    assert_fails(ST_ARG, chunks_open(&chunks, book.c, book.t, (ChunkRule){CHUNK_TOKENS, 100000, 100000}));
    assert_says("100000");
    close_book(&book);
}

/* Chunks point into the document, whose first byte is the smallest beginning. */
static const char *first_byte(const Chunks *c) {
    const char *least = NULL;
    for (uint64_t i = 0; i < 2000; i++) {
        const char *p = chunks_draw(c, 1, i).p;
        if (!least || p < least) least = p;
    }
    return least;
}

/* Windows of tokens have the length they should in a text of one line, and few of them leave no large gap. */
static void test_windows_are_even(void **state) {
    (void)state;
    enum { WORDS = 4000, DRAWS = 20 };
    static char text[WORDS * 8 + 1];
    Book book;
    Chunks *chunks;
    for (unsigned i = 0; i < WORDS; i++) snprintf(text + 8 * i, 9, "word %02u%c", i % 100, i % 9 ? ' ' : '.');
    open_book(&book, text);
    assert_ok(chunks_open(&chunks, book.c, book.t, (ChunkRule){CHUNK_TOKENS, 100, 300}));
    for (uint64_t seed = 0; seed < 5; seed++) {
        bool begins[DRAWS] = {false};
        const char *start = first_byte(chunks);
        for (uint64_t i = 0; i < DRAWS; i++) {
            TokenVec v = {0};
            Bytes b = chunks_draw(chunks, seed, i);
            assert_ok(tokenizer_encode(book.t, b, ENCODE_PLAIN, &v));
            assert_in_range(v.n, 95, 305); /* pieces are counted one by one */
            tokens_close(&v);
            begins[(size_t)(b.p - start) * DRAWS / sizeof text] = true;
        }
        int gap = 0;
        for (int i = 0; i < DRAWS; i++) {
            gap = begins[i] ? 0 : gap + 1;
            assert_in_range(gap, 0,
                            2); /* of twenty random places, three neighbours stay empty in most draws */
        }
    }
    chunks_close(chunks);
    close_book(&book);
}

/* Ends are found in a book of one line as fast as in one of many: twice as long is twice the time, not four
 * times. */
static void test_chunks_of_a_book_in_one_line(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    Book book;
    Chunks *chunks;
    char *text = malloc(N + 1);
    for (int i = 0; i < N; i++) text[i] = "the ferry sails "[i % 16];
    text[N] = 0;
    open_book(&book, text);
    assert_ok(chunks_open(&chunks, book.c, book.t, (ChunkRule){CHUNK_PARAGRAPHS, 16, 64}));
    assert_true(chunks_tokens(chunks) > N / 8);
    chunks_close(chunks);
    close_book(&book);
    free(text);
}

/* However small the limit, characters stay whole and a chunk has at least one. */
static void test_chunks_of_one_token(void **state) {
    (void)state;
    Book book;
    Chunks *chunks;
    open_book(&book, "  👍🏽é日本\n\n\n      \n a.b. c \t");
    for (ChunkBorder border = CHUNK_TOKENS; border <= CHUNK_LINES; border++) {
        assert_ok(chunks_open(&chunks, book.c, book.t, (ChunkRule){border, 1, 1}));
        for (uint64_t i = 0; i < 50; i++) {
            Bytes b = chunks_draw(chunks, 5, i);
            assert_true(b.n > 0 && !strchr(" \t\n", b.p[0]));
            assert_int_equal(utf8_invalid_at(b), -1);
        }
        chunks_close(chunks);
    }
    assert_fails(ST_ARG, chunks_open(&chunks, book.c, book.t, (ChunkRule){CHUNK_LINES, 0, 1}));
    assert_fails(ST_ARG, chunks_open(&chunks, book.c, book.t, (ChunkRule){CHUNK_LINES, 2, 1}));
    close_book(&book);
}

/* One line without an end is still cut, and never inside a character. */
static void test_chunks_of_a_long_line(void **state) {
    (void)state;
    Book book;
    Chunks *chunks;
    char text[4001];
    for (int i = 0; i < 2000; i++) memcpy(text + 2 * i, "é", 2);
    text[4000] = '\0';
    open_book(&book, text);
    assert_ok(chunks_open(&chunks, book.c, book.t, (ChunkRule){CHUNK_PARAGRAPHS, 10, 50}));
    for (uint64_t i = 0; i < 100; i++) {
        Bytes b = chunks_draw(chunks, 3, i);
        assert_true(b.n > 0);
        assert_int_equal(utf8_invalid_at(b), -1);
    }
    chunks_close(chunks);
    close_book(&book);
}

static void collect(void *user, Bytes sentence) {
    char *out = user;
    strncat(out, sentence.p, sentence.n);
    strcat(out, "|");
}

static void test_sentences(void **state) {
    (void)state;
    char out[256] = "";
    int n =
        text_sentences(bytes_of("One is 3.5 m tall. Two?  Yes!\nA line\r\nx\n\n\tHere."), 4, collect, out);
    assert_string_equal(out, "One is 3.5 m tall.|Two?|Yes!|A line|Here.|");
    assert_int_equal(n, 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_corpus_of_files),
        cmocka_unit_test(test_corpus_of_text),
        cmocka_unit_test(test_chunks_cover_the_corpus),
        cmocka_unit_test(test_chunks_keep_their_size),
        cmocka_unit_test(test_windows_are_even),
        cmocka_unit_test(test_chunks_of_a_book_in_one_line),
        cmocka_unit_test(test_chunks_of_one_token),
        cmocka_unit_test(test_chunks_of_a_long_line),
        cmocka_unit_test(test_sentences),
    };
    return cmocka_run_group_tests_name("corpus", tests, NULL, NULL);
}
