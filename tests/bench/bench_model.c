/*
 * bench_model.c - a base model of a given shape with random 4-bit codes, and rows to train it on: for measuring steps of
 * models that nobody wants to download.
 *
 *   bench_model SHAPE FOLDER     SHAPE: smollm2, 8b, 70b (Llama 3's), or tiny
 *
 * Writes FOLDER/config.json, model.safetensors as bitsandbytes stores NF4 with double quantization (5.7 GB for 8b, 40 GB
 * for 70b), and rows-N.jsonl: 64 rows of N random tokens, all trained, N = 512, 2048, 8192, 32768. Codes repeat one
 * random megabyte from changing places on; scales lie around 0.05, so that activations neither vanish nor overflow.
 * tests/bench/steps.sh runs `qlora train` on them.
 */
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/safetensors.h"
#include "trainer/quantize_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POOL = 1 << 20, ROWS = 64 };

static const struct Shape {
    const char *name;
    ModelSpec spec;
} shapes[] = {
    {"tiny",
     {.vocab = 320,
      .hidden = 256,
      .ffn = 512,
      .layers = 2,
      .heads = 4,
      .kv_heads = 2,
      .head_dim = 64,
      .rope_theta = 1e4}},
    {"smollm2",
     {.vocab = 49152,
      .hidden = 576,
      .ffn = 1536,
      .layers = 30,
      .heads = 9,
      .kv_heads = 3,
      .head_dim = 64,
      .tied = true,
      .rope_theta = 1e5}},
    {"8b",
     {.vocab = 128256,
      .hidden = 4096,
      .ffn = 14336,
      .layers = 32,
      .heads = 32,
      .kv_heads = 8,
      .head_dim = 128,
      .rope_theta = 5e5}},
    {"70b",
     {.vocab = 128256,
      .hidden = 8192,
      .ffn = 28672,
      .layers = 80,
      .heads = 64,
      .kv_heads = 8,
      .head_dim = 128,
      .rope_theta = 5e5}},
};

typedef struct Job {
    SafetensorsWriter *w;
    const ModelSpec *spec;
    bool writing; /* the second round; the first one declares */
    uint8_t *bytes;
    uint16_t *halves, *ones; /* (POOL) bf16: normal numbers of 0.02, and 1 */
    uint64_t at;             /* where the next tensor begins in the pool */
} Job;

/* `length` bytes from the pool, round and round. */
static bool write_pool(Job *j, const void *pool, size_t pool_bytes, size_t length, Err *err)
{
    size_t at = (size_t)(j->at++ * 4099 * 2) % pool_bytes;
    while (length > 0) {
        const size_t n = length < pool_bytes - at ? length : pool_bytes - at;
        if (!safetensors_writer_data(j->w, (const char *)pool + at, n, err)) return false;
        length -= n;
        at = 0;
    }
    return true;
}

static bool declare(Job *j, const char *name, const char *part, DType dtype, int64_t rows, int64_t cols, Err *err)
{
    char whole[256];
    const int64_t shape[2] = {rows, cols};
    snprintf(whole, sizeof whole, "%s%s", name, part);
    return safetensors_writer_declare(j->w, whole, dtype, cols ? 2 : 1, shape, err);
}

/* A tensor in bf16; cols 0: a norm, all ones. */
static bool put_plain(Job *j, const char *name, int64_t rows, int64_t cols, Err *err)
{
    if (!j->writing) return declare(j, name, "", DTYPE_BF16, rows, cols, err);
    const size_t bytes = (size_t)(rows * (cols ? cols : 1)) * sizeof(uint16_t);
    return write_pool(j, cols ? j->halves : j->ones, POOL * sizeof(uint16_t), bytes, err);
}

static bool write_quantized(Job *j, const QuantMatrix *m, const Text *state, Err *err)
{
    const size_t blocks = (size_t)quant_blocks(m);
    const float nested = 0.02f;
    bool ok = write_pool(j, j->bytes, POOL, (size_t)(m->rows * m->cols) / 2, err) &&
              write_pool(j, j->bytes, POOL, blocks, err) &&
              safetensors_writer_data(j->w, quant_levels[QUANT_NF4], sizeof quant_levels[QUANT_NF4], err);
    for (size_t i = 0; ok && i < blocks; i += 256)
        ok = safetensors_writer_data(j->w, &nested, sizeof nested, err);
    return ok && safetensors_writer_data(j->w, m->map, sizeof m->map, err) &&
           safetensors_writer_data(j->w, state->bytes, state->length, err);
}

static bool put_quantized(Job *j, const char *name, int64_t rows, int64_t cols, Err *err)
{
    QuantMatrix m = {0};
    Arena measure = {.name = "weights"};
    Text state = {0};
    quant_place(&m, &measure, &(QuantOptions){QUANT_NF4, 64, true}, rows, cols);
    m.source_dtype = DTYPE_BF16;
    m.offset = 0.05f;
    bool ok = quantize_state_text(&state, &m, err);
    if (ok && j->writing) {
        ok = write_quantized(j, &m, &state, err);
    } else if (ok) {
        const int64_t blocks = quant_blocks(&m);
        ok = declare(j, name, "", DTYPE_U8, rows * cols / 2, 1, err) &&
             declare(j, name, ".absmax", DTYPE_U8, blocks, 0, err) &&
             declare(j, name, ".quant_map", DTYPE_F32, 16, 0, err) &&
             declare(j, name, ".nested_absmax", DTYPE_F32, ceil_div(blocks, 256), 0, err) &&
             declare(j, name, ".nested_quant_map", DTYPE_F32, 256, 0, err) &&
             declare(j, name, ".quant_state.bitsandbytes__nf4", DTYPE_U8, (int64_t)state.length, 0, err);
    }
    text_free(&state);
    return ok;
}

static bool put_layer(Job *j, int layer, Err *err)
{
    char name[128];
    static const char *const norms[] = {"input_layernorm", "post_attention_layernorm"};
    for (int p = 0; p < PROJ_COUNT; p++) {
        const Projection projection = (Projection)p;
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, projection_module(projection));
        if (!put_quantized(j, name, projection_rows(j->spec, projection), projection_cols(j->spec, projection), err))
            return false;
    }
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, norms[i]);
        if (!put_plain(j, name, j->spec->hidden, 0, err)) return false;
    }
    return true;
}

/* All tensors, in the same order both times. */
static bool put_all(Job *j, Err *err)
{
    const ModelSpec *s = j->spec;
    if (!put_plain(j, "model.embed_tokens.weight", s->vocab, s->hidden, err)) return false;
    for (int l = 0; l < s->layers; l++) {
        if (!put_layer(j, l, err)) return false;
        if (j->writing) log_progress("writing", l + 1, s->layers, "layers", l + 1 == s->layers);
    }
    return put_plain(j, "model.norm.weight", s->hidden, 0, err) &&
           (s->tied || put_plain(j, "lm_head.weight", s->vocab, s->hidden, err));
}

static void fill_pools(Job *j)
{
    const RngKey key = {.seed = 1, .purpose = RNG_TEST};
    for (int i = 0; i < POOL; i++) {
        j->bytes[i] = (uint8_t)(rng_u32(key, (uint64_t)i) >> 24);
        j->halves[i] = bf16_from_f32(0.02f * rng_normal(key, (uint64_t)i));
        j->ones[i] = bf16_from_f32(1.0f);
    }
}

static bool write_weights(const ModelSpec *spec, const char *folder, Err *err)
{
    Job j = {.spec = spec};
    char *path = path_join(folder, "model.safetensors", err);
    bool ok = path && (j.bytes = mem_alloc(POOL, 1, err)) && (j.halves = mem_alloc(POOL, sizeof *j.halves, err)) &&
              (j.ones = mem_alloc(POOL, sizeof *j.ones, err)) && safetensors_writer_create(&j.w, path, err);
    if (ok) {
        fill_pools(&j);
        ok = safetensors_writer_metadata(j.w, "format", "pt", err) && put_all(&j, err) &&
             safetensors_writer_begin(j.w, err);
        j.writing = true;
        ok = ok && put_all(&j, err);
        if (ok) {
            ok = safetensors_writer_finish(j.w, err);
        } else {
            safetensors_writer_discard(j.w);
        }
    }
    mem_free(j.bytes);
    mem_free(j.halves);
    mem_free(j.ones);
    mem_free(path);
    return ok;
}

static bool write_config(const ModelSpec *spec, const char *folder, Err *err)
{
    json_t *config = spec_to_config(spec, "bfloat16");
    json_object_set_new(config, "quantization_config",
                        json_pack("{s:b, s:s, s:b, s:s, s:s, s:s}", "load_in_4bit", 1, "bnb_4bit_quant_type", "nf4",
                                  "bnb_4bit_use_double_quant", 1, "bnb_4bit_compute_dtype", "bfloat16", "quant_method",
                                  "bitsandbytes", "bnb_4bit_quant_storage", "uint8"));
    char *path = path_join(folder, "config.json", err), *text = json_dumps(config, JSON_INDENT(2));
    const bool ok = path && text && file_replace(path, text, strlen(text), err);
    free(text);
    mem_free(path);
    json_decref(config);
    return ok;
}

static bool write_rows(const ModelSpec *spec, const char *folder, int64_t tokens, Err *err)
{
    char path[4096];
    if (tokens > spec->max_positions) return true;
    snprintf(path, sizeof path, "%s/rows-%lld.jsonl", folder, (long long)tokens);
    FILE *f = fopen(path, "w");
    if (!f) return FAIL(err, ERR_DISK, "%s cannot be created", path);
    for (uint32_t row = 0; row < ROWS; row++) {
        const RngKey key = {.seed = 2, .purpose = RNG_TEST, .stream = row};
        for (int64_t i = 0; i < tokens; i++)
            fprintf(f, "%s%u", i ? ", " : "{\"input_ids\": [", rng_u32(key, (uint64_t)i) % (uint32_t)spec->vocab);
        fputs("]}\n", f);
    }
    return fclose(f) == 0 || FAIL(err, ERR_DISK, "%s cannot be written", path);
}

int main(int argc, char **argv)
{
    Err err = {0};
    const struct Shape *shape = NULL;
    for (size_t i = 0; argc == 3 && i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(argv[1], shapes[i].name) == 0) shape = &shapes[i];
    }
    if (!shape) {
        fprintf(stderr, "usage: bench_model smollm2|8b|70b|tiny FOLDER\n");
        return 2;
    }
    ModelSpec spec = shape->spec;
    snprintf(spec.family, sizeof spec.family, "llama");
    spec.norm_eps = 1e-5f;
    spec.max_positions = 131072;
    bool ok =
        file_make_folders(argv[2], &err) && write_config(&spec, argv[2], &err) && write_weights(&spec, argv[2], &err);
    static const int64_t lengths[] = {512, 2048, 8192, 32768};
    for (int i = 0; ok && i < 4; i++)
        ok = write_rows(&spec, argv[2], lengths[i], &err);
    if (!ok) log_err(&err);
    return ok ? 0 : 1;
}
