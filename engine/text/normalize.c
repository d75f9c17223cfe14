/* normalize.c -- NFC by utf8proc. Plain ASCII, most of what comes, is its own NFC and is not copied. */
#include "engine/text/normalize.h"

#include <string.h>
#include <utf8proc.h>

#include "kernels/base/json.h"

static Status read_stage(bool *nfc, const cJSON *o, const char *where, int depth) {
    if (!o || cJSON_IsNull(o)) return ST_OK;
    const char *type;
    TRY(json_string(o, "type", &type, where));
    if (!strcmp(type, "NFC")) {
        *nfc = true;
        return ST_OK;
    }
    NEED(!strcmp(type, "Sequence"), ST_UNSUPPORTED,
         "%s: normalizer \"%.40s\" is not known; known are NFC and Sequence", where, type);
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, "normalizers"), *e;
    NEED(cJSON_IsArray(list) && depth < 4, ST_FORMAT, "%s: a Sequence normalizer without a list, or too deep", where);
    cJSON_ArrayForEach(e, list) TRY(read_stage(nfc, e, where, depth + 1));
    return ST_OK;
}

Status normalizer_read(bool *nfc, const cJSON *o, const char *where) {
    *nfc = false;
    return read_stage(nfc, o, where, 0);
}

static bool is_ascii(Bytes text) {
    for (size_t i = 0; i < text.n; i++)
        if ((uint8_t)text.p[i] >= 0x80) return false;
    return true;
}

Status normalize(Bytes *out, char **owned, bool nfc, Bytes text) {
    *out = text;
    *owned = NULL;
    if (!nfc || is_ascii(text)) return ST_OK;
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text.p, (utf8proc_ssize_t)text.n, &composed,
                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    NEED(n >= 0, n == UTF8PROC_ERROR_NOMEM ? ST_NOMEM : ST_FORMAT, "NFC of %zu bytes failed: %s", text.n,
         utf8proc_errmsg(n));
    *owned = (char *)composed;
    *out = (Bytes){*owned, (size_t)n};
    return ST_OK;
}
