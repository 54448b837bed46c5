/* source_bnb.c - matrices that bitsandbytes stored in 4 bits: what lies beside the codes, checked and read. */
#include "base/mem.h"
#include "base/text.h"
#include "model/source_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { STATE_BYTES_MAX = 4096, NESTED_BLOCK = 256, NAME_BYTES = 1200 };

static bool fail_matrix(Err *err, const ShardEntry *weight, const char *why)
{
    return FAIL(err, ERR_MODEL, "%s: the 4-bit matrix \"%s\" %s", weight->shard->file.path, weight->entry->name, why);
}

/* NAME.weight.PART, in whichever shard. */
static const ShardEntry *find_part(const ModelSource *s, const ShardEntry *weight, const char *part)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.%s", weight->entry->name, part);
    return source_entry(s, name);
}

/* The part must be there with this type and number of elements. */
static bool take_part(const ModelSource *s, const ShardEntry *weight, const char *part, DType dtype, int64_t count,
                      ShardEntry *out, Err *err)
{
    const ShardEntry *e = find_part(s, weight, part);
    char why[128];
    snprintf(why, sizeof why, e ? "has %s of the wrong type or size" : "lacks its %s", part);
    if (!e || e->entry->dtype != dtype || e->entry->count != count) return fail_matrix(err, weight, why);
    *out = *e;
    return true;
}

/* Only the members that bitsandbytes writes, since another one could change what the codes mean. */
static bool check_keys(json_t *state, const ShardEntry *weight, Err *err)
{
    static const char *const known[] = {"quant_type",       "blocksize",    "dtype",        "shape",
                                        "nested_blocksize", "nested_dtype", "nested_offset"};
    const char *key;
    json_t *value;
    json_object_foreach(state, key, value)
    {
        bool found = false;
        for (size_t i = 0; i < ARRAY_COUNT(known); i++)
            found = found || strcmp(key, known[i]) == 0;
        if (!found) return fail_matrix(err, weight, "has an unknown key in its quant_state");
    }
    return true;
}

static bool read_dtype(SourceQuant *q, const char *name, const ShardEntry *weight, Err *err)
{
    static const struct {
        const char *name;
        DType dtype;
    } dtypes[] = {
        {"float32",  DTYPE_F32 },
        {"float16",  DTYPE_F16 },
        {"bfloat16", DTYPE_BF16}
    };
    for (size_t i = 0; name && i < ARRAY_COUNT(dtypes); i++) {
        if (strcmp(name, dtypes[i].name) != 0) continue;
        q->source_dtype = dtypes[i].dtype;
        return true;
    }
    return fail_matrix(err, weight, "has an unknown dtype in its quant_state");
}

static bool read_shape(StoredTensor *t, const json_t *state, const ShardEntry *weight, Err *err)
{
    const json_t *shape = json_object_get(state, "shape");
    uint64_t count = 1;
    if (json_array_size(shape) != 2) return fail_matrix(err, weight, "does not have two dimensions");
    for (size_t i = 0; i < 2; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 1) {
            return fail_matrix(err, weight, "has a shape that is no pair of sizes");
        }
        t->shown.shape[i] = json_integer_value(size);
        if (!checked_mul(count, (uint64_t)t->shown.shape[i], &count)) count = UINT64_MAX;
    }
    /* Codes may be stored as any type (quant_storage); the bytes count. */
    if (count > INT64_MAX || weight->entry->bytes != (count + 1) / 2) {
        return fail_matrix(err, weight, "has a shape that does not fit its bytes");
    }
    return true;
}

static bool read_nesting(SourceQuant *q, const json_t *state, const ShardEntry *weight, Err *err)
{
    const json_t *offset = json_object_get(state, "nested_offset");
    const json_t *block = json_object_get(state, "nested_blocksize");
    const char *dtype = json_string_value(json_object_get(state, "nested_dtype"));
    q->options.double_quant = block != NULL;
    if (!block) return (!offset && !dtype) || fail_matrix(err, weight, "has no nested_blocksize in its quant_state");
    if (json_integer_value(block) != NESTED_BLOCK)
        return fail_matrix(err, weight, "has a nested_blocksize other than 256");
    if (!dtype || strcmp(dtype, "float32") != 0)
        return fail_matrix(err, weight, "has a nested_dtype other than float32");
    q->offset = (float)json_number_value(offset);
    if (!json_is_number(offset) || !isfinite(q->offset)) return fail_matrix(err, weight, "has no finite nested_offset");
    return true;
}

static bool read_state(StoredTensor *t, json_t *state, const ShardEntry *weight, Err *err)
{
    static const char *const types[] = {[QUANT_NF4] = "nf4", [QUANT_FP4] = "fp4"};
    SourceQuant *q = &t->quant;
    const char *type = json_string_value(json_object_get(state, "quant_type"));
    const json_int_t block = json_integer_value(json_object_get(state, "blocksize"));
    if (!json_is_object(state)) return fail_matrix(err, weight, "has a quant_state that is no object");
    if (!check_keys(state, weight, err)) return false;
    if (!type || strcmp(type, types[q->options.type]) != 0) {
        return fail_matrix(err, weight, "has a quant_type that is not that of its quant_state's name");
    }
    if (block < 32 || block > 4096 || (block & (block - 1)) != 0) {
        return fail_matrix(err, weight, "has a blocksize that is no power of two from 32 to 4096");
    }
    q->options.block = (int)block;
    return read_dtype(q, json_string_value(json_object_get(state, "dtype")), weight, err) &&
           read_shape(t, state, weight, err) && read_nesting(q, state, weight, err);
}

static bool load_state(StoredTensor *t, const ShardEntry *state, const ShardEntry *weight, Err *err)
{
    char text[STATE_BYTES_MAX];
    json_t *parsed = NULL;
    const size_t length = state->entry->bytes;
    if (state->entry->dtype != DTYPE_U8 || length > sizeof text) {
        return fail_matrix(err, weight, "has a quant_state that is not a short text");
    }
    const bool ok = safetensors_read(state->shard, state->entry, 0, length, text, err) &&
                    json_parse(&parsed, text, length, state->entry->name, ERR_MODEL, err) &&
                    read_state(t, parsed, weight, err);
    json_decref(parsed);
    return ok;
}

/* The levels of the codes must be ours; they are constants of bitsandbytes. */
static bool check_levels(const ModelSource *s, const SourceQuant *q, const ShardEntry *weight, Err *err)
{
    ShardEntry map;
    float levels[16];
    if (!take_part(s, weight, "quant_map", DTYPE_F32, 16, &map, err)) return false;
    if (!safetensors_read(map.shard, map.entry, 0, sizeof levels, levels, err)) return false;
    for (int i = 0; i < 16; i++) {
        if (levels[i] == quant_levels[q->options.type][i]) continue; /* -0 is 0 */
        return fail_matrix(err, weight, "has a quant_map other than that of its type");
    }
    return true;
}

bool source_find_quant(const ModelSource *s, const ShardEntry *weight, StoredTensor *t, bool *found, Err *err)
{
    const ShardEntry *nf4 = find_part(s, weight, "quant_state.bitsandbytes__nf4");
    const ShardEntry *fp4 = find_part(s, weight, "quant_state.bitsandbytes__fp4");
    SourceQuant *q = &t->quant;
    *found = nf4 || fp4;
    if (!*found) {
        if (!find_part(s, weight, "absmax")) return true;
        return fail_matrix(err, weight, "lacks its quant_state");
    }
    if (nf4 && fp4) return fail_matrix(err, weight, "is said to be both nf4 and fp4");
    q->options.type = nf4 ? QUANT_NF4 : QUANT_FP4;
    if (!load_state(t, nf4 ? nf4 : fp4, weight, err)) return false;
    const int64_t blocks = ceil_div(t->shown.shape[0] * t->shown.shape[1], q->options.block);
    const bool nested = q->options.double_quant;
    if (!take_part(s, weight, "absmax", nested ? DTYPE_U8 : DTYPE_F32, blocks, &q->absmax, err)) return false;
    if (nested) {
        const int64_t outer = ceil_div(blocks, NESTED_BLOCK);
        if (!take_part(s, weight, "nested_absmax", DTYPE_F32, outer, &q->nested_absmax, err)) return false;
        if (!take_part(s, weight, "nested_quant_map", DTYPE_F32, 256, &q->nested_map, err)) return false;
    }
    q->codes = *weight;
    t->shown.rank = 2;
    t->shown.dtype = q->source_dtype;
    t->shown.stored = nf4 ? "NF4" : "FP4";
    t->shown.prequantized = true;
    return check_levels(s, q, weight, err);
}

static bool read_all(const ShardEntry *e, void *to, Err *err)
{
    return safetensors_read(e->shard, e->entry, 0, e->entry->bytes, to, err);
}

static bool check_finite(const float *values, int64_t count, const ShardEntry *weight, Err *err)
{
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(values[i])) return fail_matrix(err, weight, "has a scale that is not finite");
    }
    return true;
}

bool source_read_quantized(const ModelSource *s, const SourceTensor *shown, QuantMatrix *m, QuantHost *host, Err *err)
{
    const StoredTensor *t = (const StoredTensor *)(const void *)shown;
    const SourceQuant *q = &t->quant;
    CHECK(shown->prequantized);
    m->options = q->options;
    m->rows = shown->shape[0];
    m->cols = shown->shape[1];
    m->source_dtype = q->source_dtype;
    m->offset = q->offset;
    const bool nested = q->options.double_quant;
    if (nested) {
        if (!read_all(&q->nested_map, m->map, err)) return false;
        if (!check_finite(m->map, 256, &q->codes, err)) return false;
    }
    if (!host) return true;
    host->offset = q->offset;
    if (!read_all(&q->codes, host->codes, err) || !read_all(&q->absmax, host->absmax, err)) goto fail;
    if (!nested) return check_finite(host->absmax, q->absmax.entry->count, &q->codes, err);
    if (!read_all(&q->nested_absmax, host->nested_absmax, err)) goto fail;
    return check_finite(host->nested_absmax, q->nested_absmax.entry->count, &q->codes, err);
fail:
    return err_note(err, "%s: tensor \"%s\"", s->path, shown->name);
}
