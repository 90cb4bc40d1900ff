#!/usr/bin/env bash
# Speaks phrases/phrase.txt with the demo voice, installing what that takes on the first run.
# Flags are passed on to trt/inference_trt.py: bash scripts/run_demo.sh --text "Good morning!"

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# The models lie in the project's folder, where the script runs; files that the user names are relative to where he is.
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
        -i | --input | --text | -h | --help) has_input=true ;;
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
"$VENV/bin/python" trt/inference_trt.py "${arguments[@]}" || exit
echo "The wav files are in $output"
