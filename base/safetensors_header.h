/*
 * safetensors_header.h - the JSON header of a safetensors file, as far as it can be read without knowing the file.
 *
 * Own scanner: the header is of one fixed shape, jansson would take nine times its size for it, and numbers must be
 * plain digits (no sign, fraction, exponent or leading zero). Only base/safetensors*.c include this.
 */
#pragma once

#include "base/safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SAFETENSORS_TENSORS_MAX = 200000, SAFETENSORS_NAME_MAX = 1024 };

/*
 * Scans st->text (length bytes, NUL-terminated, changed in place) into st->entries and st->metadata. `offset` of an
 * entry is its first byte in the data section and `bytes` its end - begin; neither is checked against the shape yet.
 * Entries come in the order of the file.
 */
bool safetensors_header_scan(Safetensors *st, size_t length, Err *err) MUST_USE;

#ifdef __cplusplus
}
#endif
