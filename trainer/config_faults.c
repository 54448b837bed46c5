#include "trainer/config_faults.h"

#include "base/mem.h"
#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FAULT_TEXT = 1024 };

void config_fault(ConfigFaults *f, FaultPlace at, const char *format, ...)
{
    if (f->count == FAULTS_KEPT) {
        f->unkept++;
        return;
    }
    char text[FAULT_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!mem_grow(&f->items, &f->capacity, f->count + 1, sizeof f->items[0], f->err)) return;
    char *copy = mem_copy_text(text, f->err);
    if (!copy) return;
    f->items[f->count] = (Fault){.place = at, .order = (int)f->count, .text = copy};
    f->count++;
}

bool config_faults_any(const ConfigFaults *f)
{
    return f->count > 0 || f->err->code != ERR_NONE;
}

/* Faults of the file by place, then those of overrides in the order they were found. */
static int compare_places(const void *a, const void *b)
{
    const Fault *x = a;
    const Fault *y = b;
    if (!x->place.origin != !y->place.origin) return x->place.origin ? 1 : -1;
    if (!x->place.origin) {
        if (x->place.line != y->place.line) return x->place.line < y->place.line ? -1 : 1;
        if (x->place.column != y->place.column) return x->place.column < y->place.column ? -1 : 1;
    }
    return x->order < y->order ? -1 : 1;
}

/* One line with its prefix; `mixed`: the caller's printer adds none, so overrides bring the program's own. */
static int line_format(char *out, size_t size, const ConfigFaults *f, const Fault *fault, bool mixed)
{
    char shown[300];
    if (fault->place.origin) {
        text_printable(shown, sizeof shown, fault->place.origin, strlen(fault->place.origin));
        return snprintf(out, size, "%s--set %s: %s", mixed ? "qlora: " : "", shown, fault->text);
    }
    text_printable(shown, sizeof shown, f->name, strlen(f->name));
    return snprintf(out, size, "%s:%d:%d: %s", shown, fault->place.line, fault->place.column, fault->text);
}

/* All lines into out[0..size); the last one tells how many did not fit, with the program's name like any line. */
static void lines_join(char *out, size_t size, const ConfigFaults *f, bool located)
{
    enum { ROOM_FOR_REST = 56 };
    const char *prefix = located ? "qlora: " : "";
    size_t used = 0;
    for (size_t i = 0; i < f->count; i++) {
        char line[FAULT_TEXT + 400];
        const int n = line_format(line, sizeof line, f, &f->items[i], located);
        const size_t length = n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
        if (used + length + 1 + ROOM_FOR_REST > size) {
            snprintf(out + used, size - used, "%s%sand %zu more faults", used ? "\n" : "", prefix,
                     f->count - i + (size_t)f->unkept);
            return;
        }
        if (used) out[used++] = '\n';
        memcpy(out + used, line, length);
        used += length;
        out[used] = '\0';
    }
    if (f->unkept) snprintf(out + used, size - used, "\n%sand %d more faults", prefix, f->unkept);
}

static void faults_free(ConfigFaults *f)
{
    for (size_t i = 0; i < f->count; i++)
        mem_free(f->items[i].text);
    mem_free(f->items);
    f->items = NULL;
    f->count = f->capacity = 0;
}

bool config_faults_finish(ConfigFaults *f)
{
    if (f->err->code == ERR_NONE && f->count) {
        qsort(f->items, f->count, sizeof f->items[0], compare_places);
        const bool located = !f->items[0].place.origin;
        char text[ERR_TEXT_MAX];
        lines_join(text, sizeof text, f, located);
        if (located) {
            (void)FAIL_AT(f->err, ERR_CONFIG, "%s", text);
        } else {
            (void)FAIL(f->err, ERR_CONFIG, "%s", text);
        }
    }
    faults_free(f);
    return f->err->code == ERR_NONE;
}
