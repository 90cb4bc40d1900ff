#!/usr/bin/env bash
# Runs one benchmark and leaves its numbers in a folder, as CSV with a header:
# log_bs{B}_il{L}_{gpu_fp16|gpu_fp32|cpu_fp32}_wn{W}_{suffix}.log
# Flags it does not know are passed on to the benchmark, for example --random-weights.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
batch=1 length=128 iterations=1003 benchmark=test_infer.py channels=512 suffix='' output=results
precision=fp32 where=gpu
flags=()

value() {
    if (($# < 2)); then
        echo "test_infer.sh: error: $1 needs a value" >&2
        exit 2
    fi
    printf '%s' "$2"
}

while (($#)); do
    case $1 in
        -bs | --batch-size) batch=$(value "$@") || exit 2; shift ;;
        -il | --input-length) length=$(value "$@") || exit 2; shift ;;
        --num-iters) iterations=$(value "$@") || exit 2; shift ;;
        --test) benchmark=$(value "$@") || exit 2; shift ;;
        --wn-channels)
            channels=$(value "$@") || exit 2
            given_channels=yes
            shift
            ;;
        --log-suffix) suffix=$(value "$@") || exit 2; shift ;;
        -o | --output) output=$(value "$@") || exit 2; shift ;;
        --fp16) precision=fp16 flags+=(--fp16) ;;
        --cpu) where=cpu flags+=(--cpu) ;;
        *) flags+=("$1") ;;
    esac
    shift
done
if [[ -n ${given_channels:-} && $(basename -- "$benchmark") == test_infer.py ]]; then
    flags+=(--wn-channels "$channels") # engines and ONNX files carry their own
fi
command -v nvidia-smi >/dev/null || where=cpu

csv=log_bs${batch}_il${length}_${where}_${precision}_wn${channels}_${suffix}.log
python=$root/.venv/bin/python
[[ -x $python ]] || python=python3
if ! "$python" -c 'import common.cli, torch' 2>/dev/null; then
    echo "test_infer.sh: error: $python lacks the project's packages; run scripts/install_prerequisites.sh first" >&2
    exit 1
fi
"$python" "$root/$benchmark" -bs "$batch" -il "$length" --num-iters "$iterations" -o "$output" --csv "$csv" \
    ${flags[@]+"${flags[@]}"}
cat -- "$output/$csv"
