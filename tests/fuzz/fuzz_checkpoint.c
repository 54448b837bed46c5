/* Any bytes as manifest.json of a checkpoint (first byte even: trainer_state.json; 'm': metrics.jsonl): refused with one
 * sentence, or accepted as it stands. No byte of a manifest makes the reader leave the folder. */
#include "base/file.h"
#include "base/mem.h"
#include "trainer/checkpoint.h"
#include "trainer/metrics.h"
#include "trainer/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static char folder[] = "/tmp/qlora-fuzz-XXXXXX";
static char manifest[64], state_path[64], log_path[64];

static void put(const char *path, const void *bytes, size_t length)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, length, f) != length) abort();
    fclose(f);
}

static void clean_up(void)
{
    Err err = {0};
    if (!file_remove_tree(folder, &err)) fprintf(stderr, "%s\n", err.text);
}

static void set_up(void)
{
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors", "run.yaml",
                                        "trainer_state.json"};
    if (manifest[0]) return;
    if (!mkdtemp(folder)) abort();
    atexit(clean_up);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        put(path, names[i], strlen(names[i]));
    }
    snprintf(manifest, sizeof manifest, "%s/manifest.json", folder);
    snprintf(state_path, sizeof state_path, "%s/state", folder);
    snprintf(log_path, sizeof log_path, "%s/log", folder);
}

static void must_be_clear(const Err *err)
{
    if (err->code == ERR_NONE || strchr(err->text, '\n') || !err->text[0]) abort();
}

static void try_state(const uint8_t *bytes, size_t length)
{
    Err err = {0};
    RunState state;
    put(state_path, bytes, length);
    if (!state_read(&state, state_path, &err)) {
        must_be_clear(&err);
        return;
    }
    char *text = state_to_json(&state, &err); /* what is accepted can be written again, to the same values */
    if (!text) abort();
    put(state_path, text, strlen(text));
    RunState again;
    if (!state_read(&again, state_path, &err) || again.step != state.step || again.rows != state.rows) abort();
    free(text);
}

static void try_log(const uint8_t *bytes, size_t length)
{
    Err err = {0};
    put(log_path, bytes, length);
    if (!metrics_cut(log_path, 5, "eval_loss", &err)) must_be_clear(&err);
    File file = {0};
    if (!file_open_read(&file, log_path, ERR_DISK, &err) || file.size > length) abort();
    file_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    Err err = {0};
    set_up();
    if (length == 0) return 0;
    if (bytes[0] == 'm') {
        try_log(bytes + 1, length - 1);
    } else if (bytes[0] % 2 == 0) {
        try_state(bytes + 1, length - 1);
    } else {
        put(manifest, bytes + 1, length - 1);
        if (!checkpoint_verify(folder, -1, &err)) must_be_clear(&err);
    }
    return 0;
}
