"""A Dask cluster of processes on this machine.

Starting it belongs here; what is computed on it is in `dask.py`. It listens on loopback only, and its
workers die with the process that started it, even when that is killed.
"""

from __future__ import annotations

import logging
import signal
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import LocalCluster

HOST = "127.0.0.1"

SETTINGS = {
    # The profiler asks for the frames of all threads a hundred times a second. Python before 3.12 may collect
    # garbage meanwhile, and stands still for ever if a thread begins or ends in that moment.
    "distributed.worker.profile.enabled": False,
    # Before a worker that stands still for whatever reason is replaced, and its work is done again.
    "distributed.scheduler.worker-ttl": "120s",
    # Fifteen seconds after a worker was lost, Dask looks whether one of its name is there, and else gives up
    # its place for good: one that is slow to start, or is lost again just then, is never replaced.
    "distributed.deploy.lost-worker-timeout": "1000 days",
}
"""Of Dask, for every cluster that is started here. The first two stand in `infra/`, too."""


def start_cluster(workers: int, *, port: int = 0, dashboard_port: int = 0) -> LocalCluster:
    """A cluster with single-threaded workers; port 0 is any free one. Raises OSError, port in use."""
    import dask
    from distributed import LocalCluster

    # Results are small and go at once, so there is nothing worth spilling; and a disk that fills up
    # unseen is worse than a worker that is ended because it needs too much memory.
    memory = {"distributed.worker.memory.target": False, "distributed.worker.memory.spill": False}
    # Looked up again and again, hence set for good.
    dask.config.set(SETTINGS)
    # Ctrl-C reaches every process of a terminal, but is for this one to act on. Workers inherit the mask
    # of the thread that starts them, those that replace a lost one too. Starting Python's resource tracker
    # clears the mask, so that comes first.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    with dask.config.set(memory):
        try:
            return LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host=HOST,
                scheduler_port=port,
                dashboard_address=f"{HOST}:{dashboard_port}",
                silence_logs=logging.ERROR,
            )
        except RuntimeError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__
            raise cause or error from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
