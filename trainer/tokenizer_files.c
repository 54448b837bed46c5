#include "trainer/tokenizer_files.h"

#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "data/tokenizer_export.h"

enum { MADE = 2 }; /* the first ones, from a GGUF file */

static const char *const files[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt",     "tokenizer.model",       "chat_template.jinja",
};

bool tokenizer_files_write(const char *folder, const char *from, const Tokenizer *t, Err *err)
{
    (void)t; /* the files are copied or made from the source, not from what was parsed */
    if (!file_is_folder(from)) return tokenizer_export_gguf(folder, from, err);
    bool ok = true;
    for (size_t i = 0; ok && i < ARRAY_COUNT(files); i++) {
        char *source = path_join(from, files[i], err), *target = path_join(folder, files[i], err);
        ok = source && target && (!file_exists(source) || file_copy(target, source, err));
        mem_free(source);
        mem_free(target);
    }
    return ok;
}

bool tokenizer_files_there(const char *folder, const char *from)
{
    const bool made = !file_is_folder(from);
    bool there = true;
    for (size_t i = 0; there && i < ARRAY_COUNT(files); i++)
        there = file_in_folder(folder, files[i]) || !(made ? i < MADE : file_in_folder(from, files[i]));
    return there;
}
