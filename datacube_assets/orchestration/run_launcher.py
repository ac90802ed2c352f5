"""Launching Dagster runs as processes of their own on this machine.

Dagster's default launcher runs them inside the code server: they die with it, and nobody notices, so
that such a run stays "started" for ever and blocks its partition. Here each run is a process that
outlives daemon and code server, and whose death run monitoring sees, so that run retries repeat it.
A process that waits for runs is taken where there is one (`run_workers.py`), else one is started. Launchers
for clusters are configured in `infra/`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from dagster import DagsterRun, Field
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from datacube_assets.orchestration.locks import holds_lock
from datacube_assets.orchestration.run_worker import EXECUTING, LOOK
from datacube_assets.orchestration.run_workers import RunWorkers, command, start
from datacube_assets.partitions import AT_COMMAND_LINE, PARTITION_TAG, SOURCE_TAG
from datacube_assets.settings import Settings, SettingsError


class LocalProcessLauncher(RunLauncher[Any], ConfigurableClass):
    """Gives every run a process of its own (`run_worker.py`); configured in `dagster.yaml`."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._workers = RunWorkers(_spare_workers())
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Field]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        origin = context.job_code_origin
        if origin is None:
            raise ValueError(f"the run {run.run_id} does not say which code it is of")
        arguments = ExecuteRunArgs(
            job_origin=origin,
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        ).get_command_args()[-1]
        if not self._workers.hand_over(run.run_id, arguments):
            start(command(arguments))
        self.keep_workers()

    def keep_workers(self) -> None:
        """From now on, have processes that wait for runs. For whoever launches some, and nobody else."""
        self._workers.keep()

    def dispose(self) -> None:
        self._workers.let_all_go()

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        # What a command executes is ended where the command is.
        if run is None or run.is_finished or run.tags.get(SOURCE_TAG) == AT_COMMAND_LINE:
            return False
        self._instance.report_run_canceling(run)
        # One in another container is not to be seen from here: it looks for itself.
        if (found := _process_of(run_id)) is not None:
            process, executes_others = found
            with contextlib.suppress(ProcessLookupError):
                # By the time that it hears of this, it may have another run.
                os.kill(process, LOOK if executes_others else signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        # One at the command line is executed by the command, which is not started here.
        by_command = run.tags.get(SOURCE_TAG) == AT_COMMAND_LINE
        partition = run.tags.get(PARTITION_TAG, "")
        if by_command and holds_lock(self._instance, partition, run.run_id):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if process_of(run.run_id) is None:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the run's process is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def process_of(run_id: str) -> int | None:
    """Id of the process that executes a run, None when there is none."""
    found = _process_of(run_id)
    return found[0] if found else None


def _process_of(run_id: str) -> tuple[int, bool] | None:
    """The process that executes a run, and whether it executes other runs as well, one after another.

    The run's id is in the process's command line, so there is no record that could be lost or outdated. It
    is one of ours, and just as it is started here: others may have the same words in theirs.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == os.geteuid():
                    said = (entry / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                    if said == [f"{EXECUTING}{run_id}".encode()]:
                        return int(entry.name), True
                    if _run_of(said) == run_id:
                        return int(entry.name), False
    return None


def _run_of(said: Sequence[bytes]) -> str | None:
    """The run of a command line, None for one that is not of a process with a single run."""
    if [os.fsdecode(part) for part in said[1:-1]] != command()[1:]:
        return None
    try:
        arguments = json.loads(said[-1])
    except ValueError:
        return None
    return arguments.get("pipeline_run_id") if isinstance(arguments, dict) else None


def _spare_workers() -> int:
    try:
        return Settings.from_environment().spare_workers
    except SettingsError:
        # A run says so, where people look for it.
        return 0
