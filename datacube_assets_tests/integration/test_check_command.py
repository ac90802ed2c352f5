"""What is told before publishing is what publishing does: `datacube check`, its report and its status.

The laws publish what was checked, for real, and compare rows, reasons, objects by family, bytes, warnings.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datacube_assets.assets.estimates import estimates
from datacube_assets.cli import main
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.provenance import BAD_TIMESTAMP, DROPPED, NO_FEATURE, NO_NUMBER
from datacube_assets.operations.check import Findings, check
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets_tests.fuzz import NAMES, tables
from datacube_assets_tests.hostile import FILES, Refused
from datacube_assets_tests.integration.support import DAY, JANUARY, House, checksums, open_house, rows
from datacube_assets_tests.integration.test_explain import LATE, random_parts

SLIPPED = 0.1
"""Share by which bytes may be other than estimated."""
SMALL = 3_000_000
"""Bytes of hostile files that are worth their time."""
SLOPPY_BYTES = 500
"""Bytes of a datacube so small that a share of it says nothing."""


def checked(house: House, *parts: str | pa.Table, **fields: object) -> Findings:
    paths = [
        part if isinstance(part, str) else house.write(part, f"part.{number}.parquet.gzip")
        for number, part in enumerate(parts, 1)
    ]
    given_ = {"model_id": "model", "run_id": "run", "data_paths": paths, **fields}
    return check(house.settings, DatacubeRequest.model_validate(given_))


def as_published(house: House, found: Findings, *parts: pa.Table, **fields: Any) -> dict[str, dict[str, Any]]:
    """Publish what was checked, and compare everything that both tell; returns what each family says."""
    if found.errors:
        with pytest.raises(InputError) as refused:
            house.publish(*parts, **fields)
        assert found.errors == [str(refused.value)]
        return {}
    outcome = house.publish(*parts, **fields)
    points = outcome.assets["normalized_points"]
    assert (found.rows, found.rows_kept) == (points["rows in"], points["rows out"])
    assert sum(found.dropped.values()) == points["rows dropped"]
    published = {name: data["objects"] for name, data in outcome.assets.items() if "objects" in data}
    assert {name: one.objects for name, one in found.objects.items()} == published
    size = outcome.total("bytes")
    assert abs(found.total.bytes - size) <= max(SLIPPED * size, SLOPPY_BYTES)
    warned = {warning.split(", ", 1)[1].split(":", 1)[0] for warning in outcome.warnings}
    assert warned <= {warning.name for warning in found.warnings}
    return {name: outcome.assets[name] for name in published}


@given(
    table=tables(),
    mapped=st.lists(st.sampled_from([*NAMES, "value"]), unique=True),
    indicator=st.booleans(),
)
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_what_is_checked_is_what_is_published(table: pa.Table, mapped: list[str], indicator: bool) -> None:
    law(table, mapped, indicator=indicator)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@given(table=tables(), mapped=st.lists(st.sampled_from([*NAMES, "value"]), unique=True))
@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_what_is_checked_is_what_is_published_whatever_comes(table: pa.Table, mapped: list[str]) -> None:
    law(table, mapped, indicator=False)


def law(table: pa.Table, mapped: list[str], *, indicator: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, open_house(Path(folder)) as house:
        fields: dict[str, Any] = {"qualifier_map": dict.fromkeys(("a", "B", "1"), mapped)}
        if indicator:
            fields |= {"is_indicator": True, "run_id": "indicator"}
        as_published(house, checked(house, table, **fields), table, **fields)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_random_parts_with_hostile_names_become_what_was_said(house: House, seed: int) -> None:
    parts = random_parts(seed)
    fields: dict[str, Any] = {
        "qualifier_map": {"yield": ["crop"]},
        "weight_column": "area" if seed == 2 else "",
    }
    found = checked(house, *parts, **fields)
    as_published(house, found, *parts, **fields)
    assert all(len(some) <= 10 for some in found.examples.values())


NAMED = [
    {"country": ["a/b", "a", "x", "x"], "admin1": ["c", "b/c", "y", "y"]},
    {"country": ["K" * 252, "Kenya", "K" * 300, "Kenya"], "admin1": ["N" * 200, "Nairobi"] * 2},
]
NAMED_FURTHER = [
    {"value": [1.7e308] * 4, "lat": [1.0, 1.0, 1.2, 1.3], "lng": [1.0, 1.1, 1.2, 1.3]},
    {"country": ["A__B__C__D__E", "Kenya"] * 2},
    {"lat": [89.0] * 4},
    {"feature": ["é" * 200] * 2 + ["rain"] * 2, "country": ["Kenya" * 10] * 4},
    {"feature": ["a/tiles", "a", "", "."]},
    {"crop": ["a/b", "a", "x", "x"], "country": ["c", "b/c", "y", "y"]},
    {"crop": ["m" * 300, "m", "x", "x"]},
    {"value": [1.7e308, 1.7e308, -1.7e308, 3.0], "lat": [0.1, 0.2, 40.0, -40.0]},
    {"value": [None] * 4},
    {"lat": None},
]


@pytest.mark.parametrize(
    "columns", [*NAMED, *(pytest.param(one, marks=pytest.mark.slow) for one in NAMED_FURTHER)]
)
def test_objects_are_counted_exactly_whatever_they_are_called(house: House, columns: dict[str, Any]) -> None:
    table = rows(**columns)
    fields = {"qualifier_map": {"rain": ["crop"]}} if "crop" in columns else {}
    as_published(house, checked(house, table, **fields), table, **fields)


def test_many_rows_are_estimated_from_samples_within_a_tenth(house: House) -> None:
    chance = np.random.default_rng(5)
    size = 30_000
    table = pa.table(
        {
            "timestamp": JANUARY + chance.integers(0, 700, size) * DAY,
            "country": np.array(["Kenya", "Ethiopia", "Uganda"])[chance.integers(0, 3, size)],
            "admin1": [f"region {number}" for number in chance.integers(0, 300, size)],
            "lat": chance.integers(-50, 50, size) / 10,
            "lng": chance.integers(300, 420, size) / 10,
            "feature": np.array(["rain", "a long name of a feature"])[chance.integers(0, 2, size)],
            "value": chance.normal(size=size),
            "crop": np.array(["maize", "beans", "sorghum"])[chance.integers(0, 3, size)],
        }
    )
    fields: dict[str, Any] = {"qualifier_map": {"rain": ["crop"]}}
    as_published(house, checked(house, table, **fields), table, **fields)


ROUNDED: dict[str, list[float]] = {
    "a digit behind the point": [number / 10 for number in range(3, 300)],
    "sums that overflow in some orders": [1.5e308, 1.5e308, -1.5e308],
    "sums that cancel": [1e16, 1.0, -1e16, 0.5],
}
"""Values of which sums have other digits, or none, when they are added up one after another."""


@pytest.mark.parametrize(
    "case",
    [name if name.startswith("a digit") else pytest.param(name, marks=pytest.mark.slow) for name in ROUNDED],
)
def test_sums_of_a_check_have_the_digits_that_will_be_published(house: House, case: str) -> None:
    size = 3000
    table = pa.table(
        {
            "timestamp": JANUARY + np.arange(size) % 40 * 10 * DAY,
            "country": np.array(["Kenya", "Ethiopia"])[np.arange(size) % 2],
            "feature": ["rain"] * size,
            "value": np.resize(ROUNDED[case], size),
            "crop": np.array(["maize", "beans", "sorghum"])[np.arange(size) // 40 % 3],
        }
    )
    fields: dict[str, Any] = {"qualifier_map": {"rain": ["crop"]}}
    found = checked(house, table, **fields)
    as_published(house, found, table, **fields)
    lake = Lake(open_store(house.settings.lake))
    published = {name: one for name, one in estimates(lake, found.run).items() if name in found.objects}
    # From the same tables the same is told, to the byte.
    assert {name: found.objects[name] for name in published} == published


def test_bytes_of_each_family_are_within_a_tenth_whatever_the_first_rows_are_like(house: House) -> None:
    def part(size: int, **columns: Any) -> pa.Table:
        base = {"timestamp": [JANUARY] * size, "country": ["Kenya"] * size, "value": [1.5] * size}
        return pa.table({**base, "feature": ["rain"] * size, **columns})

    # First no rows, and those of a feature with too many for raw.csv; then more and more letters.
    many = part(11_000)
    names = [f"{'x' * (number // 25)} {number}" for number in range(2000)]
    varied = part(2000, feature=[f"f {number // 100}" for number in range(2000)], country=names)
    lists = {f"q {number:02}": ["v"] * 1000 for number in range(60)}
    wide = part(1000, feature=["wide"] * 1000, **lists, long=[f"{number:040}" for number in range(1000)])
    parts = [many.slice(0, 0), many, many.slice(0, 0), varied, wide, many]
    found = checked(house, *parts)
    published = as_published(house, found, *parts)
    sizes = {name: data["bytes"] for name, data in published.items()}
    apart = {name: abs(found.objects[name].bytes - size) / size for name, size in sizes.items() if size}
    assert max(apart.values()) <= SLIPPED, apart


def test_of_selected_tasks_only_their_objects_are_told(house: House) -> None:
    found = checked(house, rows(), selected_output_tasks=["compute_tiles"])
    assert {"spatial_tiles", "grid_stats", "raw_data"} <= set(found.objects)
    assert not {"global_timeseries", "regional_maps", "pipeline_results"} & set(found.objects)


# --- what is told ----------------------------------------------------------------------------------


def test_every_dropped_row_has_one_reason_and_is_shown_by_its_number(house: House) -> None:
    first = rows(feature=["rain", None, "rain", None], timestamp=[JANUARY, LATE, LATE, JANUARY])
    second = rows(value=["1", "2", "3", "4"] * 9 + ["n/a", "2", "3", "none"], **_repeated(10))
    found = checked(house, _texts(first), second)
    assert found.errors == []
    assert (found.rows, found.rows_kept) == (44, 39)
    assert found.dropped == {NO_FEATURE: 2, BAD_TIMESTAMP: 1, NO_NUMBER: 2}
    assert [(one.part[-14:], one.row) for one in found.examples[NO_FEATURE]] == [
        ("1.parquet.gzip", 1),
        ("1.parquet.gzip", 3),
    ]
    assert found.examples[BAD_TIMESTAMP][0].row == 2
    assert [one.row for one in found.examples[NO_NUMBER]] == [36, 39]
    assert found.examples[NO_NUMBER][0].value == "n/a"


def test_a_time_that_python_has_no_name_for_is_shown_as_it_is_stored(house: House) -> None:
    days = pa.array([18262, 2**30, 18293, 18294], pa.int32()).cast(pa.date32())
    found = checked(house, rows(timestamp=days))
    assert found.errors == []
    (example,) = found.examples[BAD_TIMESTAMP]
    assert (example.row, example.timestamp) == (1, f"{2**30} days since 1970")


def test_what_the_report_counts_is_what_a_look_at_every_row_counts(house: House) -> None:
    columns: dict[str, Any] = {
        "timestamp": [None, JANUARY, JANUARY, None] * 5,
        "value": [1.0, None, float("inf"), 4.0] * 5,
        "lat": [None, 89.0, 1.0, 2.0] * 5,
        "lng": [1.0, 2.0, 200.0, -190.0] * 5,
        "people": [1.0, None, 2.0, float("inf")] * 5,
    }
    names = ("country", "admin1", "feature")
    table = pa.table({**{name: rows()[name].to_pylist() * 5 for name in names}, **columns})
    dropped = table.slice(0, 1).set_column(2, "feature", pa.array([None], pa.string()))
    fields: dict[str, Any] = {"weight_column": "people"}
    reported = checked(house, table, **fields)
    counted = checked(house, pa.concat_tables([table, dropped.cast(table.schema)]), **fields)
    assert sum(reported.dropped.values()) == 0
    assert counted.dropped[NO_FEATURE] == 1
    assert reported.repaired == counted.repaired
    assert len(reported.repaired) == 6
    assert reported.examples == {
        reason: some for reason, some in counted.examples.items() if reason != NO_FEATURE
    }


def _texts(table: pa.Table) -> pa.Table:
    return table.set_column(table.column_names.index("value"), "value", table["value"].cast(pa.string()))


def _repeated(times: int) -> dict[str, Any]:
    return {name: column * times for name, column in rows().to_pydict().items() if name not in ("value",)}


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "seconds": (
        {"timestamp": [1_577_836_800 + day * 86_400 for day in range(4)]},
        "timestamps_are_milliseconds",
    ),
    "swapped": ({"lat": [36.75, 40.5] * 2, "lng": [-1.25, 7.5] * 2}, "coordinates_are_degrees"),
    "decimal commas": (
        {"lat": ["-1,25", "7,5"] * 2, "lng": ["36,75", "40,5"] * 2},
        "coordinates_are_degrees",
    ),
    "off the map": ({"lat": [-1.25, 7.5, 250.0, 7.5]}, "coordinates_are_degrees"),
    "sentinels": ({"value": [1.0, -9999.0, 3.0, -9999.0]}, "values_are_no_stand_ins"),
    "nobody can ask": ({"country": ["A__B__C__D__E", "Kenya"] * 2}, "regions_can_be_asked_for"),
    "too long": ({"country": ["K" * 300, "Kenya"] * 2}, "objects_can_be_asked_for"),
    "one key": ({"country": ["a/b", "a"] * 2, "admin1": ["c", "b/c"] * 2}, ""),
    "case": ({"admin1": ["Nairobi", "Oromia", "NAIROBI", "Oromia"]}, "names_have_one_spelling"),
    "accents": ({"country": ["Mexico", "México"] * 2}, "names_have_one_spelling"),
    "misspelled": ({"country": ["Kenya", "Etiopia", "Kenya", "Ethiopia"]}, "countries_have_one_spelling"),
    "nothing": ({"value": [None] * 4}, "values_vary"),
    "nothing of one": (
        {"feature": ["rain", "rain", "heat", "heat"], "value": [1.0, 2.0, None, None]},
        "values_vary",
    ),
    "map": ({}, "qualifiers_are_there"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_looks_odd_is_warned_of_by_a_name_that_stays(house: House, case: str) -> None:
    columns, name = ODD[case]
    if case == "off the map":
        columns = {**columns, "lng": [36.75, 40.5, 36.75, 40.5]}
    found = checked(house, rows(**columns), qualifier_map={"rain": ["crp"]} if case == "map" else {})
    assert not found.errors
    if name:
        assert name in {one.name for one in found.warnings}


def test_a_feature_with_one_value_is_warned_of_long_before_publishing_would(house: House) -> None:
    table = pa.table({**_repeated(3), "value": [1.0] * 12})
    assert "values_vary" in {one.name for one in checked(house, table).warnings}
    assert not [one for one in house.publish(table).warnings if "values_vary" in one]


def test_sound_rows_are_fine(house: House) -> None:
    found = checked(house, rows())
    assert (found.warnings, found.errors) == ([], [])


def test_countries_that_are_known_under_both_names_are_two(house: House) -> None:
    table = rows(country=["Niger", "Nigeria", "Iran", "Iraq"])
    assert "countries_have_one_spelling" not in {one.name for one in checked(house, table).warnings}


def test_what_differs_from_the_last_run_of_the_model_is_told(house: House) -> None:
    house.publish(rows(), rows(feature=["heat"] * 4), run_id="before")
    found = checked(house, rows(), rows(feature=["wind"] * 4, admin1=None, crop=["a"] * 4))
    said = {one.name: one for one in found.warnings}
    assert said["features_are_those_of_other_runs"].figures
    assert "heat" in said["like_the_last_run"].says
    assert said["like_the_last_run"].figures["features new"] == ["wind"]
    assert said["like_the_last_run"].figures["qualifiers new"] == ["crop"]
    assert "like_the_last_run" not in {one.name for one in checked(house, rows(), model_id="other").warnings}


def test_every_column_is_told_what_it_becomes_and_why(house: House) -> None:
    table = rows(
        crop=list("abab"),
        people=[1, 2, 3, 4],
        area=[1.0] * 4,
        admin3=pa.nulls(4, pa.string()),
        **{"Unnamed: 0": [1] * 4},
    )
    found = checked(house, table, qualifier_map={"rain": ["crop"]}, weight_column="area")
    becomes = {one.name: one.becomes for one in found.columns}
    assert set(becomes) == set(table.column_names)
    assert becomes["crop"] == "a qualifier"
    assert becomes["people"] == "a qualifier that nothing is broken down by"
    assert becomes["area"] == "the weight of a row"
    assert becomes["admin3"] == becomes["Unnamed: 0"] == "nothing"
    assert all(one.why for one in found.columns)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_hostile_files_are_refused_or_not_as_when_publishing(house: House) -> None:
    for name, case in FILES.items():
        files = case.files()
        if sum(map(len, files)) > SMALL:
            continue
        paths = [house.folder / f"{number}.parquet" for number in range(len(files))]
        for path, body in zip(paths, files, strict=True):
            path.write_bytes(body)
        found = checked(house, *map(str, paths), **case.request)
        assert bool(found.errors) == isinstance(case.outcome, Refused), (name, found.errors)
        json.dumps(found.to_json(), allow_nan=False)


# --- nothing is left -------------------------------------------------------------------------------


def test_nothing_is_written_but_the_report(house: House, tmp_path: Path) -> None:
    house.publish(rows())
    before = checksums(tmp_path)
    checked(house, rows(value=[5.0, 6.0, 7.0, 8.0]), house.write(rows(), "other.parquet.gzip"))
    after = checksums(tmp_path)
    changed = {path for path in {**before, **after} if before.get(path) != after.get(path)}
    assert all(path.startswith("parts/") for path in changed), changed


def test_an_address_with_a_secret_is_told_without_it_and_makes_no_key(tmp_path: Path) -> None:
    with open_house(tmp_path / "home") as house:
        found = checked(house, "https://user:topsecret@127.0.0.1:9/part.parquet?X-Amz-Signature=abcdef")
    assert found.errors
    told = json.dumps(found.to_json())
    assert "topsecret" not in told
    assert "abcdef" not in told
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("*.key"))


# --- the command -----------------------------------------------------------------------------------


def run(house: House, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["check", *arguments, "--home", str(house.folder)])


def test_the_command_ends_with_a_status_by_severity(house: House) -> None:
    fine, odd = house.write(rows(), "fine.parquet"), house.write(rows(value=[None] * 4), "odd.parquet")
    bad = house.folder / "bad.parquet"
    bad.write_bytes(b"no Parquet")
    assert run(house, fine, "--strict").exit_code == 0
    assert run(house, odd).exit_code == 0
    assert run(house, odd, "--strict").exit_code == 3
    refused = run(house, str(bad), "--strict")
    assert refused.exit_code == 1
    published = CliRunner().invoke(
        main,
        ["publish", str(bad), "--model-id", "model", "--run-id", "check", "--home", str(house.folder)],
    )
    assert refused.stderr.splitlines()[-1] == published.stderr.splitlines()[-1]


def test_the_document_has_the_keys_that_programs_rely_on(house: House) -> None:
    parts = [house.write(rows(), "a.parquet"), house.write(rows(value=[None] * 4), "b.parquet")]
    result = run(house, *parts, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (document["rows"], document["rows_kept"]) == (8, 8)
    assert document["dropped"] == dict.fromkeys(DROPPED, 0)
    assert document["features"] == ["rain"]
    assert document["levels"] == ["country", "admin1"]
    families = {name: number for name, number in document["objects"].items() if name != "all"}
    assert document["objects"]["all"] == sum(families.values()) > 0
    assert document["bytes"] == sum(document["bytes_by_family"].values()) > 0
    assert document["warnings"] == []
    assert document["errors"] == []


def test_a_refusal_is_in_the_document_too(house: House) -> None:
    bad = house.write(rows().drop_columns(["value"]), "bad.parquet")
    result = run(house, bad, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert "there is no column value" in document["errors"][0]
    assert document["rows"] is None
    assert document["errors"][0] in result.stderr


def test_too_many_objects_are_a_refusal(house: House) -> None:
    small = house.with_settings(max_objects=10)
    found = checked(small, rows())
    assert len(found.errors) == 1
    assert found.errors[0].startswith("objects_within_limit: ")
    assert found.rows == 4


def test_the_page_shows_pictures_and_runs_nothing(house: House) -> None:
    evil = '<script>alert(1)</script>"&'
    table = rows(feature=[evil, "rain"] * 2, country=["Kenya", evil] * 2)
    page = house.folder / "report.html"
    result = run(house, house.write(table, "x.parquet"), "--html", str(page))
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert text.count("data:image/png;base64,") >= 3
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)


def test_a_request_as_causemos_sends_it_can_be_checked(house: House) -> None:
    request = {"model_id": "m", "run_id": "r", "data_paths": [house.write(rows())], "doc_ids": None, "x": 1}
    file = house.folder / "request.json"
    file.write_text(json.dumps(request))
    result = run(house, "--request", str(file), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model_id"] == "m"
    assert run(house, "--request", str(file), "part").exit_code == 2
    file.write_text("[]")
    assert run(house, "--request", str(file)).exit_code == 1
