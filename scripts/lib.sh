# shellcheck shell=bash
# What the scripts beside this file share: finding Python, and the project's virtual environment. Sourced, not run.

set -euo pipefail

SCRIPT=${0##*/}
ROOT=$(CDPATH='' cd -- "${BASH_SOURCE[0]%/*}/.." && pwd -P)
VENV=$ROOT/.venv
MADE_HERE=$VENV/.made-by-scripts # only an environment with this file may be deleted and made again
OLDEST=10                        # Python 3.10

fail() {
    printf '%s: error: %s\n' "$SCRIPT" "$1" >&2
    exit 1
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
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        version=$(python_version "$candidate") || continue
        if new_enough "$version"; then
            PYTHON=$candidate
            return
        fi
        too_old=$version
    done
    if [[ -n $too_old ]]; then
        fail "python3 is Python $too_old, and 3.$OLDEST or later is needed: install a later one and name it, as in PYTHON=python3.11 bash scripts/$SCRIPT"
    fi
    fail "Python is missing: sudo apt-get install python3 python3-venv, then run this again"
}

# Runs a Python script of this folder that needs nothing installed: run_helper PYTHON SCRIPT ARGUMENTS...
run_helper() {
    local python=$1 script=$2
    shift 2
    PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} "$python" "$ROOT/scripts/$script" "$@"
}

# Prints whether .venv holds what $1 (run or test) needs: ready, update (install into it) or rebuild (can't be trusted).
environment_state() {
    local found
    if [[ -n ${PYTHON:-} && -x $VENV/bin/python ]]; then # another Python than the one it was made with was asked for
        found=$(python_version "$VENV/bin/python") || found=''
        if [[ ${found%.*} != "$(python_version "$PYTHON" | cut -d . -f 1,2)" ]]; then
            echo rebuild
            return
        fi
    fi
    if [[ ! -x $VENV/bin/python ]] || ! run_helper "$VENV/bin/python" install.py state "$1" 2>/dev/null; then
        echo rebuild
    fi
}

make_environment() {
    local version said options=()
    find_python
    version=$(python_version "$PYTHON")
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "Python $version has no venv module: sudo apt-get install python3-venv (or python${version%.*}-venv), then run this again"
    if [[ -e $VENV ]]; then
        rm -rf -- "$VENV" 2>/dev/null || fail "$VENV can't be replaced; delete it and run this again"
    fi
    if [[ $(run_helper "$PYTHON" install.py nvidia-container) == yes ]]; then
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

# Makes sure that .venv holds what $1 (run or test) needs. Where it does, no installer is started at all.
ensure_environment() {
    local state lock
    [[ $(environment_state "$1") != ready ]] || return 0
    [[ -w $ROOT ]] || fail "$VENV can't be made: $(reason_not_writable)"
    exec {lock}<"$ROOT"
    if command -v flock >/dev/null && ! flock --nonblock "$lock"; then
        echo "Another script is installing into $VENV: waiting for it"
        flock "$lock"
    fi
    state=$(environment_state "$1")
    if [[ $state == rebuild ]]; then
        if [[ (-e $VENV || -L $VENV) && ! -e $MADE_HERE ]]; then
            fail "$VENV was not made by these scripts, or by another Python: rename or delete it, and run this again"
        fi
        make_environment
    fi
    if [[ $state != ready ]]; then
        run_helper "$VENV/bin/python" install.py install "$1" || exit
    fi
    exec {lock}<&-
}
