"""Every kind of odd but legal column becomes clean points; what cannot be read says why."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import io
import json
import pickle
import random
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.parquet import encryption

from datacube_assets.kernels import parts as parts_module
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.normalize import normalize
from datacube_assets.kernels.parts import Part
from datacube_assets.kernels.plan import Options, plan
from datacube_assets.kernels.profile import merge_profiles, profile
from datacube_assets_tests.unit.kernel_helpers import (
    DAY,
    FEB_2020,
    JAN_2020,
    as_part,
    as_table,
    datacube,
    ms,
    normalized,
)

DATE = dt.date(2020, 1, 1)
MIDNIGHT = dt.datetime.fromisoformat("2020-01-01")
NOON = dt.datetime.fromisoformat("2020-01-01T12:00")
LAST = 9_223_372_036_854


def texts(column: pa.Array, name: str = "q") -> list[str]:
    """What a column becomes as a qualifier."""
    return normalized({name: column}).column(name)


# --- qualifiers as text ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["a", None, ""]), ["a", "None", "None"]),
        (pa.array(["a", None], pa.large_string()), ["a", "None"]),
        (pa.array(["a", None], pa.string_view()), ["a", "None"]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", "None", "a"]),
        (pa.array(["a", "b"], pa.large_string()).dictionary_encode(), ["a", "b"]),
        (pa.array([1, None], pa.int8()), ["1", "None"]),
        (pa.array([2**64 - 1, 0], pa.uint64()), ["18446744073709551615", "0"]),
        (pa.array([2**53 + 1, -1]), ["9007199254740993", "-1"]),
        (pa.array([1, 2]).dictionary_encode(), ["1", "2"]),
        (pa.array([1.0, None]), ["1", "None"]),
        (pa.array([1.5, 2.0, np.nan]), ["1.5", "2.0", "None"]),
        (pa.array([0.5, 1e20, 1e-7]), ["0.5", "1e+20", "1e-07"]),
        (pa.array([1.5, np.inf]), ["1.5", "inf"]),
        (pa.array([-0.0, 0.0, 1.0]), ["0", "0", "1"]),
        (pa.array([0.1, 16777216.0], pa.float32()), ["0.1", "16777216.0"]),
        (pa.array(np.array([0.1, 2], np.float16)), ["0.1", "2.0"]),
        (pa.array([1.5, 2.0, 2.0]).dictionary_encode(), ["1.5", "2.0", "2.0"]),
        (pa.array([decimal.Decimal("1.50"), None]), ["1.50", "None"]),
        (pa.array([True, False, None]), ["True", "False", "None"]),
        (pa.array([True, False]).dictionary_encode(), ["True", "False"]),
        (pa.array([DATE, None]), ["2020-01-01", "None"]),
        (pa.array([DATE], pa.date64()), ["2020-01-01"]),
        (pa.array([DATE]).dictionary_encode(), ["2020-01-01"]),
        (pa.array([MIDNIGHT], pa.timestamp("ns")), ["2020-01-01"]),
        (pa.array([NOON, None], pa.timestamp("us")), ["2020-01-01 12:00:00", "None"]),
        (pa.array([NOON.replace(microsecond=500_000)], pa.timestamp("ms")), ["2020-01-01 12:00:00.500000"]),
        (pa.array([NOON], pa.timestamp("ms", "UTC")), ["2020-01-01 12:00:00"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_a_qualifier_of_any_type_prints_as_python_prints_it(column: pa.Array, expected: list[str]) -> None:
    assert texts(column) == expected
    raw = normalized({"q": column}).raw
    assert raw.num_rows == len(expected)
    assert datacube({"q": column}).rows("raw/f/raw/raw.csv")


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False)), min_size=1, max_size=10))
def test_a_float_qualifier_prints_as_pythons_repr_or_as_integers(values: list[float | None]) -> None:
    present = [value for value in values if value is not None]
    if not present:
        return
    whole = all(value.is_integer() and abs(value) < 2**53 for value in present)
    expected = ["None" if value is None else str(int(value)) if whole else repr(value) for value in values]
    assert texts(pa.array(values, pa.float64())) == expected


def test_categories_that_no_row_uses_are_nowhere() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), pa.array(["maize", "teff"]))
    assert datacube({"crop": column}).json("raw/f/info/qualifiers/crop.json") == ["maize"]


@pytest.mark.parametrize("column", [pa.array(["a", "b"]), pa.array([None, "a"])])
def test_text_survives_whatever_polars_or_pandas_call_it(column: pa.Array) -> None:
    file = io.BytesIO()
    frame = pl.DataFrame(
        {"timestamp": [1, 2], "feature": ["f", "f"], "value": [1.0, 2.0], "q": column.to_pylist()}
    )
    frame.with_columns(pl.col("q").cast(pl.Categorical)).write_parquet(file)
    (batch,) = Part(io.BytesIO(file.getvalue()), "x").batches()
    points, _ = normalize(batch, plan(profile(batch), Options()))
    assert points["q"].to_pylist() == [text or "None" for text in column.to_pylist()]


# --- which columns survive -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        pa.nulls(2),
        pa.nulls(2, pa.string()),
        pa.nulls(2, pa.float64()),
        pa.array([np.nan, np.nan]),
        pa.array([np.nan, None], pa.float32()),
        pa.array(["  ", None]),
        pa.array(["\t", " "]).dictionary_encode(),
        pa.nulls(2, pa.bool_()),
        pa.nulls(2, pa.timestamp("ms")),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("name", ["admin1", "lat", "crop"])
def test_a_column_without_any_value_is_dropped(name: str, column: pa.Array) -> None:
    layout = normalized({"country": ["Kenya", "Kenya"], name: column}).layout
    assert (layout.levels, layout.coordinates, layout.qualifiers) == (("country",), (), ())


def test_a_column_of_empty_texts_is_not_dropped() -> None:
    assert normalized({"admin1": ["", ""]}).layout.levels == ("admin1",)


def test_columns_that_have_values_in_one_part_only_survive() -> None:
    points = normalized(
        {"admin1": pa.nulls(1), "lat": [None], "lng": [None]}, {"admin1": ["A"], "lat": [1.0], "lng": [2.0]}
    )
    assert points.layout.levels == ("admin1",)
    assert points.layout.mappable
    assert points.column("admin1") == ["None", "A"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pa.array(["a"]), pa.array([1]), ["a", "1"]),
        (pa.array([1]), pa.array([2.0]), ["1", "2"]),
        (pa.array([1]), pa.array([2.5]), ["1.0", "2.5"]),
        (pa.array([True]), pa.array(["x"]), ["True", "x"]),
        (pa.array([DATE]), pa.array(["x"]), ["2020-01-01", "x"]),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"], pa.large_string()), ["a", "b"]),
        (pa.nulls(1), pa.array([3]), ["None", "3"]),
        (pa.array([1.5]), pa.nulls(1), ["1.5", "None"]),
    ],
)
def test_parts_may_differ_in_the_type_of_a_column(
    first: pa.Array, second: pa.Array, expected: list[str]
) -> None:
    assert normalized({"q": first}, {"q": second}).column("q") == expected
    assert len(datacube({"q": first}, {"q": second}).rows("raw/f/raw/raw.csv")) == 2


def test_region_columns_whose_type_differs_between_parts_read_none_in_the_raw_rows_too() -> None:
    made = datacube({"admin1": pa.array([None, "A"])}, {"admin1": pa.array([np.nan, 1.5])})
    assert [row["admin1"] for row in made.rows("raw/f/raw/raw.csv")] == ["None", "A", "None", "1.5"]


def test_an_index_without_a_name_is_no_column() -> None:
    names = ["Unnamed: 0.1", "__index_level_0__", "__index_level_12__", "__null_dask_index__"]
    part = as_part({"q": ["a"], **{name: [0] for name in names}})
    assert set(part.columns) == {"timestamp", "feature", "value", "q"}


@pytest.mark.parametrize("engine", ["pyarrow", "fastparquet"])
@pytest.mark.parametrize(
    ("name", "columns"), [(None, []), ("crop", ["crop"]), (["admin1", "crop"], ["admin1", "crop"])]
)
@pytest.mark.filterwarnings("ignore")
def test_difference_18_an_index_level_is_a_column_where_it_has_a_name(
    engine: Any, name: Any, columns: list[str], tmp_path: Path
) -> None:
    if engine == "fastparquet" and isinstance(name, list):
        pytest.skip("it writes no such index")
    frame = as_table({"value": [1.0, 2.0]}).to_pandas()
    levels = [["x"], ["a", "b"]]
    frame.index = pd.MultiIndex.from_product(levels) if isinstance(name, list) else pd.Index(["x", "y"])
    frame.index.names = name if isinstance(name, list) else [name]
    frame.to_parquet(tmp_path / "part", engine=engine)
    part = Part(str(tmp_path / "part"), "part")
    assert sorted(set(part.columns) - {"timestamp", "feature", "value"}) == columns


def test_difference_18_a_level_called_index_is_a_column_as_well_unless_its_writer_gave_it_the_name() -> None:
    frame = as_table({"value": [1.0]}).to_pandas().rename_axis("index")
    file = io.BytesIO()
    frame.iloc[[0]].set_index(pd.Index([7], name="index")).to_parquet(file)
    assert "index" in Part(file, "part").columns


@pytest.mark.parametrize("group", [1, 2, 5])
def test_difference_18_an_index_of_which_only_its_range_is_stored_is_a_column_too(group: int) -> None:
    frame = as_table({"value": [1.0, 2.0, 3.0, 4.0, 5.0]}).to_pandas().drop(columns="timestamp")
    begin = 1_577_836_800_000
    frame.index = pd.RangeIndex(begin, begin + 25, 5, name="timestamp")
    file = io.BytesIO()
    frame.to_parquet(file, row_group_size=group)
    assert "timestamp" not in pq.read_schema(file).names
    part = Part(file, "part")
    assert part.columns[-1] == "timestamp"
    times = [one for batch in part.batches() for one in batch["timestamp"].to_pylist()]
    assert times == [begin, begin + 5, begin + 10, begin + 15, begin + 20]
    (last,) = part.batches(range(len(part.row_groups) - 1, len(part.row_groups)))
    assert last["timestamp"].to_pylist() == times[-last.num_rows :]
    assert last["value"].to_pylist()[-1] == 5.0


@pytest.mark.parametrize(
    "index",
    [
        *({"name": name} for name in (None, "q", "", 7, "__index_level_0__")),
        *({"kind": "other"}, {"stop": 3}, {"start": None}, {"step": 0}, {"start": 2**63, "stop": 2**63 + 2}),
        *({"stop": 1e9}, {"start": 0, "stop": 2**80, "step": 2**79}, {"start": 0, "stop": 10**30, "step": 1}),
    ],
    ids=str,
)
def test_a_range_that_is_not_that_of_the_rows_is_no_column(index: dict[str, Any]) -> None:
    table = as_table({"q": ["a", "b"]})
    whole = {"kind": "range", "name": "n", "start": 0, "stop": 2, "step": 1, **index}
    hint = json.dumps({"index_columns": [whole]})
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"pandas": hint}), file)
    part = Part(file, "part")
    assert part.columns == table.column_names
    assert [batch.column_names for batch in part.batches()] == [table.column_names]


@pytest.mark.parametrize("key", [b"pandas", b"ARROW:schema"])
@pytest.mark.parametrize(
    "hint",
    [
        *(b"", b"no JSON", b"\xff", b"null", b"[]", b'"x"', b"{}", b'{"index_columns": null}', b"[" * 10_000),
        *(b'{"index_columns": {"a": 1}}', b'{"index_columns": [["q"], {"kind": "range"}, 3]}', b"AAAA"),
        b'{"index_columns": ["index", "q"], "creator": "pyarrow"}',
        b'{"index_columns": ["index", "q"], "creator": {"library": null}}',
    ],
)
def test_what_writers_leave_beside_the_columns_is_a_hint(key: bytes, hint: bytes) -> None:
    table = as_table({"q": ["a"], "index": [5]})
    file = io.BytesIO()
    with pq.ParquetWriter(file, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({key: hint})
    part = Part(cast(Any, io.BytesIO(file.getvalue())), "part")
    assert part.columns == table.column_names
    (batch,) = part.batches()
    assert batch["q"].to_pylist() == ["a"]


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
@pytest.mark.parametrize("at_once", [3, 10_000])
def test_texts_are_dictionaries_whatever_their_encoding(
    encoding: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "PLAIN_ROWS", at_once)
    rows = 100
    table = as_table(
        {
            "value": [float(number) for number in range(rows)],
            "crop": pa.array([None if number % 7 == 0 else f"crop {number % 5}" for number in range(rows)]),
            "kind": pa.array(["a", "b"] * (rows // 2)).dictionary_encode(),
            "seen": pa.array(range(rows), pa.timestamp("us", "Africa/Nairobi")),
        }
    )
    file = io.BytesIO()
    encodings = {"crop": encoding, "kind": encoding, "feature": encoding, "value": "PLAIN"}
    pq.write_table(table, file, use_dictionary=False, column_encoding=encodings, row_group_size=30)
    plain = io.BytesIO()
    pq.write_table(table, plain)
    part, other = (Part(cast(Any, io.BytesIO(one.getvalue())), "part") for one in (file, plain))
    for _ in range(2):
        batch = pa.concat_tables(part.batches())
        assert batch.to_pylist() == table.to_pylist()
        assert batch.schema.types == next(iter(other.batches())).schema.types
    for groups in (range(1, 3), range(4)):
        found = pa.concat_tables(part.batches(groups))["value"].to_pylist()
        assert found == table["value"].to_pylist()[groups.start * 30 : groups.stop * 30]


def test_dictionaries_that_are_given_up_half_way_lose_no_row_and_read_none_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts_module, "BATCH_ROWS", 10)
    rows = as_table({"value": [float(number) for number in range(50)], "crop": ["a", "b"] * 25})
    part = as_part(rows)
    failing = iter(part._read(range(1)))

    def read(groups: Any) -> Any:
        yield next(failing)
        yield next(failing)
        raise OSError("Not yet implemented")

    monkeypatch.setattr(part, "_read", read)
    found = [batch["value"].to_pylist() for batch in part.batches()]
    assert [value for batch in found for value in batch] == rows["value"].to_pylist()
    assert max(map(len, found)) <= 10


def test_times_of_96_bits_are_the_times_that_microseconds_are() -> None:
    years = (1, 1000, 1677, 1700, 2020, 2262, 2263, 9999)
    days = [dt.datetime.fromisoformat(f"{year:04}-01-01T00:00:00.000001") for year in years]
    table = as_table({"timestamp": pa.array(days, pa.timestamp("us")), "value": [1.0] * len(days)})
    spark = io.BytesIO()
    pq.write_table(table, spark, use_deprecated_int96_timestamps=True)
    (batch,) = Part(cast(Any, io.BytesIO(spark.getvalue())), "part").batches()
    found = [normalize(one, plan(profile(one), Options())) for one in (batch, next(as_part(table).batches()))]
    assert found[0] == found[1]
    assert found[0][1].num_invalid_ts == 5


@pytest.mark.parametrize("plaintext", [True, False])
def test_an_encrypted_file_is_refused_whether_or_not_its_footer_can_be_read(plaintext: bool) -> None:
    class Keys(encryption.KmsClient):  # type: ignore[misc]
        def __init__(self, _: Any) -> None:
            super().__init__()

        def wrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64encode(key)

    kms = encryption.KmsConnectionConfig()
    how = encryption.EncryptionConfiguration(
        "key", column_keys={"key": ["value"]}, plaintext_footer=plaintext
    )
    properties = encryption.CryptoFactory(Keys).file_encryption_properties(kms, how)
    file, table = io.BytesIO(), as_table({"value": [1.0]})
    with pq.ParquetWriter(file, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match="it is encrypted"):
        Part(cast(Any, io.BytesIO(file.getvalue())), "part")


def test_bytes_are_text_where_a_writer_marks_no_text() -> None:
    columns = {"feature": pa.array([b"rain"]), "country": pa.array(["Côte d'Ivoire".encode()])}
    file = io.BytesIO()
    pq.write_table(as_table(columns), file, store_schema=False)
    (batch,) = Part(cast(Any, io.BytesIO(file.getvalue())), "part").batches()
    points = normalize(batch, plan(profile(batch), Options()))[0]
    assert (points["feature"].to_pylist(), points["country"].to_pylist()) == (["rain"], ["Côte d'Ivoire"])


def test_bytes_beside_text_are_refused_unless_there_are_none() -> None:
    for values, problem in (([b"\x01"], "cells of type binary cannot be read"), ([None], "")):
        file = io.BytesIO()
        pq.write_table(as_table({"shape": pa.array(values, pa.binary())}), file, store_schema=False)
        part = Part(cast(Any, io.BytesIO(file.getvalue())), "part")
        if problem:
            with pytest.raises(InputError, match=problem) as caught:
                list(part.batches())
            assert (caught.value.file, caught.value.column) == ("part", "shape")
        else:
            (batch,) = part.batches()
            assert plan(profile(batch), Options()).layout.qualifiers == ()


@pytest.mark.parametrize(
    ("zone", "time", "shown"),
    [
        ("America/Sao_Paulo", "2018-11-04T03:00Z", "2018-11-04 01:00:00"),
        ("Africa/Cairo", "2023-04-27T22:00Z", "2023-04-28 01:00:00"),
        ("America/Havana", "2020-11-01T05:00Z", "2020-11-01 00:00:00-05:00"),
    ],
)
def test_clocks_that_are_set_at_midnight_stop_nothing(zone: str, time: str, shown: str) -> None:
    start = dt.datetime.fromisoformat(time)
    times = pa.array([start, start + dt.timedelta(hours=3)], pa.timestamp("us", zone))
    points = normalized({"timestamp": times, "crop": times})
    first = int(start.timestamp() * 1000)
    assert points.column("timestamp") == [first, first + 3 * 3_600_000]
    assert points.column("crop")[0] == shown


def test_a_time_that_a_clock_showed_twice_says_which() -> None:
    hours = [dt.datetime(2020, 10, 25, hour, 30, tzinfo=dt.UTC) for hour in (0, 1, 2)]
    points = normalized({"crop": pa.array([*hours, None], pa.timestamp("ms", "Europe/Berlin"))})
    assert points.column("crop") == [
        "2020-10-25 02:30:00+02:00",
        "2020-10-25 02:30:00+01:00",
        "2020-10-25 03:30:00",
        "None",
    ]


# --- extension types -------------------------------------------------------------------------------


def noted(values: pa.Array, name: str, note: str = "") -> Any:
    """A column with the note of an extension type, in a file that is opened."""
    field = pa.field("timestamp", values.type, metadata={_NAME: name, _NOTE: note})
    columns = {"timestamp": values, "feature": ["rain"] * len(values), "value": [1.0] * len(values)}
    file = io.BytesIO()
    table = pa.table(columns)
    pq.write_table(table.cast(pa.schema([field, *list(table.schema)[1:]])), file)
    return Part(cast(Any, io.BytesIO(file.getvalue())), "part")


_NAME, _NOTE = "ARROW:extension:name", "ARROW:extension:metadata"


@pytest.mark.parametrize("by_arrow", [True, False], ids=["Arrow's mark", "Parquet's mark"])
def test_uuids_are_read_as_their_texts(by_arrow: bool, tmp_path: Path) -> None:
    dice = random.Random(3)
    ids = [None if number % 7 == 2 else uuid.UUID(int=dice.getrandbits(128)) for number in range(50)]
    stored = pa.array([one and one.bytes for one in ids], pa.uuid())
    table = pa.table({"timestamp": [0] * 50, "feature": ["a"] * 50, "value": [1.0] * 50, "household": stored})
    pq.write_table(table, tmp_path / "file", store_schema=by_arrow, row_group_size=9)
    part = Part(str(tmp_path / "file"), "part")
    told = [text for batch in part.batches() for text in batch["household"].cast(pa.string()).to_pylist()]
    assert told == [one and str(one) for one in ids]
    few = [
        text
        for batch in part.batches(range(2, 3))
        for text in batch["household"].cast(pa.string()).to_pylist()
    ]
    assert few == told[18:27]


@pytest.mark.parametrize(
    ("frequency", "number", "begins"),
    [
        ("M", 602, (2020, 3, 1)),
        ("2M", 602, (2020, 3, 1)),
        ("M", -1, (1969, 12, 1)),
        ("Y-DEC", 50, (2020, 1, 1)),
        ("A-DEC", 50, (2020, 1, 1)),
        ("Y-JUN", 50, (2019, 7, 1)),
        ("Q-DEC", 201, (2020, 4, 1)),
        ("Q-JAN", 204, (2020, 2, 1)),
        ("W-SUN", 2614, (2020, 1, 27)),
        ("W-WED", 2614, (2020, 1, 30)),
        ("W-THU", 2614, (2020, 1, 31)),
        ("D", 18325, (2020, 3, 4)),
        ("h", 439800, (2020, 3, 4)),
        ("min", 26388000, (2020, 3, 4)),
        ("T", 26388000, (2020, 3, 4)),
        ("s", 1583280000, (2020, 3, 4)),
        ("ms", 1583280000000, (2020, 3, 4)),
        ("us", 1583280000000000, (2020, 3, 4)),
        ("ns", 1583280000000000000, (2020, 3, 4)),
    ],
)
def test_periods_of_pandas_are_the_times_at_which_they_begin(
    frequency: str, number: int, begins: tuple[int, int, int]
) -> None:
    part = noted(pa.array([number, None, 2**62]), "pandas.period", json.dumps({"freq": frequency}))
    (batch,) = part.batches()
    points, report = normalize(batch, plan(profile(batch), Options()))
    assert points["timestamp"].to_pylist()[:2] == [ms(*begins), 0]
    assert report.num_missing_ts == 1
    assert report.num_invalid_ts == (frequency != "ns")


def test_it_makes_no_difference_to_periods_whether_pandas_has_told_arrow_of_them(tmp_path: Path) -> None:
    program = """
import sys, pyarrow as pa
from datacube_assets.kernels.parts import Part
part = Part(sys.argv[1], "part")
told = "pandas.core.arrays.arrow.extension_types" in sys.modules
print(told, [str(table["timestamp"].to_pylist()) for table in part.batches()])
"""
    file = str(tmp_path / "file")
    periods = pd.period_range("2020-01", periods=2, freq="M")
    pd.DataFrame({"timestamp": periods, "feature": "rain", "value": 1.0}).to_parquet(file)
    command = [sys.executable, "-c", program, file]
    untold = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    (batch,) = Part(file, "part").batches()
    assert batch["timestamp"].to_pylist() == [dt.datetime(2020, 1, 1), dt.datetime(2020, 2, 1)]  # noqa: DTZ001
    assert untold == f"False {[str(batch['timestamp'].to_pylist())]}"


@pytest.mark.parametrize("note", ['{"freq": "B"}', '{"freq": "B-DEC"}'])
def test_periods_of_which_nobody_can_say_when_they_begin_are_refused(note: str) -> None:
    with pytest.raises(InputError, match=r"periods of 'B.* cannot be read") as caught:
        noted(pa.array([600]), "pandas.period", note)
    assert (caught.value.file, caught.value.column) == ("part", "timestamp")


def test_json_is_text_and_a_byte_may_be_a_truth() -> None:
    columns = {
        "crop": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['"a"', None, '{"b": 1}'])),
        "value": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None], pa.int8())),
    }
    table = as_table(columns)
    made = []
    for stored in (True, False):
        file = io.BytesIO()
        pq.write_table(table, file, store_schema=stored)
        (batch,) = Part(cast(Any, io.BytesIO(file.getvalue())), "part").batches()
        points = normalize(batch, plan(profile(batch), Options()))[0]
        made.append((points["crop"].to_pylist(), points["value"].to_pylist()))
    assert made == [(['"a"', "None", '{"b": 1}'], [1.0, 0.0, None])] * 2


@pytest.mark.parametrize("scale", [0, 2, 18])
def test_whole_decimals_print_as_whole_numbers(scale: int) -> None:
    years = pa.array([decimal.Decimal(2019), None, decimal.Decimal(0)], pa.decimal128(38, scale))
    assert normalized({"crop": years}).column("crop") == ["2019", "None", "0"]


# --- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None], pa.int8()), [1.0, None]),
        (pa.array([2**64 - 1], pa.uint64()), [float(2**64 - 1)]),
        (pa.array([True, False, None]), [1.0, 0.0, None]),
        (pa.array([1.5, np.nan, None], pa.float32()), [1.5, None, None]),
        (pa.array(np.array([1.5], np.float16)), [1.5]),
        (pa.array([decimal.Decimal("1.25"), None]), [1.25, None]),
        (pa.array(["1.5", " 2 ", "", None, "1e3", "nan"]), [1.5, 2.0, None, None, 1000.0, None]),
        (pa.array(["1", "2", "1"]).dictionary_encode(), [1.0, 2.0, 1.0]),
        (pa.array([1.5, 1.5, None]).dictionary_encode(), [1.5, 1.5, None]),
        (pa.array([1, 2]).dictionary_encode(), [1.0, 2.0]),
        (pa.array([np.inf, -np.inf, 1.0]), [None, None, 1.0]),
        (pa.array(["inf", "1"]), [None, 1.0]),
        (pa.nulls(2), [None, None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_values_of_any_type_become_numbers(column: pa.Array, expected: list[float | None]) -> None:
    assert normalized({"value": column}).column("value") == expected


def test_infinite_values_count_as_infinite_and_not_as_missing() -> None:
    report = normalized({"value": [np.inf, None, np.nan, 1.0]}).report
    assert (report.infinite_values, report.num_missing_val) == (1, 2)


def test_a_category_that_no_row_uses_cannot_spoil_values_or_timestamps() -> None:
    codes = pa.array([0, 0], pa.int8())
    values = pa.DictionaryArray.from_arrays(codes, pa.array(["1", "unknown"]))
    times = pa.DictionaryArray.from_arrays(codes, pa.array(["2020-01-01", "unknown"]))
    report = normalized({"value": values, "timestamp": times}).report
    assert (report.points, report.unreadable_values, report.unreadable_example) == (2, 0, None)


def test_missing_values_and_times_count_in_rows_that_are_dropped_for_another_reason_too() -> None:
    points = normalized({"feature": ["f", None], "value": [1.0, None], "timestamp": [JAN_2020, None]})
    assert (points.report.num_missing_val, points.report.num_missing_ts, points.report.points) == (1, 1, 1)


# --- coordinates and weights -----------------------------------------------------------------------


def test_coordinates_of_any_type_become_numbers_and_garbage_is_missing() -> None:
    points = normalized({"lat": pa.array(["1.5", "north", None]), "lng": pa.array([1, 2, 3], pa.int16())})
    assert points.column("lat") == [1.5, None, None]
    assert points.column("lng") == [1.0, 2.0, 3.0]
    assert points.report.missing_coordinates == 2
    assert points.report.bounding_box == (1.0, 1.5, 1.0, 1.5)
    assert points.raw["lat"].to_pylist() == [1.5, None, None], "the reader wants numbers"


def test_single_precision_coordinates_keep_their_value_in_tables_and_their_digits_in_raw_rows() -> None:
    made = datacube({"lat": pa.array([0.1], pa.float32()), "lng": pa.array([37.0], pa.float32())})
    assert made.points.column("lat") == [float(np.float32(0.1))]
    assert made.rows("raw/f/raw/raw.csv")[0]["lat"] == "0.1"


def test_missing_weights_are_zero_and_counted() -> None:
    points = normalized({"wt": pa.array(["2", "x", None, "1.5"])}, weight_column="wt")
    assert points.column("wt") == [2.0, 0.0, 0.0, 1.5]
    assert points.report.missing_weights == 2
    assert points.layout.qualifiers == ()


def test_a_weight_column_without_any_value_turns_weights_off() -> None:
    made = datacube({"wt": [None, None], "value": [1.0, 2.0]}, weight_column="wt")
    assert made.data_info["has_weights"] is False


@pytest.mark.parametrize("name", ["weights", "value", "country"])
def test_an_unknown_weight_column_is_refused_with_the_columns_there_are(name: str) -> None:
    with pytest.raises(InputError) as caught:
        normalized({"country": ["Kenya"], "wt": [1.0], "area": [2.0]}, weight_column=name)
    assert repr(name) in str(caught.value)
    assert "area, wt" in caught.value.remedy


# --- features --------------------------------------------------------------------------------------


def test_rows_without_a_feature_are_dropped_and_counted() -> None:
    points = normalized({"feature": ["f", None, "", "g", "f"]})
    report = points.report
    assert points.column("feature") == ["f", "g", "f"]
    assert (report.num_rows, report.missing_features, report.points, report.dropped) == (5, 2, 3, 2)
    assert report.num_rows_per_feature == {"f": 2, "g": 1}
    assert points.raw["feature"].to_pylist() == ["f", "g", "f"]


def test_features_may_be_numbers_or_categories() -> None:
    assert normalized({"feature": pa.array([1, 2])}).column("feature") == ["1", "2"]
    assert normalized({"feature": pa.array(["a", None]).dictionary_encode()}).column("feature") == ["a"]


def test_rows_per_feature_count_what_was_delivered_and_not_what_was_kept() -> None:
    report = normalized({"timestamp": [JAN_2020, 2**62], "feature": ["f", "f"]}).report
    assert (report.num_rows_per_feature, report.points, report.num_invalid_ts) == ({"f": 2}, 1, 1)


# --- timestamps ------------------------------------------------------------------------------------

EAST = dt.timezone(dt.timedelta(hours=3))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([JAN_2020]), [JAN_2020]),
        (pa.array([-1, 5], pa.int32()), [-1, 5]),
        (pa.array([JAN_2020], pa.uint64()), [JAN_2020]),
        (pa.array([JAN_2020, JAN_2020]).dictionary_encode(), [JAN_2020] * 2),
        (pa.array([float(JAN_2020), None]), [JAN_2020, 0]),
        (pa.array([JAN_2020, None]), [JAN_2020, 0]),
        (pa.array([decimal.Decimal(JAN_2020)]), [JAN_2020]),
        (pa.nulls(1), [0]),
        (pa.array([DATE]), [JAN_2020]),
        (pa.array([DATE], pa.date64()), [JAN_2020]),
        (pa.array([DATE]).dictionary_encode(), [JAN_2020]),
        (pa.array([NOON, None], pa.timestamp("ns")), [JAN_2020 + DAY // 2, 0]),
        (pa.array([NOON], pa.timestamp("s")), [JAN_2020 + DAY // 2]),
        (
            pa.array([dt.datetime(2020, 1, 1, tzinfo=EAST)], pa.timestamp("us", "Africa/Nairobi")),
            [JAN_2020 - DAY // 8],
        ),
        (pa.array(["2020-01-01", None, " "]), [JAN_2020, 0, 0]),
        (pa.array(["2020-01-01T00:00:00Z"]), [JAN_2020]),
        (pa.array(["2020-01-01 03:00:00+03:00", "2020-01-01T00:00"]), [JAN_2020, JAN_2020]),
        (pa.array(["2019-12-31T23:59:59.999-00:00"]), [JAN_2020 - 1]),
        (pa.array(["2020", "2020-02", "2020/1/1", "2020-2-1"]), [JAN_2020, FEB_2020, JAN_2020, FEB_2020]),
        (pa.array([str(JAN_2020), f"{JAN_2020}.0", "-1"]), [JAN_2020, JAN_2020, -1]),
        (pa.array(["2020-01-01"] * 2).dictionary_encode(), [JAN_2020] * 2),
        (pa.array(["1960-06-15"], pa.large_string()), [ms(1960, 6, 15)]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_timestamps_of_any_type_become_milliseconds_utc(column: pa.Array, expected: list[int]) -> None:
    points = normalized({"timestamp": column})
    assert points.column("timestamp") == expected
    assert points.report.num_missing_ts == expected.count(0)


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string(), pa.timestamp("ms")], ids=str)
def test_both_limits_of_time_hold_for_every_type(kind: pa.DataType) -> None:
    times = pa.array([-LAST - 1, -LAST, LAST, LAST + 1])
    points = normalized({"timestamp": times.cast(kind)})
    assert points.column("timestamp") == [-LAST, LAST]
    assert points.report.num_invalid_ts == 2


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**64 - 1], pa.uint64()),
        pa.array([2**63 - 1]),
        pa.array([-(2**63)]),
        pa.array([np.inf]),
        pa.array([1e300]),
        pa.array([253_402_300_799], pa.timestamp("s")),
        pa.array([-(2**50)], pa.timestamp("s")),
        pa.array(["0001-01-01T00:00:00+14:00", "9999-12-31"]),
        pa.array([dt.date(1, 1, 1)]),
    ],
    ids=lambda column: str(column.type),
)
def test_absurd_times_are_dropped_and_counted(column: pa.Array) -> None:
    report = normalized({"timestamp": column}).report
    assert (report.num_invalid_ts, report.points) == (len(column), 0)


def test_missing_timestamps_are_filled_and_counted() -> None:
    points = normalized({"timestamp": [None, JAN_2020]}, fill_timestamp=FEB_2020)
    assert points.column("timestamp") == [FEB_2020, JAN_2020]
    assert points.report.num_missing_ts == 1


@pytest.mark.parametrize(
    "column",
    [
        pa.array([JAN_2020 // 1000, 1]),
        pa.array([JAN_2020 / 1000, 1.0]),
        pa.array([str(JAN_2020 // 1000), "1"]),
    ],
)
def test_seconds_become_milliseconds_where_the_request_says_so(column: pa.Array) -> None:
    assert normalized({"timestamp": column}, timestamp_unit="s").column("timestamp") == [JAN_2020, 1000]


def test_seconds_beyond_the_limits_are_dropped() -> None:
    times = [LAST // 1000 + 1, LAST // 1000, -(LAST // 1000) - 1, 2**62]
    points = normalized({"timestamp": times}, timestamp_unit="s")
    assert points.column("timestamp") == [LAST // 1000 * 1000]
    assert points.report.num_invalid_ts == 3


def test_dates_are_dates_whatever_the_unit_of_numbers() -> None:
    assert normalized({"timestamp": pa.array([DATE])}, timestamp_unit="s").column("timestamp") == [JAN_2020]
    assert normalized({"timestamp": pa.array(["2020-01-01"])}, timestamp_unit="s").column("timestamp") == [
        JAN_2020
    ]


@pytest.mark.parametrize("text", ["soon", "2020-13-01", "2020-01-32", "01/05/2020", "0000"])
def test_a_text_that_is_no_time_is_refused_with_column_and_example(text: str) -> None:
    with pytest.raises(InputError) as caught:
        normalized({"timestamp": pa.array(["2020-01-01", text])})
    assert caught.value.column == "timestamp"
    assert text.split("-", maxsplit=1)[0] in str(caught.value.example)
    assert "ISO 8601" in caught.value.remedy


def test_booleans_are_no_timestamps() -> None:
    with pytest.raises(InputError, match="booleans are no timestamps"):
        normalized({"timestamp": pa.array([True])})


def test_dates_are_no_values() -> None:
    with pytest.raises(InputError, match="dates are no values") as caught:
        normalized({"value": pa.array([DATE])})
    assert caught.value.column == "value"


# --- files that are refused ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timestamp", "feature", "value"])
def test_a_missing_column_is_named_with_the_columns_there_are(name: str) -> None:
    with pytest.raises(InputError) as caught:
        as_part(as_table({"crop": ["maize"]}).drop_columns([name]), "https://x/a.parquet.gzip")
    assert (caught.value.file, caught.value.column) == ("https://x/a.parquet.gzip", name)
    assert "crop" in caught.value.remedy


def test_a_column_that_is_there_twice_is_refused() -> None:
    table = as_table({"q": ["a"]})
    with pytest.raises(InputError, match="'q' is there twice"):
        as_part(table.append_column("q", pa.array(["b"])))


@pytest.mark.parametrize(
    "type_",
    [pa.time64("us"), pa.duration("s"), pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.binary(4)],
)
def test_a_column_without_any_value_is_left_out_whatever_its_type(type_: pa.DataType) -> None:
    assert "odd" not in normalized({"odd": pa.nulls(2, type_), "value": [1.0, 2.0]}).table.column_names


def test_a_number_has_one_text_whatever_numbers_other_parts_have() -> None:
    one_and_two = [decimal.Decimal("1.5"), decimal.Decimal(2)]
    for parts, texts in (
        ([pa.array(one_and_two, pa.decimal128(5, 1)), pa.array(one_and_two, pa.decimal128(6, 3))], "1.5 2.0"),
        ([pa.array(one_and_two, pa.decimal128(6, 3)), pa.array([1.5, 2.0])], "1.5 2.0"),
        ([pa.array(one_and_two, pa.decimal128(6, 3)), pa.array([3, 2])], "1.5 2.0 3.0"),
        # Of one type alone they print as Python prints them.
        ([pa.array(one_and_two, pa.decimal128(6, 3))] * 2, "1.500 2.000"),
        # No float is such an id: it stays what it is.
        ([pa.array([617700169958293503, 617700169958293504]), pa.array([1.5, None])],
         "1.5 617700169958293503 617700169958293504 None"),
    ):  # fmt: skip
        points = normalized(*({"crop": part, "value": [1.0, 2.0]} for part in parts))
        assert set(points.column("crop")) == set(texts.split())
        with_level = normalized(*({"country": part, "value": [1.0, 2.0]} for part in parts))
        assert set(with_level.column("country")) == set(texts.split())


def test_regions_of_integers_are_those_of_floats_in_another_part() -> None:
    integers, floats = ({"admin1": pa.array(codes)} for codes in ([1, 2], [1.0, None]))
    assert normalized(integers, floats).column("admin1") == ["1.0", "2.0", "1.0", "None"]
    assert normalized(integers).column("admin1") == ["1", "2"]
    # Of these none is a float.
    for others in (pa.nulls(2, pa.float64()), pa.array([decimal.Decimal(1), None], pa.decimal128(38, 0))):
        assert set(normalized(integers, {"admin1": others}).column("admin1")) == {"1", "2", "None"}


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_moment_has_one_text_whatever_its_unit(unit: str) -> None:
    moments = pa.array([500, 86_400_250, 1000]).cast(pa.timestamp("ms")).cast(pa.timestamp(unit))
    found = normalized({"crop": moments, "value": [1.0, 2.0, 3.0]}).column("crop")
    # As Python prints them.
    assert found == ["1970-01-01 00:00:00.500000", "1970-01-02 00:00:00.250000", "1970-01-01 00:00:01"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.array([2**31 - 1], pa.date32()), "2147483647 days since 1970"),
        (pa.array([2**63 - 1], pa.timestamp("us")), "9223372036854775807 us since 1970"),
        (pa.array([-(2**63) + 1], pa.timestamp("ms", "UTC")), "-9223372036854775807 ms since 1970"),
    ],
    ids=str,
)
def test_a_time_that_no_calendar_has_is_told_as_it_is_stored(values: pa.Array, text: str) -> None:
    """As DuckDB writes infinity: Arrow would print a year that the number does not mean."""
    assert normalized({"crop": values}).column("crop") == [text]


def test_nanoseconds_are_not_lost() -> None:
    found = normalized({"crop": pa.array([1_000_000_001], pa.timestamp("ns"))}).column("crop")
    assert found == ["1970-01-01 00:00:01.000000001"]


ONE_OF = {
    one.type: one
    for one in (
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array([b"1"]),
        pa.array([1], pa.duration("s")),
        pa.array([1], pa.time64("us")),
        pa.array([b"1234"], pa.binary(4)),
    )
}


@pytest.mark.parametrize("type_", ONE_OF)
def test_a_nested_or_binary_column_is_refused_by_name(type_: pa.DataType) -> None:
    with pytest.raises(InputError) as caught:
        normalized({"odd": ONE_OF[type_]})
    assert caught.value.column == "odd"
    assert str(type_)[:4] in caught.value.problem


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "it is empty"),
        (b"PAR1", "cannot be read as Parquet"),
        (b"not parquet at all", "cannot be read as Parquet"),
        ("Länder;Wert\n".encode(), "it is text, such as CSV"),
        (b"\xff\xfea;b\n", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_is_no_parquet_is_refused_by_name(body: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        Part(io.BytesIO(body), "part.7")
    assert caught.value.file == "part.7"


def test_a_truncated_file_is_refused() -> None:
    file = io.BytesIO()
    pq.write_table(as_table({"q": ["a"] * 1000}), file)
    with pytest.raises(InputError, match="upload completed"):
        Part(io.BytesIO(file.getvalue()[:-100]), "part.7")


def test_a_file_that_is_damaged_in_the_middle_is_refused() -> None:
    file = io.BytesIO()
    pq.write_table(as_table({"value": [float(i) for i in range(1000)]}), file, compression="gzip")
    body = bytearray(file.getvalue())
    body[20:200] = b"\xff" * 180
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        list(Part(io.BytesIO(bytes(body)), "part.7").batches())


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Part(str(tmp_path / "none.parquet"), "none")


def test_a_part_without_rows_adds_nothing() -> None:
    points = normalized(
        {"country": pa.array([], pa.string()), "timestamp": [], "feature": [], "value": []},
        {"country": ["Kenya"]},
    )
    assert (points.report.num_rows, points.report.points) == (1, 1)
    assert points.layout.levels == ("country",)


def test_large_files_come_in_batches_that_add_up_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    frame: dict[str, Any] = {
        "country": [f"c{i % 7}" for i in range(50)],
        "q": pa.array([1.0, None] * 25),
        "value": list(range(50)),
    }
    whole = normalized(frame)
    monkeypatch.setattr(parts_module, "BATCH_ROWS", 8)
    assert len(list(as_part(frame).batches())) > 5
    cut = normalized(frame)
    assert cut.table.to_pylist() == whole.table.to_pylist()
    assert cut.report == whole.report
    assert cut.raw.to_pylist() == whole.raw.to_pylist()


def test_profiles_keep_the_order_of_columns() -> None:
    batches = [as_table({"b": ["x"]}), as_table({"a": ["x"], "b": ["x"]})]
    assert list(merge_profiles(profile(batch) for batch in batches)) == [
        "b",
        "feature",
        "timestamp",
        "value",
        "a",
    ]


def test_an_input_error_says_run_file_column_example_and_remedy_and_survives_pickling() -> None:
    error = InputError(
        "it is odd", remedy="Make it even", file="a.parquet", column="value", example="x" * 200
    )
    told = str(pickle.loads(pickle.dumps(error.in_run("model:run"))))
    assert told.startswith("run model:run, file a.parquet, column value: it is odd (for example 'xxx")
    assert told.endswith("...). Make it even")
    assert len(told) < 250


def test_eight_digits_that_read_as_a_date_are_one() -> None:
    made = normalized({"timestamp": pa.array(["20200101", "20200131"]), "value": [1.0, 2.0]})
    assert made.table["timestamp"].to_pylist() == [1577836800000, 1580428800000]
