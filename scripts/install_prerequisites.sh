#!/usr/bin/env bash
# Installs the project and what speaking takes, or with the name of an extra what that takes too:
#
#   bash scripts/install_prerequisites.sh [serve | corpus | analysis | openvino | hopper | test]
#
# It installs into the current environment, if that is a virtual or conda environment, or one of NVIDIA's containers:
# there the PyTorch, TensorRT and NumPy that are present stay as they are, and only what is missing is added. Otherwise
# into a virtual environment in .venv, because today's Debian and Ubuntu keep pip out of the system's Python.

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

show_help_if_asked "$@"
find_python
exec "$PYTHON" "$ROOT/scripts/install.py" --active "${@:-run}"
