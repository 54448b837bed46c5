/*
 * json.h - strict JSON documents (jansson underneath): duplicate keys, excess depth and excess size are errors.
 *
 * Values are json_t; json_decref frees them. The getters name the file and the key in their error.
 */
#pragma once

#include "base/err.h"

#include <jansson.h>

#ifdef __cplusplus
extern "C" {
#endif

/* `what` names the source in errors (a path); `code` classes a failure. Integers above 2^63 are refused. */
bool json_parse(json_t **out, const char *bytes, size_t length, const char *what, ErrCode code, Err *err) MUST_USE;
bool json_parse_file(json_t **out, const char *path, size_t limit, ErrCode code, Err *err) MUST_USE;

/*
 * The text of a value that was built since json_begin, mem_free. Building and printing one takes dozens of allocations,
 * and when one fails, jansson leaves a part out, of the text too; json_print says ERR_MEMORY instead, whichever it was.
 * `flags` are json_dumps's, which nothing else of ours calls.
 */
void json_begin(void);
bool json_whole(void); /* no allocation failed since */
char *json_print(const json_t *value, size_t flags, const char *what, Err *err);

/* json_loadb, which nothing else of ours calls: it aborts the process when memory runs out. */
json_t *json_read(const char *bytes, size_t length, size_t flags, json_error_t *fault, bool *no_memory);

/* Optional members: absent or null leaves *out as it is and returns true; another type is an error. */
bool json_get_int(int64_t *out, const json_t *object, const char *key, int64_t low, int64_t high, const char *what,
                  Err *err) MUST_USE;
bool json_get_real(double *out, const json_t *object, const char *key, const char *what, Err *err) MUST_USE;
bool json_get_bool(bool *out, const json_t *object, const char *key, const char *what, Err *err) MUST_USE;
bool json_get_text(const char **out, const json_t *object, const char *key, const char *what, Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
