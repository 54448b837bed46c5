/*
 * decode_internal.h - the steps of a decoder, as decode_build.c reads them and decode.c runs them.
 */
#pragma once

#include "data/decode.h"

typedef enum DecodeKind {
    DECODE_BYTE_LEVEL,
    DECODE_BYTE_FALLBACK,
    DECODE_FUSE,
    DECODE_REPLACE,
    DECODE_STRIP,
    DECODE_METASPACE,
    DECODE_WORD_PIECE,
    DECODE_BPE,
    DECODE_CTC
} DecodeKind;

typedef struct DecodeStep {
    DecodeKind kind;
    Pattern *pattern; /* Replace */
    Text text;        /* Replace: content; Strip: character; Metaspace: replacement; WordPiece: prefix; BPE: suffix;
                         CTC: pad token */
    Text delimiter;   /* CTC */
    int64_t start, stop;
    bool cleanup, first_dropped; /* Metaspace: no space for a replacement in the first token */
} DecodeStep;

struct Decoder {
    DecodeStep *steps;
    size_t count, capacity;
};
