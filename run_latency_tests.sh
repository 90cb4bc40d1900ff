#!/usr/bin/env bash
# Benchmarks batch sizes and text lengths; results in the folder given as -o [results].
# Flags are passed on to test_infer.sh, for example --fp16, --loop or --random-weights.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
for length in 64 128 256; do
    bash "$root/test_infer.sh" -bs 1 -il "$length" --num-iters 103 "$@"
done
for batch in 4 8 32; do
    bash "$root/test_infer.sh" -bs "$batch" -il 128 --num-iters 103 "$@"
done
