#!/usr/bin/env bash
# Checks TensorRT on this machine's GPU, from building the engines to speech, and prints a report to paste.
# Flags are those of trt/verify_gpu.py: --help lists them. PYTHON names the interpreter [python3, or ./.venv's].
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-}
if [[ -z $python ]]; then
    python=python3
    [[ -x $repository/.venv/bin/python ]] && python=$repository/.venv/bin/python
fi
if ! "$python" -c 'import common.cli, onnxruntime, torch' 2>/dev/null; then
    echo "verify_gpu.sh: $python lacks the project's packages; run $repository/scripts/install_prerequisites.sh first" >&2
    exit 1
fi
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | sed 's/^/GPU, driver, memory: /'
fi
exec "$python" "$repository/trt/verify_gpu.py" "$@"
