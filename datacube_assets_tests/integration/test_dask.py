"""Computing on a real cluster: whole runs, lost workers, runs side by side, cancelled and killed runs."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dask.utils import key_split

from datacube_assets.development.ports import free_port
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.errors import InputError
from datacube_assets.partitions import model_runs
from datacube_assets.progress import listening
from datacube_assets.resources import dask as dask_resource
from datacube_assets.resources import retries
from datacube_assets.resources.dask import (
    DASHBOARD_TAG,
    ClusterConfigurationError,
    ClusterUnavailable,
    DaskResource,
    WorkersLostError,
    check_versions,
    group_of,
)
from datacube_assets.resources.local_cluster import SETTINGS as cluster_settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.requests import leave_request
from datacube_assets_tests.environment import nothing_set
from datacube_assets_tests.integration.dask_cluster import (
    Cluster,
    Shared,
    Sharing,
    cluster,
    descendants,
    die,
    has_profiler,
    number_of,
    read_start,
    refuse,
    square,
    start_cluster_command,
    wait_for_gate,
    wait_until,
    write_or_refuse,
)
from datacube_assets_tests.integration.support import Datacube, House, open_house, rows

pytestmark = pytest.mark.timeout(300)
MODES = ("threads", "local", "scheduler")
RUN = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def on_scheduler(running: Cluster) -> Iterator[DaskResource]:
    resource = DaskResource(mode="scheduler", scheduler=running.address)
    with closing(resource):
        yield resource


@pytest.fixture(scope="module", params=MODES)
def resource(request: pytest.FixtureRequest, running: Cluster) -> Iterator[DaskResource]:
    address = running.address if request.param == "scheduler" else ""
    with closing(DaskResource(mode=request.param, workers=2, scheduler=address)) as opened:
        yield opened


# --- mapping ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 3, 40])
def test_results_come_in_order_and_progress_is_told(resource: DaskResource, number: int) -> None:
    told: list[tuple[int, int, float]] = []
    with listening(lambda stage: told.append((stage.pieces, stage.objects, stage.share))):
        results = resource.map(
            square,
            range(number),
            name="squares",
            run_id=RUN,
            sizes=range(number),
            objects=lambda square: square,
        )
    assert results == [piece * piece for piece in range(number)]
    assert told == sorted(told)
    assert told[:1] == ([(0, 0, 0.0)] if number else [])
    assert told[-1:] == ([(number, sum(results), 1.0)] if number else [])


def test_the_largest_pieces_begin_first_and_results_come_in_order() -> None:
    begun: list[int] = []

    def work(piece: int) -> int:
        begun.append(piece)
        return -piece

    resource = DaskResource(mode="threads", workers=1)
    results = resource.map(work, [1, 2, 3, 4], name="sized", run_id=RUN, sizes=[5, 50, 5, 500])
    assert results == [-1, -2, -3, -4]
    assert begun == [4, 2, 1, 3]


def test_an_error_comes_out_as_what_it_is(resource: DaskResource) -> None:
    with pytest.raises(InputError) as raised:
        resource.map(refuse, range(20), name="refused", run_id=RUN)
    assert (raised.value.file, raised.value.column) == ("part", "value")
    assert raised.value.remedy == "Write numbers"


def test_calls_of_the_same_name_and_run_never_share_a_result(on_scheduler: DaskResource) -> None:
    assert on_scheduler.map(square, [2, 3], name="same", run_id=RUN) == [4, 9]
    assert on_scheduler.map(refuse, [2, 3], name="same", run_id=RUN) == [2, 3]


def test_strings_that_are_keys_of_other_tasks_stay_strings(
    on_scheduler: DaskResource, running: Cluster
) -> None:
    """Dask replaces an argument that equals the key of some task by that task's result."""
    other = running.client.submit(square, 5, key="month")
    assert other.result() == 25
    assert on_scheduler.map(str.upper, ["month", "year"], name="upper", run_id=RUN) == ["MONTH", "YEAR"]


def test_what_pieces_share_travels_once_to_each_worker_and_nothing_stays_behind(
    on_scheduler: DaskResource, running: Cluster, tmp_path: Path
) -> None:
    shared = Shared(tmp_path / "trace")
    pieces = [Sharing(number, shared) for number in range(2_000)]
    assert on_scheduler.map(number_of, pieces, name="numbers", run_id=RUN) == list(range(2_000))
    received = (tmp_path / "trace").read_text().split()
    assert len(received) <= len(running.client.nthreads())
    wait_until(running.idle)


def test_tasks_are_called_on_the_dashboard_as_people_would_and_have_keys_of_their_own(
    on_scheduler: DaskResource, running: Cluster
) -> None:
    on_scheduler.map(square, [1, 2], name="publish-regional_maps", run_id=RUN)
    assert "publish-regional-maps" in running.groups()
    for run_id in (RUN, "abcdefab-2222-3333-4444-555555555555"):
        groups = {group_of("publish-regional_maps", run_id) for _ in range(100)}
        assert len(groups) == 100
        assert {key_split((group, 0)) for group in groups} == {"publish-regional-maps"}
        assert all(group.endswith(run_id) for group in groups)


# --- clusters that cannot be used ------------------------------------------------------------------


def test_an_unreachable_scheduler_fails_the_run_at_its_start_naming_the_setting(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_resource, "CONNECT_SECONDS", 2)
    address = f"tcp://127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(ClusterConfigurationError) as raised:
        house.with_settings(dask_mode="scheduler", dask_scheduler=address).publish(rows())
    assert time.monotonic() - started < 10
    assert f"no Dask scheduler answers at {address}" in str(raised.value)
    assert "DATACUBE_DASK_SCHEDULER" in str(raised.value)
    assert not house.instance.get_latest_materialization_events([]), "nothing was begun"
    assert not (house.folder / "lake").exists() or not list((house.folder / "lake").rglob("*.parquet"))


@pytest.mark.parametrize("address", ["nonsense", "tcp://", "tcp://no-such-host.invalid:8786"])
def test_an_address_that_is_none_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_resource, "CONNECT_SECONDS", 2)
    with pytest.raises(ClusterConfigurationError, match="DATACUBE_DASK_SCHEDULER"):
        DaskResource(mode="scheduler", scheduler=address).dashboard()


def test_a_scheduler_elsewhere_with_stores_on_this_disk_is_refused() -> None:
    resource = DaskResource(mode="scheduler", scheduler="tcp://10.0.0.1:8786", stores=["file:///lake"])
    with pytest.raises(ClusterConfigurationError, match=r"file:///lake is on this one: set DATACUBE_LAKE"):
        resource.map(square, [1], name="squares", run_id=RUN)


def test_other_versions_on_the_cluster_are_refused_by_name(running: Cluster) -> None:
    found: Any = running.client.get_versions(packages=list(dask_resource.SAME_ON_WORKERS))
    check_versions(found)
    found = deepcopy(found)
    found["scheduler"]["packages"]["numpy"] = "0.1"
    check_versions(found)  # a scheduler computes nothing
    worker = next(iter(found["workers"]))
    found["workers"][worker]["packages"] |= {"pyarrow": "1.0", "datacube-assets": None}
    with pytest.raises(
        ClusterConfigurationError,
        match=rf"the worker {worker} .* datacube-assets \(none\).*pyarrow 1\.0 instead",
    ):
        check_versions(found)
    found["scheduler"]["packages"] |= {"python": "3.9.1.final.0", "dask": "2020.1.0"}
    with pytest.raises(
        ClusterConfigurationError, match=r"the scheduler .* python 3\.9 instead.*dask 2020\.1\.0"
    ):
        check_versions(found)


# --- lost workers ----------------------------------------------------------------------------------


def test_a_piece_that_kills_every_worker_is_named_with_what_helps(
    on_scheduler: DaskResource, running: Cluster
) -> None:
    with pytest.raises(WorkersLostError, match=r"publish-tiles: the piece 'heavy' ended 2 workers") as raised:
        on_scheduler.map(die, ["light", "heavy"], name="publish-tiles", run_id=RUN)
    assert "DATACUBE_SHARD_ROWS" in str(raised.value)
    wait_until(lambda: len(running.client.nthreads()) == 2)
    wait_until(running.idle)


@pytest.mark.parametrize("number", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_pieces_of_a_worker_that_dies_are_computed_by_another(
    on_scheduler: DaskResource, running: Cluster, tmp_path: Path, number: int
) -> None:
    """With 40 pieces the work that they share lies on the workers, too, and is lost with one."""
    with ThreadPoolExecutor(1) as pool:
        mapped = pool.submit(
            on_scheduler.map, partial(wait_for_gate, tmp_path), range(number), name="gated", run_id=RUN
        )
        wait_until(lambda: len(list(tmp_path.glob("waits-*"))) == 2)
        victim = next(iter(running.workers()))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(set(running.workers()) - {victim}) == 2)
        (tmp_path / "open").touch()
        assert mapped.result() == list(range(number))
    wait_until(running.idle)


@pytest.mark.slow
def test_pieces_of_a_worker_that_stands_still_are_computed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker stood still in Dask's profiler, and with it the runs, for nine minutes."""
    monkeypatch.setitem(cluster_settings, "distributed.scheduler.worker-ttl", "5s")
    with closing(DaskResource(mode="local", workers=2)) as resource:
        assert resource.map(square, [2], name="begin", run_id=RUN) == [4]
        client = resource._connect()
        assert client.run(has_profiler) == dict.fromkeys(client.nthreads(), False)
        victim = next(iter(client.run(os.getpid).values()))
        with ThreadPoolExecutor(1) as pool:
            mapped = pool.submit(
                resource.map, partial(wait_for_gate, tmp_path), range(4), name="gated", run_id=RUN
            )
            wait_until(lambda: len(list(tmp_path.glob("waits-*"))) == 2)
            os.kill(victim, signal.SIGSTOP)
            (tmp_path / "open").touch()
            assert mapped.result(120) == list(range(4))
    assert not Path(f"/proc/{victim}").exists()


@pytest.mark.slow
def test_a_scheduler_that_is_killed_is_noticed_and_used_again_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_resource, "CONNECT_SECONDS", 4)
    port = free_port()
    environment = {**os.environ, "DATACUBE_HOME": str(tmp_path / "home")}
    gate = tmp_path / "gate"
    gate.mkdir()
    with closing(DaskResource(mode="scheduler", scheduler=f"tcp://127.0.0.1:{port}")) as resource:
        with start_cluster_command(port, environment, subprocess.DEVNULL) as process:
            read_start(process)
            with ThreadPoolExecutor(1) as pool:
                mapped = pool.submit(
                    resource.map, partial(wait_for_gate, gate), range(4), name="gated", run_id=RUN
                )
                wait_until(lambda: len(list(gate.glob("waits-*"))) == 2)
                for pid in (process.pid, *(child.pid for child in descendants(process.pid))):
                    os.kill(pid, signal.SIGKILL)
                with pytest.raises(ClusterUnavailable, match="scheduler ended"):
                    mapped.result(120)
        with pytest.raises(ClusterUnavailable, match="no Dask scheduler answers"):
            resource.map(square, [2, 3], name="away", run_id=RUN)
        with start_cluster_command(port, environment, subprocess.DEVNULL) as process:
            try:
                read_start(process)
                assert resource.map(square, [2, 3], name="back", run_id=RUN) == [4, 9]
            finally:
                process.terminate()


def test_a_run_of_the_daemon_waits_for_a_scheduler_that_is_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_resource, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(retries, "FIRST_RETRY", 1.0)
    request = DatacubeRequest(model_id="model", run_id="run", data_paths=(house.write(rows(), "a.parquet"),))
    run = leave_request(Lake(open_store(house.settings.lake)), request)
    house.instance.add_dynamic_partitions(str(model_runs.name), [run.key])
    port = free_port()
    away = house.with_settings(dask_mode="scheduler", dask_scheduler=f"tcp://127.0.0.1:{port}")
    environment = {**os.environ, "DATACUBE_HOME": str(house.folder)}
    asked = watch_calls(monkeypatch, dask_resource, "open_client")
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(away.materialize, run, "dojo_request", "raw_dojo_output", "normalized_points")
        # At the start of the run, then by the step, and by the step again.
        wait_until(lambda: made.done() or len(asked) > 2)
        assert not made.done(), made.exception()
        with start_cluster_command(port, environment, subprocess.DEVNULL) as process:
            try:
                read_start(process)
                assert made.result(120).success
            finally:
                process.terminate()


def watch_calls(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list[tuple[object, ...]]:
    """The arguments of each call of a function of a module, from now on."""
    calls: list[tuple[object, ...]] = []
    function = getattr(module, name)

    def watched(*arguments: object) -> object:
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(module, name, watched)
    return calls


def test_a_run_whose_worker_is_killed_publishes_the_same_and_everything(
    house: House, running: Cluster, tmp_path: Path
) -> None:
    values = many_places(4_000)
    with open_house(tmp_path / "other") as other:
        other.publish(values)
        expected = other.datacube()
    part = house.write(values)
    sharded = house.with_settings(dask_mode="scheduler", dask_scheduler=running.address, shard_rows=500)
    workers = itertools.cycle(running.workers().items())
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(sharded.publish, part)
        wait_until(lambda: published.done() or objects_of(house.folder) > 20)
        # A worker that hangs in the middle of its work, and then dies.
        for victim, address in workers:
            assert not published.done(), "no worker was killed in time to matter"
            if running.assigned(address):
                os.kill(victim, signal.SIGSTOP)
                at_work = bool(running.assigned(address))
                os.kill(victim, signal.SIGKILL if at_work else signal.SIGCONT)
                if at_work:
                    break
        assert not published.done(), "the worker was killed too late to matter"
        published.result()
    wait_until(lambda: len(running.client.nthreads()) == 2)
    datacube = house.datacube()
    datacube.check()
    assert datacube.hash == expected.hash
    wait_until(running.idle)


# --- several runs ----------------------------------------------------------------------------------


def objects_of(home: Path) -> int:
    """How many objects there are."""
    return sum(len(names) for _, _, names in os.walk(home / "buckets"))


def many_places(number: int) -> pa.Table:
    """Places all over the world, in two months: as many tiles."""
    random = np.random.default_rng(7)
    month = np.arange(number) % 2
    return rows(
        timestamp=np.where(month == 0, 1_577_836_800_000, 1_580_515_200_000),
        country=[f"country {place % 10}" for place in range(number)],
        admin1=[f"region {place % 300}" for place in range(number)],
        lat=random.uniform(-80, 80, number),
        lng=random.uniform(-180, 180, number),
        feature=["rain"] * number,
        value=random.uniform(0, 10, number),
    )


def start_publishing(home: Path, part: Path, mode: str, *, scheduler: str = "") -> subprocess.Popen[str]:
    """The `datacube publish` command as a process of its own."""
    environment = nothing_set() | {
        "DATACUBE_DASK": mode,
        "DATACUBE_DASK_SCHEDULER": scheduler,
        "DATACUBE_DASK_WORKERS": "2",
        "DATACUBE_SHARD_ROWS": "3000",
    }
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "datacube_assets.cli", "publish", str(part), "--home", str(home)),
            *("--model-id", "model", "--run-id", "run"),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def storage(home: Path) -> DagsterInstance:
    """Dagster's storage of a home."""
    return DagsterInstance.from_config(str(home / "dagster"))


@pytest.mark.slow
def test_two_runs_at_once_on_one_scheduler_publish_both_what_they_should(
    running: Cluster, quick_folder: Path
) -> None:
    """Same model, run and input, so that nothing but the run can tell their tasks apart."""
    part = quick_folder / "part.parquet"
    pq.write_table(many_places(4_000), part)
    homes = [quick_folder / "one", quick_folder / "two"]
    with ExitStack() as processes:
        with running.busy(quick_folder / "gate"):
            publishing = [
                processes.enter_context(start_publishing(home, part, "scheduler", scheduler=running.address))
                for home in homes
            ]
            # Tasks of both wait for a worker.
            wait_until(lambda: running.clients() == 2)
        said = [process.communicate(timeout=120)[0] for process in publishing]
        assert [process.returncode for process in publishing] == [0, 0], said
    datacubes = [Datacube.read(home / "buckets" / "models", "model", "run") for home in homes]
    for datacube in datacubes:
        datacube.check()
    assert datacubes[0].hash == datacubes[1].hash
    assert {"temporal-cells", "publish-spatial-tiles"} <= running.groups()
    wait_until(running.idle)


def test_the_run_says_where_its_cluster_can_be_watched(house: House, running: Cluster) -> None:
    # Those that other tests killed are replaced.
    wait_until(lambda: len(running.workers()) == 2)
    house.with_settings(dask_mode="scheduler", dask_scheduler=running.address).publish(rows())
    (run,) = house.instance.get_runs()
    assert run.tags[DASHBOARD_TAG] == running.dashboard
    assert httpx.get(run.tags[DASHBOARD_TAG]).is_success
    messages = [entry.message for entry in house.instance.all_logs(run.run_id)]
    assert f"Dask cluster with 2 workers; dashboard: {running.dashboard}" in messages


# --- cancelled and killed runs ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def large_part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part whose tiles take a while to publish."""
    path = tmp_path_factory.mktemp("large") / "part.parquet"
    pq.write_table(many_places(40_000), path)
    return path


def tiles(home: Path) -> int:
    return sum("tiles" in folder and len(names) for folder, _, names in os.walk(home / "buckets"))


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["threads", pytest.param("local", marks=pytest.mark.slow), "scheduler"])
def test_when_a_cancelled_run_is_over_none_of_its_tasks_is_left(
    mode: str, how: signal.Signals, running: Cluster, large_part: Path, quick_folder: Path
) -> None:
    address = running.address if mode == "scheduler" else ""
    home = quick_folder / "home"
    with start_publishing(home, large_part, mode, scheduler=address) as process:
        wait_until(lambda: process.poll() is not None or tiles(home) > 50)
        assert process.poll() is None, process.communicate()[0]
        started = descendants(process.pid)
        if how == signal.SIGTERM:
            # As Dagster does; without it, an interrupt is a failure to it.
            with storage(home) as instance:
                instance.report_run_canceling(instance.get_runs()[0])
        process.send_signal(how)
        process.wait(30)
        written = tiles(home)
        # At once, not after a while.
        assert not running.tasks()
        assert not any(running.computing().values())
        wait_until(lambda: not any(child.alive for child in started), 10)
    with storage(home) as instance:
        (run,) = instance.get_runs()
    cancelled = how == signal.SIGTERM
    assert run.status == (DagsterRunStatus.CANCELED if cancelled else DagsterRunStatus.FAILURE)
    assert not (home / "buckets" / "models" / "model" / "run" / "results" / "results.json").exists()
    assert tiles(home) == written


@pytest.mark.parametrize("mode", [pytest.param("local", marks=pytest.mark.slow), "scheduler"])
def test_a_killed_run_leaves_no_task_and_no_process(
    mode: str, running: Cluster, large_part: Path, quick_folder: Path
) -> None:
    address = running.address if mode == "scheduler" else ""
    home = quick_folder / "home"
    with start_publishing(home, large_part, mode, scheduler=address) as process:
        wait_until(lambda: process.poll() is not None or tiles(home) > 50)
        assert process.poll() is None, process.communicate()[0]
        # Dagster's own children read what a run prints, and end by themselves.
        children = descendants(process.pid)
        started = [child for child in children if child.is_worker]
        assert len(started) == (2 if mode == "local" else 0)
        process.kill()
        process.wait()
    wait_until(lambda: not any(child.alive for child in started), 10)
    wait_until(running.idle, 10)


def test_work_that_catches_every_exception_is_stopped_nevertheless(
    resource: DaskResource, tmp_path: Path
) -> None:
    """One piece fails while another one writes file after file; when the error is out, that has ended."""

    with pytest.raises(InputError):
        resource.map(partial(write_or_refuse, tmp_path), [0, 7], name="writing", run_id=RUN)
    assert (tmp_path / "stopped-0").exists()


# --- make cluster ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_cluster_ends_with_all_its_processes(how: signal.Signals, tmp_path: Path) -> None:
    with (
        (tmp_path / "log").open("w") as log,
        start_cluster_command(0, os.environ, log) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.kill)
        printed = read_start(process)
        started = descendants(process.pid)
        workers = [child for child in started if child.is_worker]
        assert len(workers) == 2
        # Ctrl-C is for the command, which ends them: they would report it as a failure.
        assert all(child.blocks(signal.SIGINT) for child in workers)
        assert printed["export"] == f"DATACUBE_DASK_SCHEDULER={printed['Scheduler']}"
        assert printed["Scheduler"].startswith("tcp://127.0.0.1:")
        assert printed["Dashboard"].startswith("http://127.0.0.1:")
        if how == signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does
        else:
            process.send_signal(how)
        assert process.wait(20) == (0 if how != signal.SIGKILL else -how)
        wait_until(lambda: not any(child.alive for child in started), 10)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_port_in_use_is_named(running: Cluster, tmp_path: Path) -> None:
    port = running.address.rsplit(":", 1)[1]
    with (tmp_path / "log").open("w") as log:
        process = start_cluster_command(int(port), os.environ, log)
        assert process.wait(30) == 1
    assert (tmp_path / "log").read_text().splitlines()[-1].startswith(f"Error: port {port} cannot be used")
