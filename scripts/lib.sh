# shellcheck shell=bash
# Sourced by the shell scripts, not run. What they share:
#
#   show_help_if_asked "$@"     --help prints the comment at the top of the calling script, and the --help of the Python
#                               script that PASSES_FLAGS_TO names, if it is set; starts nothing else, and exits
#   find_python                 sets PYTHON to a Python that is new enough, or fails
#   use_project_python          sets PYTHON to a Python that has the project's packages, or fails; installs nothing
#   ensure_environment EXTRA    sets PYTHON to .venv's, having installed what speaking takes (EXTRA is `run`) and one
#                               extra of pyproject.toml (see install.py)
#   ensure_triton_server        sets TRITON_SERVER to a folder in .venv with NVIDIA's Triton Inference Server, installing
#                               it on the first run
#   ensure_chromium             installs Debian's Chromium, which the tests of the page drive; fails where it can't
#   flag_value "$@"             prints the second argument; fails if the flag $1 has no value
#   fail MESSAGE [STATUS]       prints "SCRIPT: error: MESSAGE" and exits [with 1]
#
# ROOT is the project's folder. PYTHON, if the user sets it, names the interpreter to use.

set -euo pipefail

SCRIPT=${0##*/}
ROOT=$(CDPATH='' cd -- "${BASH_SOURCE[0]%/*}/.." && pwd -P)
VENV=$ROOT/.venv

fail() {
    printf '%s: error: %s\n' "$SCRIPT" "$1" >&2
    exit "${2:-1}"
}

show_help_if_asked() {
    local word line python
    for word in "$@"; do
        [[ $word == -h || $word == --help ]] || continue
        while IFS= read -r line; do
            [[ $line != '#!'* ]] || continue
            [[ $line == '#'* ]] || break
            line=${line#'#'}
            printf '%s\n' "${line#' '}"
        done <"$0"
        [[ -n ${PASSES_FLAGS_TO:-} ]] || exit 0
        for python in ${PYTHON:+"$PYTHON"} "$VENV/bin/python" python3; do
            PYTHONPATH=$ROOT "$python" "$ROOT/$PASSES_FLAGS_TO" --help 2>/dev/null && exit 0
        done
        echo "(The flags of $PASSES_FLAGS_TO can be listed once its packages are installed.)"
        exit 0
    done
}

flag_value() {
    (($# > 1)) || fail "$1 needs a value" 2
    printf '%s' "$2"
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.10 or later; give the path of one that is"
        return
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if new_enough "$candidate"; then
            PYTHON=$candidate
            return
        fi
    done
    fail "Python 3.10 or later is missing: sudo apt-get install python3 python3-venv, or name one: PYTHON=python3.11 bash $0"
}

use_project_python() {
    if [[ -z ${PYTHON:-} && -x $VENV/bin/python ]]; then
        PYTHON=$VENV/bin/python
    fi
    find_python
    export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
    "$PYTHON" -c 'import common.cli, onnxruntime, torch' 2>/dev/null ||
        fail "$PYTHON lacks the project's packages; run $ROOT/scripts/install_prerequisites.sh first"
}

ensure_environment() {
    find_python
    "$PYTHON" "$ROOT/scripts/install.py" "$1" || exit
    PYTHON=$VENV/bin/python
}

# The server's Python backend was built before NumPy 2, so its models get a NumPy 1 of their own.
ensure_triton_server() {
    TRITON_SERVER=$VENV/triton-server
    [[ ! -x $TRITON_SERVER/pytriton/tritonserver/bin/tritonserver ]] || return 0
    echo "Installing NVIDIA's Triton Inference Server"
    rm -rf -- "$TRITON_SERVER.part"
    "$PYTHON" -m pip install --quiet --no-deps --only-binary :all: --target "$TRITON_SERVER.part" \
        nvidia-pytriton==0.7.0 'numpy<2' || return
    mv -- "$TRITON_SERVER.part" "$TRITON_SERVER"
}

ensure_chromium() {
    if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
        return 0
    fi
    { ((EUID == 0)) && command -v apt-get >/dev/null; } || return
    echo "Installing Chromium"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes chromium chromium-driver; } >/dev/null 2>&1
}
