#define SIMD_PLAIN
#include "test_simd.c"
