/* count_cases.h - launches whose traffic is known. */
#pragma once

void run_copy_words(int stride, int shift); /* 256 threads: out[i] = in[i * stride + shift] */
void run_copy_vectors();                    /* 256 threads, 16 bytes each */
void run_copy_halves();                     /* 256 threads, 2 bytes each */
const float *run_read_twice(const float *); /* 1280 bytes, two times; null: of new memory, which it returns */
void run_shared_words(int stride);          /* a warp stores and loads a word at lane * stride */
void run_shared_vectors();                  /* a warp stores and loads 16 bytes a lane */
void run_tiles(int row_bytes);              /* ldmatrix_x4 with rows so far apart, then two mma */
void run_async();                           /* a warp copies 16 bytes a lane, loads 4 */
