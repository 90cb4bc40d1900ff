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
# Other flags are passed on to the benchmark, for example --random-weights; its own --help lists them.

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/lib.sh"

show_help_if_asked "$@"
batch=1 length=128 iterations='' benchmark=test_infer.py channels='' suffix=$(date +%Y%m%d-%H%M%S) output=results
on_cpu=false
flags=()
while (($#)); do
    case $1 in
        -bs | --batch-size) batch=$(flag_value "$@") || exit ;;
        -il | --input-length) length=$(flag_value "$@") || exit ;;
        --num-iters) iterations=$(flag_value "$@") || exit ;;
        --test) benchmark=$(flag_value "$@") || exit ;;
        --wn-channels) channels=$(flag_value "$@") || exit ;;
        --log-suffix) suffix=$(flag_value "$@") || exit ;;
        -o | --output) output=$(flag_value "$@") || exit ;;
        *)
            [[ $1 != --cpu ]] || on_cpu=true
            flags+=("$1")
            shift
            continue
            ;;
    esac
    shift 2
done
if [[ -n $channels && $benchmark == *test_infer.py ]]; then
    flags+=(--wn-channels "$channels") # engines and ONNX files say theirs
fi
[[ $suffix != */* ]] || fail "--log-suffix $suffix: must be usable in a file name" 2
command -v nvidia-smi >/dev/null || on_cpu=true
if [[ -z $iterations ]]; then
    if $on_cpu; then iterations=10; else iterations=1003; fi
fi
use_project_python

# The run's files are moved to the folder once it is over: its name says what only the run itself knows.
mkdir -p -- "$output"
run=$(mktemp -d -- "$output/.run.XXXXXX")
trap 'rm -rf -- "$run"' EXIT
"$PYTHON" "$ROOT/$benchmark" -bs "$batch" -il "$length" --num-iters "$iterations" -o "$run" --csv row.csv \
    ${flags[@]+"${flags[@]}"}
result=("$run"/*_bs*_il*_*.json)
name=$("$PYTHON" - "${result[0]}" "$suffix" <<'END'
import json, re, sys
result = json.load(open(sys.argv[1]))
backend = re.sub(r"[^a-z0-9]+", "-", result["framework"].lower().replace(", this project's loop", "-loop"))
where = "cpu" if result["device"].startswith("CPU") else "gpu"
sizes = f"bs{result['batch_size']}_il{result['input_length']}"
print(f"log_{sizes}_{where}_{result['precision'].lower()}_wn{result['wn_channels']}_{backend}_{sys.argv[2]}.log")
END
)
mv -- "$run/row.csv" "$output/$name"
mv -f -- "$run"/* "$output"
cat -- "$output/$name"
