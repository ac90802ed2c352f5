"""Tables that this process has just written to the lake, for the steps that read them next.

Most runs fit one shard, and each of their tables is read by several steps of the process that wrote it. While
a run is under way, the tables it wrote last are kept as they were, up to a number of bytes, and whoever reads
the very file that was written is given them. A file that is gone or was replaced is read, or missed, as ever.
Only where the lake is a folder: of a bucket nobody knows without asking. Workers in other processes keep
nothing. Checks read what is stored (`Lake.as_stored`). A lake that is for the time being does not store what
can be held here until its run is over.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import pyarrow as pa

MOST_BYTES: Final = 256 << 20
"""Bytes of tables that are kept or held."""

_Identity: TypeAlias = tuple[int, int, int]


class Written:
    """Tables by the file that they were written to: the last ones written, and those that are held."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._lock = threading.Lock()
        self._tables: OrderedDict[str, tuple[_Identity, pa.Table]] = OrderedDict()
        self._held: dict[str, tuple[_Identity, pa.Table]] = {}
        self._bytes = self._held_bytes = 0
        self._runs = 0

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at the moment."""
        return self._runs > 0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """As long as this lasts, in any thread; then nothing is kept any more."""
        with self._lock:
            self._runs += 1
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1
                if not self._runs:
                    self._tables.clear()
                    self._held.clear()
                    self._bytes = self._held_bytes = 0

    def keep(self, path: Path | None, table: pa.Table) -> None:
        """Remember what has just been written to a file."""
        identity = _identity(path) if path is not None and self.keeps else None
        if identity is None:
            return
        with self._lock:
            self._forget(str(path))
            if not self.has_room(table):
                return
            self._tables[str(path)] = identity, table
            self._bytes += table.nbytes
            self._make_room()

    def has_room(self, table: pa.Table) -> bool:
        """Whether a table may be kept or held at the moment: what is only kept gives way to it."""
        return self.keeps and self._held_bytes + table.nbytes <= self._most

    def hold(self, path: Path | None, table: pa.Table) -> bool:
        """Have an empty file stand for a table until the run is over; False if there is no room for it."""
        identity = _identity(path) if path is not None else None
        if identity is None:
            return False
        with self._lock:
            self._forget(str(path))
            if not self.has_room(table):
                return False
            self._held[str(path)] = identity, table
            self._held_bytes += table.nbytes
            self._make_room()
            return True

    def table(self, path: Path | None) -> pa.Table | None:
        """What was written to a file, if it is known and the file is still the same."""
        if path is None or not (str(path) in self._tables or str(path) in self._held):
            return None
        identity = _identity(path)
        with self._lock:
            known = self._held.get(str(path)) or self._tables.get(str(path))
            return known[1] if known and known[0] == identity else None

    def _make_room(self) -> None:
        while self._tables and self._bytes + self._held_bytes > self._most:
            self._forget(next(iter(self._tables)))

    def _forget(self, path: str) -> None:
        if (known := self._tables.pop(path, None)) is not None:
            self._bytes -= known[1].nbytes
        if (held := self._held.pop(path, None)) is not None:
            self._held_bytes -= held[1].nbytes


def _identity(path: Path) -> _Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


WRITTEN: Final = Written()
"""Of this process."""
