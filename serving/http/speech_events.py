"""From the scheduler's worker thread to an event loop, without polling."""

import asyncio
import queue
from contextlib import suppress

from pipeline import Audio
from pipeline.speech import Speech


class SpeechEvents:
    """Wakes a coroutine when its speech has something new. Made in the event loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """For `Voice.submit`'s `on_event`: called in the worker thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._changed.set)

    async def next_chunk(self, speech: Speech) -> Audio | None:
        """`Speech.next_chunk`, waited for without holding up the event loop."""
        while True:
            self._changed.clear()
            try:
                return speech.next_chunk(timeout=0)
            except queue.Empty:
                await self._changed.wait()
