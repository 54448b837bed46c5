/*
 * Any bytes as a configuration: a Config or faults, never a crash, and what is accepted survives being written and read
 * again. Lines behind a line "--set" become overrides.
 */
#include "base/check.h"
#include "base/mem.h"
#include "trainer/config.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

enum { SETS_MAX = 8 };

/* Cuts "LINE\nLINE\n" into its lines, in place. */
static int lines_cut(char *text, const char **lines)
{
    int count = 0;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line && count < SETS_MAX; line = strtok_r(NULL, "\n", &save))
        lines[count++] = line;
    return count;
}

static void check_faults(const Err *err)
{
    CHECK(err->code == ERR_CONFIG);
    CHECK(err->text[0] && strlen(err->text) < ERR_TEXT_MAX);
    for (const char *at = err->text; *at; at++)
        CHECK(*at == '\n' || (unsigned char)*at >= 0x20);
}

static void check_round_trip(const Config *c)
{
    Err err = {0};
    Text first = {0};
    Text second = {0};
    Config *again = NULL;
    CHECK(config_to_text(c, &first, &err));
    CHECK(config_parse(&again, "again", first.bytes, first.length, NULL, 0, &err));
    CHECK(config_to_text(again, &second, &err));
    CHECK(first.length == second.length && memcmp(first.bytes, second.bytes, first.length) == 0);
    config_free(again);
    text_free(&first);
    text_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const char mark[] = "\n--set\n";
    Err err = {0};
    char *text = mem_copy_bytes((const char *)bytes, length, &err);
    CHECK(text);
    const char *sets[SETS_MAX];
    int count = 0;
    char *behind = memmem(text, length, mark, sizeof mark - 1);
    if (behind) {
        length = (size_t)(behind - text) + 1;
        count = lines_cut(behind + sizeof mark - 1, sets);
    }
    Config *c = NULL;
    if (config_parse(&c, "f.yaml", text, length, sets, count, &err)) {
        check_round_trip(c);
        config_free(c);
    } else {
        check_faults(&err);
    }
    mem_free(text);
    return 0;
}
