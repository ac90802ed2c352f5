"""Warm run workers: processes that have imported everything and opened nothing, and wait for a run.

How they are kept and handed a run belongs here, and when one is not used again; what such a process does is
in `run_worker.py`, who needs one in `run_launcher.py`. Why a process may execute several runs, one after
another, is in docs/overhead.md.

Whoever launches runs talks to each of its workers over a socket of their own, which ends with either of the
two: a worker whose launcher is gone finishes the run that it has, and ends; one that is gone takes no run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import datacube_assets

MODULE: Final = "datacube_assets.orchestration.run_worker"
WAIT: Final = "--wait"
READY, TAKEN = b"r", b"t"
"""What a worker says: that it waits for a run, that it has one."""
_ACKNOWLEDGED = 5.0
"""Seconds in which a worker that is handed a run says that it has it."""
_IDLE = 600.0
"""Seconds after which workers beyond the spare ones are let go."""


def fingerprint(environment: Mapping[str, str] = os.environ) -> str:
    """What a process that starts now would load: code, packages, interpreter, environment, settings files.

    Of files it takes names, sizes and times of change, so that it costs a few milliseconds.
    """
    digest = hashlib.blake2b(digest_size=16)

    def add(*values: object) -> None:
        digest.update(repr(values).encode())

    add(sys.executable, sys.version, os.getcwd(), sorted(environment.items()))
    add(sorted(_sources(Path(datacube_assets.__file__).parent)))
    for folder in sys.path:
        with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
            # Installing a package changes its folder, or makes another one.
            add(folder, sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries if entry.is_dir()))
    limits = environment.get("DATACUBE_CHECK_LIMITS", "")
    home = environment.get("DAGSTER_HOME", "")
    for path in (Path(limits), Path(home, "dagster.yaml")):
        with contextlib.suppress(OSError):
            found = path.stat()
            add(str(path), found.st_mtime_ns, found.st_size)
    return digest.hexdigest()


def _sources(folder: Path) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                found = entry.stat()
                yield entry.path, found.st_size, found.st_mtime_ns
            elif entry.is_dir() and entry.name != "__pycache__":
                yield from _sources(Path(entry.path))


@dataclass
class _Worker:
    """A process, and what it has said."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    code: str
    """What it was started from."""
    busy: bool = False
    """Whether it was handed a run, and has not said since that it waits for another."""
    waits_since: float | None = None
    """When it became ready (monotonic)."""

    def listen(self) -> bool:
        """Take note of what it has said; False when it is gone."""
        try:
            said = self.socket.recv(64, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            said = b""
        if said.endswith(READY):
            self.busy, self.waits_since = False, time.monotonic()
        return bool(said)

    def take(self, run_id: str, arguments: str) -> bool:
        """Hand it a run. False when it did not take it; then it is no more."""
        self.busy, self.waits_since = True, None
        try:
            self.socket.settimeout(_ACKNOWLEDGED)
            self.socket.sendall(f"{run_id} {arguments}\n".encode())
            if self.socket.recv(1) == TAKEN:
                return True
        except OSError:
            pass
        # It may have begun all the same, and no run has two processes.
        self.process.kill()
        self.process.wait()
        return False


@dataclass
class RunWorkers:
    """The warm workers of a process that launches runs."""

    spare: int
    """How many wait, at least; with 0 there are none at all."""
    _workers: list[_Worker] = field(default_factory=list)
    _ended: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """Processes that end by themselves, to be reaped."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self) -> None:
        """Start as many workers as are missing, which get ready in the background."""
        if self.spare:
            with self._lock:
                code = fingerprint()
                self._look(code)
                free = sum(not worker.busy for worker in self._workers)
                self._workers += [_start(code) for _ in range(self.spare - free)]

    def hand_over(self, run_id: str, arguments: str) -> bool:
        """Give a run to a worker that waits; False when there is none, or none took it."""
        if not self.spare:
            return False
        with self._lock:
            self._look(fingerprint())
            for worker in [one for one in self._workers if one.waits_since is not None]:
                if worker.take(run_id, arguments):
                    return True
                self._let_go(worker)
        return False

    def _look(self, code: str) -> None:
        """Hear all workers, and let those go that are not to be used again."""
        self._ended = [process for process in self._ended if process.poll() is None]
        for worker in list(self._workers):
            if not worker.listen() or (worker.code != code and not worker.busy):
                self._let_go(worker)
        now = time.monotonic()
        waiting = [worker for worker in self._workers if worker.waits_since is not None]
        for worker in waiting[self.spare :]:
            if now - (worker.waits_since or now) > _IDLE:
                self._let_go(worker)

    def _let_go(self, worker: _Worker) -> None:
        worker.socket.close()
        self._workers.remove(worker)
        self._ended.append(worker.process)


def _start(code: str) -> _Worker:
    ours, its = socket.socketpair()
    with its:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, WAIT, str(its.fileno()), code],
            stdin=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
            # A session of its own: what stops the launcher does not stop the run.
            start_new_session=True,
        )
    return _Worker(process, ours, code)
