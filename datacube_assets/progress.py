"""How far long work is: a stage, the pieces of it that are done, and what is left.

Whoever shows it listens: the terminal (`cli/progress.py`), and Dagster's event log (`resources/dask.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stage:
    """One kind of work, cut into pieces."""

    name: str
    sizes: Sequence[int]
    """Of each piece, in any unit: how much work it is."""
    started: float = field(default_factory=time.monotonic)
    pieces: int = 0
    """Pieces that are done."""
    objects: int = 0
    """Objects they published."""
    _work: int = 0

    def finished(self, piece: int, objects: int = 0) -> None:
        """One more piece is done."""
        self.pieces += 1
        self.objects += objects
        # Also a piece of no rows is some work.
        self._work += self.sizes[piece] + 1

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def share(self) -> float:
        """Of the work that is done, from 0 to 1."""
        return self._work / (sum(self.sizes) + len(self.sizes)) if self.sizes else 1.0

    @property
    def seconds_left(self) -> float | None:
        """Until everything is done, if it goes on like this; None when there is nothing to go by."""
        return self.seconds * (1 - self.share) / self.share if self.share > 0 else None

    def __str__(self) -> str:
        told = [f"{self.pieces:,} of {len(self.sizes):,} pieces"]
        if self.objects:
            told.append(f"{self.objects:,} objects, {self.objects / max(self.seconds, 1e-3):,.0f} a second")
        if self.seconds_left is not None and self.pieces < len(self.sizes):
            told.append(f"about {duration(self.seconds_left)} left")
        return ", ".join(told)


def duration(seconds: float) -> str:
    """A time span as people say it: 8 s, 3 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


Listener = Callable[[Stage], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call the listener whenever a stage of this process begins or goes on."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(stage: Stage) -> None:
    """Tell all listeners how far a stage is."""
    for listener in _listeners:
        listener(stage)
