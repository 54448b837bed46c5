#!/usr/bin/env python3
"""Golden values of a decoder with LoRA: hidden states, logits, loss and every LoRA gradient in f32.

Written with torch 2.15.0, transformers 5.23.0, PEFT 0.21.2, bitsandbytes 0.50.2; seeds below.

    model.py OUT                          tiny random Llama models -> OUT/<name>/  (tests/golden/data/model)
    model.py --real MODEL_FOLDER OUT      the same for a real model -> OUT/ ; point QLORA_TEST_SMOLLM2 at OUT

Each folder holds the base (config.json, model.safetensors; for a real model in `base`), adapter/ as PEFT saves it, and expected.safetensors: ids, targets, positions, starts (i32), hidden.<l> (N, C), logits (N, V), loss (1), and
grad.<PEFT name>. Samples run one by one through the reference, so a packed run that agrees cannot mix them.
The model stays in training mode: bitsandbytes on the CPU repacks 4-bit weights in evaluation mode. Quantized matrices
have a multiple of 64 columns: with others its CPU decoder cuts blocks differently from its CUDA one.
"""
import argparse
import json
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import peft
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TINY = {
    # name: (config, LoRA, double quantization or None for an unquantized base, stored dtype, lengths)
    "tied": (
        dict(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, max_position_embeddings=128,
             rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        dict(r=4, lora_alpha=6.5, target_modules=ALL, rank_pattern={"down_proj": 6, "layers.1.self_attn.k_proj": 2},
             alpha_pattern={"layers.0.self_attn.q_proj": 3}),
        True, torch.float32, [19, 1, 12]),
    "bias": (
        dict(vocab_size=80, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=1, tie_word_embeddings=False, max_position_embeddings=256, attention_bias=True,
             mlp_bias=True, rms_norm_eps=1e-5,
             rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": 32}),
        dict(r=5, lora_alpha=7, use_rslora=True, target_modules=ALL),
        False, torch.float16, [40, 7]),
    "plain": (
        dict(vocab_size=64, hidden_size=32, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=64,
             rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}),
        dict(r=3, lora_alpha=3, target_modules=["q_proj", "v_proj", "up_proj"], layers_to_transform=[0, 2]),
        None, torch.bfloat16, [24]),
}


def write_tiny(folder, config, dtype, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(initializer_range=0.15, bos_token_id=1, eos_token_id=2, pad_token_id=0, **config)
    model = LlamaForCausalLM(config).to(torch.float32)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                p.normal_(0, 0.1)
    model.to(dtype).save_pretrained(folder)
    for name in os.listdir(folder):
        if name not in ("config.json", "model.safetensors"):
            os.remove(os.path.join(folder, name))


def load(folder, double_quant):
    extra = {}
    if double_quant is not None:
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32,
            bnb_4bit_use_double_quant=double_quant)
        extra["device_map"] = {"": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **extra)
    model.config.use_cache = False
    for p in model.parameters():
        p.requires_grad_(False)
    return model


def save_quantized(model, folder):
    """With double quantization bitsandbytes' CPU encoder decides some near ties unlike its CUDA one, so the base is
    handed over as its 4-bit codes."""
    model.save_pretrained(folder)
    for name in os.listdir(folder):
        if name not in ("config.json", "model.safetensors"):
            os.remove(os.path.join(folder, name))


def add_adapter(model, lora, seed, size=0.5):
    model = peft.get_peft_model(model, peft.LoraConfig(lora_dropout=0.0, task_type="CAUSAL_LM", **lora))
    g = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        if p.requires_grad:  # B too, so that A has a gradient
            p.data = torch.randn(p.shape, generator=g) * (size / p.shape[1] ** 0.5)
    return model


def samples(vocab, lengths, seed):
    g = torch.Generator().manual_seed(seed)
    out = []
    for n in lengths:
        ids = torch.randint(3, vocab, (n,), generator=g)
        labels = ids.clone()
        labels[torch.rand(n, generator=g) < 0.3] = -100
        out.append((ids, labels))
    return out


def run(model, rows, out, keep_logits):
    model.train()
    targets = [torch.cat([labels[1:], torch.tensor([-100])]) for _, labels in rows]
    count = int(sum((t != -100).sum() for t in targets))
    hidden, logits, loss = [], [], 0.0
    for (ids, _), target in zip(rows, targets):
        # The last entry of hidden_states has gone through the final norm; the hook sees what came before it.
        before = []
        norm = model.get_base_model().model.norm
        handle = norm.register_forward_pre_hook(lambda _, args: before.append(args[0].detach()[0]))
        result = model(input_ids=ids[None], output_hidden_states=True)
        handle.remove()
        hidden.append([h.detach()[0] for h in result.hidden_states[:-1]] + before)
        logits.append(result.logits[0])
        part = torch.nn.functional.cross_entropy(result.logits[0], target, ignore_index=-100, reduction="sum")
        if (target != -100).any():
            (part / count).backward()
        loss += part.item()
    starts = [0]
    for ids, _ in rows:
        starts.append(starts[-1] + len(ids))
    i32 = lambda x: torch.as_tensor(x, dtype=torch.int32).contiguous()
    tensors = {
        "ids": i32(torch.cat([ids for ids, _ in rows])), "targets": i32(torch.cat(targets)), "starts": i32(starts),
        "positions": i32(torch.cat([torch.arange(len(ids)) for ids, _ in rows])),
        "loss": torch.tensor([loss / count]),
        "logits": torch.cat(logits).detach()[-keep_logits:].contiguous(),
    }
    for layer in range(len(hidden[0])):
        tensors[f"hidden.{layer}"] = torch.cat([h[layer] for h in hidden]).contiguous()
    for name, p in model.named_parameters():
        if p.requires_grad:
            tensors["grad." + name.replace("base_model.model.", "").replace(".default", "")] = p.grad.contiguous()
    save_file(tensors, os.path.join(out, "expected.safetensors"))
    model.save_pretrained(os.path.join(out, "adapter"))
    readme = os.path.join(out, "adapter", "README.md")
    if os.path.exists(readme):
        os.remove(readme)
    path = os.path.join(out, "adapter", "adapter_config.json")
    config = json.load(open(path))
    config["base_model_name_or_path"] = None  # a path of this machine
    json.dump(config, open(path, "w"), indent=2, sort_keys=True)
    print(out, "loss", loss / count, "tokens", starts[-1], "trained", count)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("--real")
    a = p.parse_args()
    if a.real:
        os.makedirs(a.out, exist_ok=True)
        model = load(a.real, True)
        save_quantized(model, os.path.join(a.out, "base"))
        model = add_adapter(model, dict(r=16, lora_alpha=32, target_modules=ALL), 8, 0.1)
        run(model, samples(model.config.vocab_size, [100, 33], 9), a.out, 40)
        return
    for seed, (name, (config, lora, double_quant, dtype, lengths)) in enumerate(TINY.items()):
        out = os.path.join(a.out, name)
        shutil.rmtree(out, ignore_errors=True)
        os.makedirs(out)
        write_tiny(out, config, dtype, 100 + seed)
        model = load(out, double_quant)
        if double_quant:
            save_quantized(model, out)
        model = add_adapter(model, lora, 200 + seed)
        run(model, samples(config["vocab_size"], lengths, 300 + seed), out, sum(lengths))


main()
