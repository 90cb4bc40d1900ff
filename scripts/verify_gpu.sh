#!/usr/bin/env bash
# Checks TensorRT on this machine's GPU, from building the engines to speech, and prints a report to paste.
# Flags are those of trt/verify_gpu.py. PYTHON names the interpreter [default: ./.venv's, else python3].

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

PASSES_FLAGS_TO=trt/verify_gpu.py
show_help_if_asked "$@"
use_project_python
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | sed 's/^/GPU, driver, memory: /'
fi
exec "$PYTHON" "$ROOT/trt/verify_gpu.py" "$@"
