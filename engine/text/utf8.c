/* utf8.c -- bytes to characters: validity, and text that arrives in pieces. */
#include "engine/text/utf8.h"

#include <string.h>

/* Length of a well-formed character at p, 0 when there is none within n bytes. The ranges of the second byte exclude
 * overlong forms, surrogates and what lies beyond U+10FFFF (Unicode 15, table 3-7). */
int32_t utf8_length(const uint8_t *p, size_t n) {
    if (n == 0) return 0;
    uint8_t c = p[0], low = 0x80, high = 0xBF;
    int32_t length = c < 0x80 ? 1 : c >= 0xC2 && c <= 0xDF ? 2 : (c & 0xF0) == 0xE0 ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
    if (length == 0 || (size_t)length > n) return 0;
    if (c == 0xE0) low = 0xA0;
    if (c == 0xED) high = 0x9F;
    if (c == 0xF0) low = 0x90;
    if (c == 0xF4) high = 0x8F;
    if (length > 1 && (p[1] < low || p[1] > high)) return 0;
    for (int32_t i = 2; i < length; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    return length;
}

int64_t utf8_invalid_at(Bytes text) {
    const uint8_t *p = (const uint8_t *)text.p;
    for (size_t i = 0; i < text.n;) {
        int32_t length = utf8_length(p + i, text.n - i);
        if (!length) return (int64_t)i;
        i += (size_t)length;
    }
    return -1;
}

uint32_t utf8_decode(const uint8_t *p, int32_t length) {
    static const uint8_t mask[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t c = p[0] & mask[length];
    for (int32_t i = 1; i < length; i++) c = c << 6 | (p[i] & 0x3Fu);
    return c;
}

bool utf8_is_blank(uint32_t c) {
    if (c < 0x1680) return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0;
    return c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

static const char REPLACEMENT[] = "\xEF\xBF\xBD"; /* U+FFFD */

/* How many bytes a character that begins with c wants, as far as one byte tells; 1 for what can begin nothing. */
static int32_t wanted(uint8_t c) {
    return c >= 0xC2 && c <= 0xDF ? 2 : (c & 0xF0) == 0xE0 ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 1;
}

/* Whether n held bytes could still become a character: their own continuation bytes are fine so far. */
static bool may_continue(const uint8_t *p, int32_t n) {
    uint8_t full[4] = {p[0], 0x80, 0x80, 0x80};
    if (p[0] == 0xE0) full[1] = 0xA0;
    if (p[0] == 0xF0) full[1] = 0x90;
    memcpy(full, p, (size_t)n);
    return n < wanted(p[0]) && utf8_length(full, 4) == wanted(p[0]);
}

/* Writes what the held bytes say by now; keeps an unfinished character. All but the last byte began a character, so
 * when the last one breaks it, the others are one broken stretch and the last may begin anew. */
static size_t settle(Utf8Stream *s, char *out) {
    size_t used = 0;
    while (s->n > 0 && !may_continue(s->held, s->n)) {
        int32_t length = utf8_length(s->held, (size_t)s->n);
        memcpy(out + used, length ? (const char *)s->held : REPLACEMENT, length ? (size_t)length : 3);
        used += length ? (size_t)length : 3;
        int32_t gone = length ? length : s->n > 1 ? s->n - 1 : 1;
        s->n -= gone;
        memmove(s->held, s->held + gone, (size_t)s->n);
    }
    return used;
}

size_t utf8_push(Utf8Stream *s, Bytes piece, char *out) {
    size_t used = 0;
    for (size_t i = 0; i < piece.n; i++) {
        s->held[s->n++] = (uint8_t)piece.p[i];
        used += settle(s, out + used);
    }
    out[used] = '\0';
    return used;
}

size_t utf8_flush(Utf8Stream *s, char *out) {
    size_t used = 0;
    if (s->n > 0) {
        memcpy(out, REPLACEMENT, 3);
        used = 3;
    }
    s->n = 0;
    out[used] = '\0';
    return used;
}
