#!/bin/sh
# Compiles every kernel for the given architectures and prints what each takes: registers, shared memory, spills.
# A kernel that spills more bytes, or needs more registers, than tests/kernel_budget.txt allows fails.
# Usage: kernel_budget.sh SOURCE_FOLDER [ARCHITECTURE ...]   (80 90 120 when none is named)
set -eu
cd "${1:?usage: kernel_budget.sh SOURCE_FOLDER [ARCHITECTURE ...]}"
shift
command -v nvcc >/dev/null || {
    echo "nvcc is not installed: SKIPPED"
    exit 77
}
[ $# -gt 0 ] || set -- 80 90 120
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for arch in "$@"; do
    for file in backend/*.cu quant/*.cu lora/*.cu model/*.cu optim/*.cu; do
        [ -e "$file" ] || continue
        nvcc -std=c++17 -arch="sm_$arch" -I. -DQLORA_CUDA=1 -Xptxas -v -cubin -o "$work/out.cubin" "$file" \
            2>"$work/log" || {
            cat "$work/log"
            exit 1
        }
        c++filt <"$work/log" | awk -v arch="$arch" -v file="$file" '
            /Compiling entry function/ { name = $0; sub(/.*entry function .(void )?/, "", name)
                sub(/. for .sm_.*/, "", name); sub(/\(.*/, "", name); sub(/^\(anonymous namespace\)::/, "", name) }
            /spill stores/ { spill = $5 + $9 }
            /Used [0-9]+ registers/ { shared = 0
                for (i = 1; i < NF; i++) { if ($(i + 1) == "registers,") registers = $i
                    if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) shared = $i }
                gsub(/ /, "", name)
                print name, arch, registers, shared, spill }'
    done
done | sort >"$work/used"
awk 'BEGIN { printf "%-72s %5s %9s %7s %6s\n", "kernel", "sm", "registers", "shared", "spills" }
    { printf "%-72s %5s %9s %7s %6s\n", $1, $2, $3, $4, $5 }' "$work/used"
awk 'NR == FNR { if ($0 !~ /^#/ && NF >= 2) { budget[$1] = $2; spills[$1] = $3 + 0 } next }
    { key = $1; sub(/<.*/, "", key); limit = ($1 in budget) ? budget[$1] : (key in budget) ? budget[key] : budget["*"]
      if ($5 > spills[key] + 0) { print $1 " for sm_" $2 " spills " $5 " bytes"; bad = 1 }
      if ($3 > limit) { print $1 " for sm_" $2 " takes " $3 " registers, its budget is " limit; bad = 1 } }
    END { exit bad }' tests/kernel_budget.txt "$work/used"
