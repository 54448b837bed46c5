/* Any bytes as config.json: refused by name, or a model whose own config.json reads as the same model. */
#include "model/spec.h"

#include "base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void check_spec(const ModelSpec *s)
{
    static float frequencies[512];
    Err err = {0};
    ModelSpec again;
    if (!spec_check(s, "config.json", &err)) abort();
    spec_rope_frequencies(s, frequencies);
    for (int i = 0; i < s->head_dim / 2; i++) {
        if (!isfinite(frequencies[i]) || frequencies[i] < 0) abort();
    }
    for (Projection p = 0; p < PROJ_COUNT; p++) {
        uint64_t count;
        if (!checked_mul((uint64_t)projection_rows(s, p), (uint64_t)projection_cols(s, p), &count) || count == 0)
            abort();
    }
    json_t *config = spec_to_config(s, "float32");
    if (!config || !spec_from_config(&again, config, "again", &err)) abort();
    if (memcmp(s->family, again.family, sizeof s->family) != 0 || s->hidden != again.hidden || s->rope != again.rope ||
        s->rope_factor != again.rope_factor || s->norm_eps != again.norm_eps || s->head_dim != again.head_dim) {
        abort();
    }
    json_decref(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    Err err = {0};
    json_t *root;
    ModelSpec s;
    if (!json_parse(&root, (const char *)bytes, length, "config.json", ERR_MODEL, &err)) return 0;
    if (spec_from_config(&s, root, "config.json", &err)) {
        check_spec(&s);
    } else if (err.code == ERR_NONE || strchr(err.text, '\n')) {
        abort();
    }
    json_decref(root);
    return 0;
}
