#!/usr/bin/env bash
# Benchmarks batch sizes and text lengths.
#
#   bash run_latency_tests.sh [--num-iters N] [-o FOLDER] [...]
#
# --num-iters    timed iterations of each [default: 103; on a CPU 3]
# -o, --output   folder for the results [default: results]
#
# Flags are passed on to test_infer.sh, for example --fp16, --loop or --random-weights; its own --help lists them.

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/lib.sh"

show_help_if_asked "$@"
iterations=103
batches=(4 8 32)
if [[ " $* " == *" --cpu "* ]] || ! command -v nvidia-smi >/dev/null; then
    iterations=3
    batches=(4 8)
    echo "On a CPU: $iterations iterations of each (--num-iters changes it), batches up to 8. With the demo voice this takes"
    echo "about 20 minutes on two cores, with --random-weights hours."
fi
for length in 64 128 256; do
    bash "$ROOT/test_infer.sh" -bs 1 -il "$length" --num-iters "$iterations" "$@"
done
for batch in "${batches[@]}"; do
    bash "$ROOT/test_infer.sh" -bs "$batch" -il 128 --num-iters "$iterations" "$@"
done
