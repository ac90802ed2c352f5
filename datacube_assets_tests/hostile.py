"""Broken and odd Parquet inputs, made by code: whole files, and columns of every type in every role.

What each becomes stands beside it. Running them belongs to `integration/test_hostile_inputs.py`, random
ones to `fuzz.py`.
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.storage.lake import Lake, LakeTable, TableFile
from datacube_assets.storage.local import LocalStore
from datacube_assets.storage.points import POINTS, normalize_parts
from datacube_assets.storage.run_info import RunInfo
from datacube_assets_tests.integration.support import FEBRUARY, JANUARY, rows

RUN = ModelRun("model", "run")


# --- running ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """What became of some files."""

    points: pa.Table
    info: RunInfo


def normalize_files(folder: Path, *files: bytes, **request: Any) -> Made:
    """Normalize files as the asset does, on a lake in a folder. Raises InputError."""
    lake = Lake(LocalStore((folder / "lake").as_uri()))
    raw = f"{RUN.folder}/raw_dojo_output/v"
    for number, body in enumerate(files):
        lake.store.put(f"{raw}/part-{number}.parquet", body)
    parts = LakeTable(
        raw,
        "v",
        tuple(TableFile(f"part-{number}", 0, len(body)) for number, body in enumerate(files)),
        {
            "request": {"model_id": RUN.model_id, "run_id": RUN.run_id, "data_paths": ["x"], **request},
            "parts": [{"address": f"file-{number}"} for number in range(len(files))],
        },
    )
    table = normalize_parts(lake, RUN, parts, 1_000_000, lambda work, pieces, name: list(map(work, pieces)))
    return Made(lake.read_all(table, POINTS), RunInfo.of(table))


def as_file(table: pa.Table, **options: Any) -> bytes:
    """A table as a Parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, **{"compression": "gzip", **options})
    return file.getvalue()


# --- outcomes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """An InputError whose text holds all of these."""

    said: tuple[str, ...]


def refused(*said: str) -> Refused:
    return Refused(said)


@dataclass(frozen=True)
class Points:
    """Points with exactly these columns, beside others; and counts of the report that are not zero."""

    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    """Columns that are left out, as no row has a value."""


Outcome: TypeAlias = Refused | Points

PLAIN = Points({name: rows()[name].to_pylist() for name in rows().column_names})
"""The rows of `support.rows` as they are."""


@dataclass(frozen=True)
class Case:
    """Files and what becomes of them."""

    files: Callable[[], Sequence[bytes]]
    outcome: Outcome
    request: Mapping[str, Any] = field(default_factory=dict)


# --- whole files -----------------------------------------------------------------------------------

GOOD = as_file(rows())
FOOTER = int.from_bytes(GOOD[-8:-4], "little") + 8
"""Bytes of the footer of `GOOD`, with its size and the magic word."""
NOT_PARQUET = refused("file file-0: it cannot be read as Parquet: ", "Check that the upload completed")


def one(body: bytes, outcome: Outcome, **request: Any) -> Case:
    return Case(lambda: [body], outcome, request)


def of_rows(outcome: Outcome, request: Mapping[str, Any] | None = None, /, **columns: Any) -> Case:
    """The rows of `support.rows` with other columns."""
    return Case(lambda: [as_file(rows(**columns))], outcome, request or {})


def without_row_groups() -> bytes:
    file = io.BytesIO()
    pq.ParquetWriter(file, rows().schema).close()
    return file.getvalue()


def with_column(name: str, values: pa.Array) -> pa.Table:
    """The rows with one more column, whatever its name."""
    return rows().append_column(name, values)


def not_utf8(type_: pa.DataType) -> pa.Array:
    """Texts of which one is no UTF-8, and one an unpaired surrogate."""
    binary = pa.large_binary() if type_ == pa.large_string() else pa.binary()
    texts = pa.array([b"maize", b"\xff\xfe", b"\xed\xa0\x80", b"teff"], binary)
    return pa.Array.from_buffers(type_, 4, texts.buffers())


def repeated(table: pa.Table, times: int, **options: Any) -> bytes:
    """A file with the row groups of a table many times over, its bytes once: a decompression bomb."""
    body = as_file(table, **{"compression": "zstd", **options})
    metadata, again = (pq.read_metadata(io.BytesIO(body)) for _ in range(2))
    for _ in range(times - 1):
        metadata.append_row_groups(again)
    footer = io.BytesIO()
    metadata.write_metadata_file(footer)
    return body[: -8 - int.from_bytes(body[-8:-4], "little")] + footer.getvalue()[4:]


def wide(columns: int, *missing: str) -> bytes:
    return as_file(rows(**{f"q{i}": [str(i)] * 4 for i in range(columns)}).drop_columns(list(missing)))


LONG = "x" * (1 << 20)
LONGEST = "y" * (1 << 16)
TOO_LONG = "a text has 1,048,576 bytes, and more than 65,536 cannot be read (for example 'xxx"

FILES: dict[str, Case] = {
    "as it should be": one(GOOD, PLAIN),
    # Not Parquet
    "an empty file": one(b"", refused("file-0: it is empty")),
    "a page of HTML": one(
        b"<!DOCTYPE html><html>404</html>", refused("file-0: it is HTML or XML, and no Parquet", "browser")
    ),
    "an error of S3": one(b"<?xml version='1.0'?><Error/>", refused("file-0: it is HTML or XML")),
    "a JSON document": one(b'{"detail": "Not Found"}', refused("file-0: it is JSON, and no Parquet")),
    "gzip around Parquet": one(
        gzip.compress(GOOD), refused("file-0: it is compressed as a whole (gzip)", "Give the file inside")
    ),
    "a ZIP archive": one(b"PK\x03\x04" + GOOD[:-4], refused("file-0: it is a ZIP archive")),
    "an encrypted file": one(b"PARE" + GOOD[4:-4] + b"PARE", refused("file-0: it is encrypted")),
    "text": one(b"timestamp,feature,value\n" * 9, refused("file-0: it is text, such as CSV", "to_parquet")),
    # Truncated
    **{
        f"cut after {size} bytes": one(GOOD[:size], NOT_PARQUET)
        for size in (1, 4, 8, len(GOOD) // 2, len(GOOD) - FOOTER, len(GOOD) - 8, len(GOOD) - 4, len(GOOD) - 1)
    },
    "cut at its start": one(GOOD[100:], refused("file-0")),
    # Its footer counts from the first byte, and finds the same there.
    "the same file twice over": one(GOOD + GOOD, PLAIN),
    # Damaged
    "another magic word at its start": one(b"XXXX" + GOOD[4:], PLAIN),
    "another magic word at its end": one(GOOD[:-4] + b"XXXX", NOT_PARQUET),
    "zeros at its start": one(bytes(200) + GOOD[200:], refused("file-0")),
    "a page of ones": one(GOOD[:60] + b"\xff" * 100 + GOOD[160:], refused("file-0")),
    "a footer of ones": one(GOOD[:-FOOTER] + b"\xff" * (FOOTER - 8) + GOOD[-8:], NOT_PARQUET),
    "a footer without end": one(GOOD[:-8] + b"\xff\xff\xff\x7fPAR1", NOT_PARQUET),
    "a footer of size zero": one(GOOD[:-8] + bytes(4) + b"PAR1", NOT_PARQUET),
    "names of columns that are no UTF-8": one(
        GOOD.replace(b"admin1", b"adm\xff\xfe1"), refused("file-0: the name of a column is not UTF-8")
    ),
    # Rows and row groups
    "no row groups": one(without_row_groups(), refused("its parts have no rows")),
    "no rows": one(as_file(rows().slice(0, 0)), refused("its parts have no rows")),
    "no rows beside a good part": Case(lambda: [without_row_groups(), GOOD], PLAIN),
    "a row group per row": one(as_file(rows(), row_group_size=1), PLAIN),
    "2,000 row groups": Case(
        lambda: [repeated(rows(), 2000)], Points({"value": [1.0, 2.0, 3.0, 4.0] * 2000})
    ),
    "one row group of more rows than are held at once": Case(
        lambda: [as_file(rows().take(pa.array(np.arange(1_200_000) % 4)), row_group_size=1_200_000)],
        Points(counts={"num_rows": 1_200_000, "points": 1_200_000}),
    ),
    # Columns
    "no columns": one(as_file(pa.table({})), refused("no column timestamp, feature, value", "file has none")),
    "a column twice": one(
        as_file(with_column("value", rows()["value"])), refused("file-0: the column 'value' is there twice")
    ),
    "a thousand columns": Case(lambda: [wide(1000)], Points({"q0": ["0"] * 4, "q999": ["999"] * 4})),
    "10,000 columns, but no value": Case(
        lambda: [wide(10_000, "value")], refused("column value: there is no column", "and 9,986 more")
    ),
    "names of columns that are paths to Arrow": of_rows(
        Points({"": ["a"] * 4, ".": ["b"] * 4, "crop.": ["c"] * 4, "crop": ["d"] * 4, "crop.x": ["e"] * 4}),
        **{"Unnamed: 0": [0] * 4, "": ["a"] * 4, ".": ["b"] * 4, "crop.": ["c"] * 4},
        **{"crop": ["d"] * 4, "crop.x": ["e"] * 4},
    ),
    "a column with a name of a megabyte": of_rows(Points({LONG: ["a"] * 4}), **{LONG: ["a"] * 4}),
    "a column called to deceive": of_rows(
        refused("column 'a\\nError: fine\\x1b[2J': cells of type list"),
        **{"a\nError: fine\x1b[2J": pa.array([[1]] * 4)},
    ),
    "a list of a billion items that are not": one(
        repeated(with_column("q", pa.array([[0] * 1_000_000] * 4)), 250),
        refused("column q: cells of type list"),
    ),
    # Hints that writers leave
    **{
        f"what {hint!r} says of its index": one(
            as_file(rows().replace_schema_metadata({"pandas": hint}), store_schema=False), PLAIN
        )
        for hint in ("", "no JSON", "null", '{"index_columns": null}', '{"index_columns": ["admin1"]}')
    },
    # Places
    "metres for degrees": of_rows(
        Points(counts={"beyond_mercator": 4, "impossible_coordinates": 4, "mapped": 0}),
        lat=[9_857_000.0] * 4,
        lng=[257_000.0] * 4,
    ),
    "longitudes from 0 to 360": of_rows(
        Points({"lng": [-170.0, -0.1, -180.0, 0.0]}, {"wrapped_longitudes": 4}),
        lng=[190.0, 359.9, 180.0, 360.0],
    ),
    "coordinates that stand for missing ones": of_rows(
        Points(counts={"impossible_coordinates": 2}),
        lat=[-9999.0, 1.0, -3.4e38, 2.0],
        lng=[-9999.0, 1.0, -3.4e38, 2.0],
    ),
    "values that stand for missing ones": of_rows(
        Points({"value": [-9999.0, 1e20, -3.4e38, 1.0]}), value=[-9999.0, 1e20, -3.4e38, 1.0]
    ),
    # Times
    "months as text": of_rows(
        Points({"timestamp": [JANUARY, FEBRUARY] * 2}), timestamp=["202001", "2020_02", "2020-01", "2020/2"]
    ),
    "months as integers": of_rows(
        Points({"timestamp": [202001] * 4}, {"timestamps_look_like": {"month": 4}}), timestamp=[202001] * 4
    ),
    **{
        f"times in {unit}": of_rows(
            Points({"timestamp": [JANUARY] * 4}), {"timestamp_unit": unit}, timestamp=[JANUARY * factor] * 4
        )
        for unit, factor in (("us", 1000), ("ns", 1_000_000))
    },
    "microseconds taken for milliseconds": of_rows(
        refused("none of its 4 rows", "look like microseconds: publish again with --timestamp-unit us"),
        timestamp=[JANUARY * 1000] * 4,
    ),
    "days in several orders": of_rows(
        refused("a timestamp cannot be read (for example '31012020')"),
        timestamp=["20200131"] * 3 + ["31012020"],
    ),
    # Texts
    **{
        f"1 MB in {role}": of_rows(refused(f"file-0, column {role}: {TOO_LONG}"), **{role: [LONG] * 4})
        for role in ("feature", "country", "crop", "timestamp", "value", "lat")
    },
    "the longest texts": of_rows(
        Points({"country": [LONGEST] * 4, "crop": [LONGEST] * 4, "feature": [LONGEST] * 4}),
        country=[LONGEST] * 4,
        crop=[LONGEST] * 4,
        feature=[LONGEST] * 4,
    ),
    **{
        f"{kind} in {role} that is no UTF-8": of_rows(
            refused(f"file-0, column {role}: a text is not UTF-8 (for example b'\\xff\\xfe')"),
            **{role: not_utf8(type_).dictionary_encode() if kind == "dictionary" else not_utf8(type_)},
        )
        for kind, type_ in (
            ("string", pa.string()),
            ("large_string", pa.large_string()),
            ("dictionary", pa.string()),
        )
        for role in ("feature", "country", "crop", "timestamp", "value", "lat")
    },
    "a feature that climbs": of_rows(
        refused("file-0, column feature: the feature '../../x' would leave its folder"),
        feature=["rain", "../../x", "rain", "rain"],
    ),
    "a feature that climbs, of 60,000 characters": of_rows(
        refused("the feature '../yyy", "... would leave its folder"),
        feature=["../" + LONGEST[:60_000]] * 4,
    ),
    "values that are text": of_rows(
        refused("file-0, column value: 2 of 4 values are text that is no number (for example 'soon')"),
        value=["1", "soon", "later", "4"],
    ),
    "rows that are all useless": of_rows(
        refused("none of its 4 rows can be used: 2 name no feature, 2 have a timestamp out of range"),
        feature=[None, "", "rain", "rain"],
        timestamp=[JANUARY, JANUARY, 2**62, -(2**63)],
    ),
}


# --- columns of every type in every role -----------------------------------------------------------

ROLES = ("timestamp", "country", "feature", "lat", "value", "people", "crop")
"""`people` is the weight column, `crop` a qualifier; the others are what they are called."""
NOTHING = [None] * 4


@dataclass(frozen=True)
class Column:
    """Four cells of a type, and what they are in each role. Refused in all roles without `text`."""

    values: pa.Array
    text: Sequence[str | None] | None = None
    """As a region, qualifier or feature; None where missing. Nothing is said where it is empty."""
    number: Sequence[float | None] = (None, None, None, None)
    """As a coordinate, and as value and weight unless infinite or refused."""
    time: Sequence[int | None] | Refused = ()
    """In ms UTC; None where the row is dropped."""
    value: Refused | None = None
    said: str = "cells of type"

    def outcome(self, role: str) -> Outcome:
        if self.text is None:
            return refused(f"file-0, column {role}: ", self.said)
        if role == "timestamp":
            if isinstance(self.time, Refused):
                return self.time
            kept = [time for time in self.time if time is not None]
            return Points({role: kept}, {"num_invalid_ts": 4 - len(kept)})
        if role in ("value", "people", "lat"):
            if role == "value" and self.value:
                return self.value
            finite = [None if one is None or math.isinf(one) else one for one in self.number]
            if role == "value":
                return Points({role: finite})
            if role == "people":
                # Without any weight, the column is none.
                weights = [one or 0.0 for one in finite]
                empty = all(one is None for one in self.text or ("?",))
                return Points(gone=(role,)) if empty else Points({role: weights})
            empty = all(one is None for one in self.text or ("?",))
            return Points(gone=(role,)) if empty else Points({role: self.number})
        if not self.text:
            return Points()
        names = self.text
        if role == "feature":
            kept_names = [name for name in names if name is not None]
            return Points({role: kept_names}) if kept_names else refused("none of its 4 rows can be used")
        if all(name is None for name in names):
            return Points(gone=(role,))
        return Points({role: ["None" if name is None else name for name in names]})


def _dates(values: pa.Array) -> Column:
    """Two midnights of January and February 2020."""
    days = ["2020-01-01", None, "2020-02-01", "2020-01-01"]
    times = [JANUARY, 0, FEBRUARY, JANUARY]
    return Column(values, days, NOTHING, times, value=refused("column value: dates are no values"))


def _ends(unit: str, *, kept: Sequence[int | None]) -> Column:
    """The first and last time that 64 bits hold; no text of them is anything to rely on."""
    times = pa.array([-(2**63) + 1, 2**63 - 1, 0, 1]).cast(pa.timestamp(unit))
    return Column(times, [], NOTHING, kept, value=refused("column value: dates are no values"))


MIDNIGHTS = [dt.datetime(2020, 1, 1), None, dt.datetime(2020, 2, 1), dt.datetime(2020, 1, 1)]  # noqa: DTZ001
DATES = [None if one is None else one.date() for one in MIDNIGHTS]
DIGITS, ONE_TO_FOUR = list("1234"), [1.0, 2.0, 3.0, 4.0]
LAST = 9_223_372_036_854


def _integers(type_: pa.DataType) -> Column:
    return Column(pa.array([1, 2, 3, 4], type_), DIGITS, ONE_TO_FOUR, [1, 2, 3, 4])


def _texts(values: pa.Array) -> Column:
    return Column(values, DIGITS, ONE_TO_FOUR, [1, 2, 3, 4])


def words(values: pa.Array, text: str) -> Column:
    """Text that is neither a number nor a time."""
    return Column(
        values,
        [text] * 4,
        time=refused("a timestamp cannot be read"),
        value=refused("column value: 4 of 4 values are text that is no number"),
    )


def _floats(values: pa.Array) -> Column:
    return Column(values, ["0.5", "2.0", None, "4.0"], [0.5, 2.0, None, 4.0], [0, 2, 0, 4])


def _decimals(type_: pa.DataType) -> Column:
    numbers = [Decimal("1.50"), Decimal("2.00"), None, Decimal("4.00")]
    return Column(
        pa.array(numbers, type_), ["1.50", "2.00", None, "4.00"], [1.5, 2.0, None, 4.0], [1, 2, 0, 4]
    )


COLUMNS: dict[str, Column] = {
    **{
        str(type_): _integers(type_) for type_ in (pa.int8(), pa.int16(), pa.uint8(), pa.uint32(), pa.int64())
    },
    "uint64": Column(
        pa.array([1, 2, 3, 2**64 - 1], pa.uint64()),
        ["1", "2", "3", "18446744073709551615"],
        [1.0, 2.0, 3.0, 2.0**64],
        [1, 2, 3, None],
    ),
    "int64 at its ends": Column(
        pa.array([-(2**63), 2**63 - 1, LAST, -LAST]),
        ["-9223372036854775808", "9223372036854775807", str(LAST), str(-LAST)],
        [-(2.0**63), 2.0**63, float(LAST), float(-LAST)],
        [None, None, LAST, -LAST],
    ),
    "halffloat": _floats(pa.array(np.array([0.5, 2, np.nan, 4], np.float16))),
    "float": _floats(pa.array([0.5, 2, math.nan, 4], pa.float32())),
    "double": _floats(pa.array([0.5, 2, None, 4])),
    "double at its ends": Column(
        pa.array([math.inf, -math.inf, 1e300, 5e-324]),
        ["inf", "-inf", "1e+300", "5e-324"],
        [math.inf, -math.inf, 1e300, 5e-324],
        [None, None, None, 0],
    ),
    **{
        str(type_): _decimals(type_)
        for type_ in (pa.decimal32(5, 2), pa.decimal64(5, 2), pa.decimal128(5, 2), pa.decimal256(5, 2))
    },
    "bool": Column(
        pa.array([True, False, None, True]),
        ["True", "False", None, "True"],
        [1.0, 0.0, None, 1.0],
        refused("column timestamp: booleans are no timestamps (for example True)"),
    ),
    "null": Column(pa.nulls(4), NOTHING, NOTHING, [0] * 4),
    "string": _texts(pa.array(DIGITS)),
    "large_string": _texts(pa.array(DIGITS, pa.large_string())),
    "string_view": _texts(pa.array(DIGITS, pa.string_view())),
    "dictionary of strings": _texts(pa.array(DIGITS).dictionary_encode()),
    "dictionary of integers": _integers(pa.int64()),
    "dictionary of doubles": Column(
        pa.array([0.5, 2.0, 2.0, 4.0]).dictionary_encode(),
        ["0.5", "2.0", "2.0", "4.0"],
        [0.5, 2.0, 2.0, 4.0],
        [0, 2, 2, 4],
    ),
    **{
        f"timestamp of {unit}": _dates(pa.array(MIDNIGHTS, pa.timestamp(unit)))
        for unit in ("s", "ms", "us", "ns")
    },
    "timestamp of a zone": _dates(pa.array(MIDNIGHTS, pa.timestamp("us", "UTC"))),
    "timestamp of no known zone": Column(
        pa.array(MIDNIGHTS, pa.timestamp("us", "Mars/Olympus")), said="Mars/Olympus"
    ),
    "date32": _dates(pa.array(DATES)),
    "date64": _dates(pa.array(DATES, pa.date64())),
    "timestamps in ms at their ends": _ends("ms", kept=[None, None, 0, 1]),
    "timestamps in us at their ends": _ends("us", kept=[None, None, 0, 0]),
    "timestamps in ns at their ends": _ends("ns", kept=[-LAST, LAST, 0, 0]),
    "time32": Column(pa.array([dt.time(1)] * 4, pa.time32("ms"))),
    "time64": Column(pa.array([dt.time(1)] * 4)),
    "duration": Column(pa.array([dt.timedelta(1)] * 4)),
    "binary": Column(pa.array([b"1"] * 4)),
    "large_binary": Column(pa.array([b"1"] * 4, pa.large_binary())),
    "binary of fixed size": Column(pa.array([b"1234"] * 4, pa.binary(4))),
    "uuid": words(pa.array([bytes(range(16))] * 4, pa.uuid()), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
    "list": Column(pa.array([[1]] * 4)),
    "list of fixed size": Column(pa.array([[1, 2]] * 4, pa.list_(pa.int64(), 2))),
    "struct": Column(pa.array([{"a": 1}] * 4)),
    "map": Column(pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64()))),
}


def typed(name: str) -> dict[str, Case]:
    """A column in every role."""
    column = COLUMNS[name]
    cases = {}
    for role in ROLES:
        weight = {"weight_column": "people"} if role == "people" else {}
        cases[f"{name} as {role}"] = of_rows(column.outcome(role), weight, **{role: column.values})
    return cases
