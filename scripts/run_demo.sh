#!/usr/bin/env bash
# Speaks phrases/phrase.txt with the demo voice, installing what that takes on the first run; the wav files go to
# output/ in the project's folder. Flags are passed on to trt/inference_trt.py:
#
#   bash scripts/run_demo.sh [--text "Good morning!"] [-i FILE] [-o FOLDER] [...]

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

PASSES_FLAGS_TO=trt/inference_trt.py
show_help_if_asked "$@"

# What the flags leave open:
input=$ROOT/phrases/phrase.txt
output=$ROOT/output
for argument in "$@"; do
    case $argument in
        -i* | --input | --input=* | --text | --text=*) input='' ;;
        -o* | --output | --output=* | --stream) output='' ;;
    esac
done

ensure_environment run
"$PYTHON" "$ROOT/trt/inference_trt.py" "$@" ${input:+-i "$input"} ${output:+-o "$output"} || exit
[[ -z $output ]] || echo "The wav files are in $output"
