/* page.c -- see page.h. In the order in which one asks: what is it, is it as good, how small can it be, what
 * does it save, how fast is it, what if the text does not fit at all, and how far can one trust these
 * numbers. */
#include "tools/demo/page.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "build_info.h"
#include "engine/memory/pages.h"
#include "kernels/machine.h"
#include "tools/job.h"
#include "tools/report_chart.h"
#include "tools/report_run.h"

enum { CARTRIDGE = 0, TEXT = 1, SHARED = 2, PLAIN = 3, OWN = 4, WEIGHTS = 5 }; /* colours */

static const Sized *main_size(const Lesson *l, const LessonPlan *p) {
    return &l->size[p->main];
}

static const char *percent(char out[32], double share) {
    snprintf(out, 32, "%.1f%%", 100 * share);
    return out;
}

static const char *bytes(char out[32], double n) {
    job_bytes(out, 32, n);
    return out;
}

static const char *times(char out[32], double factor) {
    snprintf(out, 32, factor < 10 ? "%.1f\u00d7" : "%.0f\u00d7", factor);
    return out;
}

static void machine_of(const Lesson *l, char *out, size_t cap) {
    char settings[160];
    machine_settings(settings, sizeof settings);
    snprintf(out, cap, "%s, %s", l->device, settings);
}

static const Load *busiest(const Lesson *l) {
    return &l->load[LESSON_LOADS - 1];
}

/* ---- what it is ---- */

/* The largest squares with which a picture of n stays on a phone's screen; all pictures of a text have the
 * same. */
static int square_size(int64_t n, int *columns) {
    enum { WIDE = 264, HIGH = 230 };
    int size = 11;
    for (; size > 2; size--) {
        *columns = WIDE / size;
        if ((n + *columns - 1) / *columns * size <= HIGH) break;
    }
    *columns = WIDE / size;
    return size;
}

static void card_open(Page *p, const char *heading, int colour) {
    page_markup(p, "<div class=\"card k%d\">\n<h3>", colour);
    page_text(p, heading);
    page_markup(p, "</h3>\n");
}

static void card_close(Page *p) {
    page_markup(p, "</div>\n");
}

static void size_line(Page *p, const Lesson *l, int32_t n) {
    char a[32], b[32];
    page_markup(p, "<p><b>");
    page_textf(p, "%s rows, %s", number_text(a, n, 0), bytes(b, (double)(n * l->row_bytes)));
    page_markup(p, "</b></p>\n");
}

static void answer_line(Page *p, const Example *e, const char *answer, bool right) {
    page_markup(p, "<p>\u201c");
    page_text(p, e->question);
    page_markup(p, "\u201d \u2192 <b>\u201c");
    page_text(p, answer);
    page_markup(p, "\u201d</b> %s</p>\n", right ? "\u2713\u00a0right" : "\u2717\u00a0wrong");
}

static void share_line(Page *p, const Lesson *l, double accuracy) {
    char a[32];
    page_markup(p, "<p class=\"note\">");
    page_textf(p, "%s of %d questions answered right", percent(a, accuracy), l->facts.n);
    page_markup(p, "</p>\n");
}

static void text_card(Page *p, const Lesson *l) {
    int columns, size = square_size(l->tokens, &columns), colour[] = {TEXT, PLAIN};
    int64_t count[] = {l->text.rows, l->tokens - l->text.rows};
    card_open(p, l->fits ? "The whole text in context" : "As much of the text as the context takes", TEXT);
    size_line(p, l, l->text.rows);
    chart_squares(p, "one square for each row of the text", count, colour, l->fits ? 1 : 2, columns, size);
    if (!l->fits) page_note(p, "Grey: the rest of the text, for which there is no room.");
    answer_line(p, &l->example, l->example.text, l->example.text_right);
    share_line(p, l, l->text.accuracy);
    card_close(p);
}

static void cartridge_card(Page *p, const Lesson *l, const LessonPlan *plan) {
    const Sized *z = main_size(l, plan);
    int columns, size = square_size(l->tokens, &columns), colour = CARTRIDGE;
    int64_t count = z->cartridge.rows;
    card_open(p, "The cartridge, without the text", CARTRIDGE);
    size_line(p, l, z->cartridge.rows);
    chart_squares(p, "one square for each row of the cartridge", &count, &colour, 1, columns, size);
    answer_line(p, &l->example, l->example.cartridge, l->example.cartridge_right);
    share_line(p, l, z->cartridge.accuracy);
    card_close(p);
}

static void none_card(Page *p, const Lesson *l) {
    card_open(p, "Neither", PLAIN);
    size_line(p, l, 0);
    answer_line(p, &l->example, l->example.none, !strcmp(l->example.none, l->example.gold));
    share_line(p, l, l->none.accuracy);
    page_note(p, "The model itself knows none of these facts: what it says above comes from the squares.");
    card_close(p);
}

static void picture(Page *p, const Lesson *l, const LessonPlan *plan) {
    page_markup(p, "<div class=\"cards\">\n");
    text_card(p, l);
    cartridge_card(p, l, plan);
    none_card(p, l);
    page_markup(p, "</div>\n");
}

static void gains(Page *p, const Lesson *l, const LessonPlan *plan) {
    const Sized *z = main_size(l, plan);
    const Load *load = busiest(l);
    char value[32], label[160], a[32];
    const double *speed = load->tokens_per_second;
    page_tiles_open(p);
    snprintf(label, sizeof label, "fewer rows than the text has tokens: %d instead of %s", z->rows,
             number_text(a, l->tokens, 0));
    page_tile(p, times(value, (double)l->tokens / z->rows), label);
    snprintf(label, sizeof label, "right with the cartridge; %s with %s in context",
             percent(a, l->text.accuracy), l->fits ? "the whole text" : "what fits");
    page_tile(p, percent(value, z->cartridge.accuracy), label);
    snprintf(label, sizeof label, "the tokens per second for %d users, against a copy of the text for each",
             load->users);
    page_tile(p, times(value, speed[SPEED_CARTRIDGE] / speed[SPEED_PRIVATE]), label);
    snprintf(label, sizeof label, "the tokens per second for %d users, against one copy of the text for all",
             load->users);
    page_tile(p, times(value, speed[SPEED_CARTRIDGE] / speed[SPEED_SHARED]), label);
    snprintf(label, sizeof label, "to make it, once: self-study %.1f s, training %.1f s", l->study_seconds,
             z->seconds);
    page_tile(p, duration_text(value, l->study_seconds + z->seconds), label);
    page_tiles_close(p);
}

static void how_made(Page *p, const Lesson *l, const LessonPlan *plan) {
    char a[32], b[32];
    page_paragraph(
        p,
        "How it is made: with the text in its context the model asked itself questions and answered them (%s "
        "conversations, \u201cself-study\u201d). Then %d rows, at first those of the text's first tokens, "
        "were changed in %s small steps until the model, with only these rows, gave the answers that it gave "
        "with the text. The model itself was not changed.",
        number_text(a, (double)l->conversations, 0), main_size(l, plan)->rows,
        number_text(b, (double)l->steps, 0));
}

static void what_it_is(Page *p, const DemoPage *d) {
    const Lesson *l = d->first;
    char a[32];
    page_section(p, "What a cartridge is");
    page_paragraph(p,
                   "A language model that answers from a text keeps one row of numbers for each token of the "
                   "text, its \u201ckeys and values\u201d (KV), and looks at all of them for each token that "
                   "it writes. A cartridge is a much shorter list of such rows, trained once, that stands "
                   "for the text. Each square below is one row. The text of this demonstration has %d "
                   "made-up facts, %s tokens: \u201c%s \u2026\u201d",
                   l->facts.n, number_text(a, l->tokens, 0), l->opening);
    picture(p, l, d->first_plan);
    gains(p, l, d->first_plan);
    how_made(p, l, d->first_plan);
    page_paragraph(p,
                   "The bar of this demonstration, at least %.0f%% of the accuracy with the whole text: %s.",
                   100 * d->bar, d->met ? "met" : "missed");
}

/* ---- how many rows ---- */

/* NULL: no such measurement. */
static void context_row(Page *p, const Lesson *l, const char *what, const Context *text,
                        const Context *cartridge) {
    char name[64], cell[4][32];
    const char *row[] = {name, cell[0], cell[1], cell[2], cell[3]};
    const Context *any = text ? text : cartridge;
    snprintf(name, sizeof name, "%s%s", number_text(cell[0], any->rows, 0), what);
    number_text(cell[0], any->pages, 0);
    bytes(cell[1], (double)(any->rows * l->row_bytes));
    text ? percent(cell[2], text->accuracy) : strcpy(cell[2], "-");
    cartridge ? percent(cell[3], cartridge->accuracy) : strcpy(cell[3], "-");
    page_table_row(p, row, 5);
}

static void context_table(Page *p, const Lesson *l, const LessonPlan *plan) {
    static const char *const head[] = {"KV rows", "pages held", "KV bytes", "right: text",
                                       "right: cartridge"};
    char count[32], tokens[64];
    page_table_open(p, head, 5);
    context_row(p, l, " (nothing)", &l->none, NULL);
    for (int i = 0; i < plan->sizes; i++) context_row(p, l, "", &l->size[i].truncated, &l->size[i].cartridge);
    context_row(p, l, l->fits ? " (the whole text)" : " (what fits)", &l->text, NULL);
    snprintf(tokens, sizeof tokens, "%s (the whole text)", number_text(count, l->tokens, 0));
    const char *too_long[] = {tokens, "-", "-", "no room", "-"};
    if (!l->fits) page_table_row(p, too_long, 5);
    page_table_close(p);
}

static void accuracy_plot(Page *p, const Lesson *l, const LessonPlan *plan) {
    double x[LESSON_SIZES + 1], trained[LESSON_SIZES], cut[LESSON_SIZES];
    int n = plan->sizes;
    for (int i = 0; i < n; i++) {
        x[i] = l->size[i].rows;
        trained[i] = l->size[i].cartridge.accuracy;
        cut[i] = l->size[i].truncated.accuracy;
    }
    x[n] = l->text.rows;
    double ends[] = {x[0], x[n]}, whole[] = {l->text.accuracy, l->text.accuracy},
           none[] = {l->none.accuracy, l->none.accuracy};
    Curve curve[] = {
        {.name = "the whole text", .x = ends, .y = whole, .n = 2, .colour = TEXT, .dashed = true},
        {.name = "nothing", .x = ends, .y = none, .n = 2, .colour = WEIGHTS, .dashed = true},
        {.name = "the first rows of the text", .x = x, .y = cut, .n = n, .colour = PLAIN, .dots = true},
        {.name = "cartridge", .x = x, .y = trained, .n = n, .colour = CARTRIDGE, .dots = true},
        {.x = x + n, .y = whole, .n = 1, .colour = TEXT, .dots = true}};
    Plot plot = {.title = "Accuracy against KV rows",
                 .x_name = "KV rows in front of the question",
                 .y_name = "share of questions answered right",
                 .curve = curve,
                 .n = 5,
                 .y_low = 0,
                 .y_high = 1,
                 .percent = true,
                 .x_tick = x,
                 .x_ticks = n + 1};
    chart_plot(p, &plot);
}

/* Running means: single steps jump about. The main cartridge has its own colour. */
static void loss_plot(Page *p, const LessonPlan *plan, Run *run, double **mean) {
    static const int others[] = {WEIGHTS, PLAIN, SHARED, TEXT, OWN};
    enum { OTHERS = sizeof others / sizeof *others };
    char name[LESSON_SIZES][32];
    Curve curve[LESSON_SIZES];
    int used = 0;
    for (int i = 0; i < plan->sizes; i++) {
        curve_smooth(run[i].loss, run[i].steps, 9, mean[i]);
        snprintf(name[i], sizeof name[i], "%d rows", plan->size[i]);
        curve[i] =
            (Curve){.name = name[i], .x = run[i].step, .y = mean[i], .n = run[i].steps, .colour = CARTRIDGE};
        if (i == plan->main) continue;
        curve[i].colour = others[used % OTHERS];
        curve[i].dashed = used == 0 || used >= OTHERS; /* the first is a grey beside another grey */
        used++;
    }
    Plot plot = {.title = "Training",
                 .x_name = "step",
                 .y_name = "loss, nats per token; mean over 9 steps",
                 .curve = curve,
                 .n = plan->sizes,
                 .y_low = 0,
                 .y_high = NAN};
    chart_plot(p, &plot);
}

static Status loss_curves(Page *p, const Lesson *l, const LessonPlan *plan) {
    Run run[LESSON_SIZES] = {{.steps = 0}};
    double *mean[LESSON_SIZES] = {NULL};
    Status st = ST_OK;
    for (int i = 0; i < plan->sizes; i++) {
        TRY_TO(done, run_read(&run[i], l->size[i].metrics));
        mean[i] = calloc((size_t)run[i].steps, sizeof *mean[i]);
        NEED_TO(done, mean[i], ST_NOMEM, "no memory for %d steps", run[i].steps);
    }
    loss_plot(p, plan, run, mean);
done:
    for (int i = 0; i < LESSON_SIZES; i++) {
        run_close(&run[i]);
        free(mean[i]);
    }
    return st;
}

static Status how_many_rows(Page *p, const Lesson *l, const LessonPlan *plan) {
    page_section(p, "How many rows are enough?");
    page_paragraph(p,
                   "The same questions with cartridges of several sizes, and with as many first rows of the "
                   "text as it is: cutting a text off is the other way to fit it into so much memory.");
    page_figures_open(p);
    accuracy_plot(p, l, plan);
    Status st = loss_curves(p, l, plan);
    page_figures_close(p);
    context_table(p, l, plan);
    page_note(p,
              "KV bytes are those of the rows as bf16, as a cartridge's file has them. Memory is handed out "
              "in pages of %d rows, so that a small cartridge still holds a whole page.",
              KV_PAGE);
    return st;
}

/* ---- memory ---- */

static const char *const kind_name[SPEED_KINDS] = {"text, a copy each", "text, one for all", "cartridge"};

static double context_bytes(const Lesson *l, const Load *load, int kind) {
    return (double)(load->context_pages[kind] * l->page_bytes);
}

static double own_bytes(const Lesson *l, const Load *load) {
    return (double)(load->own_pages * l->page_bytes);
}

static void memory_bars(Page *p, const Lesson *l, const Load *load) {
    Bar bar[SPEED_KINDS];
    char value[SPEED_KINDS][32], title[80];
    for (int k = 0; k < SPEED_KINDS; k++) {
        double context = context_bytes(l, load, k), own = own_bytes(l, load),
               weights = (double)l->weight_bytes;
        bar[k] = (Bar){.name = kind_name[k],
                       .value = bytes(value[k], weights + context + own),
                       .part = {weights, own, context},
                       .colour = {WEIGHTS, OWN, k == SPEED_CARTRIDGE ? CARTRIDGE : TEXT},
                       .parts = 3};
    }
    snprintf(title, sizeof title, "Memory, %d user%s at once", load->users, load->users > 1 ? "s" : "");
    chart_bars(p, title, bar, SPEED_KINDS, 0);
}

static void memory_row(Page *p, const char *name, const double *v) {
    char cell[SPEED_KINDS][32];
    const char *row[] = {name, cell[0], cell[1], cell[2]};
    for (int k = 0; k < SPEED_KINDS; k++) bytes(cell[k], v[k]);
    page_table_row(p, row, 1 + SPEED_KINDS);
}

static void memory_table(Page *p, const Lesson *l, const Load *load) {
    const char *head[] = {"bytes by kind", kind_name[0], kind_name[1], kind_name[2]};
    double weights[SPEED_KINDS], context[SPEED_KINDS], own[SPEED_KINDS], pass[SPEED_KINDS], all[SPEED_KINDS];
    char pages[SPEED_KINDS][32];
    const char *row[] = {"pages of context", pages[0], pages[1], pages[2]};
    for (int k = 0; k < SPEED_KINDS; k++) {
        weights[k] = (double)l->weight_bytes, pass[k] = (double)l->pass_bytes;
        context[k] = context_bytes(l, load, k), own[k] = own_bytes(l, load);
        all[k] = weights[k] + pass[k] + context[k] + own[k];
        number_text(pages[k], load->context_pages[k], 0);
    }
    page_table_open(p, head, 1 + SPEED_KINDS);
    memory_row(p, "weights of the model", weights);
    memory_row(p, "the text or the cartridge (KV)", context);
    page_table_row(p, row, 1 + SPEED_KINDS);
    memory_row(p, "the users' own questions and answers (KV)", own);
    memory_row(p, "working memory of a pass", pass);
    memory_row(p, "together", all);
    page_table_close(p);
}

static void memory_legend(Page *p) {
    static const Key key[] = {{"weights of the model", WEIGHTS, false},
                              {"the users' questions and answers", OWN, false},
                              {"the text in context", TEXT, false},
                              {"the cartridge", CARTRIDGE, false}};
    chart_legend(p, key, 4);
}

static void where_memory_goes(Page *p, const Lesson *l) {
    char a[32];
    page_section(p, "Where the memory goes");
    page_paragraph(p, "The weights are there once, whoever asks. A text that each user brings along is there "
                      "once for each user; a text that all have in common can be shared; a cartridge is "
                      "shared, too, and is smaller from the start.");
    memory_legend(p);
    page_figures_open(p);
    for (int i = 0; i < LESSON_LOADS; i++) memory_bars(p, l, &l->load[i]);
    page_figures_close(p);
    page_paragraph(p, "All of it, for %d users:", busiest(l)->users);
    memory_table(p, l, busiest(l));
    page_note(p,
              "Counted while the users were being answered. This run keeps keys and values as %s: %s for a "
              "page of %d rows. The working memory is set aside for passes of any mix and is the same in all "
              "three cases; the bars leave it out.",
              l->kv, bytes(a, (double)l->page_bytes), KV_PAGE);
}

/* ---- speed ---- */

static void speed_bars(Page *p, const Lesson *l, const char *title) {
    static const int colour[SPEED_KINDS] = {TEXT, SHARED, CARTRIDGE};
    Bar bar[LESSON_LOADS * SPEED_KINDS];
    char value[LESSON_LOADS * SPEED_KINDS][32], group[LESSON_LOADS][32];
    for (int i = 0; i < LESSON_LOADS; i++) {
        const Load *load = &l->load[i];
        snprintf(group[i], sizeof group[i], "%d user%s", load->users, load->users > 1 ? "s" : "");
        for (int k = 0; k < SPEED_KINDS; k++) {
            int at = i * SPEED_KINDS + k;
            bar[at] = (Bar){.group = k ? NULL : group[i],
                            .name = kind_name[k],
                            .value = number_text(value[at], load->tokens_per_second[k], 0),
                            .part = {load->tokens_per_second[k]},
                            .colour = {colour[k]},
                            .parts = 1};
        }
    }
    chart_bars(p, title, bar, LESSON_LOADS * SPEED_KINDS, 0);
}

static void speed_note(Page *p, const Lesson *l, const LessonPlan *plan) {
    char machine[200], ms[32];
    machine_of(l, machine, sizeof machine);
    page_note(p,
              "Measured on this machine (%s): %d tokens for each user, of several rounds the middle one; the "
              "three kinds took turns. Reading a question is not counted, and neither is reading the text: "
              "%s ms for each copy of it.",
              machine, plan->speed_tokens - 1, number_text(ms, 1000 * l->read_seconds, 1));
}

static void how_fast(Page *p, const Lesson *l, const LessonPlan *plan) {
    page_section(p, "How fast it answers");
    page_paragraph(p, "For each token that is written, the rows in front of the question are read. Fewer "
                      "rows are read faster, and rows that users share are read for all of them at once.");
    speed_bars(p, l, "Tokens per second, all users together");
    speed_note(p, l, plan);
}

/* ---- the longer text ---- */

static void longer_text(Page *p, const Lesson *l, const LessonPlan *plan) {
    char a[32], b[32], c[32], d[32], e[32];
    const Sized *z = main_size(l, plan);
    page_section(p, "A text that does not fit");
    page_paragraph(
        p,
        "The second text has %s tokens: %d facts, which is all that the model's little language has, in %d "
        "chapters that tell each of their facts %d times. The model's context holds %s, so that the whole "
        "text cannot be in front of it. Asked to read it all the same, the program says: \u201c%s\u201d.",
        number_text(a, l->tokens, 0), l->facts.n, plan->chapters, plan->tellings,
        number_text(b, l->context_max, 0), l->refusal);
    page_paragraph(p,
                   "Self-study needs only a chapter at a time, so that a cartridge can still hold the whole "
                   "text. %d rows answer %s of the questions; as much of the text as fits with room for an "
                   "answer, its first %s rows, %s.",
                   z->rows, percent(c, z->cartridge.accuracy), number_text(e, l->text.rows, 0),
                   percent(d, l->text.accuracy));
    picture(p, l, plan);
    gains(p, l, plan);
    context_table(p, l, plan);
    memory_legend(p);
    page_figures_open(p);
    memory_bars(p, l, busiest(l));
    speed_bars(p, l, "Tokens per second, all users together");
    page_figures_close(p);
    page_note(p, "\u201cText\u201d means the %s rows of it that fit.", number_text(a, l->text.rows, 0));
    speed_note(p, l, plan);
}

/* ---- what to think of it ---- */

static void trust(Page *p, const DemoPage *d) {
    const Lesson *l = d->first;
    char machine[200], a[32];
    machine_of(l, machine, sizeof machine);
    page_section(p, "What this shows, and what it does not");
    page_paragraph(
        p,
        "The model is a tiny one (%d layers, width %d, %s of weights) that was made to look facts up in its "
        "context, and the facts are made up. That keeps the demonstration short and its answers either right "
        "or wrong; it says that the method and the program work, not how much of a real text a cartridge of "
        "some size holds. Real models lose something: docs/measurements.md has numbers of one.",
        l->layers, l->width, bytes(a, (double)l->weight_bytes));
    page_paragraph(p, "Making a cartridge costs time once; it pays when many questions are asked about the "
                      "same text. Times and speeds are single measurements on this machine, whatever else it "
                      "was doing; accuracies depend on the seed, the threads and the instruction set only.");
    page_note(p, "cartridge %s, commit %s, %s, %s; %s; seed %llu%s", BUILD_VERSION, BUILD_COMMIT, BUILD_TYPE,
              BUILD_COMPILER, machine, (unsigned long long)d->first_plan->seed,
              d->longer ? "" : "; made with --quick, which leaves out the longer text");
}

static void try_it(Page *p, const DemoPage *d) {
    const Lesson *l = d->first;
    const LessonPlan *plan = d->first_plan;
    const Sized *z = main_size(l, plan);
    page_section(p, "Try it");
    page_markup(p, "<pre><code>");
    page_textf(p, "cartridge chat -m %s -c %s --prompt \"%s\"\n", plan->model, z->cartridge_path,
               l->example.question);
    page_textf(p,
               "cartridge eval -m %s -c %s --set %s/%s.questions.jsonl --corpus %s/%s.txt --against "
               "none,full,truncate:%d\n",
               plan->model, z->cartridge_path, plan->folder, plan->name, plan->folder, plan->name, z->rows);
    page_textf(p, "cartridge report %s.run -o training.html", z->cartridge_path);
    page_markup(p, "</code></pre>\n");
}

static Status fill(Page *p, const DemoPage *d) {
    what_it_is(p, d);
    TRY(how_many_rows(p, d->first, d->first_plan));
    where_memory_goes(p, d->first);
    how_fast(p, d->first, d->first_plan);
    if (d->longer) longer_text(p, d->longer, d->longer_plan);
    trust(p, d);
    try_it(p, d);
    return ST_OK;
}

/* What it buys, in a sentence, for those who read no further. */
static void in_short(const DemoPage *d, char *out, size_t cap) {
    const Lesson *l = d->first;
    const Sized *z = main_size(l, d->first_plan);
    const Load *load = busiest(l);
    const double *speed = load->tokens_per_second;
    char a[32], b[32], c[32], e[32], f[32];
    snprintf(out, cap,
             "A cartridge is a small piece of memory, trained once, that a language model reads instead of a "
             "long text. Here a small model answered %d questions from a text and from a cartridge of it. "
             "The cartridge is %s smaller (%d rows of memory, the text %d); %s of the answers are right, "
             "with the text %s; and %d users together get %s as many tokens per second as with a copy of the "
             "text for each, %s as many as with one copy for all. Every number on this page was measured by "
             "this run of \u201ccartridge demo\u201d.",
             l->facts.n, times(f, (double)l->text.rows / z->rows), z->rows, l->text.rows,
             percent(a, z->cartridge.accuracy), percent(b, l->text.accuracy), load->users,
             times(c, speed[SPEED_CARTRIDGE] / speed[SPEED_PRIVATE]),
             times(e, speed[SPEED_CARTRIDGE] / speed[SPEED_SHARED]));
}

Status demo_page_write(const DemoPage *d, const char *path) {
    char lead[1000];
    Page *p;
    in_short(d, lead, sizeof lead);
    Status st = page_open(&p, "What a cartridge buys", lead);
    if (!st) st = fill(p, d);
    if (!st) st = page_write(p, path);
    page_close(p);
    return st;
}
