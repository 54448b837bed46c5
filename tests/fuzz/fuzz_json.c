/* Any bytes as JSON: refused with a place, or written out and read again as an equal value. */
#include "base/json.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    Err err = {0};
    json_t *root;
    if (!json_parse(&root, (const char *)bytes, length, "in.json", ERR_DATA, &err)) {
        if (strncmp(err.text, "in.json:", 8) != 0 || strchr(err.text, '\n') || !err.located) abort();
        return 0;
    }
    char *text = json_dumps(root, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_t *again;
    if (!text || !json_parse(&again, text, strlen(text), "again", ERR_DATA, &err)) abort();
    if (!json_equal(root, again)) abort();
    json_decref(again);
    json_decref(root);
    mem_free(text);
    return 0;
}
