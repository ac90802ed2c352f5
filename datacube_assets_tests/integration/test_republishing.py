"""What happens the second time: nothing needless, stale or half done, whatever interrupts it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from benchmarks.synthetic import write_synthetic
from datacube_assets.assets import datacube
from datacube_assets.checks.judging.verdict import ChecksFailedError
from datacube_assets.definitions import build_definitions
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels import parts, views
from datacube_assets.orchestration.jobs import ASSETS
from datacube_assets.partitions import CODE_VERSION
from datacube_assets.storage import points
from datacube_assets.storage.lake import Lake, MissingTableError, MixedVersionsError
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.publishing import IncompleteDatacubeError
from datacube_assets.storage.requests import leave_request
from datacube_assets_tests.integration.support import (
    FEBRUARY,
    JANUARY,
    Datacube,
    House,
    open_house,
    rows,
)

RUN = ModelRun("model", "run")
RESULTS = "results/results.json"
DATASET: dict[str, Any] = {"run_id": "indicator", "is_indicator": True}


def fresh(folder: Path, *parts: str | pa.Table, **fields: Any) -> Datacube:
    """What a first publication of the parts gives."""
    with open_house(folder) as house:
        house.publish(*parts, **fields)
        return house.datacube(run_id=fields.get("run_id", "run"))


# --- the second time -------------------------------------------------------------------------------


def test_publishing_the_same_again_writes_nothing(house: House) -> None:
    house.publish(rows(crop=list("abab")), qualifier_map={"rain": ["crop"]})
    before = house.datacube()
    times = before.times()
    again = house.publish(rows(crop=list("abab")), qualifier_map={"rain": ["crop"]})
    assert again.total("objects") == len(before.objects)
    assert (again.total("objects written"), again.total("objects deleted")) == (0, 0)
    after = house.datacube()
    assert after.hash == before.hash
    assert after.times() == times


def test_who_waits_for_the_outcome_makes_no_other_datacube(house: House) -> None:
    house.publish(rows(), doc_ids=["one"])
    assert house.publish(rows(), doc_ids=["two"]).total("objects written") == 0


def test_a_change_in_one_region_rewrites_what_shows_it_and_nothing_else(house: House, tmp_path: Path) -> None:
    house.publish(rows())
    before = house.datacube()
    times = before.times()
    outcome = house.publish(rows(value=[1.0, 2.0, 3.0, 5.0]))  # Ethiopia in February
    after = house.datacube()
    assert after.hash == fresh(tmp_path / "fresh", rows(value=[1.0, 2.0, 3.0, 5.0])).hash
    changed = {key for key in after.objects if after.objects[key] != before.objects[key]}
    assert {key for key, written in after.times().items() if written != times[key]} == changed
    assert (outcome.total("objects written"), outcome.total("objects deleted")) == (len(changed), 0)
    assert not [key for key in changed if "Kenya" in key or (str(JANUARY) in key and "month/" in key)]
    assert "month/rain/regional/country/timeseries/default/Ethiopia.csv" in changed
    assert f"month/rain/regional/country/aggs/{FEBRUARY}/default/default.csv" in changed
    assert RESULTS in changed


def test_regions_and_months_that_vanish_take_their_objects_with_them(house: House, tmp_path: Path) -> None:
    house.publish(rows(crop=list("abab")), qualifier_map={"rain": ["crop"]})
    before = house.datacube()
    less = rows(crop=list("abab")).slice(0, 1)
    outcome = house.publish(less, qualifier_map={"rain": ["crop"]})
    after = house.datacube()
    assert after.hash == fresh(tmp_path / "fresh", less, qualifier_map={"rain": ["crop"]}).hash
    assert outcome.total("objects deleted") == len(before.objects.keys() - after.objects.keys()) > 20
    assert not after.keys("Ethiopia")
    assert not after.keys(f"/{FEBRUARY}")
    assert not [folder for folder in after.folder.rglob("*") if folder.is_dir() and not any(folder.iterdir())]


@pytest.mark.slow
def test_a_dataset_whose_numbers_change_but_not_its_counts_is_complete_again(house: House) -> None:
    # Its results.json has counts only: the same text as before has to be written all the same.
    house.publish(rows(), **DATASET)
    before = house.datacube(run_id="indicator")
    house.publish(rows(value=[1.0, 2.0, 3.0, 5.0]), **DATASET)
    after = house.datacube(run_id="indicator")
    after.check()
    assert after.objects[RESULTS] == before.objects[RESULTS]
    assert after.hash != before.hash


@pytest.mark.slow
def test_other_thresholds_qualifiers_or_weights_give_what_a_first_publication_gives(
    house: House, tmp_path: Path
) -> None:
    table = rows(crop=list("abab"), people=[1.0, 2.0, 3.0, 4.0])
    requests: list[dict[str, Any]] = [
        {"qualifier_map": {"rain": ["crop"]}, "weight_column": "people"},
        {
            "qualifier_map": {"rain": ["crop"]},
            "qualifier_thresholds": {"max_count": 1},
            "raw_count_threshold": 3,
        },
    ]
    for number, fields in enumerate(requests):
        house.publish(table, **fields)
        assert house.datacube().hash == fresh(tmp_path / f"fresh-{number}", table, **fields).hash


# --- failing midway --------------------------------------------------------------------------------


def test_results_are_gone_while_a_change_is_published_and_a_new_try_completes_it(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.publish(rows())
    before = house.datacube()
    assert before.complete
    changed = rows(value=[1.0, 2.0, 3.0, 5.0], country=["Kenya", "Chad"] * 2)
    complete_meanwhile: list[bool] = []

    def fail(*_: object) -> None:
        # Only this object: a step beside is replacing others.
        complete_meanwhile.append((before.folder / RESULTS).exists())
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(views, "regional_maps", fail)
        with pytest.raises(OSError, match="no space left"):
            house.publish(changed)
    assert complete_meanwhile
    assert not any(complete_meanwhile)
    assert not house.datacube().complete
    house.publish(changed)
    assert house.datacube().hash == fresh(tmp_path / "fresh", changed).hash
    assert house.publish(changed).total("objects written") == 0


def test_taking_a_failed_change_back_gives_the_old_datacube_complete(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.publish(rows())
    before = house.datacube()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(views, "grid_stats", fail)
        with pytest.raises(OSError, match="no space left"):
            house.publish(rows(value=[5.0, 6.0, 7.0, 8.0]))
    house.publish(rows())
    after = house.datacube()
    assert after.complete
    assert after.hash == before.hash


# --- being killed ----------------------------------------------------------------------------------

KILLS = 3
SYNTHETIC: dict[str, Any] = {"places": 250, "months": 12, "qualifier_sizes": (3, 5)}
MAPPED = {"feature 1": ["crop", "market"], "feature 2": ["crop"]}


def start_publishing(part: Path, home: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    return subprocess.Popen(
        [
            *(
                Path(sys.executable).parent / "datacube",
                "publish",
                part,
                "--model-id",
                "model",
                "--run-id",
                "run",
            ),
            *("--home", home, "--qualifier-map", json.dumps(MAPPED)),
        ],
        env=environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_after(process: subprocess.Popen[str], assets: int, seconds: float) -> bool:
    """Kill it so long after so many assets; returns whether it was still running."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"  {assets:2} of "):
            break
    time.sleep(seconds)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.stdout.close()
    return running


@pytest.mark.slow
def test_killed_at_any_moment_a_change_is_never_taken_for_complete_and_a_new_try_completes_it(
    quick_folder: Path,
) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")  # shown when the test fails
    chance = random.Random(seed)
    (old,) = write_synthetic(quick_folder / "old.parquet.gzip", 100_000, **SYNTHETIC)
    (new,) = write_synthetic(quick_folder / "new.parquet.gzip", 100_000, seed=1, **SYNTHETIC)
    home = quick_folder / "home"
    before = fresh(home, str(old), qualifier_map=MAPPED)
    expected = fresh(quick_folder / "fresh", str(new), qualifier_map=MAPPED)
    assert len(expected.objects) > 5_000
    killed = 0
    for _ in range(KILLS):
        # The first objects are written after the third asset.
        killed += kill_after(start_publishing(new, home), chance.randint(2, 16), chance.uniform(0, 0.15))
        now = Datacube.read(home / "buckets" / "models", "model", "run")
        assert not now.complete or now.hash in (before.hash, expected.hash)
    assert killed
    process = start_publishing(new, home)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert Datacube.read(home / "buckets" / "models", "model", "run").hash == expected.hash


# --- single assets ---------------------------------------------------------------------------------


def leave(house: House, table: pa.Table) -> None:
    """Leave a request without materializing anything."""
    path = house.write(table, "left.parquet.gzip")
    request = DatacubeRequest(model_id="model", run_id="run", data_paths=(path,))
    leave_request(Lake(open_store(house.settings.lake)), request)


def test_each_asset_alone_can_be_materialized_again(house: House) -> None:
    first = house.publish(rows())
    before = house.datacube()
    times = before.times()
    for asset in first.assets:
        assert house.materialize(RUN, asset).success, asset
    assert house.datacube().hash == before.hash
    assert house.datacube().times() == times


def test_after_an_upstream_change_alone_results_are_refused_with_what_to_do(
    house: House, tmp_path: Path
) -> None:
    house.publish(rows())
    before = house.datacube()
    changed = rows(value=[5.0, 6.0, 7.0, 8.0])
    leave(house, changed)
    house.materialize(RUN, "dojo_request", "raw_dojo_output", "normalized_points")
    with pytest.raises(
        MixedVersionsError, match="normalized_points, global_aggregates were made from different inputs"
    ):
        house.materialize(RUN, "pipeline_results")
    # Nothing was published yet, so what is there is whole and stays so.
    assert house.datacube().hash == before.hash
    house.materialize(RUN, "temporal_cells", "global_aggregates", "global_timeseries")
    assert not house.datacube().complete
    with pytest.raises(
        IncompleteDatacubeError, match=r"raw_data is published from another input. Materialize raw_data"
    ):
        house.materialize(RUN, "pipeline_results")
    assert not house.datacube().complete
    rest = (
        "raw_data",
        "region_lists",
        "qualifier_lists",
        "regional_aggregates",
        "grid_cells",
        "regional_timeseries",
    )
    house.materialize(RUN, *rest, "regional_maps", "regional_extrema", "spatial_tiles", "grid_stats")
    house.materialize(RUN, "pipeline_results")
    assert house.datacube().hash == fresh(tmp_path / "fresh", changed).hash


def test_an_asset_whose_input_was_never_made_says_what_to_materialize(house: House) -> None:
    leave(house, rows())
    house.instance.add_dynamic_partitions("model_runs", [RUN.key])
    with pytest.raises(
        MissingTableError, match="model:run has no table grid_cells yet; materialize the asset grid_cells"
    ):
        house.materialize(RUN, "spatial_tiles")
    with pytest.raises(
        MissingTableError, match="has no request yet; materialize the asset dojo_request first"
    ):
        house.materialize(RUN, "raw_dojo_output")


# --- nothing twice ---------------------------------------------------------------------------------


def test_the_same_input_again_hands_on_the_tables_that_are_there(house: House) -> None:
    first = house.publish(rows())
    again = house.publish(rows())
    for asset in ("normalized_points", "temporal_cells", "regional_aggregates", "grid_cells"):
        assert (first.assets[asset]["made before"], again.assets[asset]["made before"]) == (False, True)
        assert again.assets[asset]["dagster/row_count"] == first.assets[asset]["dagster/row_count"]
    changed = house.publish(rows(value=[1.0, 2.0, 3.0, 5.0]))
    assert not changed.assets["normalized_points"]["made before"]


def test_other_objects_than_before_mean_another_version_of_the_code(house: House) -> None:
    table = rows(value=[0.1, 0.2, 1 / 3, 1e9], crop=list("abab"), people=[1.0, 2.5, 0.3, 7.0])
    house.publish(table, qualifier_map={"rain": ["crop"]}, weight_column="people")
    assert (CODE_VERSION, house.datacube().hash) == (
        "6",
        "7bdaee0285b7f924d2e278d55df66911fe0ae18513019f05d98cf97d8aaf605f",
    ), "raise CODE_VERSION, or what was published before is taken for current; then write both here"


def test_a_table_that_lost_a_file_is_made_again(house: House) -> None:
    house.publish(rows())
    table = Lake(open_store(house.settings.lake)).table(RUN, "regional_aggregates")
    lost = house.folder / "lake" / table.folder / f"{table.files[0].name}.parquet"
    lost.unlink()
    again = house.publish(rows())
    assert not again.assets["regional_aggregates"]["made before"]
    assert again.assets["temporal_cells"]["made before"]
    assert lost.is_file()


def test_from_scratch_makes_and_writes_everything_whatever_is_there(house: House) -> None:
    first = house.publish(rows())
    before = house.datacube()
    damaged = before.folder / "month/rain/timeseries/global/global.csv"
    damaged.write_bytes(b"not what was published")
    with pytest.raises(ChecksFailedError, match="raw_data, objects_as_recorded"):
        house.publish(rows())
    assert damaged.read_bytes() == b"not what was published", "the manifest is believed"
    again = house.publish(rows(), from_scratch=True)
    # results.json says the same as before, and stands.
    assert again.total("objects written") >= first.total("objects written") - 1
    assert not any(metadata.get("made before") for metadata in again.assets.values())
    assert house.datacube().hash == before.hash


def test_dagster_knows_what_is_out_of_date(house: House) -> None:
    def out_of_date() -> set[str]:
        graph = build_definitions(house.settings).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(house.instance, graph, LoadingContextForTest(house.instance))
        return {
            key.path[-1]
            for key in graph.materializable_asset_keys
            if resolver.get_status(key, RUN.key).value != "FRESH"
        }

    house.publish(rows())
    house.materialize(RUN, "dojo_request", "raw_dojo_output")
    assert out_of_date() == set(), "fetched again, but nothing is new"
    changed = house.write(rows(value=[1.0, 2.0, 3.0, 5.0]))
    request = DatacubeRequest.model_validate({"model_id": "model", "run_id": "run", "data_paths": [changed]})
    leave_request(Lake(open_store(house.settings.lake)), request)
    house.materialize(RUN, "dojo_request", "raw_dojo_output")
    assert out_of_date() == {"normalized_points", "raw_data"}
    below = {definition.key.path[-1] for definition in ASSETS} - {"dojo_request", "raw_dojo_output"}
    house.materialize(RUN, *sorted(below))
    assert out_of_date() == set()


# --- pieces, shards and where they are computed ------------------------------------------------------------


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> str:
    (part,) = write_synthetic(
        tmp_path_factory.mktemp("synthetic") / "part.parquet.gzip",
        20_000,
        places=60,
        months=6,
        qualifier_sizes=(3, 5),
        row_group_rows=7_000,
    )
    weights = pq.read_table(part)
    numbers = weights["__index_level_0__"].to_numpy()
    weighted = weights.append_column("people", pa.array(numbers % 7 + 0.5))
    pq.write_table(weighted, part, row_group_size=7_000)
    return str(part)


SHARDED: dict[str, Any] = {
    "qualifier_map": MAPPED,
    "weight_column": "people",
}


@pytest.fixture
def one_shard(house: House, synthetic: str) -> Datacube:
    house.publish(synthetic, model_id="one", **SHARDED)
    datacube = house.datacube("one")
    # The next run has the bucket for itself.
    (house.bucket() / "one").rename(house.folder / "one")
    return datacube


@pytest.mark.slow
def test_pieces_of_parts_change_no_object(
    house: House, one_shard: Datacube, synthetic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((parts, "BATCH_ROWS"), (points, "BATCH_ROWS"), (datacube, "BATCH_ROWS")):
        monkeypatch.setattr(module, name, 3_000)
    monkeypatch.setattr(points, "PIECE_ROWS", 6_000)
    house.with_settings(shard_rows=4_000, dask_workers=2).publish(synthetic, **SHARDED)
    points_table = Lake(open_store(house.settings.lake)).table(RUN, "normalized_points")
    assert len(points_table.names("points-")) == 5 * 3, "5 shards, each with a file of every piece"
    assert house.datacube().hash == one_shard.hash


@pytest.mark.slow
def test_shards_change_no_object_and_neither_do_worker_processes(
    house: House, one_shard: Datacube, synthetic: str
) -> None:
    outcome = house.with_settings(shard_rows=5_000, dask_workers=2).publish(synthetic, **SHARDED)
    assert outcome.assets["normalized_points"]["shards"] == 4
    in_threads = house.datacube()
    in_threads.check()
    assert in_threads.hash == one_shard.hash
    (house.bucket() / "model").rename(house.folder / "threads")
    in_processes = house.with_settings(shard_rows=5_000, dask_mode="local", dask_workers=2)
    in_processes.publish(synthetic, **(SHARDED | {"model_id": "processes"}))
    assert house.datacube("processes").hash == in_threads.hash
