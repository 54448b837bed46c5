"""Golden data for base models: tests/golden/data/source/.

blocks.safetensors   random blocks of each quantized GGUF type and what gguf-py decodes them to
rope.safetensors     rope frequencies of transformers; the metadata holds the config.json of each
tiny/                a random llama model as transformers saves it in shards: GQA, biases, untied, llama3 rope (F32)
tiny.gguf            the same model as llama.cpp's converter lays it out (rows of q and k interleaved, rope_freqs), with
                     matrices in several types; tiny_gguf.safetensors holds what its quantized matrices decode to
nf4/ fp4/            a smaller tied model quantized by bitsandbytes: NF4 with double quantization; FP4 without, stored as
                     bfloat16; the decoded k and down projections are in nf4.safetensors and fp4.safetensors

Made with torch 2.15, transformers 5.23, bitsandbytes 0.50.2, gguf 0.19, safetensors 0.8; seed 7.
Usage: python tests/golden/source.py   (from the root of the repository)
"""
import json
import os
import shutil

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

OUT = "tests/golden/data/source"
TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def blocks():
    rng = np.random.default_rng(7)
    out = {}
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        count = 1024 // elements
        raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
        for at in HALVES[name]:  # finite halves of every size, subnormal ones and zeros too
            halves = (rng.standard_normal(count) * 10.0 ** rng.integers(-8, 3, count)).astype(np.float16)
            raw[:, at : at + 2] = halves[:, None].view(np.uint8)
        out[name + ".raw"] = raw.reshape(-1)
        out[name + ".values"] = gguf.quants.dequantize(raw, kind).astype(np.float32).reshape(-1)
    save_file(out, f"{OUT}/blocks.safetensors")


def rope():
    scalings = {
        "default": (64, 1e5, None),
        "theta": (128, 5e5, None),
        "linear": (64, 1e4, {"rope_type": "linear", "factor": 4.0}),
        "dynamic": (64, 1e4, {"rope_type": "dynamic", "factor": 4.0}),
        "llama31": (128, 5e5, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                               "original_max_position_embeddings": 8192}),
        "llama32": (64, 5e5, {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 8192}),
    }
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    tensors, metadata = {}, {}
    for name, (dim, theta, scaling) in scalings.items():
        keys = dict(hidden_size=dim * 2, num_attention_heads=2, head_dim=dim, max_position_embeddings=131072)
        config = LlamaConfig(**keys, rope_theta=theta, rope_scaling=scaling)
        frequencies = LlamaRotaryEmbedding(config).inv_freq
        for version in (4, 5):
            text = dict(keys, model_type="llama")
            if version == 4:
                text.update(rope_theta=theta, rope_scaling=scaling)
            else:
                text["rope_parameters"] = dict(scaling or {"rope_type": "default"}, rope_theta=theta)
            tensors[f"{name}.{version}"] = frequencies.clone()
            metadata[f"{name}.{version}"] = json.dumps(text)
    save_torch(tensors, f"{OUT}/rope.safetensors", metadata=metadata)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}


def tiny():
    torch.manual_seed(7)
    config = LlamaConfig(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=32, max_position_embeddings=32768, rope_theta=5e5,
                         rope_scaling=LLAMA3, rms_norm_eps=1e-5, attention_bias=True, mlp_bias=True,
                         tie_word_embeddings=False)
    model = LlamaForCausalLM(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.05)
    model.save_pretrained(f"{OUT}/tiny", max_shard_size="150KB")
    return config, {k: v.numpy() for k, v in model.state_dict().items()}


def interleave(rows, heads):
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def separate(rows, heads):
    shape = rows.shape
    return rows.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def tiny_gguf(config, state):
    writer = gguf.GGUFWriter(f"{OUT}/tiny.gguf", "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(5e5)
    writer.add_rope_dimension_count(config.head_dim)
    factors = []  # as llama.cpp's converter computes them
    for i in range(0, config.head_dim, 2):
        wavelen = 2 * np.pi * 5e5 ** (i / config.head_dim)
        if wavelen < 8192 / 4:
            factors.append(1)
        elif wavelen > 8192:
            factors.append(8)
        else:
            smooth = (8192 / wavelen - 1) / 3
            factors.append(1 / ((1 - smooth) / 8 + smooth))
    writer.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    kinds = {"model.layers.0.self_attn.q_proj.weight": "Q8_0", "model.layers.0.self_attn.k_proj.weight": "Q4_1",
             "model.layers.1.mlp.down_proj.weight": "Q5_0", "model.embed_tokens.weight": "Q8_0",
             "model.layers.1.self_attn.q_proj.weight": "F16", "model.layers.1.self_attn.k_proj.weight": "BF16",
             "model.layers.1.mlp.up_proj.weight": "F16"}
    expected = {}
    for name, value in state.items():
        heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}.get(name.split("_proj")[0][-1], 0)
        heads = heads if "self_attn" in name else 0
        rows = interleave(value, heads) if heads else value
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            module, _, end = rest.rpartition(".")
            target = f"blk.{layer}.{names[module]}.{end}"
        else:
            target = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
                      "lm_head.weight": "output.weight"}[name]
        if name not in kinds:
            writer.add_tensor(target, np.ascontiguousarray(rows))
            continue
        kind = gguf.GGMLQuantizationType[kinds[name]]
        packed = gguf.quants.quantize(np.ascontiguousarray(rows), kind)
        writer.add_tensor(target, packed, raw_dtype=kind)
        decoded = gguf.quants.dequantize(packed, kind).astype(np.float32).reshape(value.shape)
        expected[name] = np.ascontiguousarray(separate(decoded, heads) if heads else decoded)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, f"{OUT}/tiny_gguf.safetensors")


# Rows of whole blocks: bitsandbytes' CPU decoder takes the wrong scale where a block straddles two rows.
def quantized(name, **keys):
    torch.manual_seed(8)
    config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=192, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=True)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(f"{OUT}/plain")
    model = AutoModelForCausalLM.from_pretrained(f"{OUT}/plain", device_map={"": "cpu"}, dtype=torch.bfloat16,
                                                 quantization_config=BitsAndBytesConfig(load_in_4bit=True, **keys))
    model.save_pretrained(f"{OUT}/{name}")
    import bitsandbytes.functional as F

    decoded = {}
    for key, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and key.endswith(("k_proj", "down_proj")):
            packed = module.weight.data.contiguous().view(torch.uint8)
            state.dtype = torch.float32
            decoded[key + ".weight"] = F.dequantize_4bit(packed, state).float().clone()
    save_torch(decoded, f"{OUT}/{name}.safetensors")
    shutil.rmtree(f"{OUT}/plain")
    os.remove(f"{OUT}/{name}/generation_config.json")


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    blocks()
    rope()
    tiny_gguf(*tiny())
    os.remove(f"{OUT}/tiny/generation_config.json")
    quantized("nf4", bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    quantized("fp4", bnb_4bit_quant_type="fp4", bnb_4bit_quant_storage=torch.bfloat16)
