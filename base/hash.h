/*
 * hash.h - content fingerprints: XXH3-128 as 32 hexadecimal digits.
 */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { HASH_TEXT = 33 }; /* 32 digits and NUL */

typedef struct Hash Hash; /* streaming state */
bool hash_create(Hash **out, Err *err) MUST_USE;
void hash_add(Hash *h, const void *bytes, size_t length);
void hash_finish(Hash *h, char text[HASH_TEXT]); /* frees the state */

void hash_bytes(const void *bytes, size_t length, char text[HASH_TEXT]);
uint64_t hash_u64(const void *bytes, size_t length);
bool hash_file(const char *path, ErrCode code, char text[HASH_TEXT], Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
