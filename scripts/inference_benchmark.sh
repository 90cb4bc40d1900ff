#!/usr/bin/env bash
# Benchmarks what this machine has, and prints one table: TensorRT engines of output/ in the project's folder if they
# are there, PyTorch as the classic runs it, this project's loop on PyTorch, and ONNX files on the CPU.
#
#   bash scripts/inference_benchmark.sh [--random-weights] [-bs N] [-il N] [--num-iters N] [-o FOLDER]
#
# --random-weights   NGC's dimensions (WaveGlow 256) with random weights and 600 frames, so that anyone can compare;
#                    without it, the demo voice, whose stop gate decides
# -bs                utterances at once [default: 1]
# -il                symbols of each [default: 128]
# --num-iters        timed iterations [default: 1003, of the classic's loop 100; on a CPU 3]
# -o                 folder; each run makes a folder of its own in it, named by its date and time [default: results]

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

show_help_if_asked "$@"
batch=1 length=128 iterations='' folder=results weights=()
while (($#)); do
    case $1 in
        --random-weights) weights=(--random-weights) && shift && continue ;;
        -bs) batch=$(flag_value "$@") || exit ;;
        -il) length=$(flag_value "$@") || exit ;;
        --num-iters) iterations=$(flag_value "$@") || exit ;;
        -o) folder=$(flag_value "$@") || exit ;;
        *) fail "unknown flag $1; it takes --random-weights, -bs, -il, --num-iters, -o" 2 ;;
    esac
    shift 2
done
use_project_python
mkdir -p -- "$folder"
results=$folder/run_$(date +%Y%m%d-%H%M%S)
mkdir -- "$results" || fail "$results: another run has begun in this second; start it again"
size=(-bs "$batch" -il "$length" -o "$results")
models=$ROOT/output

# benchmark TITLE SCRIPT ITERATIONS FLAGS...
benchmark() {
    echo "$1 BS=$batch, S=$length"
    "$PYTHON" "$ROOT/$2" --num-iters "${iterations:-$3}" "${size[@]}" "${@:4}"
}

# model_flags SUFFIX: the flags that name the four model files
model_flags() {
    printf '%s\n' --encoder "$models/encoder$1" --decoder "$models/decoder_iter$1" \
        --postnet "$models/postnet$1" --waveglow "$models/waveglow$1"
}

if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    if [[ -e $models/encoder_fp16.engine ]]; then
        mapfile -t engines < <(model_flags _fp16.engine)
        benchmark TensorRT trt/test_infer_trt.py 1003 --fp16 "${engines[@]}"
    fi
    benchmark "PyTorch (GPU)" test_infer.py 100 --fp16 ${weights[@]+"${weights[@]}"}
    benchmark "PyTorch (GPU), this project's loop" test_infer.py 1003 --loop --fp16 ${weights[@]+"${weights[@]}"}
else
    echo "No NVIDIA GPU that PyTorch can use: comparing on the CPU"
    benchmark "PyTorch (CPU)" test_infer.py 3 --cpu ${weights[@]+"${weights[@]}"}
    if [[ ! -e $models/encoder.onnx && -z ${weights[*]-} ]]; then
        "$PYTHON" "$ROOT/exports/export_voice.py" -o "$models"
    fi
fi
if [[ -e $models/encoder.onnx && -z ${weights[*]-} ]]; then
    mapfile -t files < <(model_flags .onnx)
    benchmark "ONNX Runtime (CPU)" trt/test_infer_trt.py 3 "${files[@]}"
fi
echo
"$PYTHON" "$ROOT/benchmarks/report.py" "$results"
