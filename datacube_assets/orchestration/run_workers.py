"""Warm run workers: processes that have imported everything and opened nothing, and wait for a run.

How they are kept and handed a run belongs here; what such a process does, and when it is not used again, is
in `run_worker.py`, who needs one in `run_launcher.py`. Why a process may execute several runs, one after
another, is in docs/overhead.md.

Whoever launches runs talks to each of its workers over a socket of their own, which ends with either of the
two: a worker whose launcher is gone finishes the run that it has, and ends; one that is gone takes no run.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

from datacube_assets.orchestration.run_worker import MODULE, READY, TAKEN, WAIT

_ACKNOWLEDGED = 5.0
"""Seconds in which a worker that is handed a run says that it has it."""
_LOOK = 0.5
"""Seconds between looks at the workers."""
_IDLE = 600.0
"""Seconds after which workers beyond the spare ones are let go."""
_AGAIN = 10.0
"""Seconds until another is started after one that did not come to wait."""


def command(*arguments: str) -> list[str]:
    """The command line of a run's process."""
    return [sys.executable, "-P", "-m", MODULE, *arguments]


def start(arguments: list[str], *sockets: int) -> subprocess.Popen[bytes]:
    """Start a process for runs, in a session of its own: what stops the launcher does not stop the run."""
    return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, pass_fds=sockets, start_new_session=True)


def _surroundings() -> tuple[object, ...]:
    """What a process gets from the one that starts it."""
    return os.getcwd(), sys.executable, dict(os.environ)


@dataclass
class _Worker:
    """A process, and what it has said."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    surroundings: tuple[object, ...]
    busy: bool = False
    """Whether it was handed a run, and has not said since that it waits for another."""
    waits_since: float | None = None
    """When it became ready (monotonic)."""
    came_to_wait: bool = False

    def listen(self) -> bool:
        """Take note of what it has said; False when it is gone."""
        try:
            said = self.socket.recv(64, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            said = b""
        if said.endswith(READY):
            self.busy, self.waits_since, self.came_to_wait = False, time.monotonic(), True
        return bool(said)

    def take(self, run_id: str, arguments: str) -> bool:
        """Hand it a run. False when it did not take it; then it is no more."""
        self.busy, self.waits_since = True, None
        with contextlib.suppress(OSError):
            self.socket.settimeout(_ACKNOWLEDGED)
            self.socket.sendall(f"{run_id} {arguments}\n".encode())
            taken = self.socket.recv(1) == TAKEN
            self.socket.settimeout(None)
            if taken:
                return True
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
    _not_before: float = 0.0
    """When the next may be started (monotonic)."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)
    _keeper: threading.Thread | None = None

    def keep(self) -> None:
        """From now on, have as many that wait as are wanted; they get ready in the background."""
        with self._lock:
            if self.spare and self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="run workers", daemon=True)
                self._keeper.start()

    def let_all_go(self) -> None:
        """Keep none any more; those that have a run finish it."""
        self._over.set()
        with self._lock:
            for worker in list(self._workers):
                self._let_go(worker)

    def hand_over(self, run_id: str, arguments: str) -> bool:
        """Give a run to a worker that waits; False when there is none, or none took it."""
        with self._lock:
            self._look()
            for worker in [one for one in self._workers if one.waits_since is not None]:
                if worker.take(run_id, arguments):
                    return True
                self._let_go(worker)
        return False

    def _keep(self) -> None:
        while not self._over.is_set():
            with self._lock:
                self._look()
                missing = self.spare - sum(not worker.busy for worker in self._workers)
                if missing > 0 and not self._over.is_set() and time.monotonic() >= self._not_before:
                    # What keeps one from being started keeps a run from it too, which then says so.
                    with contextlib.suppress(OSError):
                        self._workers += [_start() for _ in range(missing)]
            self._over.wait(_LOOK)

    def _look(self) -> None:
        """Hear all workers, and let those go that are not to be used again."""
        self._ended = [process for process in self._ended if process.poll() is None]
        for worker in list(self._workers):
            if not worker.listen() or (not worker.busy and worker.surroundings != _surroundings()):
                self._let_go(worker)
        waiting = [worker for worker in self._workers if worker.waits_since is not None]
        for worker in waiting[self.spare :]:
            if time.monotonic() - (worker.waits_since or 0.0) > _IDLE:
                self._let_go(worker)

    def _let_go(self, worker: _Worker) -> None:
        if not worker.came_to_wait:
            self._not_before = time.monotonic() + _AGAIN
        worker.socket.close()
        self._workers.remove(worker)
        self._ended.append(worker.process)


def _start() -> _Worker:
    ours, its = socket.socketpair()
    with its:
        process = start(command(WAIT, str(its.fileno())), its.fileno())
    return _Worker(process, ours, _surroundings())
