"""Steps on Dask: what is wrong with dagster-dask's executor, and that ours is right.

The tests of the original skip with a message once it is repaired: ours can then go.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobDefinition,
    RunsFilter,
    execute_job,
    reconstructable,
)

from datacube_assets.definitions import build_definitions
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.partitions import model_runs
from datacube_assets.resources.dask import DASHBOARD_TAG
from datacube_assets.settings import Settings, SettingsError
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.requests import leave_request
from datacube_assets_tests.integration import dask_jobs
from datacube_assets_tests.integration.dask_cluster import Cluster, cluster, wait_until
from datacube_assets_tests.integration.dask_jobs import FAIL_TAG, FOLDER_TAG
from datacube_assets_tests.integration.support import Datacube, open_house, rows

pytestmark = pytest.mark.timeout(300)
PARTITION = "model:run"
DAGSTER_YAML = "telemetry: {enabled: false}\npython_logs: {python_log_level: CRITICAL}\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose workers have the environment of the runs."""
    with cluster(tmp_path_factory.mktemp("cluster"), DATACUBE_EXECUTOR="dask") as started:
        yield started


@pytest.fixture
def instance(running: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    """Dagster's storage, in this process and others, with the environment of the cluster."""
    for name, value in running.environment.items():
        if name.startswith("DATACUBE_"):
            monkeypatch.setenv(name, value)
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text(DAGSTER_YAML)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    with DagsterInstance.get() as opened:
        opened.add_dynamic_partitions("toys", [PARTITION])
        opened.add_dynamic_partitions(str(model_runs.name), [PARTITION])
        yield opened


def run(
    job: Callable[[], JobDefinition], instance: DagsterInstance, scheduler: str = "", **tags: str
) -> DagsterRun:
    """Execute a job; `scheduler` configures the original's executor."""
    cluster = {"execution": {"config": {"cluster": {"existing": {"address": scheduler}}}}}
    result = execute_job(
        reconstructable(job),
        instance,
        run_config=cluster if scheduler else {},
        tags=tags,
        raise_on_error=False,
    )
    return result.dagster_run


def start(
    processes: contextlib.ExitStack, job: str, scheduler: str = "", **tags: str
) -> subprocess.Popen[bytes]:
    """The same as a process of its own, as runs are; it is over when the stack is."""
    program = (
        "from dagster import DagsterInstance\n"
        "from datacube_assets_tests.integration import dask_jobs\n"
        "from datacube_assets_tests.integration.test_dask_executor import run\n"
        "with DagsterInstance.get() as instance:\n"
        f"    run(dask_jobs.{job}, instance, {scheduler!r}, **{tags!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    processes.callback(process.wait)
    processes.callback(process.kill)
    return process


def over(processes: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Whether any process has ended."""
    return any(process.poll() is not None for process in processes)


def partitioned(folder: Path) -> dict[str, str]:
    return {"dagster/partition": PARTITION, FOLDER_TAG: str(folder)}


def traces(folder: Path) -> dict[str, int]:
    """How often each asset was executed."""
    return {name: len(list(folder.glob(f"{name}-*"))) for name in ("first", "second")}


def test_the_original_still_fails_on_partitioned_runs(
    instance: DagsterInstance, running: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "open").touch()
    done = run(dask_jobs.plain_partitioned, instance, running.address, **partitioned(tmp_path))
    if done.status == DagsterRunStatus.SUCCESS and traces(tmp_path) == {"first": 1, "second": 1}:
        pytest.skip("dagster-dask is repaired: its executor runs partitioned runs")
    assert done.status == DagsterRunStatus.FAILURE
    assert traces(tmp_path) == {"first": 0, "second": 0}
    (failure,) = instance.all_logs(done.run_id, of_type=DagsterEventType.RUN_FAILURE)
    said = str(failure.get_dagster_event().job_failure_data.error)
    assert "Iteration is not allowed on `@record`" in said


@pytest.mark.slow
def test_the_original_still_drops_the_steps_of_a_second_run(
    instance: DagsterInstance, running: Cluster, tmp_path: Path
) -> None:
    """Upstream issue 21418: both runs end in success, but only the steps of one are executed."""
    with contextlib.ExitStack() as processes:
        runs = [start(processes, "plain", running.address, **{FOLDER_TAG: str(tmp_path)}) for _ in range(2)]
        # Both have handed in their two steps, and no step is over.
        wait_until(lambda: over(runs) or running.wanted() == 4)
        (tmp_path / "open").touch()
        for process in runs:
            process.wait(60)
    statuses = [one.status for one in instance.get_runs()]
    if traces(tmp_path) == {"first": 2, "second": 2}:
        pytest.skip("dagster-dask is repaired: concurrent runs do not take each other's steps")
    assert traces(tmp_path) == {"first": 1, "second": 1}
    assert DagsterRunStatus.SUCCESS in statuses


def test_ours_executes_every_step_of_concurrent_partitioned_runs(
    instance: DagsterInstance, running: Cluster, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as processes:
        runs = [start(processes, "ours", **partitioned(tmp_path)) for _ in range(2)]
        wait_until(lambda: over(runs) or traces(tmp_path)["first"] == 2)
        (tmp_path / "open").touch()
        assert [process.wait(60) for process in runs] == [0, 0]
    assert [one.status for one in instance.get_runs()] == [DagsterRunStatus.SUCCESS] * 2
    assert traces(tmp_path) == {"first": 2, "second": 2}
    assert "step-first" in running.groups()
    wait_until(running.idle)


def test_ours_executes_nothing_behind_a_step_that_failed(
    instance: DagsterInstance, running: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "open").touch()
    done = run(dask_jobs.ours, instance, **partitioned(tmp_path), **{FAIL_TAG: "yes"})
    assert done.status == DagsterRunStatus.FAILURE
    assert traces(tmp_path) == {"first": 1, "second": 0}
    (failure,) = instance.all_logs(done.run_id, of_type=DagsterEventType.STEP_FAILURE)
    assert failure.get_dagster_event().step_key == "first"
    assert "first has failed" in str(failure.get_dagster_event().step_failure_data.error)


def test_ours_fails_a_step_whose_worker_has_other_settings(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would read and write in other places."""
    monkeypatch.setenv("DATACUBE_LAKE", str(tmp_path / "elsewhere"))
    (tmp_path / "open").touch()
    with contextlib.ExitStack() as processes:
        # A process of its own reads the changed setting.
        start(processes, "ours", **partitioned(tmp_path)).wait(60)
    (done,) = instance.get_runs()
    assert done.status == DagsterRunStatus.FAILURE
    assert traces(tmp_path) == {"first": 0, "second": 0}
    (failure,) = instance.all_logs(done.run_id, of_type=DagsterEventType.STEP_FAILURE)
    said = str(failure.get_dagster_event().step_failure_data.error)
    assert "a Dask worker has other settings than the run: DATACUBE_LAKE. With" in said


@pytest.mark.slow
def test_ours_publishes_what_the_executor_in_process_publishes(
    instance: DagsterInstance, running: Cluster, tmp_path: Path
) -> None:
    with open_house(tmp_path / "house") as house:
        part = house.write(rows())
        house.publish(part)
        expected = house.datacube()
    settings = Settings.from_environment()
    request = DatacubeRequest.model_validate({"model_id": "model", "run_id": "run", "data_paths": [part]})
    leave_request(Lake(open_store(settings.lake)), request)
    done = run(dask_jobs.datacube, instance, **{"dagster/partition": PARTITION})
    failures = instance.all_logs(done.run_id, of_type=DagsterEventType.STEP_FAILURE)
    assert [entry.message for entry in failures] == []
    assert done.status == DagsterRunStatus.SUCCESS
    datacube = Datacube.read(settings.home / "buckets" / "models", "model", "run")
    datacube.check()
    assert datacube.hash == expected.hash
    (record,) = instance.get_runs(RunsFilter(run_ids=[done.run_id]))
    assert record.tags[DASHBOARD_TAG] == running.dashboard
    assert {"step-regional-maps", "publish-regional-maps"} <= running.groups()
    wait_until(running.idle)


@pytest.mark.parametrize("how", ["terminate", pytest.param("kill", marks=pytest.mark.slow)])
def test_ours_leaves_no_task_of_a_run_that_is_cancelled_or_killed(
    instance: DagsterInstance, running: Cluster, tmp_path: Path, how: str
) -> None:
    with contextlib.ExitStack() as processes:
        process = start(processes, "ours", **partitioned(tmp_path))
        wait_until(lambda: over([process]) or traces(tmp_path)["first"])
        assert not over([process])
        if how == "terminate":
            instance.report_run_canceling(instance.get_runs()[0])
        getattr(process, how)()
        process.wait(30)
        if how == "terminate":
            assert running.idle(), "at once, not after a while"
    wait_until(running.idle, 10)
    (record,) = instance.get_runs()
    if how == "terminate":
        assert record.status == DagsterRunStatus.CANCELED
    (tmp_path / "open").touch()
    assert traces(tmp_path) == {"first": 1, "second": 0}


def test_ours_needs_a_scheduler() -> None:
    with pytest.raises(SettingsError, match="DATACUBE_EXECUTOR is `dask`: set DATACUBE_DASK_SCHEDULER"):
        Settings.from_environment(DATACUBE_EXECUTOR="dask")
    settings = Settings.from_environment(
        DATACUBE_EXECUTOR="dask", DATACUBE_DASK_SCHEDULER="tcp://127.0.0.1:8786"
    )
    executors = {
        name: build_definitions(chosen).executor
        for name, chosen in (("dask", settings), ("in_process", Settings.from_environment()))
    }
    assert {name: getattr(one, "name", None) for name, one in executors.items()} == {
        name: name for name in executors
    }
