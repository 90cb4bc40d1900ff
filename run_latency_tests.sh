#!/usr/bin/env bash
# Benchmarks the PyTorch baseline over batch sizes and text lengths; results in the folder given as -o [results].
# Flags are passed on to test_infer.sh, for example --fp16 or --random-weights.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
for batch in 1 4 8; do
    for length in 64 128 256; do
        bash "$root/test_infer.sh" -bs "$batch" -il "$length" --num-iters 103 "$@"
    done
done
