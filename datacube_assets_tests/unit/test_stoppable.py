"""Stopping threads from outside, where Python itself has pitfalls."""

from __future__ import annotations

import subprocess
import sys

LITTER = """
import gc, sys, threading, time, weakref
from datacube_assets.resources import stoppable

class Node: pass

def litter():
    # Garbage whose end is told to somebody who gives the interpreter away, as SQLAlchemy and Dask do.
    node = Node()
    node.itself = node
    return weakref.ref(node, lambda _: time.sleep(0))

def churn():
    while True:
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()

for _ in range(3):
    threading.Thread(target=churn, daemon=True).start()
gc.set_threshold(1)
references, end = [], time.monotonic() + 2
while time.monotonic() < end:
    references = [*references[-50:], litter()]
    stoppable._imports(threading.get_ident())
print("still going", flush=True)
"""
"""Looks whether a thread imports, while threads begin and end and the collector is at work."""


def test_looking_at_threads_never_stands_still_while_the_collector_is_at_work() -> None:
    """A run that was to fail over a full disk stood still for ever: Python 3.11 was in its collector while it
    held the lock that a thread needs to begin or to end."""
    command = [sys.executable, "-P", "-c", LITTER + "import os; os._exit(0)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "still going\n"
