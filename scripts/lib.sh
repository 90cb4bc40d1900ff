# shellcheck shell=bash
# Sourced by the shell scripts, not run. What they share:
#
#   show_help_if_asked "$@"     --help prints the comment at the top of the calling script, and the --help of the Python
#                               script that PASSES_FLAGS_TO names, if it is set; starts nothing else, and exits
#   use_project_python          sets PYTHON to a Python that has the project's packages, or fails; installs nothing
#   ensure_environment EXTRA    sets PYTHON to .venv's, having installed what speaking takes (EXTRA is `run`) and one
#                               extra of pyproject.toml (serve, corpus, analysis, openvino, hopper, test); where all of
#                               it is there already, no installer is started
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
MADE_HERE=$VENV/.made-by-scripts # only an environment with this file may be deleted and made again
OLDEST=10                        # Python 3.10

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

# Prints the value of the flag $1, the next argument: flag_value "$@"
flag_value() {
    (($# > 1)) || fail "$1 needs a value" 2
    printf '%s' "$2"
}

# Prints the version (3.11.7) of the Python that $1 starts; fails if it starts none.
python_version() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

new_enough() {
    [[ $1 =~ ^3\.([0-9]+)\. ]] && ((BASH_REMATCH[1] >= OLDEST))
}

# Sets PYTHON to an interpreter that is new enough: the one the user names in PYTHON, or the first that is found.
find_python() {
    local candidate version too_old=''
    if [[ -n ${PYTHON:-} ]]; then
        version=$(python_version "$PYTHON") || fail "PYTHON=$PYTHON can't be run; give the path of Python 3.$OLDEST or later"
        new_enough "$version" || fail "PYTHON=$PYTHON is Python $version, and 3.$OLDEST or later is needed"
        return
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        version=$(python_version "$candidate") || continue
        if new_enough "$version"; then
            PYTHON=$candidate
            return
        fi
        too_old=$version
    done
    if [[ -n $too_old ]]; then
        fail "python3 is Python $too_old, and 3.$OLDEST or later is needed: install a later one and name it, as in PYTHON=python3.11 bash $0"
    fi
    fail "Python is missing: sudo apt-get install python3 python3-venv, then run this again"
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

run_installer() {
    PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} "$PYTHON" "$ROOT/scripts/install.py" "$@"
}

# What an installation depends on. It is in place, so the project's folder is part of it.
expected_base() { printf 'Python %s for %s' "$(python_version "$VENV/bin/python")" "$ROOT"; }
expected_record() { printf '%s\n%s' "$(expected_base)" "$(cat "$ROOT/requirements.txt" "$ROOT/pyproject.toml" | sha256sum)"; }

is_ready() {
    [[ -x $VENV/bin/python && -r $VENV/.installed-$1 && $(<"$VENV/.installed-$1") == "$(expected_record)" ]] &&
        { [[ -z ${PYTHON:-} ]] || [[ $(python_version "$PYTHON") == "$(python_version "$VENV/bin/python")" ]]; }
}

# Prints why what is in .venv can't be added to; prints nothing if it can.
why_rebuild() {
    local made_for=''
    [[ -e $VENV || -L $VENV ]] || { echo "there is none" && return; }
    [[ -e $MADE_HERE ]] || { echo foreign && return; }
    [[ -r $VENV/.installed-run ]] || { echo "an installation did not come to its end" && return; }
    read -r made_for <"$VENV/.installed-run" || true
    if [[ $made_for != "$(expected_base)" ]]; then
        echo "it was made with $made_for, and this is $(expected_base)"
    elif [[ -n ${PYTHON:-} && $(python_version "$PYTHON") != "$(python_version "$VENV/bin/python")" ]]; then
        echo "PYTHON=$PYTHON is another Python than its own"
    fi
}

make_environment() {
    local version said options=()
    find_python
    version=$(python_version "$PYTHON")
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "Python $version has no venv module: sudo apt-get install python3-venv (or python${version%.*}-venv), then run this again"
    rm -rf -- "$VENV" 2>/dev/null || fail "$VENV can't be replaced; delete it and run this again"
    if [[ $(run_installer nvidia-container) == yes ]]; then
        options=(--system-site-packages) # the container's own PyTorch and TensorRT are used, and can't be replaced
    fi
    echo "Making a virtual environment in $VENV (Python $version)"
    { mkdir -- "$VENV" && : >"$MADE_HERE"; } 2>/dev/null || fail "$VENV can't be made: $(reason_not_writable)"
    if ! said=$("$PYTHON" -m venv ${options[@]+"${options[@]}"} "$VENV" 2>&1); then
        (($(df --output=avail -k "$ROOT" | tail -n 1) > 100000)) || said=$(reason_not_writable)
        rm -rf -- "$VENV"
        fail "the virtual environment $VENV could not be made: ${said##*$'\n'}"
    fi
}

reason_not_writable() {
    if [[ -w $ROOT ]]; then
        echo "the disk is full; free some space and run this again"
    else
        echo "the folder $ROOT can't be written; copy the project to a folder of yours"
    fi
}

ensure_environment() {
    local lock
    if ! is_ready "$1"; then
        [[ -w $ROOT ]] || fail "$VENV can't be made: $(reason_not_writable)"
        exec {lock}<"$ROOT"
        if command -v flock >/dev/null && ! flock --nonblock "$lock"; then
            echo "Another script is installing into $VENV: waiting for it"
            flock "$lock"
        fi
        is_ready "$1" || install_environment "$1"
        exec {lock}<&-
    fi
    PYTHON=$VENV/bin/python
}

install_environment() {
    local reason
    reason=$(why_rebuild)
    [[ $reason != foreign ]] ||
        fail "$VENV was not made by these scripts: rename or delete it, and run this again"
    if [[ -n $reason ]]; then
        [[ $reason == "there is none" ]] || echo "The environment is made anew: $reason"
        make_environment
    fi
    PYTHON=$VENV/bin/python
    if ! is_ready run; then
        rm -f -- "$VENV"/.installed-* # what is there is whole no more, until the installer has ended well
    fi
    run_installer install "$1" || exit
    expected_record >"$VENV/.installed-run"
    expected_record >"$VENV/.installed-$1"
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
