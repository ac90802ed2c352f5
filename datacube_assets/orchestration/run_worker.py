"""The process of a run: what the launcher starts.

    python -m datacube_assets.orchestration.run_worker ARGUMENTS             executes one run
    python -m datacube_assets.orchestration.run_worker --wait SOCKET CODE    waits for runs (`run_workers.py`)

Does what `dagster api execute_run` does, which imports everything that Dagster's command line could need.
And it interrupts a run when somebody asks for that who cannot see this process, such as a webserver in
another container.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from datacube_assets.orchestration.startup import importing, keep_memory

if TYPE_CHECKING:
    from click import Command

DEFINITIONS = "datacube_assets.definitions"
"""A text, since what is wired there lies above this package."""
MOST_RUNS = 50
LONGEST_LIFE = 3600.0
"""Seconds."""
LARGEST = 1 << 30
"""Bytes that a process may have needed and still be used again."""
LOOK_SECONDS = 3.0
"""Between looks at whether the run is to be canceled; terminating it takes at most this and the interrupt."""


def main() -> None:
    keep_memory()
    environment = dict(os.environ)
    execute = _loaded()
    if sys.argv[1:2] == ["--wait"]:
        _wait(execute, socket.socket(fileno=int(sys.argv[2])), sys.argv[3], environment)
    else:
        with interrupted_when_canceled(sys.argv[1]):
            execute.main(args=sys.argv[1:], prog_name="execute_run")


def _loaded() -> Command:
    """Import everything that a run needs; Dagster's command that executes one."""
    with importing():
        from dagster._cli.api import execute_run_command

        # What is wrong with the definitions is for Dagster to find and to report, when it loads them.
        with contextlib.suppress(Exception):
            # Arrow imports pandas anyway, at its first array.
            import pandas  # noqa: F401

            importlib.import_module(DEFINITIONS)

            from datacube_assets.orchestration.terminal_log import shorten

            shorten()
    return execute_run_command


@contextlib.contextmanager
def interrupted_when_canceled(arguments: str) -> Iterator[None]:
    """Meanwhile, interrupt this process once the run of these arguments is to be canceled."""
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(arguments, over), daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _watch(arguments: str, over: threading.Event) -> None:
    from dagster import DagsterInstance, DagsterRunStatus
    from dagster._grpc.types import ExecuteRunArgs
    from dagster._serdes import deserialize_value

    asked = deserialize_value(arguments, ExecuteRunArgs)
    if over.wait(LOOK_SECONDS) or asked.instance_ref is None:
        return
    with DagsterInstance.from_ref(asked.instance_ref) as instance:
        while not over.is_set():
            # Storage that is away for a moment is for the run itself to find.
            with contextlib.suppress(Exception):
                run = instance.get_run_by_id(asked.run_id)
                if run is not None and run.status == DagsterRunStatus.CANCELING and not over.is_set():
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
            over.wait(LOOK_SECONDS)


# --- several runs, one after another ---------------------------------------------------------------


def _wait(execute: Command, launcher: socket.socket, code: str, environment: dict[str, str]) -> None:
    """Execute the runs that the launcher hands over, until it is gone or this process has served its time.

    The launcher names the code that it started this process from, with this environment. If files changed
    meanwhile, nobody knows what was loaded, and the process ends.
    """
    # Without this, the name of the process would take the place of the environment that others see.
    os.environ["SPT_NOENV"] = "1"
    from setproctitle import setproctitle

    from datacube_assets.orchestration.run_workers import READY, TAKEN, fingerprint

    setproctitle(WAITING)
    del os.environ["SPT_NOENV"]
    if fingerprint(environment) != code:
        return
    # What the launcher's terminal or service manager sends to its group is not for us; a run has its own.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    born, threads = time.monotonic(), _threads()
    for _ in range(MOST_RUNS):
        with contextlib.suppress(OSError):
            launcher.sendall(READY)
        run_id, _, arguments = _line(launcher).partition(" ")
        if not arguments:
            return
        setproctitle(f"{EXECUTING}{run_id}")
        with contextlib.suppress(OSError):
            launcher.sendall(TAKEN)
        with _as_before(), interrupted_when_canceled(arguments):
            failed = _executes(execute, arguments)
        setproctitle(WAITING)
        gc.collect()
        # A thread that stays, or a run that did not go as it should, may have left anything.
        if failed or _threads() - threads or time.monotonic() - born > LONGEST_LIFE or _peak() > LARGEST:
            return


WAITING = "datacube run worker: waits"
EXECUTING = "datacube run worker: executes "
"""How the command line of a process begins, before the id of its run."""


def _line(launcher: socket.socket) -> str:
    """What the launcher sends, up to the end of a line; empty when it is gone."""
    received = b""
    while not received.endswith(b"\n"):
        try:
            more = launcher.recv(1 << 16)
        except OSError:
            more = b""
        if not more:
            return ""
        received += more
    return received.decode().strip()


def _executes(execute: Command, arguments: str) -> bool:
    """Execute a run; whether its process should end with it."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        execute.main(args=[arguments], prog_name="execute_run", standalone_mode=False)
    except BaseException:
        # Dagster has recorded what there is to say of the run.
        return True
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    return False


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Put environment and working directory back to what they were: a run may set some."""
    environment, folder = dict(os.environ), os.getcwd()
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        with contextlib.suppress(OSError):
            os.chdir(folder)


def _threads() -> set[int | None]:
    return {thread.ident for thread in threading.enumerate()}


def _peak() -> int:
    """Most memory that this process has needed so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
