#include "trainer/quantize_parts.h"

#include "base/file.h"
#include "base/gguf.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_BYTES_MAX = 1 << 20, NUMBER_BYTES = 40 };

const char *quantize_type_name(QuantType type)
{
    return type == QUANT_NF4 ? "nf4" : "fp4";
}

static const char *torch_dtype(DType dtype)
{
    if (dtype == DTYPE_BF16) return "bfloat16";
    return dtype == DTYPE_F16 ? "float16" : "float32";
}

/* --- quant_state --- */

/* The shortest decimal that reads back as the same double, as Python's repr prints it. */
static void python_number(char out[NUMBER_BYTES], double value)
{
    if (value == floor(value) && fabs(value) < 1e16) {
        snprintf(out, NUMBER_BYTES, "%.1f", value);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, NUMBER_BYTES, "%.*g", digits, value);
        if (strtod(out, NULL) == value) return;
    }
}

bool quantize_state_text(Text *out, const QuantMatrix *m, Err *err)
{
    char offset[NUMBER_BYTES];
    if (!text_format(out, err, "{\"quant_type\": \"%s\", \"blocksize\": %d, \"dtype\": \"%s\", \"shape\": [%lld, %lld]",
                     quantize_type_name(m->options.type), m->options.block, torch_dtype(m->source_dtype),
                     (long long)m->rows, (long long)m->cols)) {
        return false;
    }
    if (!m->options.double_quant) return text_add_z(out, "}", err);
    python_number(offset, (double)m->offset);
    return text_format(out, err, ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": %s}",
                       offset);
}

/* --- quantization_config --- */

static const QuantizeItem *first_quantized(const QuantizeJob *job)
{
    int i = 0;
    while (!job->items[i].quantized)
        i++;
    return &job->items[i];
}

/*
 * Null lets transformers keep what is never quantized: embeddings, head and what is tied to them. Once a list stands
 * there it counts alone, so it names the head and every linear module of a layer that keeps its type by its whole path.
 */
static json_t *skip_list(const QuantizeJob *job)
{
    json_t *list = json_pack("[s]", "lm_head");
    for (int i = 0; i < job->count; i++) {
        const SourceTensor *t = job->items[i].tensor;
        const size_t length = strlen(t->name);
        const bool linear = t->rank == 2 && strncmp(t->name, "model.layers.", 13) == 0;
        if (!linear || job->items[i].quantized) continue;
        json_array_append_new(list, json_stringn(t->name, length - strlen(".weight")));
    }
    if (json_array_size(list) > 1) return list;
    json_decref(list);
    return json_null();
}

static json_t *quantization_config(const QuantizeJob *job)
{
    const QuantOptions *o = &first_quantized(job)->matrix.options;
    return json_pack("{s:b, s:b, s:s, s:s, s:s, s:b, s:b, s:b, s:o, s:f, s:b, s:b, s:s}", "_load_in_4bit", 1,
                     "_load_in_8bit", 0, "bnb_4bit_compute_dtype", "bfloat16", "bnb_4bit_quant_storage", "uint8",
                     "bnb_4bit_quant_type", quantize_type_name(o->type), "bnb_4bit_use_double_quant", o->double_quant,
                     "llm_int8_enable_fp32_cpu_offload", 0, "llm_int8_has_fp16_weight", 0, "llm_int8_skip_modules",
                     skip_list(job), "llm_int8_threshold", 6.0, "load_in_4bit", 1, "load_in_8bit", 0, "quant_method",
                     "bitsandbytes");
}

/* --- config.json --- */

static bool write_text(const char *folder, const char *name, const char *text, size_t length, Err *err)
{
    char *path = path_join(folder, name, err);
    const bool ok = path && file_replace(path, text, length, err);
    mem_free(path);
    return ok;
}

static bool write_json(const char *folder, const char *name, const json_t *value, Err *err)
{
    char *text = json_print(value, JSON_INDENT(2), name, err);
    const bool ok = text && write_text(folder, name, text, strlen(text), err);
    mem_free(text);
    return ok;
}

/* The last brace of an object, with everything in front of it that belongs to its members. */
static size_t members_end(const char *text, size_t length)
{
    size_t end = length;
    while (end > 0 && text[end - 1] != '}')
        end--;
    end -= end > 0;
    while (end > 0 && strchr(" \t\r\n", text[end - 1]))
        end--;
    return end;
}

/* Every line but the first two columns further in. */
static bool add_indented(Text *out, const char *text, Err *err)
{
    for (const char *line = text; *line;) {
        const size_t length = strcspn(line, "\n"), whole = length + (line[length] == '\n');
        if (!text_add(out, line, whole, err)) return false;
        if (whole > length && !text_add_z(out, "  ", err)) return false;
        line += whole;
    }
    return true;
}

/* The text of the source's file with one member more, so that every number in it stays as it was written. */
static bool add_member(const char *folder, const char *text, size_t length, const json_t *member, Err *err)
{
    Text out = {0};
    char *dumped = json_print(member, JSON_INDENT(2), "config.json", err);
    const bool ok = dumped && text_add(&out, text, members_end(text, length), err) &&
                    text_add_z(&out, ",\n  \"quantization_config\": ", err) && add_indented(&out, dumped, err) &&
                    text_add_z(&out, "\n}\n", err) && write_text(folder, "config.json", out.bytes, out.length, err);
    mem_free(dumped);
    text_free(&out);
    return ok;
}

static bool extend_config(const QuantizeJob *job, const char *folder, const char *path, Err *err)
{
    char *text = NULL;
    size_t length = 0;
    json_t *config = NULL, *member = NULL;
    bool ok = file_read_all(&text, &length, path, CONFIG_BYTES_MAX, ERR_MODEL, err) &&
              json_parse(&config, text, length, path, ERR_MODEL, err);
    json_begin();
    if (ok) member = quantization_config(job);
    if (ok && job->copied) {
        ok = write_text(folder, "config.json", text, length, err);
    } else if (ok && json_object_get(config, "quantization_config")) { /* null, or the source would be in 4 bits */
        ok = json_object_set(config, "quantization_config", member) == 0;
        ok = (ok || FAIL(err, ERR_MEMORY, "out of memory while writing config.json")) &&
             write_json(folder, "config.json", config, err);
    } else if (ok) {
        ok = add_member(folder, text, length, member, err);
    }
    json_decref(config);
    json_decref(member);
    mem_free(text);
    return ok;
}

static bool copy_if_there(const char *folder, const char *from, const char *name, Err *err)
{
    char *source = path_join(from, name, err), *target = path_join(folder, name, err);
    const bool ok = source && target && (!file_exists(source) || file_copy(target, source, err));
    mem_free(source);
    mem_free(target);
    return ok;
}

static bool config_of_folder(const QuantizeJob *job, const char *folder, Err *err)
{
    const char *from = source_path(job->source);
    char *path = path_join(from, "config.json", err);
    const bool ok =
        path && extend_config(job, folder, path, err) && copy_if_there(folder, from, "generation_config.json", err);
    mem_free(path);
    return ok;
}

/* --- the same from a GGUF file --- */

static void set_ids(json_t *object, const Gguf *g)
{
    static const struct Id {
        const char *key, *from;
    } ids[] = {
        {"bos_token_id", "tokenizer.ggml.bos_token_id"    },
        {"eos_token_id", "tokenizer.ggml.eos_token_id"    },
        {"pad_token_id", "tokenizer.ggml.padding_token_id"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(ids); i++) {
        int64_t id;
        if (gguf_int(g, ids[i].from, &id)) json_object_set_new(object, ids[i].key, json_integer(id));
    }
}

static bool config_of_gguf(const QuantizeJob *job, const char *folder, Err *err)
{
    Gguf *g = NULL;
    if (!gguf_open(&g, source_path(job->source), err)) return false;
    json_begin();
    json_t *config = spec_to_config(source_spec(job->source), torch_dtype(first_quantized(job)->tensor->dtype));
    json_t *generation = json_object();
    set_ids(config, g);
    set_ids(generation, g);
    json_object_set_new(config, "quantization_config", quantization_config(job));
    const bool ok =
        write_json(folder, "config.json", config, err) && write_json(folder, "generation_config.json", generation, err);
    json_decref(config);
    json_decref(generation);
    gguf_close(g);
    return ok;
}

bool quantize_write_config(const QuantizeJob *job, const char *folder, Err *err)
{
    return source_is_gguf(job->source) ? config_of_gguf(job, folder, err) : config_of_folder(job, folder, err);
}
