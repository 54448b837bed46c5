#!/bin/sh
# Runs a test program on emulated threads under several orders of threads, blocks and streams.
# Usage: orders.sh PROGRAM
set -u
for order in reverse random:1 priority:1 priority:2 priority:3; do
    export QLORA_CUDA_ORDER=$order QLORA_CUDA_STREAMS=deferred:${order##*[a-z:]}
    [ "$order" != reverse ] || QLORA_CUDA_STREAMS=oldest
    [ "$order" != priority:3 ] || QLORA_CUDA_STREAMS=youngest
    "$1" >"${TMPDIR:-/tmp}/qlora-orders.$$" 2>&1 || {
        echo "fails with QLORA_CUDA_ORDER=$QLORA_CUDA_ORDER QLORA_CUDA_STREAMS=$QLORA_CUDA_STREAMS"
        cat "${TMPDIR:-/tmp}/qlora-orders.$$"
        rm -f "${TMPDIR:-/tmp}/qlora-orders.$$"
        exit 1
    }
    rm -f "${TMPDIR:-/tmp}/qlora-orders.$$"
done
