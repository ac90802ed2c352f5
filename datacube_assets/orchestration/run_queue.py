"""Dagster's run queue, with processes that wait for a run before there is one.

Which run is next, and how many run at the same time, is Dagster's own business; how runs are launched is in
`run_launcher.py`.
"""

from __future__ import annotations

from typing import Any

from dagster import QueuedRunCoordinator

from datacube_assets.orchestration.run_launcher import LocalProcessLauncher


class RunQueue(QueuedRunCoordinator[Any]):
    """Makes the launcher ready when the daemon starts; Dagster makes it when there is a run to launch."""

    @property
    def dequeue_use_threads(self) -> bool:
        """Whether several runs are launched at once. Whoever looks after the queue asks, and nobody else."""
        launcher = self._instance.run_launcher
        if isinstance(launcher, LocalProcessLauncher):
            launcher.keep_workers()
        return super().dequeue_use_threads
