#include "tests/support/tiny.h"

#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/safetensors.h"
#include "base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 64, FFN = 128, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16, TENSORS_MAX = 160 };

typedef struct TinyTensor {
    char name[96];
    int64_t rows, cols; /* cols 0: a vector */
    float spread;       /* standard deviation; 0: ones (norms) */
} TinyTensor;

static int ffn_of(const TinyOptions *o)
{
    return o->ffn ? o->ffn : FFN;
}

static int layers_of(const TinyOptions *o)
{
    CHECK(o->layers <= TINY_LAYERS_MAX);
    return o->layers ? o->layers : TINY_LAYERS;
}

static int list_tensors(TinyTensor *list, const TinyOptions *o)
{
    int n = 0;
    const float wide = 0.08f;
#define ADD(r, c, s, ...)                                                                                              \
    do {                                                                                                               \
        list[n] = (TinyTensor){.rows = (r), .cols = (c), .spread = (s)};                                               \
        snprintf(list[n++].name, sizeof list[0].name, __VA_ARGS__);                                                    \
    } while (0)
    ADD(TINY_VOCAB, WIDTH, 0.5f, "model.embed_tokens.weight");
    for (int l = 0; l < layers_of(o); l++) {
        const struct {
            const char *module;
            int64_t rows, cols;
            bool biased;
        } linears[] = {
            {"self_attn.q_proj", (int64_t)HEADS * HEAD_DIM,    WIDTH,                     o->bias},
            {"self_attn.k_proj", (int64_t)KV_HEADS * HEAD_DIM, WIDTH,                     o->bias},
            {"self_attn.v_proj", (int64_t)KV_HEADS * HEAD_DIM, WIDTH,                     o->bias},
            {"self_attn.o_proj", WIDTH,                        (int64_t)HEADS * HEAD_DIM, o->bias},
            {"mlp.gate_proj",    ffn_of(o),                    WIDTH,                     o->bias},
            {"mlp.up_proj",      ffn_of(o),                    WIDTH,                     o->bias},
            {"mlp.down_proj",    WIDTH,                        ffn_of(o),                 o->bias},
        };
        for (size_t i = 0; i < ARRAY_COUNT(linears); i++) {
            ADD(linears[i].rows, linears[i].cols, wide, "model.layers.%d.%s.weight", l, linears[i].module);
            if (linears[i].biased) ADD(linears[i].rows, 0, wide, "model.layers.%d.%s.bias", l, linears[i].module);
        }
        ADD(WIDTH, 0, 0, "model.layers.%d.input_layernorm.weight", l);
        ADD(WIDTH, 0, 0, "model.layers.%d.post_attention_layernorm.weight", l);
    }
    ADD(WIDTH, 0, 0, "model.norm.weight");
    if (!o->tied) ADD(TINY_VOCAB, WIDTH, wide, "lm_head.weight");
#undef ADD
    CHECK(n <= TENSORS_MAX);
    return n;
}

static bool write_tensor(SafetensorsWriter *w, const TinyTensor *t, const TinyOptions *o, uint32_t stream, Err *err)
{
    const int64_t count = t->rows * (t->cols ? t->cols : 1);
    const RngKey key = {.seed = o->seed, .purpose = RNG_TEST, .stream = stream};
    float *values = mem_alloc((size_t)count, sizeof *values, err);
    uint16_t *halves = mem_alloc((size_t)count, sizeof *halves, err);
    bool ok = values && halves;
    for (int64_t i = 0; ok && i < count; i++) {
        values[i] = t->spread > 0 ? t->spread * rng_normal(key, (uint64_t)i) : 1.0f;
        halves[i] = bf16_from_f32(values[i]);
    }
    if (ok) {
        ok = o->bf16 ? safetensors_writer_data(w, halves, (size_t)count * 2, err)
                     : safetensors_writer_data(w, values, (size_t)count * 4, err);
    }
    mem_free(values);
    mem_free(halves);
    return ok;
}

static bool write_weights(const char *folder, const TinyOptions *o, Err *err)
{
    TinyTensor list[TENSORS_MAX];
    const int n = list_tensors(list, o);
    char *path = path_join(folder, "model.safetensors", err);
    SafetensorsWriter *w = NULL;
    TRY(path != NULL);
    TRY(safetensors_writer_create(&w, path, err));
    TRY(safetensors_writer_metadata(w, "format", "pt", err));
    for (int i = 0; i < n; i++) {
        const int64_t shape[2] = {list[i].rows, list[i].cols};
        TRY(safetensors_writer_declare(w, list[i].name, o->bf16 ? DTYPE_BF16 : DTYPE_F32, list[i].cols ? 2 : 1, shape,
                                       err));
    }
    TRY(safetensors_writer_begin(w, err));
    for (int i = 0; i < n; i++)
        TRY(write_tensor(w, &list[i], o, (uint32_t)i, err));
    mem_free(path);
    return safetensors_writer_finish(w, err);
fail:
    if (w) safetensors_writer_discard(w);
    mem_free(path);
    return false;
}

static bool write_text(const char *folder, const char *name, const Text *text, Err *err)
{
    char *path = path_join(folder, name, err);
    const bool ok = path && file_replace(path, text->bytes, text->length, err);
    mem_free(path);
    return ok;
}

static bool write_config(const char *folder, const TinyOptions *o, Err *err)
{
    Text t = {0};
    const char *scaling = o->llama3 ? "{\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, "
                                      "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 64}"
                                    : "null";
    bool ok = text_format(&t, err,
                          "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": %d, "
                          "\"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, "
                          "\"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"head_dim\": %d, "
                          "\"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, \"rope_scaling\": %s, "
                          "\"max_position_embeddings\": 512, \"hidden_act\": \"silu\", \"attention_bias\": %s, "
                          "\"mlp_bias\": %s, \"tie_word_embeddings\": %s, \"bos_token_id\": 256, "
                          "\"eos_token_id\": 257, \"torch_dtype\": \"%s\"}\n",
                          TINY_VOCAB, WIDTH, ffn_of(o), layers_of(o), HEADS, KV_HEADS, HEAD_DIM, scaling,
                          o->bias ? "true" : "false", o->bias ? "true" : "false", o->tied ? "true" : "false",
                          o->bf16 ? "bfloat16" : "float32") &&
              write_text(folder, "config.json", &t, err);
    text_free(&t);
    return ok;
}

/* The code point that byte-level BPE writes for a byte: itself where printable, 256 + n for the n-th of the others. */
static uint32_t byte_char(int byte)
{
    uint32_t next = 256;
    for (int b = 0; b < 256; b++) {
        const bool same = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte) return same ? (uint32_t)b : next;
        if (!same) next++;
    }
    return 0;
}

static bool write_tokenizer(const char *folder, Err *err)
{
    static const char *const specials[] = {"<|im_start|>", "<|im_end|>"};
    Text t = {0};
    TRY(text_add_z(&t, "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [", err));
    for (int i = 0; i < 2; i++) {
        TRY(text_format(&t, err,
                        "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": "
                        "false, \"normalized\": false, \"special\": true}",
                        i ? ", " : "", 256 + i, specials[i]));
    }
    TRY(text_add_z(&t,
                   "], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                   "\"trim_offsets\": true, \"use_regex\": true}, \"post_processor\": null, \"decoder\": {\"type\": "
                   "\"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}, "
                   "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
                   "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false, "
                   "\"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": {",
                   err));
    for (int b = 0; b < 256; b++) {
        const uint32_t c = byte_char(b);
        TRY(text_add_z(&t, b ? ", \"" : "\"", err));
        if (c == '"' || c == '\\') TRY(text_add_z(&t, "\\", err));
        TRY(text_add_codepoint(&t, c, err));
        TRY(text_format(&t, err, "\": %d", b));
    }
    TRY(text_add_z(&t, ", \"<|im_start|>\": 256, \"<|im_end|>\": 257}, \"merges\": []}}\n", err));
    TRY(write_text(folder, "tokenizer.json", &t, err));
    text_clear(&t);
    TRY(text_add_z(
        &t,
        "{\"tokenizer_class\": \"PreTrainedTokenizerFast\", \"bos_token\": \"<|im_start|>\", \"eos_token\": "
        "\"<|im_end|>\", \"pad_token\": \"<|im_end|>\", \"chat_template\": \"{% for message in messages "
        "%}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor "
        "%}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\"}\n",
        err));
    TRY(write_text(folder, "tokenizer_config.json", &t, err));
    text_free(&t);
    return true;
fail:
    text_free(&t);
    return false;
}

bool tiny_model_write(const char *folder, const TinyOptions *options, Err *err)
{
    return file_make_folders(folder, err) && write_config(folder, options, err) && write_tokenizer(folder, err) &&
           write_weights(folder, options, err);
}

bool tiny_chats_write(const char *path, int rows, uint64_t seed, Err *err)
{
    static const char *const colours[] = {"red", "green", "blue", "grey"};
    Text t = {0};
    for (int i = 0; i < rows; i++) {
        const RngKey key = {.seed = seed, .purpose = RNG_TEST, .step = (uint64_t)i};
        const uint32_t number = rng_u32(key, 0) % 100;
        TRY(text_format(&t, err,
                        "{\"messages\": [{\"role\": \"user\", \"content\": \"colour %u\"}, {\"role\": \"assistant\", "
                        "\"content\": \"%s\"}]}\n",
                        number, colours[number % 4]));
    }
    TRY(file_replace(path, t.bytes, t.length, err));
    text_free(&t);
    return true;
fail:
    text_free(&t);
    return false;
}

char *tiny_temp_folder(void)
{
    const char *base = getenv("TMPDIR");
    Text t = {0};
    CHECK(text_format(&t, NULL, "%s/qlora-test-XXXXXX", base && *base ? base : "/tmp"));
    CHECK(mkdtemp(t.bytes) != NULL);
    return t.bytes;
}
