#!/bin/sh
# On a machine with a CUDA device: builds for it, runs every test on the real runtime, compute-sanitizer on the kernel
# tests, repeats for determinism, and the benchmarks; writes one results file. Needs no network; about ten minutes.
# Usage: sh tests/gpu/run.sh [RESULTS_FILE]     default: tests/gpu/results/DATE-CARD-COMMIT.txt
# Each part runs even when one before it failed; the exit status is 1 when any did.
set -u
cd "$(dirname "$0")/../.." || exit 1
card=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1) || {
    echo "nvidia-smi finds no device"
    exit 6
}
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
name=$(date -u +%Y-%m-%d)-$(echo "$card" | tr ' /' '__')-$commit
results=${1:-tests/gpu/results/$name.txt}
build=build/gpu
mkdir -p "$(dirname "$results")" "$build"
failed=0
exec 3>"$results"

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

# Kernel tests under each tool; initcheck only where every byte is written by the test.
sanitize() {
    command -v compute-sanitizer >/dev/null || {
        echo "compute-sanitizer is not installed: SKIPPED"
        return 0
    }
    bad=0
    for tool in memcheck racecheck synccheck initcheck; do
        for program in "$build"/tests/cuda_backend_* "$build"/tests/cuda_quant_* "$build"/tests/cuda_lora_* \
            "$build"/tests/cuda_model_test_[a-fh-ln-z]* "$build"/tests/cuda_optim_*; do
            [ -x "$program" ] && [ -f "$program" ] || continue
            (cd tests && timeout 120 compute-sanitizer --tool $tool --error-exitcode 9 --print-limit 3 \
                "$OLDPWD/$program" >"$OLDPWD/$build/tool.log" 2>&1)
            status=$?
            echo "$tool $(basename "$program"): status $status"
            if [ $status -eq 9 ]; then
                grep -m 20 '=====' "$build/tool.log"
                bad=1
            fi
        done
    done
    return $bad
}

say "commit $commit, $(date -u '+%Y-%m-%d %H:%M UTC')"
say "$(nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader)"
say "$(nvcc --version | tail -1); $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2)"
part configure 2 cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release "-DCMAKE_C_FLAGS_RELEASE=-O3 -g1" \
    -DQLORA_CUDA=ON "-DQLORA_CUDA_ARCHITECTURES=$capability" -DQLORA_TEST_DEVICE=ON
part build 2 cmake --build "$build"
part doctor 20 "$build/qlora" doctor
part "tests on the device" 80 ctest --test-dir "$build" -L cuda-device --output-on-failure
part "all other tests" 12 ctest --test-dir "$build" -LE cuda-device --output-on-failure -j "$(nproc)"
part "20 repeats, byte by byte" 12 env QLORA_TEST_REPEATS=20 ctest --test-dir "$build" -R '^cuda.cuda.training$'
part "compute-sanitizer" 80 sanitize
part "registers, shared memory, spills" 200 sh tests/kernel_budget.sh . "$capability"
if [ -x "$build/tests/bench_device" ] || cmake --build "$build" --target bench_device >/dev/null 2>&1; then
    part benchmarks 200 "$build/tests/bench_device"
fi
say "== $([ $failed -eq 0 ] && echo 'all parts passed' || echo 'SOME PARTS FAILED')"
exit $failed
