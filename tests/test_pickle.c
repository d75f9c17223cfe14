/* test_pickle.c -- the machine that takes notes of a pickle and executes nothing: what torch writes becomes
 * values, calls and objects that can be looked at, and every other program is refused at the place where it
 * goes wrong. */
#include "tests/test.h"

#include "engine/model/pickle.h"

static const char *const names[] = {"collections OrderedDict", "module Class"};

static Status take_notes(Pickle *p, const void *data, size_t n) {
    return pickle_open(p, data, n, names, 2, "p");
}

static void test_values(void **state) {
    (void)state;
    static const char text[] =
        "\x80\x02(K\xffM\xff\xffJ\xff\xff\xff\xff\x8a\x00\x8a\x02\x00\x80\x8a\x08\1\2\3\4\5\6\7\x08"
        "N\x88\x89X\2\0\0\0hi)]}t.";
    static const int64_t number[] = {255, 65535, -1, 0, -32768, 0x0807060504030201};
    Pickle p;
    assert_ok(take_notes(&p, text, sizeof text - 1));
    assert_int_equal(p.node[p.root].kind, PICKLE_TUPLE);
    assert_int_equal(p.node[p.root].items, 13);
    for (int32_t i = 0; i < 6; i++) assert_true(p.node[pickle_item(&p, p.root, i)].number == number[i]);
    static const PickleKind kind[] = {PICKLE_NONE,  PICKLE_BOOL, PICKLE_BOOL, PICKLE_TEXT,
                                      PICKLE_TUPLE, PICKLE_LIST, PICKLE_DICT};
    for (int32_t i = 0; i < 7; i++) assert_int_equal(p.node[pickle_item(&p, p.root, 6 + i)].kind, kind[i]);
    assert_true(pickle_is_text(&p, pickle_item(&p, p.root, 9), "hi"));
    assert_int_equal(pickle_item(&p, p.root, 13), -1);
    pickle_close(&p);
    pickle_close(&p); /* twice is fine */
}

/* Calls and objects are written down; a dictionary's later value counts; a list may hold itself. */
static void test_notes(void **state) {
    (void)state;
    static const char text[] =
        "\x80\x02}q\0(X\1\0\0\0acmodule\nClass\nq\1)\x81N\x62X\1\0\0\0bccollections\nOrderedDict\n)R"
        "X\1\0\0\0k]q\2h\2asX\1\0\0\0ah\1u.";
    Pickle p;
    assert_ok(take_notes(&p, text, sizeof text - 1));
    const PickleNode *a = &p.node[pickle_value(&p, p.root, "a")], *b = &p.node[pickle_value(&p, p.root, "b")];
    assert_int_equal(a->kind, PICKLE_NAME);
    assert_int_equal(a->number, 1);
    assert_int_equal(b->kind, PICKLE_CALL);
    assert_int_equal(p.node[b->to].number, 0);
    int32_t list = pickle_value(&p, (int32_t)(b - p.node), "k");
    assert_int_equal(pickle_item(&p, list, 0), list);
    const PickleNode *object = &p.node[pickle_item(&p, p.root, 1)];
    assert_int_equal(object->kind, PICKLE_OBJECT);
    assert_int_equal(p.node[object->state].kind, PICKLE_NONE);
    assert_int_equal(pickle_value(&p, p.root, "c"), -1);
    pickle_close(&p);
}

/* What is refused, and what is said of it. */
typedef struct Refused {
    const char *text;
    size_t n;
    Status st;
    const char *says;
} Refused;

#define P(literal)  literal, sizeof(literal) - 1
#define P2(literal) P("\x80\x02" literal) /* behind the two bytes that say protocol 2 */

static const Refused refused[] = {
    /* beginnings and ends */
    {P(""), ST_FORMAT, "does not begin"},
    {P("(dp0"), ST_FORMAT, "does not begin"},
    {P("\x80"), ST_FORMAT, "does not begin"},
    {P("\x80\x04\x95"), ST_UNSUPPORTED, "protocol 4"},
    {P2(""), ST_FORMAT, "byte 2"},
    {P2("N"), ST_FORMAT, "byte 3"},
    {P2("N.N"), ST_FORMAT, "byte 4 of 5"},
    {P2("X\xff\xff\xff\377abc"), ST_FORMAT, "byte 2"},
    {P2("X\1\0"), ST_FORMAT, "byte 2"},
    {P2("\x8a\t123456789."), ST_UNSUPPORTED, "number of 9 bytes"},
    /* stacks that are too short, or marked where they should not be */
    {P2("NN."), ST_FORMAT, "1 things left"},
    {P2("(N."), ST_FORMAT, "1 things left"},
    {P2("."), ST_FORMAT, "empty stack"},
    {P2("(."), ST_FORMAT, "empty stack"},
    {P2("q\0N."), ST_FORMAT, "empty stack"},
    {P2("(q\0N."), ST_FORMAT, "empty stack"},
    {P2("t."), ST_FORMAT, "no mark"},
    {P2("Nu."), ST_FORMAT, "no mark"},
    {P2("\x85."), ST_FORMAT, "empty stack"},
    {P2("N\x86."), ST_FORMAT, "empty stack"},
    {P2("N(\x86."), ST_FORMAT, "empty stack"},
    {P2("NN\x87."), ST_FORMAT, "empty stack"},
    {P2("(e."), ST_FORMAT, "empty stack"},
    {P2("((e."), ST_FORMAT, "empty stack"},
    {P2("](s."), ST_FORMAT, "empty stack"},
    /* places of the memo */
    {P2("Nq\1."), ST_UNSUPPORTED, "from 0 to 1"},
    {P2("Nq\0Nq\0\x86."), ST_UNSUPPORTED, "from 1 to 0"},
    {P2("Nr\xff\xff\xff\xff."), ST_UNSUPPORTED, "4294967295"},
    {P2("h\0."), ST_FORMAT, "place 0 of a memo of 0"},
    {P2("Nq\0j\xff\xff\xff\xff."), ST_FORMAT, "place 4294967295"},
    /* instructions on things of another kind */
    {P2("N(Ne."), ST_FORMAT, "wants a list"},
    {P2("]NNs."), ST_FORMAT, "wants a dict"},
    {P2("}(Nu."), ST_FORMAT, "without a value"},
    {P2("](a."), ST_FORMAT, "mark into a container"},
    {P2("NR."), ST_FORMAT, "tuple of arguments"},
    {P2("N)R."), ST_FORMAT, "name of a class"},
    {P2("N)\x81."), ST_FORMAT, "name of a class"},
    {P2("NNb."), ST_FORMAT, "object to give a state"},
    {P2("cmodule\nClass\n)\x81NbNb."), ST_FORMAT, "state twice"},
    {P2("NQ."), ST_FORMAT, "names a storage"},
    /* names */
    {P2("cos\nsystem\n(X\1\0\0\0xtR."), ST_UNSUPPORTED, "os.system"},
    {P2("cmodule\nClas\n."), ST_UNSUPPORTED, "module.Clas,"},
    {P2("cmodule\nClass2\n."), ST_UNSUPPORTED, "module.Class2,"},
    {P2("cmod\nule Class\n."), ST_FORMAT, "byte 0x20"},
    {P2("cmodule Class\n\n."), ST_FORMAT, "byte 0x20"},
    {P2("cmodule"), ST_FORMAT, "no end"},
    {P2("c\x1b[2J\nx\n."), ST_FORMAT, "byte 0x1b"},
    /* instructions that torch does not write */
    {P2("iposix\nsystem\n."), ST_UNSUPPORTED, "0x69"}, /* INST: import and call in one */
    {P2("N2."), ST_UNSUPPORTED, "0x32"},               /* DUP */
    {P2("\x93."), ST_UNSUPPORTED, "0x93"},             /* STACK_GLOBAL */
    {P2("\x82\1."), ST_UNSUPPORTED, "0x82"},           /* EXT1 */
};

static void test_refused_pickles(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const Refused *r = &refused[i];
        Pickle p;
        void *exact = test_exact(r->text, r->n);
        test_refused(i, "a pickle", take_notes(&p, exact, r->n), r->st, r->says);
        assert_null(p.node);
        free(exact);
    }
    uint8_t *large = calloc(1, PICKLE_BYTES_MAX + 1);
    Pickle p;
    assert_fails(ST_UNSUPPORTED, take_notes(&p, large, PICKLE_BYTES_MAX + 1));
    free(large);
}

/* A pickle may be all marks, or all of anything else that is one byte: the places for notes must do. */
static void test_places_never_run_out(void **state) {
    (void)state;
    static const char once[] = "(NNN]})\x88\x89";
    enum { MANY = 5000 };
    for (const char *c = once; *c; c++) {
        uint8_t text[MANY];
        memset(text, *c, sizeof text);
        text[0] = 0x80, text[1] = 2;
        Pickle p;
        assert_fails(ST_FORMAT, take_notes(&p, text, sizeof text));
    }
    uint8_t text[MANY] = {0x80, 2, ']'};
    for (int i = 3; i < MANY - 2; i += 2) text[i] = 'N', text[i + 1] = 'a';
    text[MANY - 1] = '.';
    text[MANY - 2] = text[MANY - 3] = 'N', text[MANY - 2] = 'a';
    Pickle p;
    assert_ok(take_notes(&p, text, sizeof text));
    assert_int_equal(p.node[p.root].items, (MANY - 4) / 2);
    pickle_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_notes),
        cmocka_unit_test(test_refused_pickles),
        cmocka_unit_test(test_places_never_run_out),
    };
    return cmocka_run_group_tests_name("pickle", tests, NULL, NULL);
}
