#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool err_fail(Err *err, ErrCode code, const char *file, int line, bool located, const char *format, ...)
{
    if (!err || err->code != ERR_NONE) return false;
    err->code = code;
    err->file = file;
    err->line = line;
    err->located = located;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return false;
}

bool err_note(Err *err, const char *format, ...)
{
    if (!err || err->code == ERR_NONE || err->located) return false;
    char context[512];
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);
    const size_t lead = strlen(context);
    const size_t room = sizeof err->text - 1;
    size_t length = strlen(err->text);
    if (lead + 2 >= room) return false;
    if (length > room - lead - 2) length = room - lead - 2;
    memmove(err->text + lead + 2, err->text, length);
    memcpy(err->text, context, lead);
    memcpy(err->text + lead, ": ", 2);
    err->text[lead + 2 + length] = '\0';
    return false;
}

void err_clear(Err *err)
{
    err->code = ERR_NONE;
    err->located = false;
    err->text[0] = '\0';
}

int err_exit_status(ErrCode code)
{
    switch (code) {
#define X(name, status)                                                                                                \
    case name: return status;
        ERR_CODES(X)
#undef X
    }
    return 1;
}
