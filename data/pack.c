#include "data/pack.h"

#include "base/check.h"
#include "base/mem.h"

enum { OPEN_ROWS = 256 };

void packed_rows_free(PackedRows *p)
{
    mem_free(p->starts);
    mem_free(p->items);
    *p = (PackedRows){0};
}

/* First open row with room for `length`, or -1. Rows are numbered in the order they were opened. */
static int64_t find_room(const int64_t *room, int64_t oldest, int64_t rows, int64_t length)
{
    for (int64_t r = oldest; r < rows; r++)
        if (room[r % OPEN_ROWS] >= length) return r;
    return -1;
}

/* row_of[k] is the row that item k of the order goes to; the number of rows is returned. */
static int64_t assign_rows(int64_t *row_of, const int64_t *lengths, const int64_t *order, int64_t count, int64_t size)
{
    int64_t room[OPEN_ROWS];
    int64_t rows = 0;
    int64_t oldest = 0;
    for (int64_t k = 0; k < count; k++) {
        const int64_t length = lengths[order ? order[k] : k];
        CHECK(length > 0 && length <= size);
        int64_t r = find_room(room, oldest, rows, length);
        if (r < 0) {
            if (rows - oldest == OPEN_ROWS) oldest++;
            r = rows++;
            room[r % OPEN_ROWS] = size;
        }
        room[r % OPEN_ROWS] -= length;
        row_of[k] = r;
    }
    return rows;
}

bool packed_rows_make(PackedRows *out, const int64_t *lengths, const int64_t *order, int64_t count, int64_t size,
                      Err *err)
{
    PackedRows p = {0};
    int64_t *row_of = mem_alloc((size_t)count, sizeof *row_of, err);
    if (!row_of) return false;
    p.rows = assign_rows(row_of, lengths, order, count, size);
    p.starts = mem_alloc((size_t)p.rows + 2, sizeof *p.starts, err);
    p.items = p.starts ? mem_alloc((size_t)count, sizeof *p.items, err) : NULL;
    if (!p.items) {
        packed_rows_free(&p);
        mem_free(row_of);
        return false;
    }
    /* Counting sort: starts[r + 1] moves from the beginning of row r to its end while the row fills. */
    for (int64_t k = 0; k < count; k++)
        p.starts[row_of[k] + 2]++;
    for (int64_t r = 0; r < p.rows; r++)
        p.starts[r + 2] += p.starts[r + 1];
    for (int64_t k = 0; k < count; k++)
        p.items[p.starts[row_of[k] + 1]++] = order ? order[k] : k;
    mem_free(row_of);
    *out = p;
    return true;
}
