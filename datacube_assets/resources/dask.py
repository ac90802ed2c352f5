"""Where shards are computed: threads of this process, a local cluster, or an existing one (DESIGN 3).

`DaskResource.map` applies a pure function to pieces of work, wherever they run. What the pieces are is
the assets' business; workers read and write the lake and the buckets themselves.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import urlsplit

from dagster import ConfigurableResource, InitResourceContext

if TYPE_CHECKING:
    from distributed import Client

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_CLIENTS: dict[tuple[str, int, str], Client] = {}
_LOCK = threading.Lock()
"""Clusters in use by this process. Dagster makes several instances of a resource that others hold."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ClusterConfigurationError(ValueError):
    """A cluster that cannot do the work as configured; the message says what to change."""


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

    @contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> Iterator[DaskResource]:
        try:
            yield self
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the cluster, ending one that was started here."""
        with _LOCK:
            client = _CLIENTS.pop(self._cluster_key, None)
        if client is not None:
            cluster = client.cluster
            client.close()
            if self.mode == "local" and cluster is not None:
                cluster.close()

    @property
    def _cluster_key(self) -> tuple[str, int, str]:
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
        done: Callable[[int], None] = lambda _: None,
    ) -> list[Result]:
        """Results of the function for each piece, in order; raises the first error of any piece.

        `name` and `run_id` name the tasks, so that concurrent runs never share one. `done` is called
        with the number of finished pieces. Being interrupted cancels what has not run.
        """
        if self.mode == "threads":
            return self._map_threads(function, pieces, done)
        return self._map_cluster(function, pieces, f"{name}-{run_id}", done)

    def _map_threads(
        self, function: Callable[[Piece], Result], pieces: Sequence[Piece], done: Callable[[int], None]
    ) -> list[Result]:
        if len(pieces) == 1 or self.size == 1:
            results = []
            for piece in pieces:
                results.append(function(piece))
                done(len(results))
            return results
        with ThreadPoolExecutor(self.size, "shard") as pool:
            futures = [pool.submit(function, piece) for piece in pieces]
            try:
                waiting = set(futures)
                while waiting:
                    finished, waiting = wait(waiting, timeout=1, return_when=FIRST_EXCEPTION)
                    for future in finished:
                        future.result()
                    done(len(futures) - len(waiting))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return [future.result() for future in futures]

    def _map_cluster(
        self,
        function: Callable[[Piece], Result],
        pieces: Sequence[Piece],
        name: str,
        done: Callable[[int], None],
    ) -> list[Result]:
        from distributed import as_completed

        client = self._connect()
        keys = [f"{name}-{number}" for number in range(len(pieces))]
        futures = [
            client.submit(function, piece, key=key, pure=False)
            for key, piece in zip(keys, pieces, strict=True)
        ]
        try:
            for number, future in enumerate(as_completed(futures), 1):
                future.result()
                done(number)
            results: list[Result] = client.gather(futures)
            return results
        except BaseException:
            client.cancel(futures, force=True)
            raise

    def _connect(self) -> Client:
        with _LOCK:
            if self._cluster_key not in _CLIENTS:
                _CLIENTS[self._cluster_key] = self._new_client()
            return _CLIENTS[self._cluster_key]

    def _new_client(self) -> Client:
        from distributed import Client, LocalCluster

        # Its news about every connection would bury those about the run.
        logging.getLogger("distributed").setLevel(logging.WARNING)
        if self.mode == "scheduler":
            self._check_reach()
            return Client(self.scheduler, timeout="30s")
        cluster = LocalCluster(
            n_workers=self.size,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            # Any free port: runs at the same time each have a cluster.
            dashboard_address="127.0.0.1:0",
        )
        return Client(cluster)

    def _check_reach(self) -> None:
        """Workers elsewhere cannot see this machine's disk."""
        host = urlsplit(self.scheduler).hostname
        local = [url for url in self.stores if url.startswith("file:")]
        if local and host not in _LOOPBACK:
            raise ClusterConfigurationError(
                f"the Dask scheduler {self.scheduler} is on another machine, but {local[0]} is on this one: "
                "set DATACUBE_LAKE and the buckets to s3:// URLs, or unset DATACUBE_DASK_SCHEDULER"
            )
