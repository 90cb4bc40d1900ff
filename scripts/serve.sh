#!/usr/bin/env bash
# Speaks over HTTP, installing what that takes on the first run: OpenAI's speech API, and a page to try it. Flags are
# passed on to scripts/http_server.py:
#
#   bash scripts/serve.sh [--host 127.0.0.1] [--port 8000] [--models FOLDER] [...]

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

PASSES_FLAGS_TO=scripts/http_server.py
show_help_if_asked "$@"

ensure_environment serve
exec "$PYTHON" "$ROOT/scripts/http_server.py" "$@" # SIGTERM must reach the server, so no shell stays before it
