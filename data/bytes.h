/*
 * bytes.h - the bytes of a data file in order, gzip or not, in bounded memory.
 *
 * Gzip is recognised by its first two bytes; concatenated members are one stream. A stream that is damaged, cut short
 * or grows more than 200-fold over 64 MB is ERR_DATA.
 */
#pragma once

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ByteStream ByteStream;

bool byte_stream_open(ByteStream **out, const char *path, Err *err) MUST_USE;
void byte_stream_close(ByteStream *s);

/* Fills `to` with up to `size` bytes; *got is 0 only at the end. */
bool byte_stream_read(ByteStream *s, char *to, size_t size, size_t *got, Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
