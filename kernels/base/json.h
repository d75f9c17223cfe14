/* json.h -- JSON by cJSON, with errors that name the place.
 *
 * cJSON objects are linked lists and its numbers doubles: walk large objects once into a table of your own, and
 * write hashes and 64-bit numbers as strings. Getters take the path of the file for the message. */
#ifndef KERNELS_BASE_JSON_H
#define KERNELS_BASE_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

/* Parses all of [text, text+size); trailing bytes that are not blank are an error that gives the offset. `where`
 * names the source in messages. Free with cJSON_Delete. Depth is limited (200). */
Status json_parse(cJSON **out, const char *text, size_t size, const char *where);
Status json_load(cJSON **out, const char *path);

/* A member of an object, required to be there with that type; integers must be exact and in [low, high]. */
Status json_integer(const cJSON *o, const char *key, int64_t low, int64_t high, int64_t *out, const char *where);
Status json_number(const cJSON *o, const char *key, double *out, const char *where);
Status json_string(const cJSON *o, const char *key, const char **out, const char *where); /* borrowed from o */
/* Leave *out alone when the member is absent or null; a wrong type is still an error. */
Status json_integer_or(const cJSON *o, const char *key, int64_t low, int64_t high, int64_t *out, const char *where);
Status json_number_or(const cJSON *o, const char *key, double *out, const char *where);
Status json_bool_or(const cJSON *o, const char *key, bool *out, const char *where);

#endif
