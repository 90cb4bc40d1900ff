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
extra=${1:-run}
(($# < 2)) && [[ $extra =~ ^(run|serve|corpus|analysis|openvino|hopper|test)$ ]] || fail "unknown extra: $* (--help lists them)" 2
find_python
if [[ $(run_installer own-environment) == yes ]]; then
    run_installer install "$extra" || exit
    echo "Installed for $(command -v -- "$PYTHON")"
else
    ensure_environment "$extra"
    printf 'Installed. Before you use the scripts: source %q\n' "$VENV/bin/activate"
fi
