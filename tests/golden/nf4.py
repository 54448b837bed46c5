"""4-bit codes of bitsandbytes on the CPU -> data/quant/nf4.safetensors.

Usage: nf4.py MODEL_FOLDER OUT_FILE        (MODEL_FOLDER: SmolLM2-135M-Instruct in Hugging Face layout, F32 or BF16)

Generated with Python 3.11, torch 2.15 (one thread), bitsandbytes 0.50.2 without a GPU. Inputs: real rows of the model
and seeded normal values. For each input NAME:
  NAME                                    the values, F32 or BF16
  NAME.nf4.64 ...                         codes with that type and block size, absmax beside them (NAME.nf4.64.absmax)
  NAME.nf4.64.nested_codes, .nested_absmax, .offset, .decoded (F32) and .decoded_bf16   with double quantization
The test allows for what bitsandbytes itself documents as different between its CPU and its CUDA code.
"""
import sys

import bitsandbytes.functional as F
import torch
from safetensors import safe_open
from safetensors.torch import save_file

torch.set_num_threads(1)
folder, out = sys.argv[1], sys.argv[2]
model = safe_open(f"{folder}/model.safetensors", "pt")
torch.manual_seed(7)
inputs = {
    "k_proj": model.get_tensor("model.layers.0.self_attn.k_proj.weight").to(torch.bfloat16),
    "down_proj": model.get_tensor("model.layers.15.mlp.down_proj.weight")[:24].to(torch.float32),
    "normal": torch.randn(37, 101, dtype=torch.float32) * 0.02,  # odd columns, a tail, blocks across rows
}
data = {}
for name, w in inputs.items():
    w = w.contiguous()
    data[name] = w
    for kind, block in (("nf4", 64), ("fp4", 64), ("nf4", 32), ("nf4", 256), ("fp4", 4096)):
        key = f"{name}.{kind}.{block}"
        codes, state = F.quantize_4bit(w, blocksize=block, quant_type=kind)
        data[key] = codes.reshape(-1)
        data[key + ".absmax"] = state.absmax
        if block != 64:
            continue
        _, state = F.quantize_4bit(w, blocksize=block, quant_type=kind, compress_statistics=True)
        data[key + ".nested_codes"] = state.absmax
        data[key + ".nested_absmax"] = state.state2.absmax
        data[key + ".offset"] = state.offset.reshape(1)
        if kind == "nf4":
            decoded = F.dequantize_4bit(codes, state)
            exact = F.QuantState(absmax=F.dequantize_blockwise(state.absmax, state.state2) + state.offset,
                                 shape=w.shape, dtype=torch.float32, blocksize=block, code=state.code, quant_type=kind)
            if name == "down_proj":
                data[key + ".decoded"] = F.dequantize_4bit(codes, exact)[:8].contiguous()
            exact.dtype = torch.bfloat16
            if name == "k_proj":
                data[key + ".decoded_bf16"] = F.dequantize_4bit(codes, exact)[:16].contiguous()
save_file(data, out)
