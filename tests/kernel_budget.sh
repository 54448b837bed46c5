#!/bin/sh
# Compiles every kernel for the given architectures and prints what each takes: registers, static and dynamic shared memory,
# spills; and how many blocks and warps of it a multiprocessor holds (as cuda_occupancy.h counts), "-" where
# tests/kernel_launches.txt does not say how it is launched.
# A kernel that spills more bytes, or needs more registers, than tests/kernel_budget.txt allows fails.
# Usage: kernel_budget.sh SOURCE_FOLDER [ARCHITECTURE ...]   (80 90 100 120 when none is named)
set -eu
cd "${1:?usage: kernel_budget.sh SOURCE_FOLDER [ARCHITECTURE ...]}"
shift
command -v nvcc >/dev/null || {
    echo "nvcc is not installed: SKIPPED"
    exit 77
}
[ $# -gt 0 ] || set -- 80 90 100 120
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
        c++filt <"$work/log" | awk -v arch="$arch" '
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

awk '
    # Of a multiprocessor: warps, blocks, shared memory; and shared memory that a block may have and that it costs beside.
    function device(arch) {
        warps_most = 64; blocks_most = 32; shared_most = 228; block_most = 227; beside = 1024
        if (arch == 75) { warps_most = 32; blocks_most = 16; shared_most = block_most = 64; beside = 0 }
        if (arch == 80 || arch == 87) { shared_most = 164; block_most = 163 }
        if (arch == 86 || arch == 89 || arch == 120) {
            warps_most = 48; blocks_most = arch == 86 ? 16 : 24; shared_most = 100; block_most = 99 }
        shared_most *= 1024; block_most *= 1024
    }
    function up(x, step) { return int((x + step - 1) / step) * step }
    function least(a, b) { return a < b ? a : b }
    function resident(arch, registers, bytes, threads,    warps, by_registers, blocks) {
        device(arch)
        warps = up(threads, 32) / 32
        by_registers = int(int(16384 / up(registers * 32, 256)) * 4 / warps)
        blocks = least(least(int(warps_most / warps), blocks_most), by_registers)
        return bytes + beside == 0 ? blocks : least(blocks, int(shared_most / up(bytes + beside, 128)))
    }
    # How a kernel is launched: as itself; else like its twin of another 16-bit type, with aligned rows; else as all of its
    # name are.
    function launch(name,    twin, bare) {
        if (name in threads) return name
        twin = name; sub(/,false,/, ",true,", twin)
        if (twin in threads) return twin
        gsub(/__half/, "__nv_bfloat16", twin)
        if (twin in threads && twin !~ /^attention_.*kernel<.*,true,/) return twin
        bare = name; sub(/<.*/, "", bare)
        return alike[bare] ? bare : ""
    }
    NR == FNR && !/^#/ {
        threads[$1] = $2; dynamic[$1] = $3; bare = $1; sub(/<.*/, "", bare)
        if (!(bare in alike)) { alike[bare] = 1; threads[bare] = $2; dynamic[bare] = $3 }
        if (threads[bare] != $2 || dynamic[bare] != $3) alike[bare] = 0
    }
    NR == FNR { next }
    FNR == 1 {
        printf "%-66s %4s %9s %7s %8s %6s %8s %7s %6s %5s\n", "kernel", "sm", "registers", "static", "dynamic", "spills",
               "threads", "blocks", "warps", "full" }
    {
        printf "%-66s %4s %9s %7s", $1, $2, $3, $4
        how = launch($1)
        if (how == "") { printf " %8s %6s %8s %7s %6s %5s\n", "-", $5, "-", "-", "-", "-"; next }
        device($2)
        bytes = least($4 + dynamic[how], block_most)
        blocks = resident($2, $3, bytes, threads[how]); warps = blocks * up(threads[how], 32) / 32
        printf " %8d %6s %8d %7d %6d %4d%%\n", bytes - $4, $5, threads[how], blocks, warps, 100 * warps / warps_most
    }' tests/kernel_launches.txt "$work/used"

awk 'NR == FNR { if ($0 !~ /^#/ && NF >= 2) { budget[$1] = $2; spills[$1] = $3 + 0 } next }
    { key = $1; sub(/<.*/, "", key); limit = ($1 in budget) ? budget[$1] : (key in budget) ? budget[key] : budget["*"]
      if ($5 > spills[key] + 0) { print $1 " for sm_" $2 " spills " $5 " bytes"; bad = 1 }
      if ($3 > limit) { print $1 " for sm_" $2 " takes " $3 " registers, its budget is " limit; bad = 1 } }
    END { exit bad }' tests/kernel_budget.txt "$work/used"
