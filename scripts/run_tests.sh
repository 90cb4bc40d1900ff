#!/usr/bin/env bash
# Runs all checks: lint, types, import contracts and tests, installing what they need on the first run.
# Arguments are passed on to pytest, with paths relative to the project's folder:
#
#   bash scripts/run_tests.sh [-m "not slow"] [...]
#
# Without arguments all tests run, shared between the processor's cores: the quick ones, the slow ones, and those that
# compare numbers once more for the oldest instruction set: what holds on one processor must hold on any.

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

show_help_if_asked "$@"
ensure_environment test
ensure_triton_server 2>/dev/null || echo "Note: Triton Inference Server could not be installed; its tests are skipped"
ensure_chromium || echo "Note: Chromium could not be installed; the tests of the page are skipped"
cd -- "$ROOT"
failed=()
"$PYTHON" -m ruff check . || failed+=(ruff)
"$PYTHON" -m mypy || failed+=(mypy)
"$PYTHON" "${PYTHON%/*}/lint-imports" --no-cache || failed+=(imports)
if (($#)); then
    "$PYTHON" -m pytest "$@" || failed+=(pytest)
else
    TESTS_SHARED_FOLDER=$(mktemp -d) # models that are exported once for all of the processes below
    export TESTS_SHARED_FOLDER
    trap 'rm -rf -- "$TESTS_SHARED_FOLDER"' EXIT
    cores=$(nproc)           # which counts no more of them than OMP_NUM_THREADS
    export OMP_NUM_THREADS=1 # the processes below share the cores; threads that wait for their turn would spin
    quick=("$PYTHON" -m pytest --numprocesses auto --dist loadfile --max-worker-restart 0)
    "${quick[@]}" -m "not slow" || failed+=(pytest)
    mapfile -t numerical < <(grep -l 'mark\.numerical' tests/test_*.py)
    env --unset TESTS_SHARED_FOLDER ATEN_CPU_CAPABILITY=default "${quick[@]}" -m "numerical and not slow" \
        "${numerical[@]}" ||
        failed+=("pytest with ATEN_CPU_CAPABILITY=default")
    # Some slow ones load TensorRT-RTX, OpenVINO, Triton's compiler or the recogniser, which were not made to live
    # together: their files have a process each. The others have one for three, and begin first: the longest are among
    # them. They also wait for servers: one process more than there are cores.
    mapfile -t alone < <(grep -l 'mark\.alone' tests/test_*.py)
    mapfile -t others < <(grep -L 'mark\.alone' tests/test_*.py | xargs grep -l 'mark\.slow')
    {
        printf '%s\n' "${others[@]}" | xargs -n 3
        printf '%s\n' "${alone[@]}"
    } | xargs -L 1 -P "$((cores + 1))" "$PYTHON" -m pytest --no-header -m slow || failed+=("pytest -m slow")
fi
if ((${#failed[@]})); then
    fail "failed: ${failed[*]}"
fi
echo "Lint, types, import contracts and tests passed"
