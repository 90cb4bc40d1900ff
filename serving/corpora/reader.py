"""A process that reads lines for a worker: text to symbols takes Python's lock, which a GPU's worker needs itself."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from common.files import REPOSITORY
from common.phrases import Phrase
from pipeline import SpeakSettings
from pipeline.pieces import PreparedPhrase, prepare


class ReadingProcess:
    """`pipeline.pieces.prepare` in a process of its own, or in this one once that has ended. Thread-safe.

    A plain child rather than a pool of `multiprocessing`, whose workers may not have children.
    """

    def __init__(self) -> None:
        paths = [str(REPOSITORY), *filter(None, sys.path)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from serving.corpora import reader; reader.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""},
        )
        self._lock = threading.Lock()

    def prepare(self, phrases: Sequence[Phrase], settings: SpeakSettings, max_symbols: int) -> list[PreparedPhrase]:
        """See `pipeline.pieces.prepare`."""
        with self._lock, suppress(OSError, EOFError, pickle.UnpicklingError):
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            pickle.dump((phrases, settings, max_symbols), self.process.stdin)
            self.process.stdin.flush()
            return pickle.load(self.process.stdout)
        return prepare(phrases, settings, max_symbols)

    def close(self) -> None:
        """Ends the process; may be called again."""
        self.process.kill()
        self.process.wait()


def serve() -> None:
    """The process: answers until its worker has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever prints must not come between
    with suppress(EOFError, pickle.UnpicklingError, BrokenPipeError):
        while True:
            request = pickle.load(sys.stdin.buffer)
            pickle.dump(prepare(*request), answers)
            answers.flush()
