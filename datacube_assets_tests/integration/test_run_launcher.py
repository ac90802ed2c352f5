"""Runs as processes of their own: they outlive the daemon, and their own death is noticed.

A run is held where it fetches its part, from a file server with a gate, for as long as a test needs it. No
process waits for runs here: `test_run_workers.py` has those.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from dagster import DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.launcher import WorkerStatus
from dagster._core.utils import make_new_run_id
from dagster._grpc.types import ExecuteRunArgs

from datacube_assets.kernels.errors import InputError
from datacube_assets.orchestration import run_launcher
from datacube_assets.orchestration.home import open_instance
from datacube_assets.orchestration.run_launcher import LocalProcessLauncher, process_of
from datacube_assets_tests.integration.crashing import start
from datacube_assets_tests.integration.support import House, rows
from datacube_assets_tests.integration.system import (
    MODEL,
    Gate,
    System,
    gate,
    run_document,
    success,
    system,
    wait_for,
)

pytestmark = pytest.mark.timeout(600)


@dataclass
class Held:
    """A system with a daemon, whose runs are held while they fetch."""

    system: System
    gate: Gate
    url: str

    def start(self, name: str) -> DagsterRun:
        """Let a run become ready in Dojo; returns Dagster's run once its process fetches the part."""
        dojo = self.system.dojo
        dojo.add_file(f"{name}.parquet.gzip")
        document = run_document(name, data_paths=[f"{self.url}/{name}.parquet.gzip"], attributes=success())
        dojo.put("runs", document)
        return wait_for(lambda: self.system.started(f"{MODEL}:{name}"), f"the run {name}")

    def status(self, run: DagsterRun) -> DagsterRunStatus:
        found = self.system.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found.status

    def process(self, run: DagsterRun) -> int:
        process = process_of(run.run_id)
        assert process is not None
        return process


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    folder = tmp_path_factory.mktemp("held")
    with (
        gate(folder / "dojo" / "files") as (closed, url),
        system(folder, max_runs=8, DATACUBE_SPARE_WORKERS="0") as opened,
    ):
        opened.start_daemon()
        yield Held(opened, closed, url)


def test_a_run_has_a_process_of_its_own_with_its_id_in_the_command_line(held: Held) -> None:
    run = held.start("own")
    launcher = held.system.instance.run_launcher
    assert isinstance(launcher, LocalProcessLauncher)
    assert launcher.supports_check_run_worker_health
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    process = held.process(run)
    assert os.getsid(process) == process, "what stops the daemon must not stop it"
    assert process_of("00000000-0000-0000-0000-000000000000") is None


def test_a_terminated_run_is_canceled_and_reported_so(held: Held) -> None:
    run = held.start("terminated")
    process = held.process(run)
    assert held.system.instance.run_launcher.terminate(run.run_id)
    wait_for(lambda: held.status(run) == DagsterRunStatus.CANCELED, "the end of the run")
    wait_for(lambda: process_of(run.run_id) is None, "the end of its process")
    assert not Path(f"/proc/{process}/fd").exists() or not os.listdir(f"/proc/{process}/fd")
    assert not held.system.instance.run_launcher.terminate(run.run_id), "it is over"
    told = wait_for(
        lambda: [
            report["call"]
            for report in held.system.causemos.reports()
            if report["body"]["run_id"] == "terminated" and report["call"] != "queue-runtime"
        ],
        "the report",
    )
    assert told == ["processing-failed"]
    assert len(held.system.runs(f"{MODEL}:terminated")) == 1, "what somebody stopped is not repeated"


def test_a_run_is_terminated_by_one_who_does_not_see_its_process(held: Held) -> None:
    """As a webserver in another container does."""
    run = held.start("elsewhere")
    with mock.patch.object(run_launcher, "process_of", return_value=None):
        assert held.system.instance.run_launcher.terminate(run.run_id)
    wait_for(lambda: held.status(run) == DagsterRunStatus.CANCELED, "the end of the run")
    wait_for(lambda: process_of(run.run_id) is None, "the end of its process")


def test_a_run_that_is_ended_from_outside_is_repeated(held: Held) -> None:
    """As one is whose node is drained: nobody asked for its termination."""
    run = held.start("drained")
    os.kill(held.process(run), signal.SIGTERM)
    wait_for(lambda: held.status(run) == DagsterRunStatus.FAILURE, "the end of the run")
    wait_for(lambda: len(held.system.runs(f"{MODEL}:drained")) == 2, "the retry")


def test_a_run_whose_definitions_cannot_be_loaded_fails_and_says_why(held: Held) -> None:
    instance = held.system.instance
    like = held.start("like")
    broken = like._replace(run_id=make_new_run_id(), status=DagsterRunStatus.STARTING)
    instance.run_storage.add_run(broken)
    assert like.job_code_origin is not None
    arguments = ExecuteRunArgs(like.job_code_origin, broken.run_id, instance.get_ref())
    subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "datacube_assets.orchestration.run_worker",
            arguments.get_command_args()[-1],
        ],
        cwd=held.system.folder,
        env={**held.system.environment, "DATACUBE_SHARD_ROWS": "none"},
        timeout=120,
        check=False,
    )
    assert held.status(broken) == DagsterRunStatus.FAILURE
    told = [str(entry.dagster_event) for entry in instance.all_logs(broken.run_id)]
    assert any("DATACUBE_SHARD_ROWS" in event for event in told)


def test_the_death_of_the_daemon_harms_no_run_and_that_of_a_run_is_noticed(held: Held) -> None:
    """One story, as starting daemons takes most of the time."""
    survivor, victim = held.start("survivor"), held.start("victim")
    before = held.process(survivor)
    held.system.kill_daemon()
    assert held.process(survivor) == before
    assert held.status(survivor) == DagsterRunStatus.STARTED
    os.kill(held.process(victim), signal.SIGKILL)
    wait_for(lambda: process_of(victim.run_id) is None, "the end of the process")
    launcher = held.system.instance.run_launcher
    assert launcher.check_run_worker_health(victim).status == WorkerStatus.NOT_FOUND
    assert held.status(victim) == DagsterRunStatus.STARTED, "nobody is there to notice"
    held.gate.open()
    # Without any daemon the run goes on to its end.
    wait_for(lambda: held.status(survivor) == DagsterRunStatus.SUCCESS, "the run that survived")
    assert held.system.published(f"{MODEL}:survivor")

    held.system.start_daemon()
    wait_for(lambda: held.status(victim) == DagsterRunStatus.FAILURE, "the death to be noticed")
    wait_for(lambda: len(held.system.runs(f"{MODEL}:victim")) == 2, "the retry")
    retry = held.system.runs(f"{MODEL}:victim")[1]
    assert retry.parent_run_id == victim.run_id
    wait_for(lambda: held.status(retry) == DagsterRunStatus.SUCCESS, "the end of the retry")
    assert held.system.published(f"{MODEL}:victim")

    def told() -> list[tuple[str, str]]:
        return [
            (report["body"]["run_id"], report["body"]["flow_id"])
            for report in held.system.causemos.reports()
            if report["call"] == "processing-succeeded" and report["body"]["run_id"] in ("survivor", "victim")
        ]

    wait_for(lambda: len(told()) == 2, "the reports")
    assert sorted(told()) == [("survivor", survivor.run_id), ("victim", retry.run_id)]


# --- runs at the command line ----------------------------------------------------------------------


def test_a_command_is_known_to_be_alive_keeps_others_off_and_is_known_to_be_dead(
    house: House, quick_folder: Path
) -> None:
    part = Path(house.write(rows()))
    settings = house.settings
    with gate(part.parent) as (closed, url), mock.patch.dict(os.environ):
        os.environ.pop("DAGSTER_HOME", None)
        arguments = ["publish", f"{url}/{part.name}", "--model-id", "model", "--run-id", "run", "--quiet"]
        command = start([*arguments, "--home", str(settings.home)], {})
        with open_instance(settings) as instance:
            launcher = instance.run_launcher
            assert isinstance(launcher, LocalProcessLauncher)
            started = RunsFilter(statuses=[DagsterRunStatus.STARTED])
            run = wait_for(lambda: next(iter(instance.get_runs(started)), None), "the run of the command")
            assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
            beside = House(house.folder, settings, instance)
            with pytest.raises(InputError, match=r"another command is processing it right now.*Wait until"):
                beside.publish(str(part))
            beside.publish(str(part), run_id="other")
            command.kill()
            command.join()
            assert launcher.check_run_worker_health(run).status == WorkerStatus.NOT_FOUND
            beside.publish(str(part))
            assert launcher.check_run_worker_health(run).status == WorkerStatus.NOT_FOUND
        closed.open()
