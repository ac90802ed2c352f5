"""The sensors that watch Dojo: what one look at its lists asks for, and what it never does.

Sensors are evaluated as Dagster's code server does it, against the simulator of Dojo and a Dagster
storage on disk; a daemon of its own takes part in `test_watching_daemon.py`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, RunRequest, RunsFilter
from dagster._core.definitions.sensor_definition import SensorExecutionData
from starlette.responses import Response

from datacube_assets.assets.dojo import dojo_request
from datacube_assets.definitions import build_definitions
from datacube_assets.development.dojo_simulator import DojoSimulator
from datacube_assets.development.simulator_http import Site, in_background
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.watch import Ready, changes
from datacube_assets.orchestration.jobs import process_model_run
from datacube_assets.partitions import VERSION_TAG, model_runs
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.reports import Outbox
from datacube_assets_tests.integration.support import dagster_storage
from datacube_assets_tests.integration.system import evaluate, indicator_document, run_document, success

PATH = "https://bucket.example/{}.1.parquet.gzip"


def ready(run_id: str, version: str = "v1", since: int = 0) -> Ready:
    return Ready(ModelRun("toy", run_id), version, since)


@pytest.mark.parametrize(
    ("listed", "known", "limit", "due", "waiting", "new"),
    [
        pytest.param([], {}, 5, [], 0, 0, id="nothing is listed"),
        pytest.param([], {"toy:a": "v1"}, 5, [], 0, 0, id="what is known may leave the list"),
        pytest.param([ready("a")], {}, 5, ["toy:a@v1"], 0, 1, id="a new run"),
        pytest.param([ready("a")], {"toy:a": "v1"}, 5, [], 0, 0, id="a known run"),
        pytest.param([ready("a", "v2")], {"toy:a": "v1"}, 5, ["toy:a@v2"], 0, 0, id="a run executed again"),
        pytest.param([ready("a")], {"toy:b": "v1"}, 5, ["toy:a@v1"], 0, 1, id="another run is known"),
        pytest.param(
            [ready("c", since=3), ready("a", since=1), ready("b", since=2)],
            {},
            5,
            ["toy:a@v1", "toy:b@v1", "toy:c@v1"],
            0,
            3,
            id="the oldest first",
        ),
        pytest.param(
            [ready("b"), ready("a")], {}, 5, ["toy:a@v1", "toy:b@v1"], 0, 2, id="equally old ones by id"
        ),
        pytest.param(
            [ready("c", since=3), ready("a", since=1), ready("b", since=2)],
            {},
            2,
            ["toy:a@v1", "toy:b@v1"],
            1,
            3,
            id="more than a tick may request",
        ),
        pytest.param(
            [ready("a", "v2", since=1), ready("b", since=2), ready("c", since=3)],
            {"toy:a": "v1", "toy:c": "v1"},
            1,
            ["toy:a@v2"],
            1,
            1,
            id="new ones and changed ones wait in the same line",
        ),
    ],
)
def test_what_is_new_follows_from_the_list_and_what_is_known(
    listed: list[Ready], known: dict[str, str], limit: int, due: list[str], waiting: int, new: int
) -> None:
    random.Random(1).shuffle(listed)
    found = changes(listed, known, limit)
    assert [one.run_key for one in found.due] == due
    assert (found.waiting, found.new) == (waiting, new)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    with in_background(site) as site.url:
        yield site


@pytest.fixture
def dojo(site: Site) -> DojoSimulator:
    simulator = DojoSimulator()
    site.app = simulator.app()
    return simulator


@pytest.fixture
def instance(quick_folder: Path) -> Iterator[DagsterInstance]:
    with dagster_storage(quick_folder / "home") as opened:
        yield opened


@dataclass
class Watch:
    """A sensor, and the part of the daemon that acts on its ticks."""

    settings: Settings
    instance: DagsterInstance
    name: str = "dojo_model_runs"
    cursor: str | None = None

    def tick(self, cursor: str | None = None) -> SensorExecutionData:
        """Evaluate the sensor; nothing is done about what it says."""
        return evaluate(self.settings, self.instance, self.name, cursor)

    def act(self, tick: SensorExecutionData) -> list[str]:
        """Do what the daemon does after a tick; returns the run keys of the runs it creates."""
        for addition in tick.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(addition.partitions_def_name, list(addition.partition_keys))
        created = []
        for request in tick.run_requests or ():
            key = str(request.run_key)
            if not self.instance.get_runs(RunsFilter(tags={"dagster/run_key": key}), limit=1):
                job = build_definitions(self.settings).resolve_job_def(process_model_run.name)
                # Of what is planned nothing is looked at, and to note it takes half a second.
                job = job.get_subset(asset_selection={dojo_request.key}, asset_check_selection=set())
                self.instance.create_run_for_job(job, tags={**request.tags, "dagster/run_key": key})
                created.append(key)
        self.cursor = tick.cursor
        return created

    def look(self) -> list[str]:
        """One tick and what the daemon does about it; returns the run keys of the runs it creates."""
        return self.act(self.tick(self.cursor))


@pytest.fixture
def watch(site: Site, dojo: DojoSimulator, instance: DagsterInstance, quick_folder: Path) -> Watch:
    settings = Settings.model_validate(
        {"DATACUBE_HOME": quick_folder / "home", "DOJO_URL": site.url, "DATACUBE_RUNS_PER_TICK": 3}
    ).resolved()
    return Watch(settings, instance)


def finished(run_id: str, execution: int = 1, **fields: Any) -> dict[str, Any]:
    """A run that is ready."""
    return run_document(
        run_id, **{"data_paths": [PATH.format(run_id)], "attributes": success(execution), **fields}
    )


def keys(tick: SensorExecutionData) -> list[str]:
    return [str(request.run_key) for request in tick.run_requests or ()]


def requested_partitions(tick: SensorExecutionData) -> list[str]:
    return [str(request.partition_key) for request in tick.run_requests or ()]


def test_a_run_that_is_ready_gets_its_partition_and_one_run_of_everything(
    dojo: DojoSimulator, watch: Watch
) -> None:
    dojo.put("runs", finished("r 1"))
    tick = watch.tick()
    (request,) = tick.run_requests or ()
    assert isinstance(request, RunRequest)
    assert request.partition_key == "toy:r%201"
    assert request.asset_selection is None, "all assets of the job"
    assert request.tags["datacube/model"] == "toy"
    assert len([name for name in request.tags if not name.startswith(("dagster/", ".dagster/"))]) <= 4, (
        "they fit a line"
    )
    assert request.tags["datacube/source"] == "dojo"
    assert int(request.tags["dagster/priority"]) > 0, "backfills have 0"
    (partitions,) = tick.dynamic_partitions_requests or ()
    assert (partitions.partitions_def_name, partitions.partition_keys) == (model_runs.name, ["toy:r%201"])
    assert watch.act(tick)
    quiet = watch.tick(watch.cursor)
    assert not quiet.run_requests
    assert "nothing new" in str(quiet.skip_message)


@pytest.mark.parametrize(
    "document",
    [
        run_document("x"),
        run_document("x", attributes={}),
        run_document("x", attributes=None),
        run_document("x", attributes={"status": "failed"}, data_paths=[PATH]),
        run_document("x", attributes=success()),
        run_document("x", attributes=success(), data_paths=["https://b/x_toy_str.1.parquet.gzip"]),
    ],
    ids=["running", "without status", "without attributes", "failed", "without paths", "text only"],
)
def test_what_is_not_ready_is_not_requested(
    document: dict[str, Any], dojo: DojoSimulator, watch: Watch
) -> None:
    dojo.put("runs", document)
    tick = watch.tick()
    assert not tick.run_requests
    assert not tick.dynamic_partitions_requests
    assert "Dojo lists 1 model run, 0 of them ready" in str(tick.skip_message)


@pytest.mark.parametrize("status", ["success", "SUCCESS", "Success"])
def test_success_counts_in_any_case(status: str, dojo: DojoSimulator, watch: Watch) -> None:
    dojo.put("runs", finished("x", attributes={"status": status, "executed_at": "2023-01-01 00:00:00"}))
    assert requested_partitions(watch.tick()) == ["toy:x"]


def test_datasets_are_requested_when_published_and_not_deprecated(
    dojo: DojoSimulator, watch: Watch, site: Site
) -> None:
    watch.name = "dojo_indicators"
    paths = [PATH.format("d")]
    dojo.put("indicators", indicator_document("good", data_paths=paths))
    dojo.put("indicators", indicator_document("unpublished", data_paths=paths, published=False))
    dojo.put("indicators", indicator_document("deprecated", data_paths=paths, deprecated=True))
    dojo.put("indicators", indicator_document("without-paths"))
    tick = watch.tick()
    assert requested_partitions(tick) == ["good:indicator"]
    watch.act(tick)
    assert watch.look() == []
    # New files come under the old addresses; only created_at tells of them.
    dojo.put("indicators", indicator_document("good", data_paths=paths, created_at=9))
    assert [key.split("@")[0] for key in watch.look()] == ["good:indicator"]
    dojo.put("indicators", indicator_document("good", data_paths=[*paths, PATH.format("d_1")]))
    assert [key.split("@")[0] for key in watch.look()] == ["good:indicator"]


def test_the_same_tick_many_times_requests_nothing_twice(dojo: DojoSimulator, watch: Watch) -> None:
    for name in "abc":
        dojo.put("runs", finished(name))
    dojo.switches.shuffle = True
    first = watch.tick()
    assert requested_partitions(first) == ["toy:a", "toy:b", "toy:c"]
    created = [watch.act(watch.tick()) for _ in range(25)]
    assert len(created[0]) == 3
    assert not any(created[1:])
    assert len(watch.instance.get_runs()) == 3
    assert sorted(watch.instance.get_dynamic_partitions(str(model_runs.name))) == ["toy:a", "toy:b", "toy:c"]


def test_a_tick_whose_end_the_daemon_did_not_live_to_see_is_repeated_as_it_was(
    dojo: DojoSimulator, watch: Watch
) -> None:
    for name in "abcd":
        dojo.put("runs", finished(name))
    first = watch.tick()
    assert keys(watch.tick()) == keys(first)
    assert len(keys(first)) == 3, "the fourth one waits, and does not come instead"


@pytest.mark.parametrize("lost", ["", None, "no JSON {", "[1, 2]", '"text"', "1795416137.5 3"])
def test_a_lost_cursor_loses_nothing_and_requests_nothing_twice(
    lost: str | None, dojo: DojoSimulator, watch: Watch
) -> None:
    for name in "abcde":
        dojo.put("runs", finished(name))
    created = watch.look()
    watch.cursor = lost
    created += watch.look()
    created += watch.look()
    created += watch.look()
    assert sorted(key.split("@")[0] for key in created) == ["toy:a", "toy:b", "toy:c", "toy:d", "toy:e"]
    assert watch.look() == []


def test_a_lake_that_forgot_what_is_known_makes_no_second_run(dojo: DojoSimulator, watch: Watch) -> None:
    for name in "ab":
        dojo.put("runs", finished(name))
    assert len(watch.look()) == 2
    assert watch.look() == []
    for path in (watch.settings.home / "lake").rglob("known.json"):
        path.unlink()
    assert len(keys(watch.tick())) == 2
    assert watch.look() == []


def test_a_run_executed_again_is_requested_again_for_the_same_partition(
    dojo: DojoSimulator, watch: Watch
) -> None:
    dojo.put("runs", finished("a"))
    first = watch.look()
    dojo.put("runs", finished("a", 2))
    tick = watch.tick(watch.cursor)
    assert requested_partitions(tick) == ["toy:a"]
    second = watch.act(tick)
    assert len({*first, *second}) == 2
    dojo.put("runs", finished("a", 2, data_paths=[PATH.format("b"), PATH.format("a")]))
    third = watch.look()
    assert len({*first, *second, *third}) == 3
    dojo.put("runs", finished("a", 2, data_paths=[PATH.format("a"), PATH.format("b")], tags=["new"]))
    assert watch.look() == [], "another order of paths or other fields are no execution"
    assert list(watch.instance.get_dynamic_partitions(str(model_runs.name))) == ["toy:a"]


def paths(*names: str) -> dict[str, Any]:
    return {"data_paths": [PATH.format(name) for name in names]}


@pytest.mark.parametrize(
    "states",
    [
        # The files are gone, the run fails, and they are back: nobody executed it again.
        [finished("a"), finished("a", **paths("gone")), finished("a")],
        [finished("a", 1), finished("a", 2, **paths("b")), finished("a", 1)],
        [finished("a", number % 2, **paths("a" if number % 2 else "b")) for number in range(6)],
    ],
    ids=["files are gone for a while", "an execution is taken back", "again and again"],
)
def test_a_state_that_comes_back_is_processed_and_nothing_runs_twice(
    states: list[dict[str, Any]], dojo: DojoSimulator, watch: Watch
) -> None:
    """The tick said that it requested a run, and Dagster skipped it: its key had been there before."""
    created: list[str] = []
    for state in states:
        dojo.put("runs", state)
        created += watch.look()
        for cursor in (watch.cursor, "", None, watch.cursor):
            watch.cursor = cursor
            assert watch.look() == [], "nothing runs twice, with the cursor or without"
    assert len(created) == len(set(created)) == len(states)
    runs = watch.instance.get_runs()
    assert len({run.tags[VERSION_TAG] for run in runs}) == 2


def test_a_state_that_comes_back_before_its_successor_is_known_is_processed(
    dojo: DojoSimulator, watch: Watch
) -> None:
    dojo.put("runs", finished("a"))
    created = watch.look()
    before = watch.cursor
    dojo.put("runs", finished("a", 2))
    created += watch.look()
    # The daemon died before it stored the cursor; its run was created all the same.
    watch.cursor = before
    dojo.put("runs", finished("a"))
    created += watch.look()
    assert len(set(created)) == 3
    assert watch.look() == []


def test_a_lake_that_forgot_changes_makes_no_second_run(dojo: DojoSimulator, watch: Watch) -> None:
    for execution in (1, 2, 1):
        dojo.put("runs", finished("a", execution))
        assert len(watch.look()) == 1
    for path in (watch.settings.home / "lake").rglob("known.json"):
        path.unlink()
    watch.cursor = None
    assert watch.look() == []
    dojo.put("runs", finished("a", 2))
    assert len(watch.look()) == 1


def test_what_an_earlier_version_knew_is_known(dojo: DojoSimulator, watch: Watch) -> None:
    dojo.put("runs", finished("a"))
    (asked,) = watch.tick().run_requests or ()
    version = asked.tags[VERSION_TAG]
    for path in (watch.settings.home / "lake").rglob("known.json"):
        path.write_text(json.dumps({"toy:a": version}))
    assert watch.look() == []
    dojo.put("runs", finished("b"))
    (other,) = watch.tick().run_requests or ()
    # The cursor of an earlier version, whose runs Dagster has.
    watch.cursor = json.dumps({"toy:b": other.tags[VERSION_TAG]})
    assert watch.look() == []


def test_two_daemons_on_one_lake_start_each_state_once(dojo: DojoSimulator, watch: Watch) -> None:
    other = Watch(watch.settings, watch.instance)
    created: list[str] = []
    for execution in (1, 2, 1, 2):
        dojo.put("runs", finished("a", execution))
        ticks = watch.tick(watch.cursor), other.tick(other.cursor)
        created += [*watch.act(ticks[0]), *other.act(ticks[1])]
        created += [*watch.look(), *other.look()]
    assert len(created) == 4


# --- single documents that misbehave ---------------------------------------------------------------------


class Listing(DojoSimulator):
    """Lists more than it has: some documents twice, with or without a difference."""

    more: list[dict[str, Any]]

    def page(self, *arguments: Any) -> tuple[int, str | None, list[dict[str, Any]]]:
        hits, scroll_id, documents = super().page(*arguments)
        return hits + len(self.more), scroll_id, [*documents, *self.more]


def test_a_document_that_is_listed_twice_holds_back_no_other(watch: Watch, site: Site) -> None:
    dojo = Listing()
    dojo.more = [finished("a"), finished("b", 2)]
    site.app = dojo.app()
    for name in "abc":
        dojo.put("runs", finished(name))
    tick = watch.tick()
    assert requested_partitions(tick) == ["toy:a", "toy:c"], (
        "equal ones count once, different ones not at all"
    )
    dojo.more = []
    watch.act(tick)
    assert [key.split("@")[0] for key in watch.look()] == ["toy:b"]


@pytest.mark.parametrize("broken", ["[" * 2_000 + "]" * 2_000, "7" * 5_000], ids=["deep", "long"])
def test_a_document_that_nobody_can_read_holds_back_no_other(broken: str, watch: Watch, site: Site) -> None:
    documents = [json.dumps(finished("a")), json.dumps(finished("b"))]
    documents.insert(1, f'{{"id": "odd", "x": {broken}}}')
    body = f'{{"hits": 3, "scroll_id": null, "results": [{",".join(documents)}]}}'
    site.app = Response(body, media_type="application/json")
    tick = watch.tick()
    assert requested_partitions(tick) == ["toy:a", "toy:b"]


def test_a_run_that_is_called_as_datasets_are_is_refused_and_causemos_told(
    dojo: DojoSimulator, watch: Watch
) -> None:
    dojo.put("runs", finished("indicator"))
    dojo.put("runs", finished("a"))
    for _ in range(3):
        assert requested_partitions(watch.tick()) == ["toy:a"]
    (told,) = Outbox(Lake(open_store(watch.settings.lake))).waiting()
    assert told.kind == "processing-failed"
    assert told.body["is_indicator"] is False
    assert (told.body["data_id"], told.body["doc_ids"]) == ("toy", ["indicator"])


def test_more_runs_than_a_tick_may_request_follow_oldest_first(dojo: DojoSimulator, watch: Watch) -> None:
    ages = list(range(8))
    random.Random(2).shuffle(ages)
    for age in ages:
        dojo.put("runs", finished(f"age-{age}", created_at=str(age)))
    ticks = [[key.split("@")[0] for key in watch.look()] for _ in range(4)]
    assert ticks == [
        ["toy:age-0", "toy:age-1", "toy:age-2"],
        ["toy:age-3", "toy:age-4", "toy:age-5"],
        ["toy:age-6", "toy:age-7"],
        [],
    ]


MALFORMED: list[Any] = [
    {"id": "no-model", "data_paths": [], "attributes": success()},
    {"model_id": "toy", "data_paths": [PATH], "attributes": success()},
    run_document("paths", data_paths="https://b/x.parquet.gzip", attributes=success()),
    run_document("empty-path", data_paths=[""], attributes=success()),
    run_document("status", attributes={"status": 1}),
    run_document("attributes", attributes="success"),
    {**run_document("x"), "id": 7},
]


def test_a_malformed_document_is_reported_and_blocks_no_other(dojo: DojoSimulator, watch: Watch) -> None:
    dojo.put("runs", finished("before"))
    for document in MALFORMED:
        dojo.put("runs", document)
    dojo.put("runs", finished("after"))
    tick = watch.tick()
    assert requested_partitions(tick) == ["toy:after", "toy:before"]
    watch.act(tick)
    quiet = str(watch.tick(watch.cursor).skip_message)
    assert f"{len(MALFORMED)} unreadable" in quiet
    assert f"Dojo lists {len(MALFORMED) + 2} model runs, 2 of them ready" in quiet


@pytest.mark.parametrize("run_id", ["..", ".", "a/../../b", "line\nbreak", "nul\0"])
def test_an_id_that_would_leave_its_folder_is_reported_and_blocks_no_other(
    run_id: str, dojo: DojoSimulator, watch: Watch
) -> None:
    dojo.put("runs", finished(run_id))
    dojo.put("runs", finished("good"))
    tick = watch.tick()
    assert requested_partitions(tick) == ["toy:good"]


@pytest.mark.parametrize(
    "switches",
    [
        {"error_rate": 1.0, "error_status": 503},
        {"error_rate": 1.0, "error_status": 401},
        {"error_rate": 1.0, "error_status": 404},
        {"truncate_rate": 1.0},
        pytest.param({"scroll_seconds": 0.0}, marks=pytest.mark.slow),
    ],
    ids=["unavailable", "unauthorized", "not found", "answers that break off", "scrolls that are forgotten"],
)
def test_a_listing_that_failed_or_broke_off_changes_nothing_and_says_so(
    switches: dict[str, Any], dojo: DojoSimulator, watch: Watch
) -> None:
    dojo.put("runs", finished("a"))
    for number in range(1_000):  # a second page
        dojo.put("runs", run_document(f"running-{number}"))
    dojo.put("runs", finished("b"))
    first = watch.tick()
    watch.act(first)
    dojo.put("runs", finished("c"))
    for name, value in switches.items():
        setattr(dojo.switches, name, value)
    before = files(watch)
    failed = watch.tick(watch.cursor)
    assert not failed.run_requests
    assert not failed.dynamic_partitions_requests
    assert str(failed.skip_message).startswith("Dojo's list could not be read, so nothing is changed: ")
    assert failed.cursor == watch.cursor, "what the tick before requested is not forgotten"
    # That these were requested is remembered; nothing else is.
    assert {path for path in files(watch) ^ before if not path.endswith("known.json")} == set()
    assert set(watch.instance.get_dynamic_partitions(str(model_runs.name))) == {"toy:a", "toy:b"}
    dojo.switches = type(dojo.switches)()
    assert [key.split("@")[0] for key in watch.look()] == ["toy:c"]


def files(watch: Watch) -> set[str]:
    return {str(path) for path in watch.settings.home.rglob("*") if path.is_file()}


def test_a_dojo_that_is_not_there_changes_nothing_and_says_so(watch: Watch) -> None:
    watch.settings = watch.settings.model_copy(update={"dojo_url": "http://127.0.0.1:9"})
    tick = watch.tick()
    assert not tick.run_requests
    assert "Dojo's list could not be read, so nothing is changed: " in str(tick.skip_message)
    assert "see whether Dojo runs at DOJO_URL" in str(tick.skip_message)


def test_without_a_dojo_the_sensors_say_how_to_name_one(watch: Watch) -> None:
    watch.settings = watch.settings.model_copy(update={"dojo_url": ""})
    for watch.name in ("dojo_model_runs", "dojo_indicators"):
        assert "Set DOJO_URL" in str(watch.tick().skip_message)


def test_partitions_stay_whatever_dojo_lists(dojo: DojoSimulator, watch: Watch, site: Site) -> None:
    dojo.put("runs", finished("a"))
    watch.look()
    empty = DojoSimulator()
    site.app = empty.app()
    for _ in range(3):
        tick = watch.tick(watch.cursor)
        assert not tick.dynamic_partitions_requests
        watch.act(tick)
    assert list(watch.instance.get_dynamic_partitions(str(model_runs.name))) == ["toy:a"]
    site.app = dojo.app()
    assert watch.look() == [], "a run that was out of the list for a while is no new one"
