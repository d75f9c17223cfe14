/* ops_layouts.c -- layouts of attention that no table may plan: each is a good one with one thing broken. */
#include "tests/ops_attention.h"
#include "tests/ops_cases.h"

typedef struct Broken {
    const char *why;
    void (*make)(Attention *at);
} Broken;

static void too_many_rows(Attention *at) {
    at->row[at->layout.S] = at->layout.T += 100;
}
static void rows_uncovered(Attention *at) {
    at->layout.T++;
}
static void empty_sequence(Attention *at) {
    at->row[1] = 0;
}
static void no_segment(Attention *at) {
    at->seg[1] = 0;
}
static void negative_from(Attention *at) {
    at->segment[0].from = -1;
}
static void empty_segment(Attention *at) {
    at->segment[0].length = 0;
}
static void segment_beyond(Attention *at) {
    at->segment[0].length += 64 * ATTN_ENTRIES;
}
static void own_too_short(Attention *at) {
    at->segment[at->seg[1] - 1].length = 1;
}
static void page_beyond(Attention *at) {
    at->page[0] = at->layout.pages;
}
static void page_negative(Attention *at) {
    at->page[1] = -1;
}
static void own_and_learned(Attention *at) {
    at->own_grad[at->page[0]] = 0;
}
static void pool_too_large(Attention *at) {
    at->layout.pages++;
}

static const Broken broken[] = {
    {"rows beyond the plan", too_many_rows},          {"rows that no sequence has", rows_uncovered},
    {"a sequence without rows", empty_sequence},      {"a sequence without segments", no_segment},
    {"a segment from a negative row", negative_from}, {"an empty segment", empty_segment},
    {"a segment beyond its entries", segment_beyond}, {"fewer own keys than rows", own_too_short},
    {"a page beyond the pool", page_beyond},          {"a negative page", page_negative},
    {"a page both own and learned", own_and_learned}, {"a pool larger than planned", pool_too_large},
};

void ops_layouts_spoil(const Ops *ops, DType act) {
    static const AttnShape shape = {
        "", 1, 2, 32, {70}, {{.rows = 3, .read = {{1}}}, {.rows = 2, .read = {{1}}}}, 0};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        OpsRig r;
        Attention at;
        ops_rig_open(&r, ops, act, DT_F32);
        attention_open(&at, &r, &shape);
        broken[i].make(&at);
        Status st = ops->attn_plan(r.stream, at.plan, &at.layout);
        if (st != ST_ARG) fail_msg("%s: %s gave: %s", ops->name, broken[i].why, status_text(st));
        attention_close(&at, &r);
        ops_rig_close(&r);
    }
    AttnPlan *plan;
    assert_fails(ST_ARG, ops->plan_open(&plan, &(AttnLimits){4, 1, 1, 1, 1, 3, 2, 64, act, false}));
    assert_null(plan);
}
