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
cd -- "$ROOT"
failed=()
"$PYTHON" -m ruff check . || failed+=(ruff)
"$PYTHON" -m mypy || failed+=(mypy)
"$PYTHON" "${PYTHON%/*}/lint-imports" --no-cache || failed+=(imports)
if (($#)); then
    "$PYTHON" -m pytest "$@" || failed+=(pytest)
else
    "$PYTHON" -m pytest --numprocesses auto --dist loadfile -m "not slow" || failed+=(pytest)
    # The slow ones load TensorRT-RTX, OpenVINO, Triton's compiler, Ray and the recogniser, which were not made to live
    # together: each file has a process of its own.
    grep -lZ 'mark\.slow' tests/test_*.py | xargs -0 -n 1 -P "$(nproc)" "$PYTHON" -m pytest -m slow ||
        failed+=("pytest -m slow")
    ATEN_CPU_CAPABILITY=default "$PYTHON" -m pytest --numprocesses auto --dist loadfile -m "numerical and not slow" ||
        failed+=("pytest with ATEN_CPU_CAPABILITY=default")
fi
if ((${#failed[@]})); then
    fail "failed: ${failed[*]}"
fi
echo "Lint, types, import contracts and tests passed"
