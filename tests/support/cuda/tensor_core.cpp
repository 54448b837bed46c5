/*
 * tensor_core.cpp - mma.sync and ldmatrix: the 32 lanes of a warp meet and the last one does the work of all.
 */
#include "block.h"
#include "counting.h"
#include "emulated_tensor.h"
#include "sanitizers.h"

#include <cuda_fp16.h>
#include <string.h>

namespace emu
{
namespace
{
enum Kind { MMA = 16, LOAD_MATRIX = 18 };

constexpr unsigned ALL_LANES = 0xffffffffu;

float widen(Half type, uint32_t word, int half)
{
    const uint16_t bits = static_cast<uint16_t>(half ? word >> 16 : word);
    if (type == Half::BF16) return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
    return __half2float(__ushort_as_half(bits));
}

/* words 0..3 of a deposit are the lane's share of a (16, 16), words 4 and 5 its share of b (16, 8) */
void multiply_fragments(Half type, Deposit *lanes)
{
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const int group = lane / 4, pair = lane % 4 * 2;
        for (int word = 0; word < 4; word++)
            for (int half = 0; half < 2; half++)
                a[group + word % 2 * 8][pair + word / 2 * 8 + half] = widen(type, lanes[lane].words[word], half);
        for (int word = 0; word < 2; word++)
            for (int half = 0; half < 2; half++)
                b[pair + word * 8 + half][group] = widen(type, lanes[lane].words[4 + word], half);
        for (int i = 0; i < 4; i++)
            d[group + i / 2 * 8][pair + i % 2] = lanes[lane].sums[i];
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++)
                d[row][column] += a[row][k] * b[k][column];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            lanes[lane].sums[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

uint16_t element(const Deposit *lanes, int tile, int row, int column)
{
    const uint32_t word = lanes[tile * 8 + row].words[column / 2];
    return static_cast<uint16_t>(column % 2 ? word >> 16 : word);
}
} // namespace

void mma_16x8x16(Half type, float *d, const uint32_t *a, const uint32_t *b, const float *c, const char *file, int line)
{
    Meeting *meeting = meeting_enter(ALL_LANES, MMA + static_cast<int>(type), Spot{"mma", file, line});
    Deposit *lanes = meeting_deposits(meeting);
    Deposit &mine = lanes[block.current->lane];
    for (int i = 0; i < 4; i++)
        mine.words[i] = a[i];
    for (int i = 0; i < 2; i++)
        mine.words[4 + i] = b[i];
    for (int i = 0; i < 4; i++)
        mine.sums[i] = c[i];
    if (meeting->mask != ALL_LANES) report(file, line, "mma needs a whole warp of 32 threads");
    if (meeting_arrive(meeting)) {
        multiply_fragments(type, lanes);
        count_mma();
    }
    for (int i = 0; i < 4; i++)
        d[i] = mine.sums[i];
}

void load_matrix(uint32_t *r, const void *row, int tiles, bool transposed, const char *file, int line)
{
    const int lane = block.current->lane;
    if (lane < tiles * 8) {
        if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
            report(file, line, "ldmatrix: a row is not aligned to 16 bytes");
        if (!shared_contains(row, 16)) {
            const char *where = shared_describe(row);
            report(file, line, "ldmatrix: a row of 16 bytes does not lie in shared memory%s%s", where ? ": " : "",
                   where ? where : "");
        }
    }
    Meeting *meeting = meeting_enter(ALL_LANES, LOAD_MATRIX, Spot{"ldmatrix", file, line});
    Deposit *lanes = meeting_deposits(meeting);
    if (lane < tiles * 8) {
        for (int i = 0; i < 4; i++)
            lanes[lane].words[i] = static_cast<const uint32_t *>(row)[i];
        race_reads(row, 16);
        lanes[lane].value = reinterpret_cast<uintptr_t>(row);
    }
    if (meeting->mask != ALL_LANES) report(file, line, "ldmatrix needs a whole warp of 32 threads");
    if (meeting_arrive(meeting)) count_load_matrix(lanes, tiles);
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int tile = 0; tile < tiles; tile++) {
        const uint16_t low = transposed ? element(lanes, tile, pair, group) : element(lanes, tile, group, pair);
        const uint16_t high =
            transposed ? element(lanes, tile, pair + 1, group) : element(lanes, tile, group, pair + 1);
        r[tile] = static_cast<uint32_t>(high) << 16 | low;
    }
}
} // namespace emu
