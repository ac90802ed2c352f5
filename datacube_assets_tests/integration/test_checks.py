"""Checks of a real datacube: all pass on what is right, and each fails for the fault that it is there for."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from dagster import AssetCheckEvaluation, AssetCheckKey, AssetCheckSeverity, AssetKey

from datacube_assets.checks.check import judged
from datacube_assets.checks.judging.verdict import ChecksFailedError
from datacube_assets.definitions import build_definitions
from datacube_assets.development.s3_server import S3Server
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.operations.verify import verify
from datacube_assets.orchestration.jobs import check_model_run, process_model_run
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.stores import Store
from datacube_assets_tests.integration.faults import proxy
from datacube_assets_tests.integration.support import DAY, JANUARY, QUIET, House, open_house, rows

RUN = ModelRun("model", "run")
PLACES = 40


def crops(**changed: Any) -> pa.Table:
    """Two features of crops at forty places over two years; some places are not on the map."""
    count = 4 * PLACES
    number = np.arange(count)
    value = np.where(number % 11 == 0, np.nan, number * 1.5 - 20)
    base = {
        "timestamp": JANUARY + (number % 24) * 31 * DAY,
        "country": np.where(number % PLACES < PLACES // 2, "Kenya", "Ethiopia").tolist(),
        "admin1": [f"region {n % 5}" for n in number],
        "lat": np.where(number % 13 == 0, np.nan, np.where(number % 17 == 0, 89.0, number % PLACES / 10)),
        "lng": 36 + number % PLACES / 10,
        "feature": np.where(number % 2, "yield", "area").tolist(),
        "value": value,
        "crop": [None if n % 7 == 0 else f"crop {n % 3}" for n in number],
        "weight": number % 5 + 0.5,
    }
    return pa.table(base | changed)


FIELDS: dict[str, Any] = {
    "qualifier_map": {"yield": ["crop"], "area": ["crop"]},
    "weight_column": "weight",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house with a datacube that tests damage and leave as it was."""
    with open_house(tmp_path_factory.mktemp("house")) as house:
        # Latitudes of 89 degrees are far from anywhere.
        assert [told[:45] for told in house.publish(crops(), **FIELDS).warnings] == [
            "normalized_points, places_are_in_their_country"[:45]
        ]
        yield house


Checked = dict[str, AssetCheckEvaluation]


def check(house: House, *names: str, of: str = check_model_run.name) -> Checked:
    """The checks of these names, or all of the run, executed by themselves, as a job does it."""
    job = build_definitions(house.settings, loggers={"quiet": QUIET}).resolve_job_def(of)
    if names:
        split = (name.split(":") for name in names)
        job = job.get_subset(
            asset_selection=set(),
            asset_check_selection={AssetCheckKey(AssetKey(key), name) for key, name in split},
        )
    done = job.execute_in_process(
        partition_key=RUN.key,
        instance=house.instance,
        run_config={"loggers": {"quiet": {}}},
        raise_on_error=False,
    )
    return {f"{one.asset_key.path[-1]}:{one.check_name}": one for one in done.get_asset_check_evaluations()}


def failed(checked: Checked) -> set[str]:
    return {name for name, one in checked.items() if not one.passed}


ALWAYS = {"normalized_points:places_are_in_their_country"}
"""What fails on these crops without any damage."""


def test_every_check_can_be_executed_by_itself_and_passes(published: House) -> None:
    checked = check(published)
    graph = build_definitions(published.settings).resolve_asset_graph()
    assert {f"{key.asset_key.path[-1]}:{key.name}" for key in graph.asset_check_keys} == set(checked)
    assert failed(checked) == ALWAYS
    for name, one in checked.items():
        if name != "pipeline_results:reports_delivered":
            assert one.partition == RUN.key, name
            assert one.metadata["partition"].value == RUN.key, name
    # Nothing was passed over: off the map are places, and all objects were read.
    figures = checked["grid_cells:map_holds_every_point"].metadata
    assert int(str(figures["points that are not on the map"].value)) > 0
    assert int(str(figures["totals compared"].value)) > 0
    objects = checked["raw_data:objects_as_recorded"].metadata
    assert objects["checksums compared"].value == len(published.datacube().objects) - 1


def test_checks_pass_where_tables_are_in_many_shards_and_chunks(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.with_settings(shard_rows=37).publish(crops(), **FIELDS)
        assert failed(check(house.with_settings(shard_rows=37))) == ALWAYS


# --- faults ----------------------------------------------------------------------------------------

Change = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Fault:
    """Something that is damaged, and the check that has to say so."""

    check: str
    where: str
    """Path below the home folder, as a pattern; all that fit are damaged."""
    change: Change | None = None
    """Of a table; other files are written over."""
    severity: AssetCheckSeverity = AssetCheckSeverity.ERROR
    body: Callable[[bytes], bytes | None] = lambda body: body[:-1] + bytes([body[-1] ^ 1])


def first(column: str, value: Callable[[Any], Any]) -> Change:
    """Change a column in the first row."""

    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[0] = value(values[0])
        changed = pa.array(values, table.schema.field(column).type)
        return table.set_column(table.column_names.index(column), column, changed)

    return change


def without_first(table: pa.Table) -> pa.Table:
    return table.slice(1)


def twice_first(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(0, 1), table])


def reversed_columns(table: pa.Table) -> pa.Table:
    return table.select(table.column_names[::-1])


def other_type(column: str) -> Change:
    def change(table: pa.Table) -> pa.Table:
        at = table.column_names.index(column)
        return table.set_column(at, column, pc.cast(table[column], pa.int32(), safe=False))

    return change


def more(number: float) -> float:
    return number + 1


def another_extreme(body: bytes) -> bytes:
    document = json.loads(body)
    document["max"]["s_sum_t_sum"][0]["value"] += 1
    return json.dumps(document).encode()


LAKE = "lake/runs/model/run"
BUCKET = "buckets/models/model/run"
FAULTS = [
    Fault("temporal_cells:cells_hold_every_row", f"{LAKE}/temporal_cells/*/month-*.parquet", without_first),
    Fault("temporal_cells:cells_hold_every_row", f"{LAKE}/temporal_cells/*/all-*.parquet", twice_first),
    Fault("temporal_cells:columns_as_declared", f"{LAKE}/temporal_cells/*/year-*.parquet", reversed_columns),
    Fault(
        "temporal_cells:columns_as_declared",
        f"{LAKE}/normalized_points/*/points-*.parquet",
        lambda table: table.rename_columns(["Feature", *table.column_names[1:]]).append_column(
            "feature", table["feature"]
        ),
    ),
    Fault(
        "global_aggregates:times_add_up",
        f"{LAKE}/global_aggregates/*/year/default/*.parquet",
        first("s_sum_t_sum", more),
    ),
    Fault(
        "global_aggregates:times_add_up",
        f"{LAKE}/global_aggregates/*/all/default/*.parquet",
        first("cells", more),
    ),
    Fault(
        "global_aggregates:qualifiers_add_up",
        f"{LAKE}/global_aggregates/*/month/qualifiers/crop/*.parquet",
        first("weighted_t_wavg", more),
    ),
    Fault(
        "global_aggregates:columns_as_declared",
        f"{LAKE}/global_aggregates/*/all/default/*.parquet",
        lambda table: table.drop_columns(["s_max_t_wavg"]),
    ),
    Fault(
        "regional_aggregates:regions_add_up",
        f"{LAKE}/regional_aggregates/*/month/admin1/default/*.parquet",
        without_first,
    ),
    Fault(
        "regional_aggregates:regions_add_up",
        f"{LAKE}/regional_aggregates/*/year/country/default/*.parquet",
        first("s_sum_t_mean", more),
    ),
    Fault(
        "global_aggregates:columns_as_declared",
        f"{LAKE}/regional_aggregates/*/month/country/qualifiers/crop/*.parquet",
        other_type("s_count"),
    ),
    Fault("grid_cells:map_holds_every_point", f"{LAKE}/grid_cells/*/month/default/*.parquet", without_first),
    Fault(
        "global_aggregates:columns_as_declared",
        f"{LAKE}/grid_cells/*/month/default/*.parquet",
        other_type("s_count"),
    ),
    Fault("raw_data:objects_as_recorded", f"{BUCKET}/raw/yield/raw/raw.csv"),
    Fault("raw_data:objects_as_recorded", f"{BUCKET}/year/area/stats/grid/*.csv", body=lambda _: None),
    Fault(
        "regional_extrema:extrema_are_of_the_table",
        f"{BUCKET}/month/yield/regional/country/stats/default/extrema.json",
        body=another_extreme,
    ),
    Fault(
        "regional_extrema:extrema_are_of_the_table",
        f"{LAKE}/regional_aggregates/*/month/country/default/*.parquet",
        lambda table: table.set_column(
            table.column_names.index("s_sum_t_sum"), "s_sum_t_sum", pc.multiply(table["s_sum_t_sum"], 2.0)
        ),
    ),
    Fault(
        "spatial_tiles:tiles_hold_every_point", f"{BUCKET}/month/*/tiles/*-0-0-0.tile", body=lambda _: None
    ),
    Fault("spatial_tiles:tiles_hold_every_point", f"{BUCKET}/*/*/tiles/*.tile", body=lambda body: body[:-1]),
    Fault(
        "spatial_tiles:tiles_hold_every_point",
        f"{LAKE}/grid_cells/*/year/default/*.parquet",
        lambda table: table.slice(0, table.num_rows // 2),
    ),
    Fault("pipeline_results:objects_as_recorded", f"{BUCKET}/results/results.json"),
]


@contextmanager
def damaged(house: House, fault: Fault) -> Iterator[None]:
    """What the fault says is damaged, until it is repaired again."""
    paths = sorted(house.folder.glob(fault.where))
    assert paths, "nothing to damage"
    before = {path: path.read_bytes() for path in paths}
    try:
        for path, body in before.items():
            if fault.change:
                pq.write_table(fault.change(pq.read_table(path, partitioning=None)), path)
                continue
            changed = fault.body(body)
            if changed is None:
                path.unlink()
            else:
                path.write_bytes(changed)
        yield
    finally:
        for path, body in before.items():
            path.write_bytes(body)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.check}-{Path(fault.where).parent.name}")
def test_each_fault_is_found_by_the_check_that_is_there_for_it(fault: Fault, published: House) -> None:
    with damaged(published, fault):
        checked = check(published, fault.check)
    assert set(checked) == failed(checked) == {fault.check}
    assert checked[fault.check].severity == fault.severity
    assert checked[fault.check].description


@pytest.mark.parametrize(
    "fault",
    [
        Fault("raw_data:objects_as_recorded", f"{BUCKET}/month/*/tiles/*", body=lambda _: None),
        Fault("raw_data:objects_as_recorded", f"{BUCKET}/*/yield/regional/*/timeseries/**/*.csv"),
        Fault("spatial_tiles:tiles_hold_every_point", f"{BUCKET}/*/*/tiles/*", body=lambda body: body[:-1]),
        Fault("regional_extrema:extrema_are_of_the_table", f"{BUCKET}/**/extrema.json", body=another_extreme),
        Fault(
            "global_aggregates:columns_as_declared",
            f"{LAKE}/regional_aggregates/*/*/country/default/*.parquet",
            other_type("s_count"),
        ),
    ],
    ids=["lost", "altered", "tiles", "extrema", "columns"],
)
def test_samples_that_a_run_looks_at_are_enough_to_find_what_many_have(
    fault: Fault, published: House
) -> None:
    with damaged(published, fault):
        assert failed(check(published, fault.check, of=process_model_run.name)) == {fault.check}


def test_a_stray_object_is_warned_of(published: House) -> None:
    stray = published.folder / BUCKET / "month" / "yield" / "tiles" / "0-0-0-0.tile"
    stray.write_bytes(b"")
    checked = check(published, "raw_data:objects_as_recorded")
    stray.unlink()
    found = checked["raw_data:objects_as_recorded"]
    assert found.severity == AssetCheckSeverity.WARN
    assert "1 are recorded nowhere" in str(found.description)
    assert "model/run/month/yield/tiles/0-0-0-0.tile" in str(found.metadata["examples"].value)


def test_a_partition_that_is_not_there_fails_its_checks_by_name(house: House) -> None:
    house.instance.add_dynamic_partitions("model_runs", [RUN.key])
    checked = check(house)
    told = str(checked["temporal_cells:cells_hold_every_row"].description)
    assert told == "model:run has no table temporal_cells yet; materialize the asset temporal_cells first"
    assert "raw_data:objects_as_recorded" in failed(checked)


def test_some_assets_are_checked_alone_and_compared_with_what_there_is(house: House) -> None:
    house.publish(rows(), selected_output_tasks=[])
    shutil.rmtree(house.folder / LAKE / "global_aggregates")
    done = house.materialize(RUN, "grid_cells", "spatial_tiles")
    told = {f"{one.asset_key.path[-1]}:{one.check_name}": one for one in done.get_asset_check_evaluations()}
    assert set(told) == {
        "grid_cells:map_holds_every_point",
        "grid_cells:objects_within_limit",
        "spatial_tiles:tiles_hold_every_point",
    }
    assert not failed(told)
    assert "Not compared: global_aggregates has no table yet" in str(
        told["grid_cells:map_holds_every_point"].description
    )


# --- publication -----------------------------------------------------------------------------------


def test_a_check_that_stops_publication_is_told_and_nothing_is_called_complete(house: House) -> None:
    house.publish(rows())
    before = house.instance.get_latest_materialization_event(AssetKey("pipeline_results"))
    table = next((house.folder / LAKE / "grid_cells").glob("*/month/default/*.parquet"))
    read = pq.read_table(table, partitioning=None)
    doubled = pc.multiply(read["s_count"], 2)
    size = table.stat().st_size
    pq.write_table(read.set_column(3, "s_count", doubled), table, compression="lz4", write_statistics=False)
    if table.stat().st_size != size:
        # The descriptor has to agree, or the table is made again.
        descriptor = house.folder / LAKE / "grid_cells" / "table.json"
        text = descriptor.read_text().replace(f'"bytes": {size},', f'"bytes": {table.stat().st_size},')
        descriptor.write_text(text)
    with pytest.raises(ChecksFailedError) as error:
        house.publish(rows())
    assert "model:run is not published" in str(error.value)
    assert "grid_cells, map_holds_every_point: Sums over the map" in str(error.value)
    after = house.instance.get_latest_materialization_event(AssetKey("pipeline_results"))
    assert before is not None
    assert after is not None
    assert after.run_id == before.run_id


def test_odd_data_is_published_and_warned_of(house: House) -> None:
    house.publish(crops().drop_columns(["weight"]), run_id="first")
    house.publish(crops().drop_columns(["weight"]), run_id="second")
    count = 4000
    odd = pa.table(
        {
            "timestamp": [2**62 if n % 10 == 0 else JANUARY // 1000 for n in range(count)],
            "country": ["Kenya"] * count,
            "lat": [0.0 if n % 100 == 3 else 60.0 for n in range(count)],
            "lng": [36.0] * count,
            "feature": ["area"] * count,
            "value": [None if n % 2 else 1.0 for n in range(count)],
        }
    )
    told = house.publish(odd, run_id="third").warnings
    assert {text.partition(":")[0] for text in told} == {
        "normalized_points, timestamps_are_milliseconds",
        "normalized_points, rows_are_usable",
        "normalized_points, values_vary",
        "normalized_points, places_are_in_their_country",
        "normalized_points, features_are_those_of_other_runs",
    }
    assert (house.bucket() / "model" / "third" / "results" / "results.json").is_file()


def test_limits_of_a_model_are_heeded(house: House, tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text("[models.model]\nmax_far_share = 1.0\n")
    assert house.with_settings(check_limits=str(limits)).publish(crops(), **FIELDS).warnings == []


def test_whoever_had_to_wait_for_too_long_is_told_of(house: House, tmp_path: Path) -> None:
    limits = tmp_path / "limits.toml"
    limits.write_text("[models.model]\nmax_wait_seconds = 0.01\n")
    (told,) = house.with_settings(check_limits=str(limits)).publish(rows()).warnings
    assert told.startswith("pipeline_results, published_in_time: Published ")
    assert "0 s are allowed" in told


def test_on_s3_all_checksums_are_compared_without_reading_an_object(
    s3_server: S3Server, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = "s3://models/checked"
    on_s3 = house.with_settings(models_bucket=bucket, s3_endpoint=s3_server.endpoint)
    on_s3.publish(rows())
    client = s3_server.client()

    def told() -> AssetCheckEvaluation:
        name = "raw_data:objects_as_recorded"
        return check(on_s3, name)[name]

    right = told()
    recorded = right.metadata["objects recorded"].value
    assert right.passed
    assert isinstance(recorded, dict)
    assert right.metadata["checksums compared"].value == sum(recorded.values())
    key = "checked/model/run/month/rain/timeseries/global/global.csv"
    body = client.get_object(Bucket="models", Key=key)["Body"].read()
    client.put_object(Bucket="models", Key=key, Body=body[:-1] + b"9")
    assert "1 are not as they were written" in str(told().description)


def test_tags_since_a_bucket_encrypts_with_keys_of_its_own_are_no_fault_and_hide_none(
    s3_server: S3Server, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encrypting(path: str, body: bytes) -> bytes:
        """Listings in which what was written since has a tag that looks like an MD5 and is none."""
        if "list-type" not in path:
            return body
        tag = rb"(<Key>[^<]*regional[^<]*</Key>.*?<ETag>[^<]*?)[0-9a-f]{8}"
        return re.sub(tag, rb"\g<1>00000000", body)

    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    client = s3_server.client()
    with proxy(s3_server.endpoint) as between:
        between.says = encrypting
        on_s3 = house.with_settings(models_bucket="s3://models/encrypted", s3_endpoint=between.url)
        on_s3.publish(crops(), **FIELDS)
        assert failed(check(on_s3)) == ALWAYS
        assert verify(on_s3.settings, RUN, lambda *_: None).faults == {}
        key = "encrypted/model/run/month/yield/regional/country/stats/default/extrema.json"
        body = client.get_object(Bucket="models", Key=key)["Body"].read()
        client.put_object(Bucket="models", Key=key, Body=body[:-1] + b" ")
        told = check(on_s3, "raw_data:objects_as_recorded")["raw_data:objects_as_recorded"]
        assert "1 are not as they were written" in str(told.description)
        assert verify(on_s3.settings, RUN, lambda *_: None).faults == {"altered": 1}


def test_an_answer_that_was_cut_short_on_its_way_is_no_fault_of_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = open_store(tmp_path.as_uri())
    for key in ("fine", "damaged"):
        bucket.put(key, b"all of it")
    read = type(bucket).get
    answers = Counter[str]()

    def get(store: Store, key: str) -> bytes:
        answers[key] += 1
        body = read(store, key)
        return body[:3] if key == "damaged" or answers[key] < 3 else body

    monkeypatch.setattr(type(bucket), "get", get)
    wanted = dict.fromkeys(("fine", "damaged", "gone"), b"all of it")
    said = judged(bucket, wanted, lambda right, body: "" if body == right else f"it is {body!r}")
    assert said == {"fine": "", "damaged": "it is b'all'", "gone": "it is None"}
