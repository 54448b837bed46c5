#include "trainer/lines.h"

#include <string.h>

bool lines_next(Lines *lines, bool *end, Err *err)
{
    char piece[16384];
    bool any = false, whole = false;
    text_clear(&lines->line);
    while (!whole) {
        size_t n = 0;
        int byte = 0;
        while (n < sizeof piece && (byte = getc_unlocked(lines->stream)) != EOF) {
            if (byte == '\n') break;
            piece[n++] = (char)byte;
        }
        whole = byte == '\n' || byte == EOF;
        any = any || n > 0 || byte == '\n';
        if (!text_add(&lines->line, piece, n, err)) return false;
    }
    if (ferror(lines->stream)) return FAIL(err, ERR_DATA, "could not read standard input");
    *end = !any;
    if (any) lines->number++;
    return true;
}

void lines_free(Lines *lines)
{
    text_free(&lines->line);
}
