"""Where shards are computed: threads of this process, a local cluster, or an existing one.

`DaskResource.map` applies a pure function to pieces of work, wherever they run. What the pieces are is the
assets' business; workers read and write the lake and the buckets themselves. Starting a cluster is in
`local_cluster.py`, stopping what runs in `stoppable.py`; docs/dask.md says how all that is used.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from dagster import ConfigurableResource, InitResourceContext
from pydantic import PrivateAttr

from datacube_assets.kernels.errors import shorten
from datacube_assets.partitions import AT_COMMAND_LINE, SOURCE_TAG
from datacube_assets.progress import Stage, tell
from datacube_assets.resources.local_cluster import start_cluster
from datacube_assets.resources.stoppable import Stoppable, Stopped
from datacube_assets.settings import LOOPBACK, SettingsError

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

Piece = TypeVar("Piece")
Result = TypeVar("Result")

DASHBOARD_TAG = "datacube/dask_dashboard"
"""Tag of Dagster's run with the address of the dashboard of the cluster that computes it."""
LOG_SECONDS = 10.0
"""Between two notes in Dagster's event log on how far a piece of work is."""
CONNECT_SECONDS = 10
"""How long a scheduler may take to answer."""
LEAVE_SECONDS = 30.0
"""How long a run that ends early waits for workers to leave its pieces. They take a fraction of a second,
except inside of one long call of a library."""
WATCH_SECONDS = 0.1
"""How often a worker looks whether the piece it works on is still wanted."""
SAME_EVERYWHERE = ("python", "dask", "distributed")
"""Packages that must be the same for run, scheduler and workers."""
SAME_ON_WORKERS = ("datacube-assets", "numpy", "pyarrow", "polars")
"""Packages that must be the same for run and workers: they make the bytes that are published."""


class ClusterConfigurationError(SettingsError):
    """A cluster that cannot do the work as configured; the message says what to change."""


class ClusterUnavailable(ClusterConfigurationError):
    """No scheduler answers, or it went away in the middle of the work; it may be there again later."""


class WorkersLostError(RuntimeError):
    """The cluster could not do the work to its end; the message says why and what helps."""


@dataclass
class _Connection:
    client: Client
    told: set[str] = field(default_factory=set)
    """Dagster's runs that know of the cluster."""


_Address = tuple[str, int, str]
_CONNECTIONS: dict[_Address, _Connection] = {}
"""Clusters in use by this process. Dagster makes several instances of a resource that others hold."""
_POOLS: dict[_Address, ThreadPoolExecutor] = {}
"""Threads in use by this process."""
_USERS: dict[_Address, int] = {}
_LOCK = threading.Lock()


class DaskResource(ConfigurableResource["DaskResource"]):
    """Maps functions over shards."""

    mode: Literal["threads", "local", "scheduler"] = "threads"
    """`threads` starts nothing; `local` a cluster of processes per run; `scheduler` uses `scheduler`."""
    workers: int = 0
    """Threads or processes for the first two modes; 0 for one per core."""
    scheduler: str = ""
    """Address of an existing scheduler."""
    stores: list[str] = []
    """URLs that workers have to reach."""

    _context: InitResourceContext | None = PrivateAttr(None)

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Iterator[DaskResource]:
        self._context = context
        with _LOCK:
            _USERS[self._address] = _USERS.get(self._address, 0) + 1
        try:
            if self.mode == "scheduler":
                # A cluster that cannot be used is known before anything is fetched.
                with self._patience(context):
                    self._connect()
            yield self
        finally:
            with _LOCK:
                _USERS[self._address] -= 1
                last = _USERS[self._address] == 0
            if last:
                self.close()

    @contextmanager
    def _patience(self, context: InitResourceContext) -> Iterator[None]:
        """Leave a scheduler that is away just now to the steps that need it: unlike a run, they can wait."""
        try:
            yield
        except ClusterUnavailable as error:
            if context.run is None or context.run.tags.get(SOURCE_TAG) == AT_COMMAND_LINE:
                raise
            if context.log:
                context.log.warning(f"{error}. Steps that need it will wait for it")

    def close(self) -> None:
        """Let go of threads and of the cluster, ending one that was started here."""
        with _LOCK:
            connection = _CONNECTIONS.pop(self._address, None)
            threads = _POOLS.pop(self._address, None)
        if threads is not None:
            threads.shutdown()
        if connection is not None:
            cluster = connection.client.cluster
            connection.client.close()
            if cluster is not None:
                cluster.close()

    @property
    def _address(self) -> _Address:
        return self.mode, self.size, self.scheduler

    @property
    def size(self) -> int:
        """Workers of the modes that start their own."""
        return self.workers or os.cpu_count() or 1

    def dashboard(self) -> str | None:
        """Address of the cluster's dashboard; None for threads."""
        return None if self.mode == "threads" else str(self._connect().dashboard_link)

    def map(
        self,
        function: Callable[[Piece], Result],
        pieces: Sequence[Piece],
        *,
        name: str,
        run_id: str,
        sizes: Sequence[int] | None = None,
        objects: Callable[[Result], int] = lambda _: 0,
    ) -> list[Result]:
        """Results of the function for each piece, in order; raises the first error of any piece.

        `name` and `run_id` name the tasks, so that concurrent runs never share one. `sizes`, in any unit,
        tells how much work each piece is: the largest begin first, so that none is left to the end. `objects`
        counts what a piece published, for those who watch. Being interrupted cancels what has not run, stops
        what runs, and waits until it has stopped. A piece whose worker dies is computed again by another one,
        so what it writes must be the same every time. Raises WorkersLostError when that does not help, and
        ClusterUnavailable when the scheduler goes away.
        """
        if not pieces:
            return []
        work = [1] * len(pieces) if sizes is None else sizes
        order = sorted(range(len(pieces)), key=lambda number: -work[number])
        ordered = [pieces[number] for number in order]
        stage = Stage(name, [work[number] for number in order])
        tell(stage)
        logged = time.monotonic()

        def done(number: int, result: Result) -> None:
            nonlocal logged
            stage.finished(number, objects(result))
            tell(stage)
            if time.monotonic() - logged > LOG_SECONDS and stage.pieces < len(pieces):
                logged = time.monotonic()
                if self._context and self._context.log:
                    self._context.log.info(f"{name}: {stage}")

        if self.mode == "threads":
            results = self._map_threads(function, ordered, done)
        else:
            with _seceded():
                results = _Call(self._connect(), name, run_id).map(function, ordered, done)
        by_number = dict(zip(order, results, strict=True))
        return [by_number[number] for number in range(len(pieces))]

    def _map_threads(
        self,
        function: Callable[[Piece], Result],
        pieces: Sequence[Piece],
        done: Callable[[int, Result], None],
    ) -> list[Result]:
        stoppable = Stoppable()
        with self._threads() as pool:
            futures = [pool.submit(stoppable.call, partial(function, piece)) for piece in pieces]
            try:
                waiting = set(futures)
                numbers = {future: number for number, future in enumerate(futures)}
                while waiting:
                    finished, waiting = wait(waiting, timeout=1, return_when=FIRST_EXCEPTION)
                    for future in finished:
                        done(numbers[future], future.result())
            except BaseException:
                for future in futures:
                    future.cancel()
                stoppable.stop()
                raise
            return [future.result() for future in futures]

    @contextmanager
    def _threads(self) -> Iterator[ThreadPoolExecutor]:
        """The threads of all steps of a run: no more pieces are computed at once than there are of them."""
        with _LOCK:
            shared = _POOLS.get(self._address)
            if shared is None and _USERS.get(self._address):
                shared = _POOLS[self._address] = ThreadPoolExecutor(self.size, "shard")
        if shared is not None:
            yield shared
        else:
            with ThreadPoolExecutor(self.size, "shard") as alone:
                yield alone

    # --- the cluster -------------------------------------------------------------------------------

    def _connect(self) -> Client:
        with _LOCK:
            known = _CONNECTIONS.get(self._address)
            if known is not None and self.mode == "scheduler" and known.client.status != "running":
                # Its scheduler went away. Whoever waits for tasks has been told that they are cancelled.
                del _CONNECTIONS[self._address]
                with suppress(Exception):  # its scheduler is gone: that closing fails is no news
                    known.client.close(timeout=1)
            if self._address not in _CONNECTIONS:
                _CONNECTIONS[self._address] = _Connection(self._new_client())
            connection = _CONNECTIONS[self._address]
            try:
                self._tell(connection)
            except OSError as error:
                raise _went_away(self.scheduler) from error
            return connection.client

    def _new_client(self) -> Client:
        if self.mode == "local":
            from distributed import Client

            _silence()
            return Client(start_cluster(self.size), set_as_default=False)
        self._check_reach()
        return open_client(self.scheduler)

    def _check_reach(self) -> None:
        """Workers elsewhere cannot see this machine's disk."""
        host = urlsplit(self.scheduler).hostname
        local = [url for url in self.stores if url.startswith("file:")]
        if local and host not in LOOPBACK:
            raise ClusterConfigurationError(
                f"the Dask scheduler {self.scheduler} is on another machine, but {local[0]} is on this one: "
                "set DATACUBE_LAKE and the buckets to s3:// URLs, or unset DATACUBE_DASK_SCHEDULER"
            )

    def _tell(self, connection: _Connection) -> None:
        """Say in Dagster's run, once, where the cluster can be watched."""
        run = self._context.run if self._context else None
        if self._context is None or run is None or run.run_id in connection.told:
            return
        connection.told.add(run.run_id)
        link, workers = connection.client.dashboard_link, _number_of_workers(connection.client)
        if self._context.log:
            self._context.log.info(f"Dask cluster with {workers} workers; dashboard: {link}")
            if not workers:
                self._context.log.warning("The Dask cluster has no workers: the run waits until it has")
        if self._context.instance:
            self._context.instance.add_run_tags(run.run_id, {DASHBOARD_TAG: link})


def _silence() -> None:
    # Dask's news about every connection would bury those about the run.
    logging.getLogger("distributed").setLevel(logging.ERROR)


def open_client(scheduler: str) -> Client:
    """Connect to a scheduler.

    Raises ClusterUnavailable when none answers, ClusterConfigurationError when it cannot be used.
    """
    from distributed import Client

    _silence()
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, AssertionError) as error:
        # An address that is none will not become one by waiting. Dask asserts that a thread of its own
        # begins within ten seconds, which on a machine that is busy enough it does not.
        unusable = ClusterConfigurationError if isinstance(error, ValueError) else ClusterUnavailable
        raise unusable(
            f"no Dask scheduler answers at {scheduler}: start it, or set DATACUBE_DASK_SCHEDULER to its "
            "address (tcp://host:port), or unset it to compute in threads"
        ) from error
    try:
        found: Any = client.get_versions(packages=list(SAME_ON_WORKERS))
        check_versions(found)
    except OSError as error:
        client.close()
        raise _went_away(scheduler) from error
    except BaseException:
        client.close()
        raise
    return client


def _went_away(scheduler: str) -> ClusterUnavailable:
    return ClusterUnavailable(f"the Dask scheduler {scheduler} went away: see that it runs")


def _number_of_workers(client: Client) -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


def check_versions(found: Mapping[str, Any]) -> None:
    """Compare what run, scheduler and workers have installed (`Client.get_versions`).

    Raises ClusterConfigurationError, naming the packages.
    """
    ours = _versions(found["client"])
    others: dict[str, tuple[dict[str, str | None], tuple[str, ...]]] = {
        "the scheduler": (_versions(found["scheduler"]), SAME_EVERYWHERE)
    }
    for address, worker in found["workers"].items():
        others[f"the worker {address}"] = (_versions(worker), SAME_EVERYWHERE + SAME_ON_WORKERS)
    for who, (theirs, packages) in others.items():
        differing = [
            f"{name} {theirs.get(name) or '(none)'} instead of {ours.get(name) or '(none)'}"
            for name in packages
            if theirs.get(name) != ours.get(name)
        ]
        if differing:
            raise ClusterConfigurationError(
                f"{who} of DATACUBE_DASK_SCHEDULER has {', '.join(differing)}: install there what is "
                "installed here (infra/constraints.txt), or unset DATACUBE_DASK_SCHEDULER"
            )


def _versions(of: Mapping[str, Any] | None) -> dict[str, str | None]:
    packages = dict(of["packages"]) if of else {}
    # Code that is sent is understood by the same minor version.
    packages["python"] = ".".join(str(packages.get("python")).split(".")[:2])
    return packages


# --- one call --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work(Generic[Piece, Result]):
    """What a task does. Dask looks into tuples and lists of a task, and into strings, but not in here."""

    function: Callable[[Piece], Result]
    pieces: Sequence[Piece]


def group_of(name: str, run_id: str) -> str:
    """The first part of the keys of tasks that belong together; different at every call.

    Dask's dashboard names tasks by the words in front of the first number.
    """
    words = re.sub(r"[^a-zA-Z]+", "-", name).strip("-")
    return f"{words}-0{uuid.uuid4().hex[:8]}-{run_id}"


@dataclass
class _Call:
    """One call of `map` on a cluster."""

    client: Client
    name: str
    run_id: str

    def __post_init__(self) -> None:
        self.group = group_of(self.name, self.run_id)

    def map(
        self,
        function: Callable[[Piece], Result],
        pieces: Sequence[Piece],
        done: Callable[[int, Result], None],
    ) -> list[Result]:
        from distributed import KilledWorker, as_completed

        results: dict[int, Result] = {}
        futures: list[Future[Any]] = []
        try:
            futures = self._submit(function, pieces)
            for batch in as_completed(futures[: len(pieces)], loop=self.client.loop).batches():
                gathered = self.client.gather(list(batch))
                for future, result in zip(batch, gathered, strict=True):
                    results[future.key[1]] = result
                    # The scheduler forgets it: it serves many runs.
                    future.release()
                    done(future.key[1], result)
        except KilledWorker as error:
            abandon(self.client, futures, [self.group])
            raise self._killed(error, pieces) from error
        except CancelledError as error:
            abandon(self.client, futures, [self.group])
            raise self._gone() from error
        except BaseException as error:
            abandon(self.client, futures, [self.group])
            if isinstance(error, Exception) and self.client.status != "running":
                raise self._gone() from error
            raise
        for future in futures:
            future.release()
        return [results[number] for number in range(len(pieces))]

    def _submit(self, function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Future[Any]]:
        """The futures of the pieces, in order, and one of the work that they share, if they do."""
        from distributed.protocol import pickle

        keys = [(self.group, number) for number in range(len(pieces))]
        threads = sum(self.client.nthreads().values())
        if len(pieces) <= 2 * threads:
            works = [_Work(function, [piece]) for piece in pieces]
            mapped: list[Future[Any]] = self.client.map(
                _compute, works, [0] * len(pieces), key=keys, pure=False
            )
            return mapped
        # Pieces name the same tables, so all of them together are hardly larger than one of them. As a
        # task of its own they travel once to each worker, and are made again when a worker is lost. Dask
        # places tasks beside what they depend on, hence not where there are few of them.
        work = self.client.submit(
            _unpack, pickle.dumps(_Work(function, list(pieces))), key=f"work-of-{self.group}", pure=False
        )
        mapped = self.client.map(_compute_shared, range(len(pieces)), key=keys, pure=False, work=work)
        return [*mapped, work]

    def _gone(self) -> ClusterUnavailable:
        return ClusterUnavailable(
            f"{self.name}: the Dask scheduler ended, was restarted or dropped the tasks of this run. "
            "Start the run again"
        )

    def _killed(self, error: Any, pieces: Sequence[Any]) -> WorkersLostError:
        which = error.task[1] if isinstance(error.task, tuple) else None
        piece = "its work" if which is None else f"the piece {_title(pieces[which], which)}"
        return WorkersLostError(
            f"{self.name}: {piece} ended {error.allowed_failures + 1} workers, one after the other. Most "
            "likely it needs more memory than they have: lower DATACUBE_SHARD_ROWS, or give workers more "
            "memory (docs/dask.md). The log of the last worker says more: "
            f"{getattr(error.last_worker, 'address', error.last_worker)}"
        )


def abandon(client: Client, futures: Sequence[Future[Any]], groups: Sequence[str]) -> None:
    """Cancel tasks, and wait until no worker works on one of their groups: it writes nothing any more."""
    if not groups:
        return
    with suppress(Exception):  # what matters is the error that led here
        client.cancel(list(futures), force=True, reason="the run ends")
        end = time.monotonic() + LEAVE_SECONDS
        while time.monotonic() < end and _still_computed(client, groups):
            time.sleep(WATCH_SECONDS / 2)


def _still_computed(client: Client, groups: Sequence[str]) -> bool:
    # `Client.run` alone cannot be given a limit, and a worker may be too busy to answer.
    answers = client.sync(client.run, has_tasks_of, groups, on_error="ignore", callback_timeout=5)
    return any(answers.values())


def _title(piece: object, number: int) -> str:
    """How a piece is called in messages."""
    named = piece[0] if isinstance(piece, tuple) and piece else piece
    return repr(named) if isinstance(named, str) else f"{number} {shorten(piece)}"


# --- on a worker -----------------------------------------------------------------------------------


def _unpack(pickled: bytes) -> object:
    from distributed.protocol import pickle

    return pickle.loads(pickled)


def _compute(work: _Work[Piece, Result], number: int) -> Result:
    """Apply the function to a piece; ends early, without a result, when nobody wants it any more."""
    return while_wanted(partial(work.function, work.pieces[number]), Stopped)


def _compute_shared(number: int, *, work: _Work[Piece, Result]) -> Result:
    return _compute(work, number)


def while_wanted(function: Callable[[], Result], error: type[BaseException]) -> Result:
    """Call a function in a task; raises the error in it when the task is cancelled or its client dies.

    Dask only forgets such a task and lets it run: it would go on writing after the run was cancelled.
    """
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()
    stoppable, over = Stoppable(error), threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            task = worker.state.tasks.get(key)
            if task is None or task.state == "cancelled":
                stoppable.stop()
                return

    threading.Thread(target=watch, name="watch", daemon=True).start()
    try:
        return stoppable.call(function)
    finally:
        over.set()


def has_tasks_of(groups: Sequence[str], dask_worker: Worker) -> bool:
    """Whether a worker has tasks of these groups, those included that were cancelled and still run."""
    return any(isinstance(key, tuple) and key[0] in groups for key in list(dask_worker.state.tasks))


@contextmanager
def _seceded() -> Iterator[None]:
    """In a task, leave the worker to others meanwhile: what is waited for may need it."""
    from distributed import get_worker, rejoin, secede

    try:
        get_worker().get_current_task()
    except (ValueError, AttributeError):
        yield
        return
    secede()
    try:
        yield
    finally:
        rejoin()
