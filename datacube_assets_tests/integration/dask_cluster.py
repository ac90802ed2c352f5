"""A real cluster for tests, as `make cluster` starts it, and pieces of work to send there.

Workers import this module, so nothing that only tests need is imported at the top.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datacube_assets.kernels.errors import InputError
from datacube_assets_tests.environment import nothing_set

if TYPE_CHECKING:
    from distributed import Client, Future, Scheduler, Worker


@dataclass
class Cluster:
    """A scheduler and its workers, and a client that watches them."""

    process: subprocess.Popen[str]
    address: str
    dashboard: str
    environment: Mapping[str, str]
    client: Client

    def tasks(self) -> list[str]:
        """The keys of all tasks that the scheduler knows."""
        found: list[str] = self.client.run_on_scheduler(_keys)
        return found

    def computing(self) -> dict[int, list[str]]:
        """The keys of the tasks that workers have to do with, cancelled ones included, by process."""
        states: Mapping[str, tuple[int, list[str]]] = self.client.run(_tasks_of_worker, on_error="ignore")
        return dict(states.values())

    def workers(self) -> dict[int, str]:
        """Address of each worker process."""
        return {pid: address for address, pid in self.client.run(os.getpid, on_error="ignore").items()}

    def assigned(self, address: str) -> list[str]:
        """The keys that a worker has to compute, according to the scheduler: it may be unable to answer."""
        return [str(key) for key in self.client.processing().get(address, ())]

    def idle(self) -> bool:
        """Whether neither scheduler nor workers have anything to do."""
        return not self.tasks() and not any(self.computing().values())

    def clients(self) -> int:
        """How many clients but ours are waiting for something."""
        found: int = self.client.run_on_scheduler(_clients)
        return found

    def wanted(self) -> int:
        """How many tasks clients want, counting a task as often as it is wanted."""
        found: int = self.client.run_on_scheduler(_wanted)
        return found

    def groups(self) -> set[str]:
        """What the dashboard calls the tasks that ever were."""
        found: set[str] = self.client.run_on_scheduler(_prefixes)
        return found

    @contextlib.contextmanager
    def busy(self, folder: Path) -> Iterator[None]:
        """A cluster that has no thread left for others, until the end of the block."""
        folder.mkdir()
        futures: list[Future[Any]] = self.client.map(
            wait_for_gate,
            [folder] * len(self.client.nthreads()),
            range(len(self.client.nthreads())),
            key="busy",
            pure=False,
            priority=10,
        )
        try:
            wait_until(lambda: len(list(folder.glob("waits-*"))) == len(futures))
            yield
        finally:
            (folder / "open").touch()
            self.client.gather(futures)


def _keys(dask_scheduler: Scheduler) -> list[str]:
    return [str(key) for key in dask_scheduler.tasks]


def _tasks_of_worker(dask_worker: Worker) -> tuple[int, list[str]]:
    return os.getpid(), [str(key) for key in dask_worker.state.tasks]


def _clients(dask_scheduler: Scheduler) -> int:
    wanting = [state for state in dask_scheduler.clients.values() if state.wants_what]
    return len(
        [state for state in wanting if not all(str(task.key).startswith("busy") for task in state.wants_what)]
    )


def _wanted(dask_scheduler: Scheduler) -> int:
    return sum(len(state.wants_what) for state in dask_scheduler.clients.values())


def _prefixes(dask_scheduler: Scheduler) -> set[str]:
    return set(dask_scheduler.task_prefixes)


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    """Wait for a condition. Raises AssertionError after the time limit."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@contextlib.contextmanager
def cluster(folder: Path, **environment: str) -> Iterator[Cluster]:
    """Two workers and a scheduler on free ports; gone afterwards."""
    from distributed import Client

    from datacube_assets.development.ports import free_port

    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    given = {
        **nothing_set(),
        "DATACUBE_HOME": str(folder / "home"),
        "DATACUBE_DASK_SCHEDULER": address,
        # What kills workers need not kill four of them.
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        # Were it heeded, no worker that dies would be replaced: none starts that quickly.
        "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "100ms",
        **environment,
    }
    with (folder / "cluster.log").open("w") as log, start_cluster_command(port, given, log) as process:
        try:
            printed = read_start(process)
            assert printed["Scheduler"] == address
            with Client(address, set_as_default=False) as client:
                yield Cluster(process, address, printed["Dashboard"], given, client)
        finally:
            process.terminate()


def start_cluster_command(port: int, environment: Mapping[str, str], log: Any) -> subprocess.Popen[str]:
    """What `make cluster` starts."""
    command = [sys.executable, "-m", "datacube_assets.development.dask_cluster", "--workers", "2"]
    return subprocess.Popen(
        [*command, "--port", str(port), "--dashboard-port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        # Ctrl-C reaches all processes of a terminal's group; so can a test.
        start_new_session=True,
    )


def read_start(process: subprocess.Popen[str]) -> dict[str, str]:
    """What the command says at its start, by the first word of each line."""
    printed: dict[str, str] = {}
    assert process.stdout is not None
    for line in process.stdout:
        word, _, rest = line.strip().partition(" ")
        printed[word] = rest.strip()
        if word == "Stop":
            return printed
    raise AssertionError(f"the cluster ended with {process.wait()}: {printed}")


@dataclass(frozen=True)
class Process:
    """A process of this machine; the time of its start tells it from a later one of the same id."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        found = _process(self.pid)
        return found is not None and found[0] == self

    def blocks(self, one: signal.Signals) -> bool:
        """Whether its main thread does not hear of a signal."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        mask = next(line.split()[1] for line in lines if line.startswith("SigBlk:"))
        return bool(int(mask, 16) >> (one - 1) & 1)

    @property
    def is_worker(self) -> bool:
        """Whether it computes for Dask, under the name that it gives itself or under its first one."""
        return self.command.startswith("dask worker") or "multiprocessing.spawn" in self.command

    @property
    def command(self) -> str:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/cmdline").read_text().replace("\0", " ")
        return ""


def _process(pid: int) -> tuple[Process, int] | None:
    """A process and the id of its parent; None when it has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else (Process(pid, fields[19]), int(fields[1]))
    return None


def descendants(pid: int) -> list[Process]:
    """All processes that a process started, and those that they started."""
    listed = (_process(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    parents = dict(one for one in listed if one is not None)
    found: list[Process] = []
    known = {pid}
    while True:
        more = [one for one, parent in parents.items() if parent in known and one.pid not in known]
        if not more:
            return found
        found += more
        known |= {one.pid for one in more}


# --- pieces ----------------------------------------------------------------------------------------


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    """Fails at piece 7."""
    if number == 7:
        raise InputError("the value 'much' is no number", remedy="Write numbers", file="part", column="value")
    return number


def wait_for_gate(folder: Path, piece: int) -> int:
    """Waits until the folder has a file `open`."""
    (folder / f"waits-{piece}").touch()
    wait_until((folder / "open").exists, 120)
    return piece


def write_or_refuse(folder: Path, piece: int) -> None:
    """Piece 0 writes file after file, whatever Exception comes; others fail once it does."""
    if piece:
        wait_until((folder / "written-1").exists)
        raise InputError("no", remedy="Yes")
    number = 0
    try:
        while True:
            with contextlib.suppress(Exception):
                number += 1
                (folder / f"written-{number % 100}").write_text(str(time.time_ns()))
    finally:
        (folder / "stopped-0").touch()


def has_profiler(dask_worker: Worker) -> bool:
    """Whether a worker asks for the frames of its threads again and again."""
    return "profile" in dask_worker.periodic_callbacks


def die(piece: str) -> None:
    """Kills its worker as the kernel does where memory is short."""
    if piece == "heavy":
        os.kill(os.getpid(), signal.SIGKILL)


class Shared:
    """What all pieces hold; tells when a process receives it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return _receive, (self.trace,)


def _receive(trace: Path) -> Shared:
    with trace.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return Shared(trace)


@dataclass(frozen=True)
class Sharing:
    """A piece that holds something large, as views hold their table."""

    number: int
    shared: Shared


def number_of(piece: Sharing) -> int:
    return piece.number
