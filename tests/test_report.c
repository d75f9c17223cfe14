/* test_report.c -- pages: the geometry of curves; that a page is well formed, whatever its words are; the
 * command `report` with good files and bad ones. */
#include "tests/run_program.h"

#include <ctype.h>

#include "kernels/base/file.h"
#include "tools/demo/page.h"
#include "tools/report_chart.h"
#include "tools/report_run.h"

/* ---- is it well formed? ---- */

typedef struct Open {
    char name[32];
} Open;

/* Fails unless every tag is closed in order, and only its own document is meant by every link. */
static void check_page(const char *text) {
    Open open[64];
    int depth = 0, tags = 0;
    assert_non_null(strstr(text, "<!DOCTYPE html>"));
    assert_null(strstr(text, "http:"));
    assert_null(strstr(text, "https:"));
    assert_null(strstr(text, "<script"));
    assert_null(strstr(text, "url("));
    assert_null(strstr(text, "nan\""));
    for (const char *p = strchr(text, '<'); p; p = strchr(p + 1, '<')) {
        if (p[1] == '!') continue;
        const char *end = strchr(p, '>'), *next = strchr(p + 1, '<');
        bool closing = p[1] == '/';
        if (!end || (next && next < end)) fail_msg("a tag does not end: %.60s", p);
        char name[32];
        size_t n = 0;
        for (const char *c = p + 1 + closing; isalnum((unsigned char)*c) && n < sizeof name - 1; c++)
            name[n++] = *c;
        name[n] = '\0';
        if (n == 0) fail_msg("a < that opens no tag: %.60s", p);
        tags++;
        if (closing) {
            if (depth == 0 || strcmp(open[--depth].name, name))
                fail_msg("</%s> closes <%s>", name, open[depth].name);
        } else if (end[-1] != '/') {
            assert_true(depth < 64);
            strcpy(open[depth++].name, name);
        }
    }
    if (depth) fail_msg("<%s> is never closed", open[depth - 1].name);
    assert_true(tags > 10);
}

static char *read_page(const char *name) {
    size_t n;
    char *text = scratch_read(name, &n);
    assert_int_equal(strlen(text), n);
    return text;
}

static void assert_holds(const char *text, const char *what) {
    if (!strstr(text, what)) fail_msg("the page does not have \"%s\"", what);
}

/* ---- geometry ---- */

static void test_scales(void **state) {
    (void)state;
    Scale s = {10, 30, 200, 100, false}, log2 = {8, 128, 0, 400, true};
    assert_within(scale_at(&s, 10), 200, 1e-9);
    assert_within(scale_at(&s, 25), 125, 1e-9);
    assert_within(scale_at(&log2, 8), 0, 1e-9);
    assert_within(scale_at(&log2, 16), 100, 1e-9);
    assert_within(scale_at(&log2, 64), 300, 1e-9);
}

/* In [0,1). */
static double share(uint64_t stream, uint64_t i) {
    return (double)(random_u64(1, stream, i) >> 11) / 9007199254740992.0;
}

/* Ticks lie on round numbers, cover the range and are neither few nor many, for ranges of every size. */
static void test_ticks(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 2000; i++) {
        double size = pow(10, 24 * share(0, i) - 12);
        double low = size * (share(1, i) - 0.5), high = low + size * (0.01 + share(2, i));
        Ticks t = ticks_of(low, high, 5);
        double mantissa = t.step / pow(10, floor(log10(t.step) + 1e-9));
        assert_true(fabs(mantissa - 1) < 1e-6 || fabs(mantissa - 2) < 1e-6 || fabs(mantissa - 5) < 1e-6);
        assert_true(t.low <= low + 1e-6 * t.step && t.high >= high - 1e-6 * t.step);
        assert_true(low - t.low < t.step * (1 + 1e-6) && t.high - high < t.step * (1 + 1e-6));
        if (t.count < 3 || t.count > 7) fail_msg("%g to %g: %d ticks of %g", low, high, t.count, t.step);
        assert_within(tick_at(&t, t.count - 1), t.high, 1e-6 * t.step);
    }
}

static void test_ticks_of_one_value(void **state) {
    (void)state;
    Ticks zero = ticks_of(0, 0, 5), five = ticks_of(5, 5, 5);
    assert_true(zero.low <= -1 && zero.high >= 1);
    assert_true(five.low <= 2.5 && five.high >= 7.5);
    bool has_zero = false;
    for (int i = 0; i < zero.count; i++) has_zero |= tick_at(&zero, i) == 0;
    assert_true(has_zero);
}

static void test_numbers(void **state) {
    (void)state;
    char out[32];
    Ticks small = ticks_of(0, 4e-5, 4), fine = ticks_of(0, 0.1, 5), large = ticks_of(0, 40000, 4);
    assert_string_equal(number_text(out, 1234567.25, 1), "1,234,567.2");
    assert_string_equal(number_text(out, -1234, 0), "-1,234");
    assert_string_equal(number_text(out, 999, 0), "999");
    assert_string_equal(number_text(out, NAN, 3), "-");
    assert_string_equal(number_text(out, 1e300, 3), "-");
    assert_string_equal(tick_text(out, &small, 3e-5), "3e-5");
    assert_string_equal(tick_text(out, &small, 0), "0");
    assert_string_equal(tick_text(out, &fine, 0.04), "0.04");
    assert_string_equal(tick_text(out, &large, 20000), "20,000");
}

/* However many points there were, the highest and the lowest are still there. */
static void test_thin_curves_keep_their_spikes(void **state) {
    (void)state;
    enum { N = 5000 };
    static double x[N], y[N], tx[100], ty[100];
    for (int i = 0; i < N; i++) x[i] = i, y[i] = i % 7 == 3 ? NAN : 1;
    y[1234] = 9, y[4321] = -9;
    int n = curve_thin(x, y, N, 100, tx, ty);
    double low = INFINITY, high = -INFINITY;
    assert_true(n <= 100 && n >= 50);
    for (int i = 0; i < n; i++) {
        assert_true(isfinite(ty[i]) && (i == 0 || tx[i] > tx[i - 1]));
        low = fmin(low, ty[i]), high = fmax(high, ty[i]);
    }
    assert_within(high, 9, 0);
    assert_within(low, -9, 0);
    assert_int_equal(curve_thin(x, y, 10, 100, tx, ty),
                     9); /* a short one as it is, without what is no number */
}

static void test_smooth_curves(void **state) {
    (void)state;
    enum { N = 200, HALF = 7 };
    double y[] = {4, 1, NAN, 3, 6}, mean[N], wide[N];
    curve_smooth(y, 5, 3, mean);
    assert_within(mean[0], 4, 0);
    assert_within(mean[1], 2.5, 1e-12);
    assert_within(mean[2], 2, 1e-12);
    assert_within(mean[4], 6, 0);
    for (int i = 0; i < N; i++) wide[i] = share(3, (uint64_t)i);
    curve_smooth(wide, N, 2 * HALF + 1, mean);
    for (int i = HALF; i < N - HALF; i++) {
        double sum = 0;
        for (int j = i - HALF; j <= i + HALF; j++) sum += wide[j];
        assert_within(mean[i], sum / (2 * HALF + 1), 1e-12);
    }
}

/* ---- pages ---- */

static void test_text_is_escaped(void **state) {
    (void)state;
    Page *p;
    Bar bar = {.group = "<g>", .name = "a<b>", .value = "\"&'", .part = {1}, .colour = {0}, .parts = 1};
    double one = 1;
    int64_t count[] = {4, 3};
    int colour[] = {0, 1};
    Curve curve = {.name = "<curve>", .x = &one, .y = &one, .n = 1, .dots = true};
    Plot plot = {.title = "<t>",
                 .x_name = "<x>",
                 .y_name = "<y>",
                 .curve = &curve,
                 .n = 1,
                 .y_low = NAN,
                 .y_high = NAN};
    assert_ok(page_open(&p, "</title><script>alert(1)</script>", "a & b \x01 \xC3\x28 \xED\xA0\x80 é"));
    page_section(p, "<h>");
    page_paragraph(p, "%s", "<i>not markup</i>");
    chart_bars(p, "<bars>", &bar, 1, 0);
    chart_plot(p, &plot);
    chart_squares(p, "<squares>", count, colour, 2, 3, 10);
    assert_ok(page_write(p, scratch_path("escaped.html")));
    page_close(p);
    char *text = read_page("escaped.html");
    check_page(text);
    assert_holds(text, "&lt;/title&gt;&lt;script&gt;alert(1)");
    assert_holds(text, "a &amp; b \xEF\xBF\xBD \xEF\xBF\xBD( \xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD é");
    assert_holds(text, "&lt;i&gt;not markup&lt;/i&gt;");
    assert_holds(text, "&quot;&amp;&#39;");
    free(text);
}

/* A page that cannot be written is not there, and the one that was there still is. */
static void test_a_full_disk_leaves_the_old_page(void **state) {
    (void)state;
    Page *p;
    scratch_put_text("kept.html", "old");
    assert_ok(page_open(&p, "new", NULL));
    file_fail_after(100);
    assert_fails(ST_NOSPACE, page_write(p, scratch_path("kept.html")));
    file_fail_after(-1);
    page_close(p);
    char *text = read_page("kept.html");
    assert_string_equal(text, "old");
    free(text);
}

/* ---- runs ---- */

#define STEP1                                                                                                \
    "{\"step\":1,\"steps\":3,\"conversations\":4,\"rows\":90,\"supervised\":30,\"loss\":2.345678,\"kl\":2,"  \
    "\"grad_norm\":null,\"lr\":0.02,\"seconds\":0.5}\n"
#define STEP2                                                                                                \
    "{\"step\":2,\"steps\":3,\"conversations\":4,\"rows\":80,\"supervised\":30,\"loss\":1.5,\"kl\":1,"       \
    "\"grad_norm\":0.25,\"lr\":0.01,\"seconds\":0.5}\n"
#define HELD                                                                                                 \
    "{\"step\":0,\"heldout_loss\":2.25,\"heldout_kl\":1.875,\"heldout_agree\":0.5,\"conversations\":32,"     \
    "\"supervised\":640}\n"
#define NOTE "{\"step\":2,\"note\":\"resumed <here> \\u0001\"}\n"

static void test_a_run_is_read(void **state) {
    (void)state;
    Run r;
    scratch_put_text("metrics.jsonl", HELD STEP1 STEP2 NOTE "{\"step\":3,\"ste");
    assert_ok(run_read(&r, scratch_path("metrics.jsonl")));
    assert_int_equal(r.steps, 2);
    assert_int_equal(r.helds, 1);
    assert_int_equal(r.planned, 3);
    assert_within(r.loss[0], 2.345678, 0);
    assert_true(isnan(r.grad_norm[0]));
    assert_within(r.rows[1], 80, 0);
    assert_within(r.held_kl[0], 1.875, 0);
    assert_true(r.cut);
    assert_ok(run_report(&r, "<run>", scratch_path("run.html")));
    run_close(&r);
    char *text = read_page("run.html");
    check_page(text);
    assert_holds(text, "2.346");
    assert_holds(text, "170 tokens per second"); /* 170 rows in a second */
    assert_holds(text, "1.8750");
    assert_holds(text, "50.0%");
    assert_holds(text, "step 2: resumed &lt;here&gt; \xEF\xBF\xBD");
    assert_holds(text, "not complete");
    assert_holds(text, "<path class=\"curve");
    free(text);
}

static void test_runs_that_cannot_be_read(void **state) {
    (void)state;
    Run r;
    assert_fails(ST_NOTFOUND, run_read(&r, scratch_path("no.jsonl")));
    assert_says("no.jsonl");
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "no step"},
        {HELD, "no step"},
        {STEP1 "{\"step\":2,\n", "line 2: not valid JSON"},
        {STEP1 "\n" STEP2 "[]\n", "line 4"},
        {STEP1 "{\"loss\":1}\n", "\"step\" is missing"},
        {"{\"step\":1,\"loss\":\"low\"}\n", "\"loss\" is not a number"},
        {"{\"step\":1.5,\"loss\":1}\n", "not a whole number"},
        {STEP2 STEP1, "step 1 comes after step 2"},
        {STEP1 "{\"step\":2,\"note\":7}\n", "\"note\" is not a string"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        scratch_put_text("bad.jsonl", bad[i].text);
        assert_fails(ST_FORMAT, run_read(&r, scratch_path("bad.jsonl")));
        assert_says(bad[i].says);
        assert_says("bad.jsonl");
    }
}

/* ---- the program ---- */

static void test_the_command(void **state) {
    (void)state;
    scratch_put_text("metrics.jsonl", HELD STEP1 STEP2);
    expect(0, "wrote report.html: 2 steps, 1 evaluations", "report metrics.jsonl");
    expect(0, "wrote folder.html", "report . -o folder.html");
    char *text = read_page("folder.html");
    check_page(text);
    free(text);
    scratch_put_text("half.jsonl", STEP1 "{\n");
    int files = scratch_files();
    expect(2, "0 runs are given", "report");
    expect(3, "nothing.jsonl", "report nothing.jsonl -o x.html");
    expect(3, "line 2", "report half.jsonl -o x.html");
    expect(1, "creating failed", "report metrics.jsonl -o no/x.html");
    assert_int_equal(scratch_files(), files);
}

/* ---- the demo ---- */

/* The number that `key` has in an object of a line of JSON. */
static void number_of(char *out, size_t cap, const char *json, const char *object, const char *key) {
    char want[64];
    const char *at_object = strstr(json, object);
    assert_non_null(at_object);
    snprintf(want, sizeof want, "\"%s\":", key);
    const char *p = strstr(at_object, want);
    assert_non_null(p);
    p += strlen(want);
    snprintf(out, cap, "%.*s", (int)strcspn(p, ",}"), p);
}

/* What the demo prints is on its page; the page can be made into a page of the training run, too. */
static void test_the_demo_has_a_page(void **state) {
    (void)state;
    char number[32], cell[64];
    expect(0, "\"met\":true", "demo --quick --json --progress never");
    char *text = read_page("demo/report.html");
    check_page(text);
    static const char *const object[] = {"\"none\"", "\"truncated\"", "\"text\"", "\"cartridge\""};
    for (int i = 0; i < 4; i++) {
        number_of(number, sizeof number, program_output, object[i], "accuracy");
        snprintf(cell, sizeof cell, "<td>%.1f%%</td>", 100 * atof(number));
        assert_holds(text, cell);
        number_of(number, sizeof number, program_output, object[i], "rows");
        snprintf(cell, sizeof cell, ">%s%s", number, i == 0 || i == 2 ? " (" : "<");
        assert_holds(text, cell);
    }
    assert_holds(text, "32 users at once");
    assert_holds(text, "--quick");
    free(text);
    expect(0, "100 steps", "report demo/facts.cartridge.run -o demo/training.html");
    text = read_page("demo/training.html");
    check_page(text);
    free(text);
}

/* Chapters share the facts out among them, whole names at a time, and are told in another order each time. */
static void test_parts_of_facts(void **state) {
    (void)state;
    static Facts all, part, again;
    int told = 0;
    facts_make(&all, 64, 3);
    for (int32_t first = 0; first < all.names; first += 2) {
        facts_part(&part, &all, first, 2, 5);
        facts_part(&again, &all, first, 2, 6);
        assert_int_equal(part.n, 16);
        int moved = 0;
        for (int32_t i = 0; i < part.n; i++) {
            assert_true(part.fact[i].name == all.name[first] || part.fact[i].name == all.name[first + 1]);
            for (int32_t j = 0; j < i; j++)
                assert_true(part.fact[i].name != part.fact[j].name ||
                            part.fact[i].relation != part.fact[j].relation);
            moved +=
                part.fact[i].name != again.fact[i].name || part.fact[i].relation != again.fact[i].relation;
        }
        assert_true(moved > 4);
        told += part.n;
    }
    assert_int_equal(told, 64);
}

static void hear_nothing(void *user, const char *stage, const char *what) {
    (void)stage, (void)what;
    ++*(int *)user;
}

/* The demo's model with a context of 200. */
static void shorten_context(void) {
    size_t n;
    char *text = scratch_read("demo/model/config.json", &n);
    char *shorter = test_replaced(text, "embeddings\": 4096", "embeddings\": 200");
    scratch_put_text("demo/model/config.json", shorter);
    free(text), free(shorter);
}

/* A text longer than the context: two chapters of 16 facts, told twice, in a context that takes half of it.
 * What is not read is not answered, the cartridge has it all the same, and the page says so. */
static void test_a_text_that_does_not_fit(void **state) {
    (void)state;
    static Lesson l;
    int stages = 0;
    shorten_context();
    LessonPlan plan = {.model = scratch_path("demo/model"),
                       .folder = scratch_folder(),
                       .name = "long",
                       .facts = 32,
                       .chapters = 2,
                       .tellings = 2,
                       .conversations = 512,
                       .steps = 150,
                       .size = {16},
                       .sizes = 1,
                       .speed_tokens = 3,
                       .tell = hear_nothing,
                       .user = &stages};
    assert_ok(lesson_run(&l, &plan));
    assert_int_equal(stages, 3);
    assert_int_equal(l.tokens, 261);
    assert_int_equal(l.context_max, 200);
    assert_false(l.fits);
    assert_string_equal(l.refusal, "261 tokens from position 0: the model's context holds 200");
    assert_int_equal(l.text.rows, 136);
    assert_int_equal(l.text.pages, 3);
    assert_within(l.text.accuracy, 0.5, 0.2);
    assert_true(l.size[0].cartridge.accuracy >= 0.9);
    assert_int_equal(l.load[2].context_pages[SPEED_PRIVATE], 96);
    assert_int_equal(l.load[2].context_pages[SPEED_CARTRIDGE], 1);
    assert_int_equal(l.load[2].own_pages, 32);
    assert_true(l.load[2].tokens_per_second[SPEED_CARTRIDGE] > 0);
    DemoPage d = {
        .first = &l, .first_plan = &plan, .longer = &l, .longer_plan = &plan, .bar = 0.95, .met = true};
    assert_ok(demo_page_write(&d, scratch_path("long.html")));
    char *text = read_page("long.html");
    check_page(text);
    assert_holds(text, "the model&#39;s context holds 200");
    assert_holds(text, "<td>261 (the whole text)</td>");
    assert_holds(text, "136 (what fits)");
    assert_holds(text, "no room");
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_ticks),
        cmocka_unit_test(test_ticks_of_one_value),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_thin_curves_keep_their_spikes),
        cmocka_unit_test(test_smooth_curves),
        cmocka_unit_test(test_text_is_escaped),
        cmocka_unit_test(test_a_full_disk_leaves_the_old_page),
        cmocka_unit_test(test_a_run_is_read),
        cmocka_unit_test(test_runs_that_cannot_be_read),
        cmocka_unit_test(test_the_command),
        cmocka_unit_test(test_the_demo_has_a_page),
        cmocka_unit_test(test_parts_of_facts),
        cmocka_unit_test(test_a_text_that_does_not_fit), /* with the model that the demo has left */
    };
    return cmocka_run_group_tests_name("report", tests, scratch_set_up, scratch_tear_down);
}
