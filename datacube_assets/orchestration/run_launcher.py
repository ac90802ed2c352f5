"""Launching Dagster runs as processes of their own on this machine.

Dagster's default launcher runs them inside the code server: they die with it, and nobody notices, so
that such a run stays "started" for ever and blocks its partition. Here each run is a process that
outlives daemon and code server, and whose death run monitoring sees, so that run retries repeat it.
Launchers for clusters are configured in `infra/`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from dagster import DagsterRun, Field
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from datacube_assets.orchestration.locks import holds_lock
from datacube_assets.partitions import AT_COMMAND_LINE, SOURCE_TAG

_COMMAND = ("-P", "-m", "datacube_assets.orchestration.run_worker")
"""What is between Python and the arguments in the command line of a run's process."""


class LocalProcessLauncher(RunLauncher[Any], ConfigurableClass):
    """Starts a process for every run (`run_worker.py`); configured in `dagster.yaml`."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
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
            job_origin=origin, run_id=run.run_id, instance_ref=self._instance.get_ref()
        )
        subprocess.Popen(
            [sys.executable, *_COMMAND, arguments.get_command_args()[-1]],
            stdin=subprocess.DEVNULL,
            # A session of its own: what stops the daemon does not stop the run.
            start_new_session=True,
        )

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        # What a command executes is ended where the command is.
        if run is None or run.is_finished or run.tags.get(SOURCE_TAG) == AT_COMMAND_LINE:
            return False
        self._instance.report_run_canceling(run)
        # One in another container is not to be seen from here: it looks for itself.
        if (pid := process_of(run_id)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        # One at the command line is executed by the command, which is not started here.
        by_command = run.tags.get(SOURCE_TAG) == AT_COMMAND_LINE
        partition = run.tags.get("dagster/partition", "")
        if by_command and holds_lock(self._instance, partition, run.run_id):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if process_of(run.run_id) is None:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "the run's process is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def process_of(run_id: str) -> int | None:
    """Id of the process that executes a run, None when there is none.

    The run's id is in the process's command line, so there is no record that could be lost or outdated. It
    is one of ours, and just as it is started here: others may have the same words in theirs.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == os.geteuid():
                    command = (entry / "cmdline").read_bytes().split(b"\0")
                    if _run_of(command) == run_id:
                        return int(entry.name)
    return None


def _run_of(command: Sequence[bytes]) -> str | None:
    """The run of a command line, None for one that is no run's."""
    if len(command) != len(_COMMAND) + 3 or [*command[1:-2]] != [part.encode() for part in _COMMAND]:
        return None
    try:
        arguments = json.loads(command[-2])
    except ValueError:
        return None
    return arguments.get("pipeline_run_id") if isinstance(arguments, dict) else None
