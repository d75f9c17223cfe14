/* pickle.c -- the stack machine, with every instruction that matters replaced by taking notes. See pickle.h.
 */
#include "engine/model/pickle.h"

#include <stdlib.h>
#include <string.h>

enum { MARK = -1, NAME_MAX = 128 };

typedef struct Machine {
    Pickle *out;
    const uint8_t *data;
    size_t size, at, began; /* began: where this instruction stands */
    int32_t nodes, cells;
    int32_t *stack, *memo; /* nodes, or MARK */
    int32_t top, memos;
    const char *const *names;
    int32_t names_n;
    const char *where;
    bool stopped;
} Machine;

/* ---- bytes ---- */

static Status take(Machine *m, size_t n, const uint8_t **out) {
    NEED(n <= m->size - m->at, ST_FORMAT,
         "%s: the pickle of %zu bytes ends within the instruction at byte %zu", m->where, m->size, m->began);
    *out = m->data + m->at;
    m->at += n;
    return ST_OK;
}

/* n <= 8 bytes, little-endian. */
static Status take_number(Machine *m, int32_t n, uint64_t *out) {
    const uint8_t *p = NULL;
    TRY(take(m, (size_t)n, &p));
    *out = 0;
    for (int32_t i = n - 1; i >= 0; i--) *out = *out << 8 | p[i];
    return ST_OK;
}

/* ---- nodes, the stack, the memo ---- */

/* One byte at least for every node, cell and stack place, and there are `size` of each: they never run out.
 */
static PickleNode *add_node(Machine *m, PickleKind kind) {
    PickleNode *n = &m->out->node[m->nodes];
    *n = (PickleNode){.kind = kind, .first = -1, .last = -1, .to = -1, .with = -1, .state = -1};
    m->stack[m->top++] = m->nodes++;
    return n;
}

static Status pop(Machine *m, int32_t *out) {
    NEED(m->top > 0 && m->stack[m->top - 1] != MARK, ST_FORMAT,
         "%s: the pickle takes from an empty stack at byte %zu", m->where, m->began);
    *out = m->stack[--m->top];
    return ST_OK;
}

static Status pop_kind(Machine *m, PickleKind kind, const char *what, int32_t *out) {
    TRY(pop(m, out));
    NEED(m->out->node[*out].kind == kind, ST_FORMAT, "%s: the pickle's instruction at byte %zu wants %s",
         m->where, m->began, what);
    return ST_OK;
}

/* Where the items above the last mark begin; the mark is gone from the count, not from the stack. */
static Status find_mark(Machine *m, int32_t *first) {
    int32_t i = m->top;
    while (i > 0 && m->stack[i - 1] != MARK) i--;
    NEED(i > 0, ST_FORMAT, "%s: the pickle's instruction at byte %zu finds no mark", m->where, m->began);
    *first = i;
    return ST_OK;
}

static void append(Machine *m, int32_t to, int32_t node) {
    PickleNode *n = &m->out->node[to];
    int32_t c = m->cells++;
    m->out->cell[c] = (PickleCell){node, -1};
    if (n->last >= 0)
        m->out->cell[n->last].next = c;
    else
        n->first = c;
    n->last = c;
    n->items++;
}

/* A pickler numbers its memo 0, 1, 2 ...: then the memo is a list, and no number can ask for memory. */
static Status put(Machine *m, int32_t bytes) {
    uint64_t i;
    TRY(take_number(m, bytes, &i));
    NEED(i == (uint64_t)m->memos, ST_UNSUPPORTED, "%s: the pickle's memo goes from %d to %llu at byte %zu",
         m->where, m->memos, (unsigned long long)i, m->began);
    NEED(m->top > 0 && m->stack[m->top - 1] != MARK, ST_FORMAT,
         "%s: the pickle takes from an empty stack at byte %zu", m->where, m->began);
    m->memo[m->memos++] = m->stack[m->top - 1];
    return ST_OK;
}

static Status get(Machine *m, int32_t bytes) {
    uint64_t i;
    TRY(take_number(m, bytes, &i));
    NEED(i < (uint64_t)m->memos, ST_FORMAT, "%s: the pickle asks for place %llu of a memo of %d at byte %zu",
         m->where, (unsigned long long)i, m->memos, m->began);
    m->stack[m->top++] = m->memo[i];
    return ST_OK;
}

/* ---- instructions that make a value ---- */

static Status push_text(Machine *m, int32_t bytes) {
    uint64_t n;
    const uint8_t *text = NULL;
    TRY(take_number(m, bytes, &n));
    TRY(take(m, (size_t)n, &text));
    PickleNode *node = add_node(m, PICKLE_TEXT);
    node->text = (const char *)text;
    node->number = (int64_t)n;
    return ST_OK;
}

static Status push_int(Machine *m, int32_t bytes) {
    uint64_t v;
    TRY(take_number(m, bytes, &v));
    add_node(m, PICKLE_INT)->number = bytes == 4 ? (int64_t)(int32_t)(uint32_t)v : (int64_t)v;
    return ST_OK;
}

/* LONG1: a count of bytes, then two's complement. */
static Status push_long(Machine *m, int32_t bytes) {
    uint64_t n, v;
    TRY(take_number(m, bytes, &n));
    NEED(n <= 8, ST_UNSUPPORTED, "%s: the pickle has a number of %d bytes at byte %zu", m->where, (int)n,
         m->began);
    TRY(take_number(m, (int32_t)n, &v));
    if (n && n < 8 && v >> (8 * n - 1)) v |= UINT64_MAX << 8 * n;
    add_node(m, PICKLE_INT)->number = (int64_t)v;
    return ST_OK;
}

static Status push_bool(Machine *m, int32_t v) {
    add_node(m, PICKLE_BOOL)->number = v;
    return ST_OK;
}

static Status push_empty(Machine *m, int32_t kind) {
    add_node(m, (PickleKind)kind);
    return ST_OK;
}

static Status push_mark(Machine *m, int32_t none) {
    (void)none;
    m->stack[m->top++] = MARK;
    return ST_OK;
}

/* One line of a GLOBAL; what may stand in a message. */
static Status take_line(Machine *m, const char **out, int32_t *n) {
    size_t from = m->at;
    while (m->at < m->size && m->data[m->at] != '\n' && m->at - from < NAME_MAX) {
        NEED(m->data[m->at] > 0x20 && m->data[m->at] < 0x7f, ST_FORMAT,
             "%s: the pickle's name at byte %zu has a byte 0x%02x", m->where, m->began, m->data[m->at]);
        m->at++;
    }
    NEED(m->at < m->size && m->data[m->at] == '\n', ST_FORMAT, "%s: the pickle's name at byte %zu has no end",
         m->where, m->began);
    *out = (const char *)m->data + from;
    *n = (int32_t)(m->at++ - from);
    return ST_OK;
}

static Status push_name(Machine *m, int32_t none) {
    (void)none;
    const char *module, *name;
    int32_t module_n, name_n;
    TRY(take_line(m, &module, &module_n));
    TRY(take_line(m, &name, &name_n));
    for (int32_t i = 0; i < m->names_n; i++) {
        const char *known = m->names[i];
        if (strlen(known) != (size_t)(module_n + 1 + name_n) || memcmp(known, module, (size_t)module_n) ||
            known[module_n] != ' ' || memcmp(known + module_n + 1, name, (size_t)name_n))
            continue;
        add_node(m, PICKLE_NAME)->number = i;
        return ST_OK;
    }
    FAIL(ST_UNSUPPORTED,
         "%s: the pickle wants to import %.*s.%.*s, which the tensors of a cartridge do not need; nothing of "
         "it "
         "was executed",
         m->where, module_n, module, name_n, name);
}

/* ---- instructions that put values together ---- */

static Status tuple_from(Machine *m, int32_t first, int32_t mark) {
    int32_t end = m->top, cell_first = m->cells;
    NEED(first >= 0, ST_FORMAT, "%s: the pickle takes from an empty stack at byte %zu", m->where, m->began);
    for (int32_t i = first; i < end; i++) {
        NEED(m->stack[i] != MARK, ST_FORMAT, "%s: the pickle takes from an empty stack at byte %zu", m->where,
             m->began);
        m->out->cell[m->cells] = (PickleCell){m->stack[i], i + 1 < end ? m->cells + 1 : -1};
        m->cells++;
    }
    m->top = first - mark;
    PickleNode *n = add_node(m, PICKLE_TUPLE);
    n->items = end - first;
    if (n->items) n->first = cell_first, n->last = m->cells - 1;
    return ST_OK;
}

static Status tuple_of(Machine *m, int32_t items) {
    return tuple_from(m, m->top - items, 0);
}

static Status tuple_from_mark(Machine *m, int32_t none) {
    (void)none;
    int32_t first;
    TRY(find_mark(m, &first));
    return tuple_from(m, first, 1);
}

/* The container below `first` takes what is on the stack from there; a mark between goes too. */
static Status fill(Machine *m, int32_t first, int32_t mark, bool pairs) {
    int32_t below = first - mark - 1, n = m->top - first;
    NEED(below >= 0 && m->stack[below] != MARK, ST_FORMAT,
         "%s: the pickle takes from an empty stack at byte %zu", m->where, m->began);
    int32_t to = m->stack[below];
    PickleKind kind = m->out->node[to].kind;
    NEED(pairs ? kind == PICKLE_DICT || kind == PICKLE_CALL : kind == PICKLE_LIST, ST_FORMAT,
         "%s: the pickle's instruction at byte %zu wants a %s", m->where, m->began, pairs ? "dict" : "list");
    NEED(!pairs || n % 2 == 0, ST_FORMAT, "%s: the pickle sets a key without a value at byte %zu", m->where,
         m->began);
    for (int32_t i = first; i < m->top; i++) {
        NEED(m->stack[i] != MARK, ST_FORMAT, "%s: the pickle puts a mark into a container at byte %zu",
             m->where, m->began);
        append(m, to, m->stack[i]);
    }
    m->top = below + 1;
    return ST_OK;
}

static Status fill_from_mark(Machine *m, int32_t pairs) {
    int32_t first;
    TRY(find_mark(m, &first));
    return fill(m, first, 1, pairs);
}

static Status fill_list(Machine *m, int32_t items) {
    return fill(m, m->top - items, 0, false);
}

static Status fill_dict(Machine *m, int32_t items) {
    return fill(m, m->top - items, 0, true);
}

static Status push_call(Machine *m, int32_t kind) {
    int32_t with, to;
    TRY(pop_kind(m, PICKLE_TUPLE, "a tuple of arguments", &with));
    TRY(pop_kind(m, PICKLE_NAME, "the name of a class or function", &to));
    PickleNode *n = add_node(m, (PickleKind)kind);
    n->to = to, n->with = with;
    return ST_OK;
}

static Status build(Machine *m, int32_t none) {
    (void)none;
    int32_t state = -1, object = -1;
    TRY(pop(m, &state));
    TRY(pop_kind(m, PICKLE_OBJECT, "an object to give a state to", &object));
    NEED(m->out->node[object].state < 0, ST_FORMAT, "%s: the pickle sets a state twice at byte %zu", m->where,
         m->began);
    m->out->node[object].state = state;
    m->stack[m->top++] = object;
    return ST_OK;
}

static Status push_stored(Machine *m, int32_t none) {
    (void)none;
    int32_t to;
    TRY(pop_kind(m, PICKLE_TUPLE, "a tuple that names a storage", &to));
    add_node(m, PICKLE_STORED)->to = to;
    return ST_OK;
}

static Status stop(Machine *m, int32_t none) {
    (void)none;
    int32_t root = -1;
    TRY(pop(m, &root));
    NEED(m->top == 0, ST_FORMAT, "%s: the pickle stops with %d things left on its stack", m->where, m->top);
    NEED(m->at == m->size, ST_FORMAT, "%s: the pickle stops at byte %zu of %zu", m->where, m->at, m->size);
    m->out->root = root;
    m->stopped = true;
    return ST_OK;
}

/* ---- the machine ---- */

typedef struct Instruction {
    uint8_t code;
    Status (*run)(Machine *m, int32_t n);
    int32_t n; /* bytes of its argument, items of its tuple, the kind of its value */
} Instruction;

static const Instruction instructions[] = {
    {'N', push_empty, PICKLE_NONE},
    {'}', push_empty, PICKLE_DICT},
    {']', push_empty, PICKLE_LIST},
    {')', push_empty, PICKLE_TUPLE},
    {0x88, push_bool, true},
    {0x89, push_bool, false},
    {'K', push_int, 1},
    {'M', push_int, 2},
    {'J', push_int, 4},
    {0x8a, push_long, 1},
    {'X', push_text, 4},
    {'c', push_name, 0},
    {'(', push_mark, 0},
    {'t', tuple_from_mark, 0},
    {0x85, tuple_of, 1},
    {0x86, tuple_of, 2},
    {0x87, tuple_of, 3},
    {'a', fill_list, 1},
    {'e', fill_from_mark, false},
    {'s', fill_dict, 2},
    {'u', fill_from_mark, true},
    {'q', put, 1},
    {'r', put, 4},
    {'h', get, 1},
    {'j', get, 4},
    {'Q', push_stored, 0},
    {'R', push_call, PICKLE_CALL},
    {0x81, push_call, PICKLE_OBJECT},
    {'b', build, 0},
    {'.', stop, 0},
};
enum { INSTRUCTIONS = sizeof instructions / sizeof instructions[0] };

static Status instruction(Machine *m, uint8_t code) {
    for (int i = 0; i < INSTRUCTIONS; i++)
        if (instructions[i].code == code) return instructions[i].run(m, instructions[i].n);
    FAIL(
        ST_UNSUPPORTED,
        "%s: the pickle has the instruction 0x%02x at byte %zu, which torch.save does not write for tensors; "
        "nothing of it was executed",
        m->where, code, m->began);
}

static Status run(Machine *m) {
    NEED(m->size >= 2 && m->data[0] == 0x80, ST_FORMAT, "%s: does not begin as a pickle does", m->where);
    NEED(m->data[1] == 2, ST_UNSUPPORTED, "%s: a pickle of protocol %d; torch.save writes protocol 2",
         m->where, m->data[1]);
    m->at = 2;
    while (!m->stopped) {
        const uint8_t *op = NULL;
        m->began = m->at;
        TRY(take(m, 1, &op));
        TRY(instruction(m, *op));
    }
    return ST_OK;
}

Status pickle_open(Pickle *out, const uint8_t *data, size_t size, const char *const *names, int32_t n,
                   const char *where) {
    *out = (Pickle){0};
    NEED(size <= PICKLE_BYTES_MAX, ST_UNSUPPORTED, "%s: a pickle of %zu bytes; at most %d are read", where,
         size, PICKLE_BYTES_MAX);
    Machine m = {.out = out, .data = data, .size = size, .names = names, .names_n = n, .where = where};
    Status st = ST_OK;
    out->node = malloc((size + 1) * sizeof *out->node);
    out->cell = malloc((size + 1) * sizeof *out->cell);
    m.stack = malloc((size + 1) * sizeof *m.stack);
    m.memo = malloc((size + 1) * sizeof *m.memo);
    NEED_TO(done, out->node && out->cell && m.stack && m.memo, ST_NOMEM,
            "%s: no memory to read a pickle of %zu bytes", where, size);
    st = run(&m);
done:
    free(m.stack);
    free(m.memo);
    if (st) pickle_close(out);
    return st;
}

void pickle_close(Pickle *p) {
    free(p->node);
    free(p->cell);
    *p = (Pickle){0};
}

/* ---- looking at it ---- */

int32_t pickle_item(const Pickle *p, int32_t node, int32_t i) {
    int32_t c = p->node[node].first;
    for (; c >= 0 && i > 0; i--) c = p->cell[c].next;
    return c >= 0 ? p->cell[c].node : -1;
}

bool pickle_is_text(const Pickle *p, int32_t node, const char *text) {
    const PickleNode *n = &p->node[node];
    size_t bytes = strlen(text);
    return n->kind == PICKLE_TEXT && n->number == (int64_t)bytes && !memcmp(n->text, text, bytes);
}

int32_t pickle_value(const Pickle *p, int32_t node, const char *key) {
    int32_t found = -1;
    for (int32_t c = p->node[node].first; c >= 0;) {
        int32_t value = p->cell[c].next;
        if (value < 0) break;
        if (pickle_is_text(p, p->cell[c].node, key)) found = p->cell[value].node;
        c = p->cell[value].next;
    }
    return found;
}
