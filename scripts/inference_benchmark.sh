#!/usr/bin/env bash
# Benchmarks what this machine has, and prints one table: TensorRT engines of ./output if they are there, PyTorch as the
# classic runs it, this project's loop on PyTorch, and ONNX files on the CPU.
#
#   bash scripts/inference_benchmark.sh [--random-weights] [-bs N] [-il N] [--num-iters N] [-o FOLDER]
#
# --random-weights: NGC's dimensions (WaveGlow 256) with random weights and 600 frames, so that anyone can compare;
#                   without it, the demo voice, whose stop gate decides.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
batch=1 length=128 iterations='' folder=results weights=()
while (($#)); do
    case $1 in
        --random-weights) weights=(--random-weights) && shift && continue ;;
        -bs | -il | --num-iters | -o) ;;
        *)
            echo "inference_benchmark.sh: error: unknown flag $1; it takes --random-weights, -bs, -il, --num-iters, -o" >&2
            exit 2
            ;;
    esac
    if (($# < 2)); then
        echo "inference_benchmark.sh: error: $1 needs a value" >&2
        exit 2
    fi
    case $1 in
        -bs) batch=$2 ;;
        -il) length=$2 ;;
        --num-iters) iterations=$2 ;;
        -o) folder=$2 ;;
    esac
    shift 2
done
python=$root/.venv/bin/python
[[ -x $python ]] || python=python3
if ! "$python" -c 'import common.cli, torch' 2>/dev/null; then
    echo "inference_benchmark.sh: error: $python lacks the project's packages; run scripts/install_prerequisites.sh first" >&2
    exit 1
fi
# Results of an earlier run do not belong into this run's table.
rm -f -- "$folder"/*_bs*_il*_*.json
size=(-bs "$batch" -il "$length" -o "$folder")

if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    if [[ -e output/encoder_fp16.engine ]]; then
        echo "TensorRT BS=$batch, S=$length"
        "$python" "$root/trt/test_infer_trt.py" --encoder output/encoder_fp16.engine \
            --decoder output/decoder_iter_fp16.engine --postnet output/postnet_fp16.engine \
            --waveglow output/waveglow_fp16.engine --fp16 --num-iters "${iterations:-1003}" "${size[@]}"
    fi
    echo "PyTorch (GPU) BS=$batch, S=$length"
    "$python" "$root/test_infer.py" --fp16 --num-iters "${iterations:-100}" "${size[@]}" ${weights[@]+"${weights[@]}"}
    echo "PyTorch (GPU), this project's loop BS=$batch, S=$length"
    "$python" "$root/test_infer.py" --loop --fp16 --num-iters "${iterations:-1003}" "${size[@]}" \
        ${weights[@]+"${weights[@]}"}
else
    echo "No NVIDIA GPU that PyTorch can use: comparing on the CPU"
    echo "PyTorch (CPU) BS=$batch, S=$length"
    "$python" "$root/test_infer.py" --cpu --num-iters "${iterations:-3}" "${size[@]}" ${weights[@]+"${weights[@]}"}
    if [[ ! -e output/encoder.onnx && -z ${weights[*]-} ]]; then
        "$python" "$root/exports/export_tacotron2_onnx.py" -o output
        "$python" "$root/exports/export_waveglow_onnx.py" -o output
    fi
fi
if [[ -e output/encoder.onnx && -z ${weights[*]-} ]]; then
    echo "ONNX Runtime (CPU) BS=$batch, S=$length"
    "$python" "$root/trt/test_infer_trt.py" --encoder output/encoder.onnx --decoder output/decoder_iter.onnx \
        --postnet output/postnet.onnx --waveglow output/waveglow.onnx --num-iters "${iterations:-3}" "${size[@]}"
fi
echo
"$python" "$root/scripts/results_table.py" "$folder"
