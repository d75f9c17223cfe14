/* page.h -- the page of a demo: what a cartridge buys, in pictures of what was just measured. */
#ifndef TOOLS_DEMO_PAGE_H
#define TOOLS_DEMO_PAGE_H

#include "tools/demo/lesson.h"

typedef struct DemoPage {
    const Lesson *first, *longer; /* longer: NULL when it was left out */
    const LessonPlan *first_plan, *longer_plan;
    double bar; /* share of the whole text's accuracy that the cartridge had to reach */
    bool met;
} DemoPage;

/* Reads the metrics of the runs, too; every number on the page is one of the demo's. */
Status demo_page_write(const DemoPage *d, const char *path);

#endif
