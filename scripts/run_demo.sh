#!/usr/bin/env bash
# Speaks phrases/phrase.txt with the demo voice, installing what that takes on the first run; the wav files go to
# output/ in the project's folder. Flags are passed on to trt/inference_trt.py:
#
#   bash scripts/run_demo.sh [--text "Good morning!"] [-i FILE] [-o FOLDER] [...]

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

PASSES_FLAGS_TO=trt/inference_trt.py
show_help_if_asked "$@"

# The script runs in the project's folder, where the models lie; paths that the user gives are relative to the caller's.
absolute() {
    if [[ $1 == /* || $1 == - || -z $1 ]]; then
        printf '%s' "$1"
    else
        printf '%s/%s' "$PWD" "$1"
    fi
}

arguments=()
output=$ROOT/output
has_input=false
has_output=false
while (($#)); do
    case $1 in
        -i | --input | -o | --output | --encoder | --decoder | --postnet | --waveglow)
            flag=$1
            value=()
            if (($# > 1)); then
                value=("$(absolute "$2")")
                shift
            fi
            arguments+=("$flag" ${value[@]+"${value[@]}"})
            ;;
        --input=* | --output=* | --encoder=* | --decoder=* | --postnet=* | --waveglow=*)
            flag=${1%%=*}
            value=("$(absolute "${1#*=}")")
            arguments+=("$flag=${value[0]}")
            ;;
        -i?* | -o?*)
            flag=${1:0:2}
            value=("$(absolute "${1:2}")")
            arguments+=("$flag" "${value[0]}")
            ;;
        *)
            flag=${1%%=*}
            value=()
            arguments+=("$1")
            ;;
    esac
    case $flag in
        -i | --input | --text) has_input=true ;;
        -o | --output)
            has_output=true
            output=${value[0]-$output}
            ;;
    esac
    shift
done
$has_input || arguments+=(-i "$ROOT/phrases/phrase.txt")
$has_output || arguments+=(-o "$output")

ensure_environment run
cd -- "$ROOT"
"$PYTHON" trt/inference_trt.py "${arguments[@]}" || exit
echo "The wav files are in $output"
