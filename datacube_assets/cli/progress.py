"""Progress at the command line: a bar on a terminal, a plain line now and then where output goes elsewhere.

What progress is made of is in `progress.py`.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from datacube_assets.progress import Stage, duration, listening

PLAIN_SECONDS = 10.0
"""Between the plain lines of one asset."""
_REDRAW_SECONDS = 0.2
_BAR = 20
_CLEAR = "\r\x1b[K"


class Display:
    """Tells which asset is being made, and how far it is."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._bar = sys.stdout.isatty()
        self._lock = threading.Lock()
        self._done = 0
        self._asset: str | None = None
        self._stage: Stage | None = None
        self._begun = self._told = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show progress meanwhile."""
        over = threading.Event()
        redrawing = threading.Thread(target=self._redraw, args=(over,), name="progress", daemon=True)
        if self._bar:
            redrawing.start()
        try:
            with listening(self._heard):
                yield
        finally:
            over.set()
            if self._bar:
                redrawing.join()
                click.echo(_CLEAR, nl=False)

    def begins(self, asset: str) -> None:
        """An asset is being made from now on."""
        with self._lock:
            self._asset, self._stage = asset, None
            self._begun = self._told = time.monotonic()

    def ends(self, asset: str, figures: str) -> None:
        """An asset is made."""
        with self._lock:
            self._done += 1
            self._asset = None
            line = f"  {self._done:2} of {self._steps}  {asset:20} {figures}"
            click.echo(f"{_CLEAR}{line}" if self._bar else line)

    def _heard(self, stage: Stage) -> None:
        with self._lock:
            self._stage = stage
            due = time.monotonic() - self._told > PLAIN_SECONDS
            if not self._bar and self._asset and due:
                self._told = time.monotonic()
                click.echo(f"            {self._asset}: {stage}")

    def _redraw(self, over: threading.Event) -> None:
        while not over.wait(_REDRAW_SECONDS):
            with self._lock:
                if self._asset:
                    click.echo(f"{_CLEAR}{self._line()[: shutil.get_terminal_size().columns - 1]}", nl=False)

    def _line(self) -> str:
        seconds = time.monotonic() - self._begun
        share = self._stage.share if self._stage else 0.0
        bar = ("#" * int(share * _BAR)).ljust(_BAR, "-")
        told = str(self._stage) if self._stage and self._stage.pieces else duration(seconds)
        return f"  {self._done + 1:2} of {self._steps}  {self._asset:20} [{bar}] {told}"
