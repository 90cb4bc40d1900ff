"""Settings of the Python interpreter that keep a process's threads from waiting for one another."""

import gc
import sys

# Seconds for which a thread that computes in Python may keep the others waiting. With Python's 5 ms, the thread that
# feeds the engines would lose more time than the others take.
SWITCH_INTERVAL = 5e-5
NEW_OBJECTS = 10_000  # between two searches for garbage; a few requests make Python's 700


def prefer_latency() -> None:
    """Lets threads take turns quickly, and keeps garbage collection away. Call it once all is loaded.

    A full collection stops every thread while it visits the objects of all imported modules, which are never garbage.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(NEW_OBJECTS)
    gc.collect()
    gc.freeze()
