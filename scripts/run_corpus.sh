#!/usr/bin/env bash
# Speaks a file of lines to a corpus, on all GPUs of this machine or of a Ray cluster, installing what that takes on the
# first run. Flags are passed on to scripts/corpus.py:
#
#   bash scripts/run_corpus.sh -i lines.txt|lines.jsonl|metadata.csv -o corpus/ [--dry-run] [...]

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

PASSES_FLAGS_TO=scripts/corpus.py
show_help_if_asked "$@"

ensure_environment corpus
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" "$ROOT/scripts/corpus.py" "$@"
