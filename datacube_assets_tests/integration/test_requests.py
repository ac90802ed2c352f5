"""Runs somebody asks for: what `datacube reprocess` leaves, what the sensor makes of it, and for how long.

The command runs in this process; the sensor is evaluated as Dagster's code server does it. How a daemon
picks requests up is tried in `test_watching_daemon.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from dagster import AssetKey, RunRequest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from datacube_assets.cli import main
from datacube_assets.development.dojo_simulator import DojoSimulator
from datacube_assets.development.simulator_http import Site, in_background
from datacube_assets.dojo.documents import RunDocument
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.errors import InputError
from datacube_assets.orchestration.home import open_instance
from datacube_assets.orchestration.jobs import ASSET_KEYS, BY_HAND, PRIORITY_TAG, SENSED
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.publishing import RESULTS_ASSET, manifest
from datacube_assets.storage.requests import ask_for_run, leave_request, requested, runs_requested
from datacube_assets.storage.run_info import request_key
from datacube_assets_tests.integration.support import House, begin_home, rows
from datacube_assets_tests.integration.system import evaluate, model_document, run_document, success

RUN = ModelRun("toy", "one")
THRESHOLDS = {"max_count": 7, "regional_timeseries_count": 5, "regional_timeseries_max_level": 0}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    with in_background(site) as site.url:
        yield site


@dataclass
class Desk:
    """A house with a Dojo, at which runs can be asked for."""

    house: House
    dojo: DojoSimulator

    @property
    def lake(self) -> Lake:
        return Lake(open_store(self.house.settings.lake))

    def ask(self, *arguments: str) -> Result:
        """Run `datacube reprocess`."""
        return CliRunner().invoke(main, ["reprocess", *arguments])

    def tick(self, cursor: str | None = None) -> SensorExecutionData:
        """Evaluate the sensor."""
        return evaluate(self.house.settings, self.house.instance, "requests", cursor)

    def asked(self) -> list[RunRequest]:
        """What the sensor would start now."""
        return list(self.tick().run_requests or ())

    def execute(self, execution: int = 1) -> str:
        """Let the run succeed in Dojo; returns the address of its part."""
        part = self.house.write(
            rows(value=[float(execution), 2.0, 3.0, 4.0]), f"one.{execution}.parquet.gzip"
        )
        self.dojo.put("runs", run_document("one", data_paths=[part], attributes=success(execution)))
        return part

    def materialize(self, *assets: str) -> DatacubeRequest:
        """Materialize assets of the run (all of them when none is named); returns its request."""
        names = assets or tuple(key.to_user_string() for key in ASSET_KEYS)
        self.house.instance.add_dynamic_partitions("model_runs", [RUN.key])
        self.house.materialize(RUN, *names)
        return DatacubeRequest.model_validate(self.lake.read_document(request_key(RUN)))

    def version(self) -> str | None:
        """Version of the complete datacube."""
        head = manifest(self.lake, RUN, RESULTS_ASSET)
        results = self.house.bucket() / "toy" / "one" / "results" / "results.json"
        return head["version"] if head and results.is_file() else None


@pytest.fixture
def desk(quick_folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for name in list(os.environ):
        if name.startswith(("DATACUBE_", "DOJO_", "CAUSEMOS_", "DAGSTER_HOME")):
            monkeypatch.delenv(name)
    home = quick_folder / "home"
    begin_home(home)
    monkeypatch.setenv("DATACUBE_HOME", str(home))
    monkeypatch.setenv("DATACUBE_PICTURES", "no")
    monkeypatch.setenv("DOJO_URL", site.url)
    monkeypatch.setenv("DAGSTER_HOME", "restored after the test")
    monkeypatch.delenv("DAGSTER_HOME")
    dojo = DojoSimulator()
    dojo.put("models", model_document())
    site.app = dojo.app()
    settings = Settings.from_environment()
    with open_instance(settings) as instance:
        opened = Desk(House(home, settings, instance), dojo)
        opened.execute()
        yield opened


def test_a_request_by_hand_starts_one_run_of_everything_before_all_others(desk: Desk) -> None:
    answer = desk.ask("toy:one")
    assert (answer.exit_code, answer.output) == (0, "Asked for toy:one\n")
    tick = desk.tick()
    (request,) = tick.run_requests or ()
    assert request.partition_key == "toy:one"
    assert request.asset_selection is None
    assert request.tags["datacube/source"] == "request"
    assert int(BY_HAND[PRIORITY_TAG]) > int(SENSED[PRIORITY_TAG]) > 0
    (partitions,) = tick.dynamic_partitions_requests or ()
    assert partitions.partition_keys == ["toy:one"], "one that Dagster did not know so far, too"
    # The cursor is stored once the run is created; then the request has served.
    quiet = desk.tick(tick.cursor)
    assert not quiet.run_requests
    assert quiet.skip_message == "Nobody asked for a run."


@pytest.mark.parametrize("lost", [None, "", "no JSON {", '{"a": 1}'])
def test_a_lost_cursor_asks_for_the_same_runs_under_the_same_keys(lost: str | None, desk: Desk) -> None:
    desk.ask("toy:one")
    desk.ask("toy:one")
    first = [request.run_key for request in desk.asked()]
    assert len(set(first)) == 2, "who asks twice gets two runs"
    assert [request.run_key for request in desk.tick(lost).run_requests or ()] == first
    desk.tick(desk.tick(lost).cursor)
    assert desk.asked() == []


def test_more_requests_than_a_tick_may_start_follow_in_the_order_they_came(desk: Desk) -> None:
    desk.house = desk.house.with_settings(runs_per_tick=2)
    for number in range(5):
        request = DatacubeRequest(model_id="toy", run_id=f"r{number}", data_paths=("x",))
        ask_for_run(desk.lake, request)
    cursor, partitions = None, []
    for _ in range(4):
        tick = desk.tick(cursor)
        cursor = tick.cursor
        partitions.append([str(request.partition_key) for request in tick.run_requests or ()])
    assert partitions == [["toy:r0", "toy:r1"], ["toy:r2", "toy:r3"], ["toy:r4"], []]


def test_changed_thresholds_are_those_of_the_next_run(desk: Desk) -> None:
    assert desk.materialize("dojo_request").qualifier_thresholds.max_count == 10_000
    desk.ask("toy:one", "--thresholds", json.dumps(THRESHOLDS))
    assert desk.materialize("dojo_request").qualifier_thresholds.model_dump() == THRESHOLDS


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--weight-column", "population"], "weight_column", "population"),
        (["--weight-column", ""], "weight_column", ""),
        (["--fill-timestamp", "-5"], "fill_timestamp", -5),
        (["--raw-count-threshold", "0"], "raw_count_threshold", 0),
        (["--timestamp-unit", "s"], "timestamp_unit", "s"),
        (["--qualifier-map", '{"rain": ["crop"]}'], "qualifier_map", {"rain": ("crop",)}),
    ],
)
def test_every_parameter_can_be_changed_and_the_others_stay(
    arguments: list[str], name: str, value: object, desk: Desk
) -> None:
    before = desk.materialize("dojo_request").model_dump()
    assert desk.ask("toy:one", *arguments).exit_code == 0
    assert desk.materialize("dojo_request").model_dump() == {**before, name: value}


def test_changed_parameters_outlive_an_execution_whose_files_they_did_not_know(desk: Desk) -> None:
    desk.ask("toy:one", "--weight-column", "population")
    second = desk.execute(2)
    request = desk.materialize("dojo_request")
    assert request.data_paths == (second,)
    assert request.weight_column == "population"
    assert request.source_version == RunDocument.model_validate(desk.dojo.get("runs", "one")).version
    desk.ask("toy:one", "--fill-timestamp", "3")
    third = desk.execute(3)
    request = desk.materialize("dojo_request")
    assert (request.data_paths, request.weight_column, request.fill_timestamp) == ((third,), "population", 3)


def test_what_was_left_goes_before_what_dojo_implies(desk: Desk) -> None:
    left = DatacubeRequest(
        model_id="toy", run_id="one", data_paths=("/somewhere/else.parquet",), doc_ids=("a", "b")
    )
    leave_request(desk.lake, left)
    desk.execute(2)
    assert desk.materialize("dojo_request") == left, "it does not come from Dojo, so nothing renews it"


def test_the_newest_request_left_is_the_one_that_counts(desk: Desk) -> None:
    for count in (1, 2, 3):
        desk.ask("toy:one", "--raw-count-threshold", str(count))
    assert desk.materialize("dojo_request").raw_count_threshold == 3
    assert len(desk.asked()) == 3


def test_asking_without_changes_does_not_write_down_what_dojo_implies_today(desk: Desk) -> None:
    desk.ask("toy:one")
    desk.ask("toy:one", "--tasks", "compute_tiles")
    assert requested(desk.lake, RUN) is None
    outputs = [{"name": "rain", "type": "float"}]
    qualifier = {"name": "crop", "related_features": ["rain"]}
    desk.dojo.put(
        "models", {"id": "toy", "name": "Toy", "outputs": outputs, "qualifier_outputs": [qualifier]}
    )
    assert desk.materialize("dojo_request").qualifier_map == {"rain": ("crop",)}


ALWAYS = {
    "dojo_request",
    "raw_dojo_output",
    "normalized_points",
    "temporal_cells",
    "raw_data",
    "region_lists",
    "qualifier_lists",
}
GLOBAL = {"global_aggregates", "global_timeseries"}
REGIONS = {"regional_aggregates"}
TILES = {"grid_cells", "spatial_tiles", "grid_stats"}
ALL_TASKS = [
    "compute_global_timeseries",
    "compute_regional_stats",
    "compute_regional_timeseries",
    "compute_regional_aggregation",
    "compute_tiles",
]
EVERYTHING = {key.to_user_string() for key in ASSET_KEYS}


@pytest.mark.parametrize(
    ("tasks", "assets"),
    [
        (["compute_global_timeseries"], ALWAYS | GLOBAL),
        (["compute_regional_stats"], ALWAYS | REGIONS | {"regional_extrema"}),
        (["compute_regional_timeseries"], ALWAYS | REGIONS | {"regional_timeseries"}),
        (["compute_regional_aggregation"], ALWAYS | REGIONS | {"regional_maps"}),
        (["compute_tiles"], ALWAYS | TILES),
        (["compute_tiles", "compute_global_timeseries"], ALWAYS | TILES | GLOBAL),
        (["compute_tiles", "compute_the_weather"], ALWAYS | TILES),
        (["compute_the_weather"], ALWAYS),
        (ALL_TASKS, None),
        ([*ALL_TASKS, "compute_the_weather"], None),
        ([], EVERYTHING - {"pipeline_results"}),
        (None, None),
    ],
)
def test_output_tasks_select_the_assets_they_stand_for(
    tasks: list[str] | None, assets: set[str] | None, desk: Desk
) -> None:
    request = DatacubeRequest.model_validate(
        {"model_id": "toy", "run_id": "one", "data_paths": ["x"], "selected_output_tasks": tasks}
    )
    ask_for_run(desk.lake, request)
    (started,) = desk.asked()
    if assets is None:
        assert started.asset_selection is None
    else:
        assert {key.to_user_string() for key in started.asset_selection or ()} == assets
        assert AssetKey("pipeline_results") not in (started.asset_selection or ())


def test_output_tasks_can_be_named_at_the_command_line(desk: Desk) -> None:
    assert desk.ask("toy:one", "--tasks", " compute_tiles , compute_global_timeseries ").exit_code == 0
    (started,) = desk.asked()
    assert {key.to_user_string() for key in started.asset_selection or ()} == ALWAYS | TILES | GLOBAL


def test_a_selection_of_tasks_is_for_once_and_leaves_the_datacube_complete(desk: Desk) -> None:
    desk.materialize()
    version = desk.version()
    assert version
    desk.ask("toy:one", "--tasks", "compute_tiles")
    (request,) = desk.asked()
    names = [key.to_user_string() for key in request.asset_selection or ()]
    desk.materialize(*names)
    assert desk.version() == version
    desk.ask("toy:one", "--weight-column", "population", "--tasks", "compute_tiles")
    left = requested(desk.lake, RUN)
    assert left is not None
    assert (left.weight_column, left.selected_output_tasks) == ("population", None)
    desk.ask("toy:one")
    assert desk.asked()[-1].asset_selection is None


def test_all_runs_of_a_model_can_be_asked_for(desk: Desk) -> None:
    desk.house.instance.add_dynamic_partitions(
        "model_runs", ["toy:one", "toy:two", "toyota:one", "d:indicator"]
    )
    desk.dojo.put("runs", run_document("two", data_paths=["x"], attributes=success()))
    answer = desk.ask("--model", "toy", "--fill-timestamp", "1")
    assert answer.output == "Asked for toy:one\nAsked for toy:two\n"
    assert [request.partition_key for request in desk.asked()] == ["toy:one", "toy:two"]


def test_all_that_failed_can_be_asked_for(desk: Desk) -> None:
    desk.house.publish(rows(), model_id="m", run_id="good")
    for name in ("bad", "repaired"):
        with pytest.raises(InputError):
            desk.house.publish("/nowhere.parquet", model_id="m", run_id=name)
    desk.house.publish(rows(), model_id="m", run_id="repaired")
    answer = desk.ask("--failed")
    assert (answer.exit_code, answer.output) == (0, "Asked for m:bad\n")


def test_a_list_of_keys_is_asked_for_and_what_cannot_be_is_named(desk: Desk) -> None:
    answer = desk.ask("toy:one", "no key", "toy:unknown", "toy:one")
    assert answer.exit_code == 1
    assert "Asked for toy:one\n" in answer.output
    assert answer.output.count("Asked for") == 1
    assert "no key: 'no key' is no partition key" in answer.output
    assert "toy:unknown: Dojo answered 404" in answer.output
    assert "2 of 3 could not be asked for" in answer.output
    assert len(desk.asked()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to ask for: name partitions, or use --model or --failed"),
        (["toy:one", "--qualifier-map", "{"], "--qualifier-map is no JSON"),
        (["toy:one", "--tasks", "compute_the_weather"], "there is no such task"),
        (["toy:one", "--thresholds", '{"most": 1}'], "there is no such limit"),
        (["toy:one", "--fill-timestamp", "soon"], "'soon' is not a valid integer"),
        (["toy:one", "--thresholds", '{"max_count": -1}'], "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_asked_for_is_said_and_nothing_is_left(
    arguments: list[str], said: str, desk: Desk
) -> None:
    answer = desk.ask(*arguments)
    assert answer.exit_code != 0
    assert said in answer.output
    assert runs_requested(desk.lake, 10) == []
    assert requested(desk.lake, RUN) is None


def test_without_a_dojo_the_request_of_the_last_run_is_taken(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.materialize("dojo_request")
    monkeypatch.delenv("DOJO_URL")
    desk.house = desk.house.with_settings(dojo_url="")
    before = desk.lake.read_document(request_key(RUN))
    assert desk.ask("toy:one").exit_code == 0
    assert desk.materialize("dojo_request").model_dump(mode="json") == before
    answer = desk.ask("toy:unknown")
    assert answer.exit_code == 1
    assert "no Dojo is configured" in answer.output


def test_names_with_odd_characters_find_their_partition(desk: Desk) -> None:
    odd = ModelRun("a model", "räin:%")
    leave_request(desk.lake, DatacubeRequest(model_id=odd.model_id, run_id=odd.run_id, data_paths=("x",)))
    assert desk.ask(odd.key).exit_code == 0
    (request,) = desk.asked()
    assert request.partition_key == odd.key == "a%20model:r%C3%A4in%3A%25"
    assert request.tags["datacube/model"] == "a model"
