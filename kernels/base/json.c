/* json.c -- the checks around cJSON. */
#include "kernels/base/json.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/file.h"

enum { DEPTH_MAX = 200 };

/* cJSON recurses, and its own limit is a thousand; brackets inside strings do not count. */
static Status check_depth(const char *text, size_t size, const char *where) {
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
            continue;
        }
        if (c == '"') quoted = true;
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--;
        NEED(depth <= DEPTH_MAX, ST_FORMAT, "%s: JSON nested deeper than %d at byte %zu", where, DEPTH_MAX,
             i);
    }
    return ST_OK;
}

Status json_parse(cJSON **out, const char *text, size_t size, const char *where) {
    *out = NULL;
    TRY(check_depth(text, size, where));
    const char *end = NULL;
    cJSON *o = cJSON_ParseWithLengthOpts(text, size, &end, false);
    size_t at = end ? (size_t)(end - text) : 0;
    NEED(o, ST_FORMAT, "%s: not valid JSON near byte %zu of %zu", where, at, size);
    while (at < size && strchr(" \t\r\n", text[at]) && text[at]) at++;
    if (at < size) {
        cJSON_Delete(o);
        FAIL(ST_FORMAT, "%s: something stands behind the JSON value at byte %zu of %zu", where, at, size);
    }
    *out = o;
    return ST_OK;
}

Status json_load(cJSON **out, const char *path) {
    *out = NULL;
    char *text;
    size_t size;
    TRY(file_read(&text, &size, path));
    Status st = json_parse(out, text, size, path);
    free(text);
    return st;
}

static const cJSON *member(const cJSON *o, const char *key) {
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(o, key);
    return m && !cJSON_IsNull(m) ? m : NULL;
}

Status json_number_or(const cJSON *o, const char *key, double *out, const char *where) {
    const cJSON *m = member(o, key);
    if (!m) return ST_OK;
    NEED(cJSON_IsNumber(m), ST_FORMAT, "%s: \"%s\" is not a number", where, key);
    *out = m->valuedouble;
    return ST_OK;
}

Status json_integer_or(const cJSON *o, const char *key, int64_t low, int64_t high, int64_t *out,
                       const char *where) {
    const cJSON *m = member(o, key);
    if (!m) return ST_OK;
    NEED(cJSON_IsNumber(m), ST_FORMAT, "%s: \"%s\" is not a number", where, key);
    double v = m->valuedouble;
    /* Beyond 2^53 a double is no longer every whole number: such values come as strings. */
    NEED(v >= -9007199254740992.0 && v <= 9007199254740992.0 && v == (double)(int64_t)v, ST_FORMAT,
         "%s: \"%s\" is %g, not a whole number", where, key, v);
    NEED((int64_t)v >= low && (int64_t)v <= high, ST_FORMAT, "%s: \"%s\" is %lld, not within %lld to %lld",
         where, key, (long long)v, (long long)low, (long long)high);
    *out = (int64_t)v;
    return ST_OK;
}

Status json_bool_or(const cJSON *o, const char *key, bool *out, const char *where) {
    const cJSON *m = member(o, key);
    if (!m) return ST_OK;
    NEED(cJSON_IsBool(m), ST_FORMAT, "%s: \"%s\" is neither true nor false", where, key);
    *out = cJSON_IsTrue(m);
    return ST_OK;
}

static Status need_member(const cJSON *o, const char *key, const char *where) {
    NEED(member(o, key), ST_FORMAT, "%s: \"%s\" is missing", where, key);
    return ST_OK;
}

Status json_integer(const cJSON *o, const char *key, int64_t low, int64_t high, int64_t *out,
                    const char *where) {
    TRY(need_member(o, key, where));
    return json_integer_or(o, key, low, high, out, where);
}

Status json_number(const cJSON *o, const char *key, double *out, const char *where) {
    TRY(need_member(o, key, where));
    return json_number_or(o, key, out, where);
}

Status json_string(const cJSON *o, const char *key, const char **out, const char *where) {
    TRY(need_member(o, key, where));
    const cJSON *m = member(o, key);
    NEED(cJSON_IsString(m), ST_FORMAT, "%s: \"%s\" is not a string", where, key);
    *out = m->valuestring;
    return ST_OK;
}
