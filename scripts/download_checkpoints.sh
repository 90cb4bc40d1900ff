#!/usr/bin/env bash
# Downloads NVIDIA's Tacotron 2 and WaveGlow checkpoints from NGC into checkpoints/; --help lists the flags.

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

find_python
PYTHONPATH=$ROOT "$PYTHON" "$ROOT/scripts/download.py" "$@"
