"""Broken and odd inputs: each is refused by name, or becomes exactly the points that it should.

The corpus is in `hostile.py`. It goes the way of real parts, through `normalize_parts` on a lake folder;
names that mean harm are published as well. Odd inputs of good will are in `test_odd_inputs.py`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from datacube_assets.development.s3_server import S3Server
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.parts import Part
from datacube_assets.kernels.plan import Options, plan
from datacube_assets.kernels.profile import merge_profiles, profile
from datacube_assets.kernels.raw_rows import join_rows, raw_rows
from datacube_assets.kernels.temporal import temporal_cells
from datacube_assets.kernels.views import raw_data
from datacube_assets.storage.local import LocalStore
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.stores import Store
from datacube_assets_tests.hostile import (
    COLUMNS,
    FILES,
    RUN,
    Case,
    Made,
    Points,
    Refused,
    as_file,
    normalize_files,
    repeated,
    typed,
    wide,
)
from datacube_assets_tests.integration.support import JANUARY, House, read_csv, rows


def check(case: Case, folder: Path) -> None:
    """Run a case, hold it to its outcome, and see that nothing was written but the run's own folder."""
    try:
        made = normalize_files(folder, *case.files(), **case.request)
    except InputError as error:
        check_refusal(error, case)
    else:
        assert isinstance(case.outcome, Points), made.points
        check_points(made, case.outcome)
        check_conserved(made)
    written = {path.relative_to(folder).parts[:4] for path in folder.rglob("*") if path.is_file()}
    assert written <= {("lake", "runs", RUN.model_id, RUN.run_id)}


def check_refusal(error: InputError, case: Case) -> None:
    told = str(error.in_run(str(RUN)))
    assert isinstance(case.outcome, Refused), told
    for said in case.outcome.said:
        assert said in told
    assert len(told) < 2000
    assert told.isprintable(), "a message is one line, and hides nothing"
    assert error.remedy


def check_points(made: Made, expected: Points) -> None:
    for name, values in expected.columns.items():
        assert made.points[name].to_pylist() == list(values), name
    for name, count in expected.counts.items():
        assert getattr(made.info.report, name) == count, name
    assert not set(expected.gone) & set(made.points.column_names)


def check_conserved(made: Made) -> None:
    """Rows in are rows out and those that are counted as dropped; every row out is in one cell."""
    report, points = made.info.report, made.points
    counted = report.missing_features + report.num_invalid_ts + report.unreadable_values
    assert report.points == points.num_rows
    assert report.num_rows - counted <= points.num_rows <= report.num_rows
    assert report.dropped == 0 or counted > 0
    values = points["value"].drop_null().to_numpy()
    assert np.isfinite(values).all()
    for _, cells in temporal_cells([points], made.info.layout, made.info.periods):
        assert pc.sum(cells["rows"]).as_py() == points.num_rows
        if np.abs(values).max(initial=0.0) < 1e300:
            total = math.fsum(cells["t_sum"].to_pylist())
            assert math.isclose(total, math.fsum(values), rel_tol=1e-9, abs_tol=1e-300)


@pytest.mark.parametrize("name", FILES)
def test_a_broken_or_odd_file_is_refused_by_name_or_read_exactly(name: str, tmp_path: Path) -> None:
    check(FILES[name], tmp_path)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_any_type_in_any_role_is_refused_by_name_or_read_exactly(
    name: str, tmp_path: Path
) -> None:
    for case, steps in typed(name).items():
        try:
            check(steps, tmp_path / case)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


def test_parts_with_a_column_of_any_two_types_become_one_file_of_raw_rows() -> None:
    parts = {}
    for name, column in COLUMNS.items():
        # What cannot be read is refused where a part is opened.
        with contextlib.suppress(InputError):
            file = cast(Any, io.BytesIO(as_file(rows(crop=column.values))))
            (parts[name],) = Part(file, name).batches()
    profiles = {}
    for name, batch in parts.items():
        with contextlib.suppress(InputError):
            profiles[name] = profile(batch)
    assert len(profiles) > 30
    for one, other in itertools.combinations(profiles, 2):
        what = plan(merge_profiles([profiles[one], profiles[other]]), Options())
        tables = [raw_rows(parts[name], what) for name in (one, other)]
        try:
            (body,) = raw_data(join_rows(tables)).bodies()
        except pa.ArrowException as error:
            raise AssertionError(f"{one} and {other}: {error}") from error
        assert len(read_csv(bytes(body))) == 9, (one, other)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_columns_are_read_exactly(tmp_path: Path) -> None:
    check(Case(lambda: [wide(10_000)], Points({"q0": ["0"] * 4, "q9999": ["9999"] * 4})), tmp_path)


# --- names, as far as the bucket -------------------------------------------------------------------

CLIMBING = ["..", "../../../../climbed", "/etc/climbed", "a/../../../climbed"]
ALIKE = [
    "Kenya",
    "kenya",
    "\u00e9",
    "e\u0301",
    "\u0430bc",
    "abc",
    "abc\u200b",
    "\u202eabc",
    "\ud7ff\U0010ffff",
]
ENDLESS = ["x" * 300, "y/" * 600, "z" * 60_000]


def test_no_name_leaves_its_run_and_names_that_look_alike_stay_apart(house: House) -> None:
    """Climbing, absolute, look-alike and endless names in every role, published as one run."""
    names = [*CLIMBING, *ALIKE, *ENDLESS, "control\x00\x1b[2J\x7f\x85\u2028"]
    count = len(names)
    table = pa.table(
        {
            "timestamp": [JANUARY] * count,
            "country": names,
            "admin1": names[::-1],
            "feature": ["rain"] * count,
            "value": [float(number) for number in range(count)],
            "crop": names,
            **{column: ["a"] * count for column in ("", "..", "../../climbed", "/", "a\nb", "q" * 300)},
        }
    )
    mapped = ["crop", "", "..", "../../climbed", "/", "a\nb", "q" * 300]
    outcome = house.publish(table, qualifier_map={"rain": mapped})
    datacube = house.datacube()
    datacube.check()
    files = [
        path.relative_to(house.folder.parent).parts
        for path in house.folder.parent.rglob("*")
        if path.is_file()
    ]
    roots = (
        ("home", "lake", "runs", "model", "run"),
        ("home", "buckets", "models"),
        ("home", "parts"),
        ("home", "dagster"),
    )
    assert not [one for one in files if not any(one[: len(root)] == root for root in roots)]
    lists = datacube.json("raw/rain/info/region_lists.json")
    assert lists["country"] == sorted(names)
    month = datacube.csv(f"month/rain/regional/country/aggs/{JANUARY}/default/default.csv")
    assert {line["id"]: float(line["s_sum_t_sum"]) for line in month} == dict(
        zip(names, map(float, range(count)), strict=True)
    )
    series = "month/rain/regional/country/timeseries/default/"
    kept = {key.removeprefix(series).removesuffix(".csv") for key in datacube.keys(series)}
    assert set(ALIKE) <= kept
    assert len(kept) == count - len(ENDLESS)
    left_out = [
        value
        for asset in outcome.assets.values()
        for name, value in asset.items()
        if name == "objects left out"
    ]
    assert sum(left_out) > 0, "what has no key is counted"


def test_names_that_make_one_key_of_two_publish_neither_and_are_counted(house: House) -> None:
    """`a/b` in region `c` and `a` in region `b/c` have the same key, and a reader may mean either."""
    table = rows(country=["c", "b/c", "d", "d"], admin1=None, crop=["a/b", "a", "a", "b"])
    outcome = house.publish(table, qualifier_map={"rain": ["crop"]})
    series = "month/rain/regional/country/timeseries/qualifiers/crop/"
    assert house.datacube().keys(series) == [f"{series}a/d.csv", f"{series}b/d.csv"]
    assert outcome.total("objects") == len(house.datacube().objects)
    (left_out,) = (
        value for name, value in outcome.assets["regional_timeseries"].items() if name == "objects left out"
    )
    assert left_out == 4, "two in months, two in years"


@pytest.fixture(params=["folder", "S3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return LocalStore(tmp_path.as_uri())
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment().items():
        request.getfixturevalue("monkeypatch").setenv(name, value)
    return open_store("s3://models/hostile-names", server.endpoint)


def test_names_that_differ_by_case_or_unicode_form_only_are_objects_of_their_own(bucket: Store) -> None:
    keys = [f"names/{name}" for name in ALIKE]
    bucket.put_many(keys, [key.encode() for key in keys], "text/csv")
    assert {key for key, _ in bucket.list("names/")} == set(keys)
    assert [bucket.get(key).decode() for key in keys] == keys


def test_a_key_of_1024_bytes_is_the_longest(bucket: Store) -> None:
    used = len("hostile-names/") if bucket.url.startswith("s3://") else 0
    longest = "k/" * ((1024 - used) // 2)
    assert bucket.storable([longest[:-2] + "kk", longest + "k", "\u00e9" * 600]).tolist() == [
        True,
        False,
        False,
    ]
    bucket.put(longest[:-2] + "kk", b"here")
    assert bucket.get(longest[:-2] + "kk") == b"here"


def test_what_would_lie_below_a_file_is_left_out_of_a_folder_and_the_rest_published(house: House) -> None:
    sound = rows(country=["A", "A", "A", "A"], admin1=None)
    house.publish(sound)
    for _ in range(2):
        # Again, now that the other names are there: neither stands in the way of the other.
        outcome = house.publish(rows(country=["A", "A.csv/B", "A", "A"], admin1=None))
        figures = outcome.assets["regional_timeseries"]
        assert [value for name, value in figures.items() if name == "objects left out"] == [2]
        assert house.datacube().complete
        there = {key for key in house.datacube().objects if "/timeseries/default/" in key}
        assert there == {f"{one}/rain/regional/country/timeseries/default/A.csv" for one in ("month", "year")}
        house.publish(rows(country=["A.csv/B", "A.csv/B", "B", "B"], admin1=None))
    # A name that only ends like a file stands below none.
    feature = house.publish(rows(feature=["rain.csv"] * 4, country=["A/B"] * 4, admin1=None))
    assert feature.assets["regional_timeseries"].get("objects left out") == 0


# --- bombs -----------------------------------------------------------------------------------------

GIB = 1 << 30


def measured(bomb: Path) -> dict[str, Any]:
    """What normalizing a file says, and the peak memory of a process that may address 8 GiB."""
    answer = subprocess.run(
        [sys.executable, "-m", "datacube_assets_tests.integration.bomb", str(bomb)],
        capture_output=True,
        check=True,
        timeout=280,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 * GIB, 8 * GIB)),
    )
    told: dict[str, Any] = json.loads(answer.stdout)
    return told


def bomb_of(tmp_path: Path, texts: list[str], times: int, **options: Any) -> Path:
    """A small file of rows whose crop is one of the texts."""
    count = len(texts)
    table = pa.table(
        {"timestamp": [0] * count, "feature": ["f"] * count, "value": [1.0] * count, "crop": texts}
    )
    path = tmp_path / "bomb.parquet"
    path.write_bytes(repeated(table, times, **options))
    assert path.stat().st_size < 1_000_000
    return path


def test_twenty_gigabytes_of_text_in_a_small_file_are_refused_within_bounded_memory(tmp_path: Path) -> None:
    texts = [f"{number:07}{'x' * (1 << 20)}" for number in range(16)]
    told = measured(bomb_of(tmp_path, texts, 1280))
    assert "column crop: a text has 1,048,583 bytes" in told["refused"]
    assert told["peak"] < 1.5 * GIB


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_gigabytes_of_texts_that_may_stand_alone_are_refused_too(tmp_path: Path) -> None:
    texts = [f"{number:07}{'x' * 60_000}" for number in range(1000)]
    told = measured(bomb_of(tmp_path, texts, 350, use_dictionary=False))
    assert "column crop: its texts take more than 1,024 MiB" in told["refused"]
    assert told["peak"] < 2.5 * GIB


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_million_rows_in_ten_kilobytes_are_read_within_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    many = pa.table({"timestamp": [0] * 1_000_000, "feature": ["f"] * 1_000_000, "value": [1.0] * 1_000_000})
    path.write_bytes(repeated(many, 8))
    told = measured(path)
    assert told["points"] == 8_000_000
    assert told["peak"] < 1.5 * GIB


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_rows_of_two_hundred_columns_are_read_within_bounded_memory(tmp_path: Path) -> None:
    column = pa.array(np.zeros(1_000_000))
    names = ("timestamp", "value", *(f"q{number}" for number in range(200)))
    table = pa.table({"feature": pa.array(["f"] * 1_000_000), **dict.fromkeys(names, column)})
    path = tmp_path / "bomb.parquet"
    path.write_bytes(as_file(table))
    told = measured(path)
    assert told["points"] == 1_000_000
    assert told["peak"] < 2.5 * GIB
