/*
 * quantize.h - a base model written again with its linear layers in 4 bits, in the layout of bitsandbytes.
 *
 * The folder holds model.safetensors (or shards with an index), config.json with a quantization_config, the tokenizer's
 * files and generation_config.json. transformers loads it, and so do we without encoding anything again. Every linear
 * module of a layer is quantized but for those that `skip` names (by path, or by the end of a path after a dot);
 * embeddings, head, norms and biases keep the values and the type that the model has (F32 for what a GGUF file holds in
 * fewer bits). Tensors are read, encoded and written one by one: host memory is that of the largest one plus a constant.
 */
#pragma once

#include "quant/nf4.h"

/*
 * `model`: whatever base_model takes. The folder appears whole or not at all: it is written beside `out_dir` and renamed.
 * An `out_dir` that exists must be empty or an earlier result of this function. A model that is already in 4 bits is
 * copied when its options are the same ones and refused otherwise. Prints one line about what was quantized.
 */
bool quantize_folder(const char *model, const char *revision, const char *out_dir, const QuantOptions *options,
                     const char *const *skip, int skip_count, Err *err) MUST_USE;
