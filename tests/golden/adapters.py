#!/usr/bin/env python3
"""Which modules PEFT adapts, with which rank and scale, for adapter configs of every kind.

Written with torch 2.15.0, transformers 5.23.0, PEFT 0.21.2.

    adapters.py OUT.json       (tests/golden/data/adapters/targets.json)
    adapters.py --logits BASE_FOLDER ADAPTER_FOLDER IDS     prints the last logits of base + adapter as JSON: the
                               check by hand that PEFT reads what we wrote

Each case is a config as a user's adapter_config.json may hold it, and what PEFT made of it on a three-layer Llama:
{path: [r, scaling]}.
"""
import json
import sys

import peft
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = [
    dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
    dict(r=4, lora_alpha=2.5, target_modules=ALL),
    dict(r=4, lora_alpha=8, target_modules="all-linear"),
    dict(r=4, lora_alpha=8, target_modules=r".*\.(q|v)_proj"),
    dict(r=4, lora_alpha=8, target_modules=r"model\.layers\.[12]\.mlp\.(?!gate).*_proj"),
    dict(r=4, lora_alpha=8, target_modules=["self_attn.q_proj", "1.mlp.up_proj", "model.layers.2.self_attn.k_proj"]),
    dict(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"], layers_to_transform=1),
    dict(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], layers_to_transform=[2, 0]),
    dict(r=4, lora_alpha=8, target_modules=["q_proj", "model.layers.1.mlp.up_proj"], layers_to_transform=[0]),
    dict(r=4, lora_alpha=8, target_modules=ALL, exclude_modules=["k_proj", "layers.0.mlp.up_proj"]),
    dict(r=4, lora_alpha=8, target_modules=ALL, exclude_modules=r".*\.mlp\..*"),
    dict(r=4, lora_alpha=8, target_modules=r".*_proj", exclude_modules=["mlp.down_proj"]),
    dict(r=4, lora_alpha=8, target_modules=ALL, rank_pattern={"q_proj": 2, "layers.1.self_attn.q_proj": 16}),
    dict(r=4, lora_alpha=8, target_modules=ALL, rank_pattern={"layers.1.self_attn.q_proj": 16, "q_proj": 2}),
    dict(r=4, lora_alpha=8, target_modules=ALL, rank_pattern={r"layers\.(0|2)\..*": 3},
         alpha_pattern={"v_proj|down_proj": 12, "mlp.up_proj": 1}),
    dict(r=8, lora_alpha=8, target_modules=ALL, use_rslora=True, rank_pattern={"o_proj": 2}),
]


def tiny():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True))


def modules_of(config):
    model = peft.get_peft_model(tiny(), peft.LoraConfig(task_type="CAUSAL_LM", **config))
    return {name.replace("base_model.model.", ""): [m.r["default"], m.scaling["default"]]
            for name, m in model.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}


if sys.argv[1] == "--logits":
    base = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, sys.argv[3])
    with torch.no_grad():
        print(json.dumps(model(torch.tensor([json.loads(sys.argv[4])])).logits[0, -1].tolist()))
else:
    cases = [{"config": {"peft_type": "LORA", **c}, "modules": modules_of(c)} for c in CASES]
    with open(sys.argv[1], "w") as f:
        json.dump(cases, f, indent=1)
        f.write("\n")
