#!/usr/bin/env bash
# Speaks over HTTP, installing what that takes on the first run: OpenAI's speech API, and a page to try it. Flags are
# passed on to serving/http_server.py:
#
#   bash scripts/serve.sh [--host 127.0.0.1] [--port 8000] [--models FOLDER] [...]

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

PASSES_FLAGS_TO=serving/http_server.py
show_help_if_asked "$@"

ensure_environment serve
names_models=false
for word in "$@"; do
    case ${word%%=*} in
        --models | --encoder | --decoder | --postnet | --waveglow | --checkpoints) names_models=true ;;
    esac
done
# The demo voice lies in the project's folder; paths that the user gives are relative to his own.
$names_models || cd -- "$ROOT"
exec "$PYTHON" "$ROOT/serving/http_server.py" "$@" # in the shell's place, so that it gets SIGTERM
