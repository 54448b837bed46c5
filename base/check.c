#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>

void check_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "qlora: internal error at %s:%d: %s does not hold; please report this\n", file, line, condition);
    fflush(stderr);
    abort();
}
