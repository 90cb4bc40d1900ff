#!/usr/bin/env bash
# Starts NVIDIA's Triton Inference Server on a model repository that scripts/make_triton_repository.py wrote, installing
# the server on the first run:
#
#   bash scripts/serve_triton.sh model_repository [--http-port 8000] [...]
#
# Flags are passed on to scripts/triton_server.py.

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

PASSES_FLAGS_TO=scripts/triton_server.py
show_help_if_asked "$@"
ensure_environment serve
ensure_triton_server || fail "the server could not be installed; it needs Linux, and Python 3.10 to 3.12"
PYTHONPATH=$ROOT exec "$PYTHON" "$ROOT/scripts/triton_server.py" --server "$TRITON_SERVER" "$@"
