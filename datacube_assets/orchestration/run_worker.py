"""The process of a run: what the launcher starts.

    python -m datacube_assets.orchestration.run_worker ARGUMENTS             executes one run
    python -m datacube_assets.orchestration.run_worker --wait SOCKET         waits for runs (`run_workers.py`)

Does what `dagster api execute_run` does, which imports everything that Dagster's command line could need.
And it interrupts a run when somebody asks for that who cannot see this process, such as a webserver in
another container.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from datacube_assets.orchestration.loaded_code import LoadedCode
from datacube_assets.orchestration.startup import importing, keep_memory, spare_imports

if TYPE_CHECKING:
    from click import Command

DEFINITIONS = "datacube_assets.definitions"
"""A text, since what is wired there lies above this package."""
MODULE: Final = "datacube_assets.orchestration.run_worker"
WAIT: Final = "--wait"
READY, TAKEN = b"r", b"t"
"""What a process says to its launcher: that it waits for a run, that it has one."""
WAITING: Final = "datacube run worker: waits"
EXECUTING: Final = "datacube run worker: executes "
"""How the command line of such a process begins; the id of its run follows."""
LOOK: Final = signal.SIGUSR1
"""Asks a process to look whether its run is to be canceled."""
LOOK_SECONDS = 3.0
"""Between such looks; terminating a run takes at most this and the interrupt."""
MOST_RUNS = 50
"""Runs that a process executes, one after another, before another takes its place."""
LONGEST_LIFE = 3600.0
"""Seconds after which it does."""
LARGEST = 1 << 30
"""Bytes that a process may have needed and still be used again."""
_OF_RUNS = (
    "datacube_assets.orchestration.sqlite_storage",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "upath",
)
"""Modules that a run imports on its way, which a process that waits has time for."""
CODE_SECONDS = 5.0
"""Between looks, while it waits, at whether what it has loaded is still what there is."""


def main() -> None:
    code = LoadedCode()
    keep_memory()
    waits = sys.argv[1:2] == [WAIT]
    execute = _loaded(_OF_RUNS if waits else ())
    if waits:
        with socket.socket(fileno=int(sys.argv[2])) as launcher:
            _serve(execute, launcher, code)
    else:
        with interrupted_when_canceled(sys.argv[1]):
            execute.main(args=sys.argv[1:], prog_name="execute_run")


def _loaded(further: Iterable[str] = ()) -> Command:
    """Import what a run needs, and `further` modules; Dagster's command that executes one."""
    with importing():
        from dagster._cli.api import execute_run_command

        # What is wrong with the definitions is for Dagster to find and to report, when it loads them.
        with contextlib.suppress(Exception):
            spare_imports()
            importlib.import_module(DEFINITIONS)

            from datacube_assets.orchestration.terminal_log import shorten

            shorten()
            for module in further:
                importlib.import_module(module)
    return execute_run_command


@contextlib.contextmanager
def interrupted_when_canceled(arguments: str) -> Iterator[threading.Event]:
    """Meanwhile, interrupt this process once the run of these arguments is to be canceled.

    It looks every few seconds, and at once on the signal `LOOK`. Gives whether it has interrupted.
    """
    interrupted = threading.Event()
    # One that may be used in a handler of signals, whatever was interrupted by it.
    told: SimpleQueue[bool] = SimpleQueue()
    watch = threading.Thread(target=_watch, args=(arguments, told, interrupted), daemon=True)
    before = signal.signal(LOOK, lambda *_: told.put(False))
    watch.start()
    try:
        yield interrupted
    finally:
        signal.signal(LOOK, before)
        told.put(True)
        # Where storage does not answer, it stays.
        watch.join(LOOK_SECONDS)


def _watch(arguments: str, told: SimpleQueue[bool], interrupted: threading.Event) -> None:
    from dagster import DagsterInstance, DagsterRunStatus
    from dagster._grpc.types import ExecuteRunArgs
    from dagster._serdes import deserialize_value

    asked = deserialize_value(arguments, ExecuteRunArgs)
    if _is_over(told) or asked.instance_ref is None:
        return
    with DagsterInstance.from_ref(asked.instance_ref) as instance:
        while True:
            # Storage that is away for a moment is for the run itself to find.
            with contextlib.suppress(Exception):
                run = instance.get_run_by_id(asked.run_id)
                if run is not None and run.status == DagsterRunStatus.CANCELING:
                    interrupted.set()
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
            if _is_over(told):
                return


def _is_over(told: SimpleQueue[bool]) -> bool:
    """Whether the run is over; waits for that until it is time to look."""
    try:
        return told.get(timeout=LOOK_SECONDS)
    except Empty:
        return False


# --- several runs, one after another ---------------------------------------------------------------


def _serve(execute: Command, launcher: socket.socket, code: LoadedCode) -> None:
    """Execute the runs that the launcher hands over, until it is gone or this process has served its time.

    It also ends when what a run would load has changed, and so does one whose definitions cannot be loaded:
    the process that is started in its place says why.
    """
    born = time.monotonic()
    if DEFINITIONS not in sys.modules or not _is_called(WAITING):
        return
    # What is heard while it waits is acted on at once; Dagster sets its own handlers for each run.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(LOOK, signal.SIG_IGN)
    threads = _threads()
    for _ in range(MOST_RUNS):
        if not code.is_current() or not _says(launcher, READY):
            return
        while not select.select([launcher], [], [], CODE_SECONDS)[0]:
            if not code.is_current() or time.monotonic() - born > LONGEST_LIFE:
                return
        run_id, _, arguments = _line(launcher).partition(" ")
        # The launcher finds this process gone, and another way.
        if not arguments or not code.is_current() or not _is_called(f"{EXECUTING}{run_id}"):
            return
        _says(launcher, TAKEN)
        with _as_before(), interrupted_when_canceled(arguments) as interrupted:
            failed = _executes(execute, arguments) or interrupted.is_set()
        # A thread that stays, or a run that did not go as it should, may have left anything.
        if failed or _threads() - threads or _peak() > LARGEST or not _is_called(WAITING):
            return
        gc.collect()


def _is_called(name: str) -> bool:
    """Give this process a name by which others find it; whether it has it now."""
    from setproctitle import setproctitle

    # A name would take the place of the environment that others see, too.
    os.environ["SPT_NOENV"] = "1"
    setproctitle(name)
    del os.environ["SPT_NOENV"]
    return Path("/proc/self/cmdline").read_bytes().rstrip(b"\0") == name.encode()


def _says(launcher: socket.socket, what: bytes) -> bool:
    """Tell the launcher; False when it is gone."""
    try:
        launcher.sendall(what)
    except OSError:
        return False
    return True


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
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        execute.main(args=[arguments], prog_name="execute_run", standalone_mode=False)
    except BaseException:
        # Dagster has recorded what there is to say of the run.
        return True
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return False


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Put environment and working directory back to what they were: a run may set some."""
    environment, folder, mask = dict(os.environ), os.getcwd(), os.umask(0o077)
    os.umask(mask)
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        os.umask(mask)
        os.chdir(folder)


def _threads() -> set[int | None]:
    return {thread.ident for thread in threading.enumerate()}


def _peak() -> int:
    """Most memory that this process has needed so far, in bytes.

    As `getrusage` tells it, it would be that of the process which started this one, where that was more.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024


if __name__ == "__main__":
    main()
