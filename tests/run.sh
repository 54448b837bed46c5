#!/bin/sh
# Installs what is needed, builds, and runs every test: the release build, the sanitizer build, and a fixed number of
# inputs on each fuzz target.
# Usage: sh tests/run.sh [--soak]     --soak: longer fuzzing and the exhaustive fault loops (about an hour more)
set -eu
cd "$(dirname "$0")/.."
. ./tests/install.sh
. ./tests/cuda_toolkit.sh
runs=20000
soak=
if [ "${1:-}" = --soak ]; then
    runs=5000000
    soak=1
    export QLORA_TEST_SOAK=1
fi
# Two architectures are enough to see that kernels compile (the preset has all of them).
# The sanitizer build leaves out what the release build has shown: other orders of threads, f16 in place of bf16, whole
# runs on emulated threads, and the rules of the tree.
skip='^$'
[ -z "$soak" ] || skip='^e2e\.(faults|resume|disk_full)$'
for preset in release debug; do
    cmake --preset "$preset" "-DQLORA_CUDA=${QLORA_CUDA:-ON}" "-DQLORA_CUDA_ARCHITECTURES=80-real;90-real" >/dev/null
    cmake --build --preset "$preset"
    [ "$preset" = release ] || skip="$skip|^cuda\..*\.(orders|f16|f16_75)\$|^cuda\.(e2e|cuda)\.|^tree\."
    ctest --preset "$preset" --no-tests=error -j "$(nproc)" -E "$skip"
done
# Tens of thousands of runs, longer than ctest gives a test: in memory, because syncing a disk takes longer than a run.
if [ "$soak" ]; then
    memory=${TMPDIR:-/tmp}
    [ ! -w /dev/shm ] || memory=/dev/shm
    for test in faults resume disk_full; do
        (cd tests && TMPDIR=$memory QLORA_BINARY=../build/release/qlora GOMP_SPINCOUNT=0 \
            "../build/release/tests/e2e_test_$test")
    done
fi
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz
for target in build/fuzz/tests/fuzz_*; do
    [ -x "$target" ] && [ ! -d "$target" ] || continue
    name=$(basename "$target")
    corpus=build/fuzz/corpus/$name
    mkdir -p "$corpus"
    seeds=tests/fuzz/seeds/$name
    [ -d "$seeds" ] || seeds=
    echo "$name: $runs inputs"
    # shellcheck disable=SC2086
    "$target" -runs=$runs -seed=1 -rss_limit_mb=2048 -timeout=20 -max_total_time=600 "$corpus" $seeds \
        >"build/fuzz/$name.log" 2>&1 || {
        tail -40 "build/fuzz/$name.log"
        exit 1
    }
done
echo "all tests passed"
