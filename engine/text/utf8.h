/* utf8.h -- inside engine/text: single characters. */
#ifndef ENGINE_TEXT_UTF8_H
#define ENGINE_TEXT_UTF8_H

#include "engine/text/tokenizer.h"

int32_t utf8_length(const uint8_t *p, size_t n);         /* of the character at p; 0: none */
uint32_t utf8_decode(const uint8_t *p, int32_t length);  /* of a valid character */
bool utf8_is_blank(uint32_t c);                         /* Unicode's White_Space */

#endif
