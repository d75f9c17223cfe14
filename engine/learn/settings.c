/* settings.c -- see settings.h. */
#include "engine/learn/settings.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <string.h>

/* The first member in which two JSON objects differ; NULL when that cannot be told. */
static const char *differing_member(const cJSON *a, const cJSON *b) {
    const cJSON *m;
    if (!cJSON_IsObject(a) || !cJSON_IsObject(b)) return NULL;
    cJSON_ArrayForEach(m, a)
        if (!cJSON_Compare(m, cJSON_GetObjectItemCaseSensitive(b, m->string), true)) return m->string;
    cJSON_ArrayForEach(m, b)
        if (!cJSON_HasObjectItem(a, m->string)) return m->string;
    return NULL;
}

static Status differ(const char *path, const char *name, const char *there, const char *here) {
    FAIL(ST_MISMATCH,
         "%s: was made with other settings: %s is %.80s there, %.80s now; use the same, or start another run",
         path, name, there ? there : "absent", here ? here : "absent");
}

Status settings_same(const char *path, const char *there, const char *here) {
    if (!strcmp(there, here)) return ST_OK;
    cJSON *a = cJSON_Parse(there), *b = cJSON_Parse(here);
    const char *member = differing_member(a, b);
    Status st;
    if (member) {
        char *old = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(a, member));
        char *now = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(b, member));
        st = differ(path, member, old, now);
        cJSON_free(old);
        cJSON_free(now);
    } else {
        bool alike = cJSON_IsObject(a) && cJSON_IsObject(b); /* in another order */
        st = alike ? ST_OK : differ(path, "the text", there, here);
    }
    cJSON_Delete(a);
    cJSON_Delete(b);
    return st;
}
