#!/usr/bin/env bash
# Runs one benchmark and leaves its numbers in a folder, as CSV with a header:
# log_bs{B}_il{L}_{gpu_fp16|gpu_fp32|cpu_fp32}_wn{W}_{backend}_{suffix}.log
#
#   bash test_infer.sh [-bs N] [-il N] [--num-iters N] [--fp16] [--cpu] [--wn-channels N] [--log-suffix TEXT]
#                      [--test SCRIPT] [-o FOLDER] [...]
#
# -bs, --batch-size     utterances at once [default: 1]
# -il, --input-length   symbols of each [default: 128]
# --num-iters           timed iterations [default: 1003; on a CPU 10]
# --wn-channels         WaveGlow's channels, for a checkpoint that doesn't say [default: the model's]
# --log-suffix          end of the file's name [default: the date and time]
# --test                the benchmark: test_infer.py, or trt/test_infer_trt.py [default: test_infer.py]
# -o, --output          folder for the results [default: results]
#
# All flags but --test are passed on to the benchmark; its own --help lists more of them, such as --random-weights.

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/lib.sh"

show_help_if_asked "$@"
benchmark=test_infer.py iterations=1003 flags=()
while (($#)); do
    if [[ $1 == --test ]]; then
        benchmark=$(flag_value "$@") || exit
        shift 2
        continue
    fi
    [[ $1 != --cpu ]] || iterations=10
    flags+=("$1")
    shift
done
command -v nvidia-smi >/dev/null || iterations=10
use_project_python
exec "$PYTHON" "$ROOT/$benchmark" -bs 1 -il 128 --num-iters "$iterations" --log-suffix "$(date +%Y%m%d-%H%M%S)" \
    ${flags[@]+"${flags[@]}"} # a flag that is given twice has its last value
