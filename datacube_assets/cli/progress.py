"""Progress at the command line: a bar on a terminal, a plain line now and then where output goes elsewhere.

What progress is made of is in `progress.py`.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from datacube_assets.progress import Stage, duration, listening

PLAIN_SECONDS = 10.0
"""Between the plain lines of one asset."""
WAITING_SECONDS = 2.0
"""After which a command says that it is at work."""
_REDRAW_SECONDS = 0.2
_BAR = 20
_CLEAR = "\r\x1b[K"


class Waiting:
    """Tells, on standard error, that a command is at work and how far it is, once that takes a while."""

    def __init__(self, what: str, *, shown: bool = True) -> None:
        self._what = what
        self._shown = shown
        self._bar = sys.stderr.isatty()
        self._lock = threading.Lock()
        self._at = ""
        self._over = threading.Event()
        self._drawn = False
        self._thread = threading.Thread(target=self._tell, name="waiting", daemon=True)
        self._begun = time.monotonic()

    def __enter__(self) -> Waiting:
        if self._shown:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._shown:
            self._thread.join()
            self._clear()

    def count(self, what: str, done: int, total: int) -> None:
        """So many are done."""
        self._at = f"{what} {done:,} of {total:,}".strip()

    def at(self, where: str) -> None:
        """It is at work on this."""
        self._at = where

    def counter(self, what: str = "") -> Callable[[int, int], None]:
        """What takes how many are done, and of how many."""
        return lambda done, total: self.count(what, done, total)

    def say(self, line: str) -> None:
        """Print a line of the command's answer meanwhile."""
        with self._lock:
            self._clear()
            click.echo(line)

    def _clear(self) -> None:
        if self._drawn:
            click.echo(_CLEAR, nl=False, err=True)
            self._drawn = False

    def _tell(self) -> None:
        if self._over.wait(WAITING_SECONDS):
            return
        while True:
            told = ", ".join(filter(None, (self._at, duration(time.monotonic() - self._begun))))
            with self._lock:
                if self._over.is_set():
                    return
                if self._bar:
                    line = f"  {self._what}: {told}"[: shutil.get_terminal_size().columns - 1]
                    click.echo(f"{_CLEAR}{line}", nl=False, err=True)
                    self._drawn = True
                else:
                    click.echo(f"{self._what}: {told}", err=True)
            if self._over.wait(_REDRAW_SECONDS if self._bar else PLAIN_SECONDS):
                return


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
