#!/bin/sh
# On a machine with a CUDA device: builds for it, runs every test on the real runtime, compute-sanitizer on the kernel
# tests, repeats for determinism, and the benchmarks; writes one results file. Needs no network; about ten minutes.
# Usage: sh tests/gpu/run.sh [RESULTS_FILE [PART ...]]   default: tests/gpu/results/DATE-CARD-COMMIT.txt, all parts
# PART: tests, sanitize, bench; the build comes before any of them. QLORA_MODELS: where models with random weights are
# written for the benchmarks (build/gpu/models); 8b takes 6 GB there, 70b 40 GB and is left out where they are not free.
# Each part runs even when one before it failed; the exit status is 1 when any did.
set -u
cd "$(dirname "$0")/../.." || exit 1
stop() {
    echo "tests/gpu/run.sh: $*" >&2
    exit 6
}
for tool in nvidia-smi nvcc cmake ninja cc c++; do
    command -v $tool >/dev/null || stop "$tool is not installed; the packages are listed in tests/install.sh"
done
card=$(nvidia-smi --query-gpu=name --format=csv,noheader --id=0) || stop "nvidia-smi finds no device: $card"
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader --id=0 | tr -d .)
commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
name=$(date -u +%Y-%m-%d)-$(echo "$card" | tr ' /' '__')-$commit
results=${1:-tests/gpu/results/$name.txt}
[ $# -gt 0 ] && shift
parts=${*:-tests sanitize bench}
build=build/gpu
models=${QLORA_MODELS:-$build/models}
mkdir -p "$(dirname "$results")" "$build" "$models"
exec 3>"$results" || exit 1
failed=0

say() {
    echo "$*"
    echo "$*" >&3
}

# One part: its name, the lines of its output to keep, its command.
part() {
    title=$1
    lines=$2
    shift 2
    started=$(date +%s)
    "$@" >"$build/part.log" 2>&1
    status=$?
    say "== $title: status $status, $(($(date +%s) - started)) s"
    tail -n "$lines" "$build/part.log" >&3
    if [ $status -ne 0 ]; then
        failed=1
        tail -n 60 "$build/part.log"
    fi
}

# One kernel test under one tool, for xargs below. Any end but success counts: a finding, a crash, 200 s.
sanitize_one='
    log=$1/sanitizer-$2-$(basename "$3").log
    (cd tests && timeout 200 compute-sanitizer --tool "$2" --error-exitcode 9 --print-limit 3 "../$3") >"$log" 2>&1
    status=$?
    echo "$2 $(basename "$3"): status $status"
    [ $status -eq 0 ] && exit 0
    grep -m 20 "=========" "$log"
    exit 1'

# initcheck is left out: it does not see what the host writes into managed memory, which is where tests keep tensors.
sanitize() {
    command -v compute-sanitizer >/dev/null || {
        echo "compute-sanitizer is not installed"
        return 1
    }
    for tool in memcheck racecheck synccheck; do
        for program in "$build"/tests/cuda_backend_test_* "$build"/tests/cuda_quant_test_* "$build"/tests/cuda_lora_test_* \
            "$build"/tests/cuda_model_test_* "$build"/tests/cuda_optim_test_*; do
            if [ -f "$program" ]; then echo "$build" $tool "$program"; fi
        done
    done | xargs -P 6 -L 1 sh -c "$sanitize_one" sh
}

bench_steps() {
    runs='smollm2:1x512 smollm2:1x2048 8b:1x2048 8b:1x2048:gradient_checkpointing=true 8b:8x2048 8b:1x8192 8b:1x32768'
    [ "$(df --output=avail -BG "$models" | tail -1 | tr -dc 0-9)" -lt 60 ] || runs="$runs 70b:1x2048"
    sh tests/bench/steps.sh "$build" "$models" cuda $runs
}

say "commit $commit, $(date -u '+%Y-%m-%d %H:%M UTC')"
say "$(nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader --id=0)"
say "$(nvcc --version | tail -1);$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2)"
part configure 2 cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release "-DCMAKE_C_FLAGS_RELEASE=-O3 -g1" \
    -DQLORA_CUDA=ON "-DQLORA_CUDA_ARCHITECTURES=$capability" -DQLORA_TEST_DEVICE=ON
part build 2 cmake --build "$build" --target all bench_kernels bench_model
part doctor 20 "$build/qlora" doctor
for wanted in $parts; do
    case $wanted in
    tests)
        part "tests on the device" 80 ctest --test-dir "$build" -L cuda-device --output-on-failure
        part "all other tests" 12 ctest --test-dir "$build" -LE cuda-device --output-on-failure -j "$(nproc)"
        part "20 repeats, byte by byte" 12 env QLORA_TEST_REPEATS=20 ctest --test-dir "$build" -R '^cuda.cuda.training$'
        ;;
    sanitize) part "compute-sanitizer" 100 sanitize ;;
    bench)
        part "registers, shared memory, spills" 200 sh tests/kernel_budget.sh . "$capability"
        part "rates of kernels" 200 "$build/tests/bench_kernels" cuda 8b
        part "whole updates" 20 bench_steps
        ;;
    *) say "== $wanted: there is no such part" && failed=1 ;;
    esac
done
say "== $([ $failed -eq 0 ] && echo "all parts passed ($parts)" || echo 'SOME PARTS FAILED')"
exit $failed
