#!/usr/bin/env bash
# Installs the project and what it needs.
#
# Into the current environment, if that is a virtual or conda environment, or one of NVIDIA's containers: there the
# PyTorch, TensorRT and NumPy that are present stay as they are, and only what is missing is added. Otherwise into a
# virtual environment in .venv, because today's Debian and Ubuntu keep pip out of the system's Python.

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

(($# == 0)) || fail "no arguments are taken, but $1 was given"
find_python
if [[ $(run_helper "$PYTHON" install.py own-environment) == yes ]]; then
    run_helper "$PYTHON" install.py install run || exit
    echo "Installed for $(command -v -- "$PYTHON")"
else
    ensure_environment run
    printf 'Installed. Before you use the scripts: source %q\n' "$VENV/bin/activate"
fi
