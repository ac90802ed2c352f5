"""Dagster's run queue, with processes that wait for a run before there is one, and places for runs at work.

Which run is next is Dagster's own business; how runs are launched is in `run_launcher.py`.
"""

from __future__ import annotations

from typing import Any

from dagster import DagsterRunStatus, QueuedRunCoordinator, RunsFilter
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig

from datacube_assets.orchestration.run_launcher import LocalProcessLauncher
from datacube_assets.partitions import WAITING_TAG


class RunQueue(QueuedRunCoordinator[Any]):
    """Makes the launcher ready when the daemon starts; Dagster makes it when there is a run to launch.

    A run that waits for Dojo or its file server holds no place, or a few dead servers would stop every
    other run. At most as many wait beside those at work: each has a process, which needs memory, and may go
    on at any moment.
    """

    def get_run_queue_config(self) -> RunQueueConfig:
        """How many runs may be under way, those included that wait just now."""
        config = super().get_run_queue_config()
        places = config.max_concurrent_runs
        if places <= 0:
            return config
        waiting = self._instance.get_runs_count(
            RunsFilter(statuses=[DagsterRunStatus.STARTED], tags={WAITING_TAG: "yes"})
        )
        return config._replace(max_concurrent_runs=places + min(waiting, places))

    @property
    def dequeue_use_threads(self) -> bool:
        """Whether several runs are launched at once. Whoever looks after the queue asks, and nobody else."""
        launcher = self._instance.run_launcher
        if isinstance(launcher, LocalProcessLauncher):
            launcher.keep_workers()
        return super().dequeue_use_threads
