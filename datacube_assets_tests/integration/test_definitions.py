"""The graph as the UI shows it: a snapshot whose every change is a diff that somebody reviews."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import AssetKey, AssetSpec, DynamicPartitionsDefinition, TableSchema
from hypothesis import given
from hypothesis import strategies as st

from datacube_assets.definitions import build_definitions
from datacube_assets.dojo.model_run import ModelRun, encode_name
from datacube_assets.operations.publish import Outcome
from datacube_assets.partitions import model_runs
from datacube_assets.settings import Settings
from datacube_assets_tests.integration.support import House, open_house, rows

# --- snapshot --------------------------------------------------------------------------------------

WAITED_FOR = [
    "global_aggregates",
    "grid_cells",
    "normalized_points",
    "regional_aggregates",
    "temporal_cells",
]
"""What every asset of objects waits for."""

ASSETS = {
    "dojo_request": ("dojo", []),
    "raw_dojo_output": ("dojo", ["dojo_request"]),
    "normalized_points": ("points", ["raw_dojo_output"]),
    "temporal_cells": ("points", ["normalized_points"]),
    "global_aggregates": ("aggregates", ["normalized_points", "temporal_cells"]),
    "regional_aggregates": ("aggregates", ["normalized_points", "temporal_cells"]),
    "grid_cells": ("aggregates", ["temporal_cells"]),
    "raw_data": ("datacube", sorted([*WAITED_FOR, "raw_dojo_output"])),
    "region_lists": ("datacube", WAITED_FOR),
    "qualifier_lists": ("datacube", WAITED_FOR),
    "global_timeseries": ("datacube", WAITED_FOR),
    "regional_timeseries": ("datacube", WAITED_FOR),
    "regional_maps": ("datacube", WAITED_FOR),
    "regional_extrema": ("datacube", WAITED_FOR),
    "spatial_tiles": ("datacube", WAITED_FOR),
    "grid_stats": ("datacube", WAITED_FOR),
    "pipeline_results": (
        "results",
        [
            "global_aggregates",
            "global_timeseries",
            "grid_stats",
            "normalized_points",
            "qualifier_lists",
            "raw_data",
            "region_lists",
            "regional_extrema",
            "regional_maps",
            "regional_timeseries",
            "spatial_tiles",
        ],
    ),
}
"""Group and upstream assets of every asset."""
CHECKS = {
    "normalized_points:timestamps_are_milliseconds": "warns",
    "normalized_points:rows_are_usable": "warns",
    "normalized_points:values_vary": "warns",
    "normalized_points:values_are_no_stand_ins": "warns",
    "normalized_points:coordinates_are_degrees": "warns",
    "normalized_points:qualifiers_are_there": "warns",
    "normalized_points:places_are_in_their_country": "warns",
    "normalized_points:features_are_those_of_other_runs": "warns",
    "normalized_points:regions_can_be_asked_for": "warns",
    "normalized_points:names_have_one_spelling": "warns",
    "normalized_points:countries_have_one_spelling": "warns",
    "temporal_cells:cells_hold_every_row": "stops",
    "temporal_cells:columns_as_declared": "stops",
    "global_aggregates:times_add_up": "stops",
    "global_aggregates:qualifiers_add_up": "stops",
    "global_aggregates:columns_as_declared": "stops",
    "regional_aggregates:regions_add_up": "stops",
    "grid_cells:map_holds_every_point": "stops",
    "global_aggregates:objects_within_limit": "stops",
    "regional_aggregates:objects_within_limit": "stops",
    "grid_cells:objects_within_limit": "stops",
    "raw_data:objects_as_recorded": "stops",
    "regional_extrema:extrema_are_of_the_table": "stops",
    "spatial_tiles:tiles_hold_every_point": "stops",
    "pipeline_results:objects_as_recorded": "warns",
    "pipeline_results:published_in_time": "warns",
    "pipeline_results:reports_delivered": "warns",
    "pipeline_results:regions_stay_as_they_were": "warns",
}
"""Every check, and whether nothing is published when it fails."""
SENSORS = ["causemos_reports", "dojo_indicators", "dojo_model_runs", "requests"]
TABLES = ["normalized_points", "temporal_cells", "global_aggregates", "regional_aggregates", "grid_cells"]
JOBS = [
    "check_model_run", "process_model_run", "recompute_tiles", "republish_datacube",
    "rollback_datacube", "withdraw_datacube"]  # fmt: skip
RESOURCES = ["buckets", "causemos", "dask", "dojo", "io_manager", "lake", "limits", "publisher", "ui"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings.model_validate({"DATACUBE_HOME": tmp_path_factory.mktemp("home")}).resolved()


@pytest.fixture(scope="module")
def specs(settings: Settings) -> dict[str, AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in build_definitions(settings).resolve_all_asset_specs()}


def test_these_are_the_assets_with_their_groups_and_inputs(specs: dict[str, AssetSpec]) -> None:
    found = {
        name: (spec.group_name, sorted(dep.asset_key.to_user_string() for dep in spec.deps))
        for name, spec in specs.items()
    }
    assert found == ASSETS


def test_these_are_the_jobs_sensors_checks_and_resources(settings: Settings) -> None:
    definitions = build_definitions(settings)
    assert sorted(job.name for job in definitions.jobs or []) == JOBS
    assert sorted(sensor.name for sensor in definitions.sensors or []) == SENSORS
    graph = definitions.resolve_asset_graph()
    checks = {
        f"{key.asset_key.to_user_string()}:{key.name}": "stops" if graph.get(key).blocking else "warns"
        for key in graph.asset_check_keys
    }
    assert checks == CHECKS
    assert sorted(definitions.resources or {}) == RESOURCES
    repository = definitions.get_repository_def()
    assert sorted(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")) == JOBS


def test_every_asset_has_one_partition_per_model_run(settings: Settings) -> None:
    assert isinstance(model_runs, DynamicPartitionsDefinition)
    assert model_runs.name == "model_runs"
    graph = build_definitions(settings).resolve_asset_graph()
    assert {graph.get(AssetKey(name)).partitions_def for name in ASSETS} == {model_runs}


def test_every_asset_says_what_it_is_and_which_version_of_code_it_has(specs: dict[str, AssetSpec]) -> None:
    for name, spec in specs.items():
        assert spec.code_version, name
        assert spec.description, name
        assert len(spec.description) > 40, name
        assert spec.description.endswith("."), name
        assert spec.kinds, name


@pytest.mark.parametrize("table", TABLES)
def test_every_table_says_what_its_columns_hold(table: str, specs: dict[str, AssetSpec]) -> None:
    schema = specs[table].metadata["dagster/column_schema"]
    assert isinstance(schema, TableSchema)
    names = [column.name for column in schema.columns]
    assert len(set(names)) == len(names)
    assert {"feature", "timestamp"} <= set(names)
    for column in schema.columns:
        assert column.type in ("string", "int64", "double", "uint32"), column.name
        assert column.description, column.name


def test_dagster_loads_the_definitions(tmp_path: Path) -> None:
    (tmp_path / "dagster").mkdir()
    environment = os.environ | {
        "DAGSTER_HOME": str(tmp_path / "dagster"),
        "DATACUBE_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [
            Path(sys.executable).parent / "dagster",
            *["definitions", "validate", "-m", "datacube_assets.definitions"],
        ],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "All code locations passed validation" in done.stdout + done.stderr
    assert not (tmp_path / "home").exists()


# --- partition keys --------------------------------------------------------------------------------

NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(NAME, NAME)
def test_a_partition_key_leads_back_to_its_run(model_id: str, run_id: str) -> None:
    run = ModelRun(model_id, run_id)
    assert ModelRun.from_key(run.key) == run
    assert re.fullmatch(r"[A-Za-z0-9._%-]+:[A-Za-z0-9._%-]+", run.key)


@given(st.lists(st.tuples(NAME, NAME), min_size=2, max_size=2, unique=True))
def test_different_runs_have_different_keys_and_folders(runs: list[tuple[str, str]]) -> None:
    one, other = (ModelRun(*names) for names in runs)
    assert one.key != other.key
    assert one.folder != other.folder


@given(NAME)
def test_an_encoded_name_is_one_folder_that_stays_where_it_is(name: str) -> None:
    encoded = encode_name(name)
    assert encoded not in ("", ".", "..")
    assert "/" not in encoded
    assert "\\" not in encoded


@pytest.mark.parametrize(
    ("run", "key"),
    [
        (ModelRun("model", "run-1"), "model:run-1"),
        (ModelRun("76b6ec52-0000", "indicator"), "76b6ec52-0000:indicator"),
        (ModelRun("a:b", "c d"), "a%3Ab:c%20d"),
        (ModelRun("..", "~"), "%2E%2E:%7E"),
        (ModelRun("é", "v1.2_x"), "%C3%A9:v1.2_x"),
    ],
)
def test_partition_keys_read_like_this(run: ModelRun, key: str) -> None:
    assert run.key == key
    assert ModelRun.from_key(key) == run


@pytest.mark.parametrize(
    ("key", "right"),
    [
        *((key, "MODEL_ID:RUN_ID") for key in ("", ":", "a", "a:", ":b", "a:b:c")),
        *(("a b:c", "a%20b:c"), ("..:a", "%2E%2E:a"), ("%61:b", "a:b"), ("a:%c3%a9", "a:%C3%A9")),
        *(("a:é", "a:%C3%A9"), ("a/b:c", "a%2Fb:c"), ("a..b%20%25:c", "a%2E%2Eb%20%25:c")),
    ],
)
def test_what_is_no_partition_key_is_refused_with_the_one_it_should_be(key: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"is no partition key; it should read {re.escape(right)}$"):
        ModelRun.from_key(key)


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("crop model:erster lauf", ModelRun("crop model", "erster lauf")),
        ("é:indicator", ModelRun("é", "indicator")),
        ("crop%20model:%C3%A9", ModelRun("crop model", "é")),
    ],
)
def test_people_may_name_a_run_by_its_ids_as_they_are(text: str, run: ModelRun) -> None:
    assert ModelRun.named(text) == run


@pytest.mark.parametrize(
    ("text", "right"), [("a:b:c", "MODEL_ID:RUN_ID"), ("a", "MODEL_ID:RUN_ID"), ("100%:b", "100%25:b")]
)
def test_ids_that_leave_open_what_is_meant_have_to_be_encoded(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"it should read {re.escape(right)}$"):
        ModelRun.named(text)


# --- what the UI shows of a run --------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Outcome]]:
    with open_house(tmp_path_factory.mktemp("house")) as house:
        values = rows(
            timestamp=[None, 2**62, 1_580_515_200_000, 1_580_515_200_000],
            lat=[-1.25, 7.5, None, 7.5],
            people=[1.0, 1.0, 1.0, None],
            value=[1.0, 2.0, None, float("inf")],
        )
        yield house, house.publish(values, weight_column="people")


def test_every_published_asset_shows_objects_bytes_and_seconds(published: tuple[House, Outcome]) -> None:
    house, outcome = published
    publishing = [name for name, (group, _) in ASSETS.items() if group in ("datacube", "results")]
    for name in publishing:
        shown = outcome.assets[name]
        assert {
            "objects",
            "bytes",
            "seconds",
            "objects written",
            "objects deleted",
            "address",
        } <= shown.keys(), name
        assert shown["objects"] >= 1, name
        assert shown["bytes"] > 0, name
        assert shown["seconds"] > 0, name
    objects = house.datacube().objects
    assert outcome.total("objects") == len(objects)
    assert outcome.total("bytes") == sum(map(len, objects.values()))


def test_every_asset_is_materialized_and_recorded_for_its_partition(published: tuple[House, Outcome]) -> None:
    house, outcome = published
    assert next(iter(outcome.assets)) == "dojo_request"
    assert list(outcome.assets)[-1] == "pipeline_results"
    for name in ASSETS:
        event = house.instance.get_latest_materialization_event(AssetKey(name))
        assert event is not None, name
        assert event.asset_materialization is not None
        assert event.asset_materialization.partition == "model:run", name


def test_tables_show_rows_in_and_out_and_what_became_of_the_others(published: tuple[House, Outcome]) -> None:
    _, outcome = published
    points = outcome.assets["normalized_points"]
    assert {
        "rows in": 4,
        "rows out": 3,
        "rows dropped": 1,
        "drop: odd time": 1,
        "filled: no time": 1,
        "emptied: infinite": 1,
        "zeroed: no weight": 1,
        "kept: no value": 1,
        "unmapped: no place": 1,
        "rows per feature": {"rain": 4},
        "first time": "1970-01-01T00:00:00+00:00",
        "last time": "2020-02-01T00:00:00+00:00",
        "bounding box": {"west": 36.75, "south": -1.25, "east": 40.5, "north": 7.5},
        "features": ["rain"],
        "weight column": "people",
    }.items() <= points.items()
    for name in TABLES:
        shown = outcome.assets[name]
        assert {"dagster/row_count", "rows in", "bytes", "seconds", "folder in the lake"} <= shown.keys(), (
            name
        )


def test_results_are_shown_as_published(published: tuple[House, Outcome]) -> None:
    house, outcome = published
    assert outcome.assets["pipeline_results"]["results"] == house.datacube().json("results/results.json")
