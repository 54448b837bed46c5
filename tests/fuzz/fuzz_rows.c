/*
 * Records from outside: the first byte chooses how the rest is read. As a whole file it goes through the reader (plain
 * or gzip), as one record through JSON, shape detection and tokenizing, as a template through the canonical form.
 */
#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "data/chat_format.h"
#include "data/rows.h"
#include "data/shapes.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Byte-level with no merges: as small as a tokenizer can be. */
static const char *const tokenizer_json =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":0,\"content\":\"<|im_end|>\",\"single_word\":false,\"lstrip\":"
    "false,"
    "\"rstrip\":false,\"normalized\":false,\"special\":true}],\"normalizer\":null,\"pre_tokenizer\":{\"type\":"
    "\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false},\"post_processor\":null,"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"<|im_end|>\":0,\"a\":1,\"b\":2,"
    "\"\\u010a\":3,\"s\":4},\"merges\":[]}}";

static Tokenizer *tokenizer;
static ChatTemplate *chat;
static ShapeWork *work;
static char folder[] = "/tmp/qlora_fuzz_rows_XXXXXX";
static char data_path[64];

static void remove_files(void)
{
    Err err = {0};
    chat_template_close(chat);
    shape_work_free(work);
    tokenizer_close(tokenizer);
    if (!file_remove_tree(folder, &err)) _exit(1);
}

static void open_once(void)
{
    Err err = {0};
    char path[64];
    if (tokenizer) return;
    CHECK(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    snprintf(data_path, sizeof data_path, "%s/data", folder);
    CHECK(file_replace(path, tokenizer_json, strlen(tokenizer_json), &err));
    CHECK(tokenizer_open(&tokenizer, path, &err));
    CHECK(chat_template_open(&chat, "chatml", tokenizer, &err));
    CHECK(shape_work_create(&work, tokenizer, &err));
    atexit(remove_files);
}

static void check_error(const Err *err)
{
    CHECK(err->code != ERR_NONE && err->text[0] && strlen(err->text) < sizeof err->text);
}

static void one_record(const Row *row, const char *path, bool train_on_inputs)
{
    Err err = {0};
    ShapeTokens tokens = {0};
    json_t *record = NULL;
    Shape shape;
    const ShapeRules rules = {.tokenizer = tokenizer, .chat = chat, .train_on_inputs = train_on_inputs};
    const DataSource source = {0};
    const bool good = row_parse(&record, row, path, &err) && shape_detect(&shape, record, &source, &err) &&
                      shape_tokenize(&tokens, work, &rules, &source, shape, record, &err);
    if (!good) check_error(&err);
    for (size_t k = 0; good && k < tokens.count; k++)
        CHECK(tokens.ids[k] >= 0 && (tokens.labels[k] >= 0 || tokens.labels[k] == TARGET_NONE));
    json_decref(record);
    shape_tokens_free(&tokens);
}

static void whole_file(const uint8_t *bytes, size_t size)
{
    Err err = {0};
    RowReader *r = NULL;
    Row row;
    bool end = false;
    FILE *f = fopen(data_path, "wb");
    CHECK(f && fwrite(bytes, 1, size, f) == size && fclose(f) == 0);
    bool good = row_reader_open(&r, data_path, &err);
    while (good && (good = row_reader_next(r, &row, &end, &err)) && !end)
        one_record(&row, "data", false);
    if (!good) check_error(&err);
    row_reader_close(r);
}

static void as_template(const uint8_t *bytes, size_t size)
{
    Err err = {0};
    ChatFormat format = {0};
    bool found = false;
    char *text = mem_copy_bytes((const char *)bytes, size, &err);
    CHECK(text);
    if (!chat_format_detect(&format, &found, text, &err)) check_error(&err);
    chat_format_free(&format);
    mem_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size == 0) return 0;
    open_once();
    const Row row = {(const char *)bytes + 1, size - 1, 1, 1};
    switch (bytes[0] % 4) {
    case 0: one_record(&row, "record", false); break;
    case 1: one_record(&row, "record", true); break;
    case 2: whole_file(bytes + 1, size - 1); break;
    default: as_template(bytes + 1, size - 1); break;
    }
    return 0;
}
