/*
 * charclass.h - the character classes that Hugging Face pre-tokenizers and normalizers ask about.
 *
 * Each names its definition; the tests hold them against the reference library over every code point.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

bool char_is_space(uint32_t c);       /* White_Space */
bool char_is_numeric(uint32_t c);     /* categories Nd, Nl, No */
bool char_is_word(uint32_t c);        /* \w of Unicode TR 18: Alphabetic, M, Nd, Pc, Join_Control */
bool char_is_punctuation(uint32_t c); /* ASCII punctuation (symbols included) or category P */
bool char_is_mark(uint32_t c);        /* categories Mn, Mc, Me */
bool char_is_nonspacing(uint32_t c);  /* category Mn */
bool char_is_other(uint32_t c);       /* categories Cc, Cf, Co */
bool char_is_chinese(uint32_t c);     /* the ranges that BERT treats as words of their own */

/* Canonical combining class; whether the character may have a decomposition; simple lower case. */
uint8_t char_combining_class(uint32_t c);
bool char_decomposes(uint32_t c);
uint32_t char_lowercase(uint32_t c);

/* Byte-level alphabet of GPT-2: the code point that stands for a byte, and back (-1: not in the alphabet). */
uint32_t byte_char(unsigned char byte);
int byte_of_char(uint32_t c);
