#!/usr/bin/env bash
# Runs all checks: lint, types and tests, installing what they need on the first run.
# Arguments are passed on to pytest, with paths relative to the project's folder:
# bash scripts/run_tests.sh -m "not slow"

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

ensure_environment test
cd -- "$ROOT"
failed=()
"$VENV/bin/python" -m ruff check . || failed+=(ruff)
"$VENV/bin/python" -m mypy || failed+=(mypy)
"$VENV/bin/python" -m pytest "$@" || failed+=(pytest)
if ((${#failed[@]})); then
    fail "failed: ${failed[*]}"
fi
echo "Lint, types and tests passed"
