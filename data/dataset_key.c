#include "base/mem.h"
#include "data/chat_template.h"
#include "data/dataset_build.h"

#include <string.h>

void data_files_free(DataFiles *f)
{
    for (int i = 0; i < f->count; i++)
        source_files_free(&f->sources[i]);
    mem_free(f->sources);
    *f = (DataFiles){0};
}

bool data_files_find(DataFiles *out, const DataOptions *options, Err *err)
{
    DataFiles f = {0};
    f.sources = mem_alloc((size_t)options->source_count, sizeof *f.sources, err);
    if (!f.sources) return false;
    f.count = options->source_count;
    for (int i = 0; i < options->source_count; i++)
        TRY(source_files_find(&f.sources[i], options->sources[i].path, err));
    *out = f;
    return true;
fail:
    data_files_free(&f);
    return false;
}

const char *data_files_path(const DataFiles *f, const TokenSample *s)
{
    if (s->source >= (uint32_t)f->count || s->file >= f->sources[s->source].count) return "";
    return f->sources[s->source].paths[s->file];
}

/* Every part goes in with its length (or a mark for null), so that no two lists of parts look alike. */
static void add_bytes(Hash *h, const void *bytes, size_t length)
{
    const uint64_t n = length;
    hash_add(h, &n, sizeof n);
    if (length) hash_add(h, bytes, length);
}

static void add_text(Hash *h, const char *text)
{
    const uint64_t null = UINT64_MAX;
    if (text)
        add_bytes(h, text, strlen(text));
    else
        hash_add(h, &null, sizeof null);
}

static void add_number(Hash *h, int64_t number)
{
    hash_add(h, &number, sizeof number);
}

static void add_pairs(Hash *h, const DataPair *pairs, int count)
{
    add_number(h, count);
    for (int i = 0; i < count; i++) {
        add_text(h, pairs[i].key);
        add_text(h, pairs[i].value);
    }
}

static void add_source(Hash *h, const DataSource *s)
{
    add_text(h, s->type);
    add_text(h, s->split);
    add_text(h, s->field_messages);
    add_pairs(h, s->properties, s->property_count);
    add_pairs(h, s->roles, s->role_count);
    add_number(h, s->roles_to_train ? s->roles_to_train_count : -1);
    for (int i = 0; i < s->roles_to_train_count; i++)
        add_text(h, s->roles_to_train[i]);
    add_number(h, s->train_on_eos);
    add_number(h, s->max_samples);
}

static void add_template(Hash *h, const ChatTemplate *chat)
{
    add_number(h, chat != NULL);
    if (!chat) return;
    add_text(h, chat->name);
    add_text(h, chat->bos);
    add_number(h, chat->assumed);
    add_number(h, chat->format.bos);
    add_number(h, chat->format.tool);
    add_number(h, chat->format.default_system_given);
    add_bytes(h, chat->format.default_system.bytes, chat->format.default_system.length);
    add_bytes(h, chat->format.preamble.bytes, chat->format.preamble.length);
}

static bool add_files(Hash *h, const SourceFiles *files, Err *err)
{
    add_number(h, (int64_t)files->count);
    for (size_t i = 0; i < files->count; i++) {
        char content[HASH_TEXT];
        if (!hash_file(files->paths[i], ERR_DATA, content, err)) return false;
        add_text(h, content);
    }
    return true;
}

bool dataset_key(char key[HASH_TEXT], const DataOptions *options, const DataFiles *files, const Tokenizer *t,
                 const ChatTemplate *chat, Err *err)
{
    Hash *h = NULL;
    if (!hash_create(&h, err)) return false;
    add_text(h, "qlora tokens " QLORA_VERSION);
    add_text(h, t ? tokenizer_fingerprint(t) : "no tokenizer");
    add_template(h, chat);
    add_number(h, options->sequence_len);
    add_number(h, options->excess);
    add_number(h, options->train_on_inputs);
    add_number(h, options->mask_history);
    add_number(h, options->dedupe);
    add_number(h, options->vocab_size);
    bool good = true;
    for (int i = 0; i < options->source_count && good; i++) {
        add_source(h, &options->sources[i]);
        good = add_files(h, &files->sources[i], err);
    }
    hash_finish(h, key); /* also frees it */
    return good;
}
