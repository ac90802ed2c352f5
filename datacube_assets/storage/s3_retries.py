"""How often requests to S3 are tried again, and how many there are at once.

What one process asks of one server belongs here: batches slow down when it throttles, and broken answers are
asked for again. Repetitions inside of a single request are the client's (`s3_client.py`).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TypeVar

from datacube_assets.storage.s3_errors import BrokenAnswer
from datacube_assets.storage.stores import StoreUnavailable

T = TypeVar("T")

MAX_CONCURRENCY = 64
"""Requests in flight for batches of objects, in one process and to one server."""
PATIENCE = 600.0
"""Seconds that one object of a batch is tried for, at most."""
FIRST_PAUSE, LAST_PAUSE = 0.5, 15.0
"""Seconds between its tries: doubled from the first to the last, less a random part."""
ASKED_AGAIN = (0.2, 1.0, 3.0)
"""Pauses in seconds after answers that break off or make no sense, which the client does not repeat."""


class Throttle:
    """How many requests a server gets at once: half as many after each failure, then slowly more again."""

    def __init__(self) -> None:
        self.limit = float(MAX_CONCURRENCY)
        self._busy = 0
        self._room = threading.Condition()
        self._slowed = 0.0

    def patiently(self, do: Callable[[T], None], item: T, stop: threading.Event) -> None:
        """Do something with an item as often as it takes, until `PATIENCE` ends. Raises StoreError."""
        end, pause = time.monotonic() + PATIENCE, FIRST_PAUSE
        while not stop.is_set():
            try:
                with self._admitted():
                    do(item)
                return
            except StoreUnavailable:
                if time.monotonic() + pause > end:
                    raise
            stop.wait(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LAST_PAUSE)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        with self._room:
            while self._busy >= max(1, int(self.limit)):
                self._room.wait()
            self._busy += 1
        try:
            yield
        except StoreUnavailable:
            self._slow_down()
            raise
        else:
            # One more for every full round of successes.
            self.limit = min(self.limit + 1 / self.limit, float(MAX_CONCURRENCY))
        finally:
            with self._room:
                self._busy -= 1
                self._room.notify()

    def _slow_down(self) -> None:
        with self._room:
            # Requests that were under way together fail together; that is one reason, not many.
            if time.monotonic() - self._slowed > 1:
                self._slowed = time.monotonic()
                self.limit = max(1.0, self.limit / 2)


@lru_cache(maxsize=32)
def throttle(endpoint: str) -> Throttle:
    return Throttle()


def again(do: Callable[[], T]) -> T:
    """What a single request gives, repeated a few times while its answer is broken. Raises StoreError."""
    for pause in ASKED_AGAIN:
        try:
            return do()
        except BrokenAnswer:
            time.sleep(pause * random.uniform(0.5, 1))
    return do()
