/*
 * cuda_row_cache.cuh - a row that a block reads twice and memory only once.
 *
 * Thread t of BLOCK threads takes packs t, t + BLOCK, t + 2 BLOCK, ... of the row: one pack a round. What it reads in
 * the first pass it keeps in shared memory at a place of its own, so no other thread has to wait for it. Rows beyond
 * what shared memory holds keep their first rounds there; the rest is read again, and best backwards, because the packs
 * read last are those that the second-level cache still has.
 */
#pragma once

#include "backend/cuda_vector.cuh"

template <class T, int N, int BLOCK> struct RowCache {
    typedef typename WordOf<static_cast<int>(sizeof(T)) * N>::Type Word;

    Word *kept; /* round k of this thread at kept[k * BLOCK] */
    int rounds; /* that fit */

    __device__ RowCache(void *shared, int fit) : kept(static_cast<Word *>(shared) + threadIdx.x), rounds(fit)
    {
    }

    /* The pack of `count` elements at p (zeros beyond them), kept when its round fits. */
    __device__ void first(float (&x)[N], int round, const T *p, int64_t count)
    {
        Pack<T, N> pack;
        read(pack, p, count);
        keep(x, round, pack);
    }

    /* x += the pack at `add`: the rounded sum goes to p, is kept, and is what x becomes. */
    __device__ void first_sum(float (&x)[N], int round, T *p, const T *add, int64_t count)
    {
        Pack<T, N> pack, more;
        float y[N];
        read(pack, p, count);
        read(more, add, count);
        widen(x, pack);
        widen(y, more);
        for (int i = 0; i < N; i++)
            pack.element[i] = element_round<T>(__fadd_rn(x[i], y[i]));
        keep(x, round, pack);
        pack_store<N>(p, x, count);
    }

    /* The same pack again. */
    __device__ void again(float (&x)[N], int round, const T *p, int64_t count) const
    {
        Pack<T, N> pack;
        if (round < rounds) {
            pack.word = kept[round * BLOCK];
        } else {
            read(pack, p, count);
        }
        widen(x, pack);
    }

  private:
    __device__ void keep(float (&x)[N], int round, const Pack<T, N> &pack)
    {
        if (round < rounds) kept[round * BLOCK] = pack.word;
        widen(x, pack);
    }

    static __device__ void read(Pack<T, N> &pack, const T *p, int64_t count)
    {
        if (count >= N) {
            pack.word = *reinterpret_cast<const Word *>(p);
            return;
        }
        for (int i = 0; i < N; i++) {
            if (i < count) pack.element[i] = p[i];
        }
    }

    static __device__ void widen(float (&x)[N], const Pack<T, N> &pack)
    {
        for (int i = 0; i < N; i++)
            x[i] = element_load(pack.element[i]);
    }
};

/* Rows that a launch may have without asking, of 48 KiB, and what a block may take for rows at most: a KiB is left for its
 * other arrays. */
static constexpr size_t SHARED_PLAIN = 47 << 10;

static inline size_t cuda_row_memory(const Backend *be)
{
    return cuda_shared_most(be) - 1024;
}

/* Rounds of a row, and how many of them `bytes` of shared memory hold for `rows` rows at a time. */
typedef struct RowRounds {
    int all, kept;
    size_t row_bytes; /* of shared memory for one row */
} RowRounds;

template <class T, int N, int BLOCK> static inline RowRounds row_rounds(int64_t cols, int rows, size_t bytes)
{
    constexpr size_t round = sizeof(T) * N * BLOCK;
    const int all = static_cast<int>(ceil_div(cols, static_cast<int64_t>(N) * BLOCK));
    const int kept = min(all, static_cast<int>(bytes / round) / rows);
    return RowRounds{all, kept, static_cast<size_t>(kept) * round};
}
