#!/bin/sh
# Training speed and memory beside transformers + PEFT + bitsandbytes, runs interleaved on the same machine.
# Usage: against_peer.sh QLORA PYTHON PEER_LOOP MODEL_F32 MODEL_BF16
#   PYTHON     interpreter of an environment with the peer stack
#   PEER_LOOP  its training loop: takes MODEL --dtype f32|bf16 --seq N --steps N --optim adamw_8bit --out FILE and writes
#              {"median_tokens_per_s", "peak_rss_mb"}
# Prints one line a run. Rank 16 on all linear projections, micro-batch 1, rows of random tokens. Never passes or fails.
set -eu
qlora=$1 python=$2 loop=$3 f32=$4 bf16=$5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed -n 's/^model name.*: /machine: /p' /proc/cpuinfo | head -1
echo "cores: $(nproc)"
"$python" - "$work" <<'P'
import json, random, sys
rng = random.Random(1)
for n in (512, 2048):
    with open(f"{sys.argv[1]}/{n}.jsonl", "w") as out:
        for _ in range(8):
            out.write(json.dumps({"input_ids": [rng.randrange(100, 49000) for _ in range(n)]}) + "\n")
P

ours() { # dtype length model
    cat >"$work/config.yaml" <<C
base_model: $3
datasets:
  - path: $work/$2.jsonl
output_dir: $work/run
dataset_prepared_path: none
shuffle: false
sample_packing: false
sequence_len: $2
gradient_accumulation_steps: 1
max_steps: 8
saves_per_epoch: 0
bnb_4bit_compute_dtype: $1
C
    rm -rf "$work/run"
    "$qlora" train "$work/config.yaml" >"$work/log" 2>&1 || cat "$work/log"
    "$python" - "$work/run/metrics.jsonl" "$1 $2" <<'P'
import json, statistics, sys
rows = [r for r in map(json.loads, open(sys.argv[1])) if "loss" in r][2:]
print(f"qlora {sys.argv[2]}: {statistics.median(r['tokens_per_second'] for r in rows):.0f} tok/s, "
      f"{rows[-1]['peak_memory_bytes'] / 1e6:.0f} MB", flush=True)
P
}
peer() { # dtype length model
    "$python" "$loop" "$3" --dtype "$1" --seq "$2" --steps 6 --optim adamw_8bit --out "$work/peer.json" >/dev/null 2>&1
    "$python" -c "import json; d = json.load(open('$work/peer.json'))
print(f'peer  $1 $2: {d[\"median_tokens_per_s\"]:.0f} tok/s, {d[\"peak_rss_mb\"] * 1.048576:.0f} MB', flush=True)"
}
for length in 512 2048; do
    ours bf16 $length "$bf16"
    peer bf16 $length "$bf16"
    ours fp32 $length "$f32"
    peer f32 $length "$f32"
done
