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
# A flag that is given twice has its last value; --text goes with no file.
for word in "$@"; do
    [[ $word != --text* ]] || has_text=yes
done
[[ -n ${has_text:-} ]] || set -- -i "$ROOT/phrases/phrase.txt" "$@"
exec "$PYTHON" "$ROOT/trt/inference_trt.py" -o "$ROOT/output" "$@"
