"""Progress at the command line: a bar on a terminal, a plain line now and then where output goes elsewhere.

What progress is made of is in `progress.py`. Bars are drawn by rich, which is imported for a terminal only.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import click

from datacube_assets.progress import Stage, duration, listening

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_SECONDS = 10.0
"""Between the plain lines of one asset."""
MOMENT_SECONDS = 2.0
"""After which a command says that it is at work."""
_REDRAW_SECONDS = 0.2
_BAR = 20
"""Columns of a terminal."""


def _bars(*, stderr: bool = False) -> Progress:
    """Bars that vanish when they are done, with the time since each began and what is told."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    # Names come from outside: no column reads them as markup.
    return Progress(
        TextColumn("  {task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(_BAR, table_column=Column(min_width=_BAR)),
        TimeElapsedColumn(table_column=Column(min_width=7, no_wrap=True)),
        TextColumn("{task.fields[told]}", markup=False, table_column=Column(no_wrap=True)),
        transient=True,
        console=Console(stderr=stderr),
    )


class Counter(Protocol):
    """Is told how much is done, how much there is, and of what."""

    def __call__(self, done: int, total: int, what: str = "") -> None: ...


@contextmanager
def counting(title: str, wanted: bool = True) -> Iterator[Counter]:
    """Tell that a command is at work, and how far it is, once that takes longer than a moment.

    On standard error, so that it never gets into an answer: a bar on a terminal, elsewhere a line now and
    then. What cannot be counted shows the time.
    """
    if not wanted:
        yield lambda done, total, what="": None
        return
    waiting = _Waiting(title)
    teller = threading.Thread(target=waiting.tell, name="waiting", daemon=True)
    teller.start()
    try:
        yield waiting
    finally:
        waiting.over.set()
        teller.join()


class _Waiting:
    """What is being waited for, and a thread that tells of it."""

    def __init__(self, title: str) -> None:
        self.over = threading.Event()
        self._title = title
        self._begun = time.monotonic()
        self._far: tuple[int, int, str] | None = None

    def __call__(self, done: int, total: int, what: str = "") -> None:
        self._far = done, total, what

    @property
    def _told(self) -> str:
        if self._far is None:
            return ""
        done, total, what = self._far
        return f"{done:,} of {total:,} {what}".rstrip()

    def tell(self) -> None:
        if self.over.wait(MOMENT_SECONDS):
            return
        if not sys.stderr.isatty():
            while True:
                far = ", ".join(filter(None, (self._told, duration(time.monotonic() - self._begun))))
                click.echo(f"{self._title}: {far}", err=True)
                if self.over.wait(PLAIN_SECONDS):
                    return
        with _bars(stderr=True) as bars:
            bar = bars.add_task(self._title, total=None, told="", start=True)
            while not self.over.wait(_REDRAW_SECONDS):
                done, total, _ = self._far or (0, None, "")
                bars.update(bar, completed=done, total=total, told=self._told)


class Display:
    """Tells which assets are being made, and how far each is."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._bars = _bars() if sys.stdout.isatty() else None
        self._lock = threading.Lock()
        self._done = 0
        self._made: dict[int, _Made] = {}
        """By the thread that makes it, which is also the one that tells how far it is."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show progress meanwhile."""
        with listening(self._heard):
            if self._bars is None:
                yield
            else:
                with self._bars:
                    yield

    def begins(self, asset: str) -> None:
        """An asset is being made from now on, by this thread."""
        with self._lock:
            self._forget(threading.get_ident())
            bar = None
            if self._bars is not None:
                number = self._done + len(self._made) + 1
                bar = self._bars.add_task(f"{number:2} of {self._steps}  {asset:20}", total=1.0, told="")
            self._made[threading.get_ident()] = _Made(asset, bar)

    def ends(self, asset: str, figures: str) -> None:
        """An asset is made."""
        with self._lock:
            self._done += 1
            self._forget(threading.get_ident())
            line = f"  {self._done:2} of {self._steps}  {asset:20} {figures}"
            if self._bars is None:
                click.echo(line)
            else:
                self._bars.console.print(line, markup=False, highlight=False)

    def _forget(self, thread: int) -> None:
        made = self._made.pop(thread, None)
        if made is not None and made.bar is not None and self._bars is not None:
            self._bars.remove_task(made.bar)

    def _heard(self, stage: Stage) -> None:
        with self._lock:
            made = self._made.get(threading.get_ident())
            if made is None:
                return
            if self._bars is not None and made.bar is not None:
                self._bars.update(made.bar, completed=stage.share, told=str(stage) if stage.pieces else "")
            elif time.monotonic() - made.told > PLAIN_SECONDS:
                made.told = time.monotonic()
                click.echo(f"            {made.asset}: {stage}")


@dataclass
class _Made:
    """An asset that is being made."""

    asset: str
    bar: TaskID | None
    told: float = field(default_factory=time.monotonic)
    """When it was last told how far it is."""
