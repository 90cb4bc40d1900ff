#!/usr/bin/env bash
# Speaks phrases/phrase.txt with the demo voice, installing what that takes on the first run; the wav files go to
# output/ in the project's folder. Flags are passed on to trt/inference_trt.py:
#
#   bash scripts/run_demo.sh [--text "Good morning!"] [-i FILE] [-o FOLDER] [...]

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

PASSES_FLAGS_TO=trt/inference_trt.py
show_help_if_asked "$@"

ensure_environment run
for word in "$@"; do
    [[ ! $word =~ ^(-i|--(input|text)(=.*)?)$ ]] || has_input=yes
done
[[ -n ${has_input:-} ]] || set -- -i "$ROOT/phrases/phrase.txt" "$@"
exec "$PYTHON" "$ROOT/trt/inference_trt.py" -o "$ROOT/output" "$@" # a flag that is given twice has its last value
