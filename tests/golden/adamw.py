"""AdamW and schedules of the peers -> data/optim/adamw.safetensors and data/optim/schedule.inc.

Usage: adamw.py OUT_FOLDER

Generated with Python 3.11, torch 2.15 (one thread), bitsandbytes 0.50.2 without a GPU, transformers 5.23. 1,000 updates,
rate 1e-3, weight decay 0.01, on the gradient stream of tests/optim/rig.h, which is repeated here bit by bit:
  torch.P.T   torch.optim.AdamW, parameter P (0: 50 x 100, 1: 8 x 64) after update T
  bnb.0.T     bitsandbytes.optim.AdamW8bit on the CPU
  cuda.0.T    the rules of its CUDA kernel in numpy: codes by nearest value, ties to even, sign guard, decay afterwards.
              Divisions and roots are correctly rounded here, approximate there.
"""
import math
import sys
from unittest import mock

import bitsandbytes as bnb
import bitsandbytes.functional as F
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

torch.set_num_threads(1)
out = sys.argv[1]
SHAPES = [(50, 100), (8, 64)]
SNAPSHOTS = (1, 10, 100, 1000)
RATE, DECAY, B1, B2, EPS = 1e-3, 0.01, 0.9, 0.999, 1e-8


def noise(p, t, i):
    with np.errstate(over="ignore"):
        h = np.uint32(p) * np.uint32(0x9E3779B1) + np.uint32(t) * np.uint32(0x85EBCA77) + i * np.uint32(0xC2B2AE3D)
        h ^= h >> np.uint32(15)
        h *= np.uint32(0x2C1B3C6D)
        h ^= h >> np.uint32(12)
        h *= np.uint32(0x297A2D39)
        h ^= h >> np.uint32(15)
    return (h >> np.uint32(8)).astype(np.float32) / np.float32(8388608) - np.float32(1)


def gradient(p, t, count):
    i = np.arange(count, dtype=np.uint32)
    g = (noise(p, t, i) + np.float32(0.25)) / (np.uint32(64) << (i % np.uint32(12))).astype(np.float32)
    if t % 10 != 0:
        g[i % 97 == 0] = 0
    return g


def start(p):
    rows, cols = SHAPES[p]
    return noise(p, 0, np.arange(rows * cols, dtype=np.uint32)).reshape(rows, cols)


def run_torch(make):
    params = [torch.nn.Parameter(torch.from_numpy(start(p).copy())) for p in range(2)]
    optimizer = make(params)
    for t in range(1, SNAPSHOTS[-1] + 1):
        for p, q in enumerate(params):
            q.grad = torch.from_numpy(gradient(p, t, q.numel())).view_as(q)
        optimizer.step()
        if t in SNAPSHOTS:
            yield t, [q.detach().clone() for q in params]


def f32(x):
    return np.float32(x)


def fma(a, b, c):
    return (np.float64(a) * np.float64(b) + np.float64(c)).astype(np.float32)


def encode(y, code):
    """Nearest code, exact ties to the even one."""
    middles = (code[1:] + code[:-1]) * f32(0.5)
    index = np.searchsorted(middles, y, side="left")
    tie = (index < 255) & (middles[np.minimum(index, 254)] == y)
    return np.where(tie & (index % 2 == 1), index + 1, index)


def run_cuda():
    map1, map2 = F.create_dynamic_map(True).numpy(), F.create_dynamic_map(False).numpy()
    n = SHAPES[0][0] * SHAPES[0][1]
    blocks = -(-n // 256)
    p = start(0).reshape(-1).copy()
    s1, s2 = np.zeros(n, int), np.zeros(n, int)
    a1, a2 = np.zeros(blocks, np.float32), np.zeros(blocks, np.float32)
    block = np.arange(n) // 256
    b1, b2 = f32(B1), f32(B2)
    for t in range(1, SNAPSHOTS[-1] + 1):
        g = gradient(0, t, n)
        c1, c2 = f32(1 - B1**t), f32(math.sqrt(1 - B2**t))
        step = f32(-(c2 * f32(RATE)) / c1)
        v = fma(g, (f32(1) - b2) * g, b2 * (map2[s2] * a2[block]))
        m = fma(f32(1) - b1, g, b1 * (map1[s1] * a1[block]))
        for k in range(blocks):
            a1[k], a2[k] = np.abs(m[block == k]).max(), v[block == k].max()
        p = fma(step, m / fma(c2, f32(EPS), np.sqrt(v)), p)
        p = p * fma(-f32(RATE), f32(DECAY), f32(1))
        s1, s2 = encode(m * (f32(1) / a1[block]), map1), encode(v * (f32(1) / a2[block]), map2)
        wrong = np.signbit(map1[s1]) != np.signbit(m)
        s1 = np.where(wrong, np.where(m > 0, s1 + 1, s1 - 1), s1) % 256
        if t in SNAPSHOTS:
            yield t, p.reshape(SHAPES[0]).copy()


def schedule(kind, peak, warmup, total, decay, floor):
    optimizer = mock.Mock()
    captured = {}
    with mock.patch("transformers.optimization.LambdaLR", lambda o, f, *a, **k: captured.setdefault("f", f)):
        if kind == "COSINE" and floor:
            transformers.optimization.get_cosine_with_min_lr_schedule_with_warmup(
                optimizer, warmup, total, min_lr_rate=floor)
        elif kind == "COSINE":
            transformers.get_cosine_schedule_with_warmup(optimizer, warmup, total)
        elif kind == "LINEAR":
            transformers.get_linear_schedule_with_warmup(optimizer, warmup, total)
        elif kind == "CONSTANT":
            transformers.get_constant_schedule_with_warmup(optimizer, warmup)
        else:
            transformers.get_wsd_schedule(optimizer, warmup, decay, num_training_steps=total, decay_type="linear",
                                          min_lr_ratio=floor)
    factors = ", ".join(repr(float(captured["f"](min(u, total)))) for u in range(14))
    name = f"{kind.lower()}, warmup {warmup}, floor {floor}"
    return f'{{"{name}", {{SCHEDULE_{kind}, {peak}, {floor}, {warmup}, {total}, {decay}}}, {{{factors}}}}},\n'


data = {}
for t, params in run_torch(lambda ps: torch.optim.AdamW(ps, lr=RATE, weight_decay=DECAY)):
    data |= {f"torch.{p}.{t}": q for p, q in enumerate(params)}
for t, params in run_torch(lambda ps: bnb.optim.AdamW8bit(ps, lr=RATE, weight_decay=DECAY)):
    data[f"bnb.0.{t}"] = params[0]
for t, p in run_cuda():
    data[f"cuda.0.{t}"] = torch.from_numpy(p)
save_file(data, f"{out}/adamw.safetensors")
with open(f"{out}/schedule.inc", "w") as f:
    for case in (("COSINE", 2e-4, 3, 12, 0, 0.0), ("COSINE", 1e-3, 0, 13, 0, 0.0), ("COSINE", 1e-3, 4, 12, 0, 0.1),
                 ("LINEAR", 2e-4, 3, 12, 0, 0.0), ("LINEAR", 2e-4, 0, 14, 0, 0.0), ("CONSTANT", 5e-5, 5, 12, 0, 0.0),
                 ("CONSTANT", 5e-5, 0, 12, 0, 0.0), ("WSD", 3e-4, 3, 12, 4, 0.0), ("WSD", 3e-4, 2, 13, 5, 0.1)):
        f.write(schedule(*case))
