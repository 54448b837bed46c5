#include "trainer/yaml_text.h"

#include "base/text.h"

#include <string.h>

static const char tab_advice[] = "a tab; indent and separate with spaces";

/* Walks over a text by code points and knows line and column. A CR LF pair is one line break. */
typedef struct Walk {
    const char *text;
    size_t length;
    size_t at;    /* byte */
    size_t index; /* code point */
    int line, column;
} Walk;

static void walk_on(Walk *w, uint32_t c, size_t bytes)
{
    const bool pair = c == '\r' && w->at + 1 < w->length && w->text[w->at + 1] == '\n';
    w->at += bytes;
    w->index++;
    if (c == '\n' || (c == '\r' && !pair)) {
        w->line++;
        w->column = 1;
    } else {
        w->column++;
    }
}

static bool is_refused(uint32_t c)
{
    if (c == '\n' || c == '\r' || c == '\t') return false;
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x2028 || c == 0x2029 || c == 0xFEFF || c == 0xFFFE ||
           c == 0xFFFF;
}

bool yaml_text_check(const char *text, size_t length, const char *origin, ConfigFaults *faults)
{
    Walk w = {.text = text, .length = length, .line = 1, .column = 1};
    while (w.at < length) {
        uint32_t c = 0;
        const size_t n = utf8_decode(text + w.at, length - w.at, &c);
        const FaultPlace place = {origin, w.line, w.column};
        if (n == 0) {
            config_fault(faults, place, "byte 0x%02X is not UTF-8; save the file as UTF-8", (unsigned char)text[w.at]);
            return false;
        }
        if (is_refused(c)) {
            config_fault(faults, place, "control character U+%04X; in double quotes it can be written as \"\\u%04X\"",
                         c, c);
            return false;
        }
        walk_on(&w, c, n);
    }
    return true;
}

void yaml_text_check_tabs(const char *text, size_t length, const YamlSpan *spans, size_t count, const char *origin,
                          ConfigFaults *faults)
{
    if (!memchr(text, '\t', length)) return;
    Walk w = {.text = text, .length = length, .line = 1, .column = 1};
    size_t span = 0;
    bool comment = false;
    while (w.at < length) {
        uint32_t c = 0;
        const size_t n = utf8_decode(text + w.at, length - w.at, &c);
        while (span < count && w.index >= spans[span].end)
            span++;
        const bool inside = span < count && w.index >= spans[span].start;
        if (c == '\n' || c == '\r') comment = false;
        if (!inside && c == '#') comment = true;
        if (c == '\t' && !comment && !(inside && spans[span].quoted)) {
            config_fault(faults, (FaultPlace){origin, w.line, w.column}, "%s", tab_advice);
            return;
        }
        walk_on(&w, c, n);
    }
}

char yaml_text_at(const char *text, size_t length, size_t index)
{
    size_t at = 0;
    while (at < length) {
        uint32_t c;
        const size_t n = utf8_decode(text + at, length - at, &c);
        if (index-- == 0) return text[at];
        at += n ? n : 1;
    }
    return '\0';
}
