#!/bin/sh
# Speed and memory of whole updates on models with random weights: `qlora train` as anybody would run it.
# Usage: steps.sh BUILD_FOLDER WORK_FOLDER DEVICE SHAPE:MICRO_BATCHxTOKENS[:KEY=VALUE] ...
#   e.g. steps.sh build/gpu /tmp/models cuda 8b:8x2048 8b:1x2048 8b:1x2048:gradient_checkpointing=true 8b:1x32768
# Rank 16 on all linear modules, packed rows, paged 8-bit AdamW, 8 updates. Prints for each: tokens a second (median of
# the updates after the second) and planned, most device and host memory and planned, and seconds from exec to the end
# of the first update. Models are written once into WORK_FOLDER (bench_model.c) and used again.
set -eu
build=$1 work=$2 device=$3
shift 3
failed=0
printf '%-44s %9s %9s %9s %9s %9s %9s %8s\n' run tok/s planned 'dev GB' planned 'host GB' planned 'first s'

# The number after KEY of each update's line.
metric() {
    sed -n 's/.*"'"$1"'": \([-0-9.e+]*\).*/\1/p' "$work/run/metrics.jsonl"
}

planned() {
    sed -n 's/.*"'"$1"'": *\([-0-9.e+]*\).*/\1/p' "$work/plan.json"
}

for run in "$@"; do
    shape=${run%%:*} rest=${run#*:}
    size=${rest%%:*} extra=
    [ "$rest" = "$size" ] || extra=${rest#*:}
    [ -e "$work/$shape/rows-512.jsonl" ] || "$build/tests/bench_model" "$shape" "$work/$shape"
    rm -rf "$work/run"
    cat >"$work/run.yaml" <<EOF
base_model: $work/$shape
output_dir: $work/run
datasets: [{path: $work/$shape/rows-${size#*x}.jsonl}]
device: $device
lora_r: 16
sequence_len: ${size#*x}
sample_packing: true
micro_batch_size: ${size%x*}
gradient_accumulation_steps: 1
max_steps: 8
save_steps: 100000
learning_rate: 1e-4
logging_steps: 1
${extra%%=*}${extra:+: ${extra#*=}}
EOF
    "$build/qlora" plan "$work/run.yaml" --json >"$work/plan.json" 2>"$work/log" || {
        echo "$run: $(tail -1 "$work/log")"
        failed=1
        continue
    }
    begin=$(date +%s%N)
    "$build/qlora" train "$work/run.yaml" >"$work/log" 2>&1 &
    child=$!
    while kill -0 $child 2>/dev/null && ! [ -s "$work/run/metrics.jsonl" ]; do sleep 0.02; done
    first=$(($(date +%s%N) - begin))
    wait $child || {
        echo "$run: $(tail -1 "$work/log")"
        failed=1
        continue
    }
    rate=$(metric tokens_per_second | tail -n +3 | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }')
    awk -v run="$run" -v rate="$rate" -v want="$(planned tokens_per_second)" -v dev="$(metric peak_memory_bytes | tail -1)" \
        -v dev_want="$(planned peak_memory_bytes)" -v host="$(metric host_memory_bytes | tail -1)" \
        -v host_want="$(planned host_memory_bytes)" -v first="$first" 'BEGIN {
        printf "%-44s %9.0f %9.0f %9.3f %9.3f %9.3f %9.3f %8.2f\n", run, rate, want, dev / 1e9, dev_want / 1e9, host / 1e9,
            host_want / 1e9, first / 1e9 }'
done
exit $failed
