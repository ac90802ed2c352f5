"""From the rows of Dojo's files to clean, typed points.

The rules: docs/specification/from-rows-to-figures.md#clean-rows.

Works on Arrow tables, in two steps so that an input of any size can pass through in batches:
`profile` looks at a batch, profiles add up, `plan` decides from their sum what each column becomes,
`normalize` applies the plan to each batch. Opening files belongs to `parts.py`.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.errors import InputError, listed
from datacube_assets.kernels.grid import on_map
from datacube_assets.kernels.groups import Floats, Mask
from datacube_assets.kernels.schema import (
    COORDINATES,
    FIXED_COLUMNS,
    MISSING,
    REGION_LEVELS,
    Layout,
    RegionLevel,
    is_text,
    region_levels,
)

MAX_TIMESTAMP = 9_223_372_036_854
"""Last and (negated) first millisecond kept: what 64-bit nanoseconds hold."""

MAX_TEXT_BYTES = 1 << 16
"""The longest text. It is a name of something, and stands in every row of an object that it is about."""

_ABSENT_QUALIFIER = frozenset(("", "nan", MISSING))
"""Spellings of a missing qualifier."""

_YEAR = re.compile(r"\d{4}")
_DATE = re.compile(r"(?:1[5-9]|2[01])\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
"""Eight digits that read as a date; as milliseconds they would be an hour of January 1970."""
_YEAR_OR_MONTH = re.compile(r"(\d{4})(?:[-/](\d{1,2}))?(?:[-/](\d{1,2}))?")


@dataclass(frozen=True)
class Options:
    """What a request says about normalizing."""

    weight_column: str = ""
    fill_timestamp: int = 0
    """Milliseconds UTC for rows without a timestamp."""
    timestamp_unit: Literal["ms", "s"] = "ms"
    """Unit of numeric timestamps."""
    max_unreadable_share: float = 0.1
    """Largest share of rows whose value is text that is no number, before the run is refused."""


Columns = Mapping[str, pa.ChunkedArray]
"""The columns of a batch by name."""

# --- profile ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnProfile:
    """What a column holds, as far as it decides how the column is treated."""

    kinds: frozenset[str]
    """NumPy-like kinds of its parts: f float, i integer, b bool, M date, O text."""
    filled: bool
    """Whether any cell is neither null nor blank."""
    whole: bool
    """Whether all numbers are whole (all dates midnight)."""

    def __add__(self, other: ColumnProfile) -> ColumnProfile:
        return ColumnProfile(
            self.kinds | other.kinds, self.filled or other.filled, self.whole and other.whole
        )


Profile = dict[str, ColumnProfile]


def profile(batch: pa.Table) -> Profile:
    """Profile each column of a batch. Raises InputError for columns that cannot be read."""
    profiles = {}
    for name, column in _columns(batch).items():
        with _naming_column(name, column):
            profiles[name] = _profile_column(name, column)
    return profiles


def _columns(batch: pa.Table) -> Columns:
    """The columns by name. Asking a table for a column by name takes as long as the table is wide."""
    return dict(zip(batch.column_names, batch.columns, strict=True))


@contextmanager
def _naming_column(name: str, column: pa.ChunkedArray) -> Iterator[None]:
    """Turn what Arrow and Python say of cells that break their type's rules into an InputError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            "a text is not UTF-8", column=name, example=error.object, remedy="Write all text as UTF-8"
        ) from error
    except pa.ArrowException as error:
        raise InputError(
            f"cells of type {column.type} cannot be read: {str(error).splitlines()[0]}",
            column=name,
            remedy=READABLE,
        ) from error


def merge_profiles(profiles: Iterable[Profile]) -> Profile:
    """The profile of all batches together; columns in order of first appearance."""
    merged: Profile = {}
    for one in profiles:
        for name, column in one.items():
            merged[name] = merged[name] + column if name in merged else column
    return merged


def _profile_column(name: str, column: pa.ChunkedArray) -> ColumnProfile:
    kind = kind_of(name, column.type)
    if kind == "O":
        texts = [text for text in _distinct_texts(name, column) if text is not None]
        return ColumnProfile(frozenset(kind), any(not _is_blank(text) for text in texts), whole=True)
    values = _plain(column).drop_null()
    if kind == "f":
        # Decimals and half floats have no arithmetic of their own.
        floats = values.cast(pa.float64(), safe=False).to_numpy()
        floats = floats[~np.isnan(floats)]
        whole = bool(np.all((np.floor(floats) == floats) & (np.abs(floats) < 2**53)))
        return ColumnProfile(frozenset(kind), len(floats) > 0, whole)
    if kind == "M":
        midnight = pc.equal(values, pc.floor_temporal(values, unit="day"))
        return ColumnProfile(frozenset(kind), len(values) > 0, pc.all(midnight).as_py() is not False)
    return ColumnProfile(frozenset(kind), len(values) > 0, whole=True)


READABLE = "Write text, numbers, booleans, dates or timestamps"
"""What a column may hold, as a remedy."""


def kind_of(name: str, type_: pa.DataType) -> str:
    """What a column of a type is read as (`ColumnProfile.kinds`). Raises InputError, naming the column."""
    if pa.types.is_dictionary(type_):
        return kind_of(name, type_.value_type)
    if is_text(type_) or pa.types.is_null(type_):
        return "O"
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "f"
    if pa.types.is_integer(type_):
        return "i"
    if pa.types.is_boolean(type_):
        return "b"
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return "M"
    raise InputError(
        f"cells of type {type_} cannot be read",
        column=name,
        remedy=READABLE,
    )


def _is_blank(text: str) -> bool:
    # An empty text is a value; a text of spaces is none.
    return text.isspace()


def _distinct_texts(name: str, column: pa.ChunkedArray) -> list[str | None]:
    if pa.types.is_dictionary(column.type):
        encoded = _one_chunk(column)
        column = encoded.dictionary.take(encoded.indices.unique().drop_null())
    found = column.unique().cast(pa.string())
    sizes = pc.binary_length(found)
    if (pc.max(sizes).as_py() or 0) > MAX_TEXT_BYTES:
        longest = pc.index(sizes, pc.max(sizes)).as_py()
        raise InputError(
            f"a text has {sizes[longest].as_py():,} bytes, and more than {MAX_TEXT_BYTES:,} cannot be read",
            column=name,
            example=found[longest].as_py(),
            remedy="Shorten the texts, or leave the column out",
        )
    distinct: list[str | None] = found.to_pylist()
    return distinct


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece, with one dictionary if it has dictionaries; a file may have thousands."""
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
    return whole


# --- plan ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What each column of the run becomes."""

    layout: Layout
    whole: frozenset[str]
    """Number columns that print as integers, date columns that print without time."""
    mixed: frozenset[str]
    """Columns whose kind differs between parts."""
    options: Options


def plan(columns: Profile, options: Options) -> Plan:
    """Decide which columns survive and what they are.

    Raises InputError when the weight column is unknown.
    """
    weight = options.weight_column
    if weight and (weight not in columns or weight in FIXED_COLUMNS):
        extra = sorted(set(columns) - set(FIXED_COLUMNS))
        raise InputError(
            f"the weight column {weight!r} is not among the qualifier columns",
            remedy=f"Name one of these: {listed(extra) or '(the files have none)'}",
        )
    filled = [name for name, column in columns.items() if column.filled]
    # A column without a name is a qualifier; no weight column has no name either.
    roles = {*FIXED_COLUMNS, weight} if weight else {*FIXED_COLUMNS}
    layout = Layout(
        levels=region_levels(filled),
        coordinates=tuple(name for name in COORDINATES if name in filled),
        qualifiers=tuple(name for name in filled if name not in roles),
        weight=weight if weight and weight in filled else None,
    )
    whole = frozenset(name for name, column in columns.items() if column.whole)
    # Whole numbers become floats where a part has floats; other kinds have only text in common.
    mixed = frozenset(
        name for name, column in columns.items() if len(column.kinds) > 1 and column.kinds != {"i", "f"}
    )
    return Plan(layout, whole, mixed, options)


# --- normalize -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What became of the rows. Reports of batches add up."""

    num_rows: int = 0
    num_rows_per_feature: Mapping[str, int] = field(default_factory=dict)
    """Rows read, by feature; rows without a feature are in none."""
    num_missing_ts: int = 0
    num_invalid_ts: int = 0
    num_missing_val: int = 0
    unreadable_values: int = 0
    """Rows dropped because their value is text that is no number."""
    unreadable_example: str | None = None
    missing_features: int = 0
    """Rows dropped because they name no feature."""
    infinite_values: int = 0
    """Values that were infinite and count as missing."""
    missing_coordinates: int = 0
    """Points kept without lat or lng: in every aggregate but tiles and grid statistics."""
    beyond_mercator: int = 0
    """Points kept whose latitude is beyond 85.0511 degrees, or a coordinate infinite: the same."""
    missing_weights: int = 0
    """Points whose weight is missing or infinite, and counts as 0."""
    points: int = 0
    """Rows kept."""
    min_timestamp: int | None = None
    max_timestamp: int | None = None
    bounding_box: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees."""

    def __add__(self, other: Report) -> Report:
        per_feature = dict(self.num_rows_per_feature)
        for feature, rows in other.num_rows_per_feature.items():
            per_feature[feature] = per_feature.get(feature, 0) + rows
        boxes = [box for box in (self.bounding_box, other.bounding_box) if box]
        counts = {
            name: getattr(self, name) + getattr(other, name)
            for name in (
                "num_rows",
                "num_missing_ts",
                "num_invalid_ts",
                "num_missing_val",
                "unreadable_values",
                "missing_features",
                "infinite_values",
                "missing_coordinates",
                "beyond_mercator",
                "missing_weights",
                "points",
            )
        }
        return Report(
            **counts,
            num_rows_per_feature=per_feature,
            unreadable_example=self.unreadable_example or other.unreadable_example,
            min_timestamp=_merge(min, self.min_timestamp, other.min_timestamp),
            max_timestamp=_merge(max, self.max_timestamp, other.max_timestamp),
            bounding_box=functools.reduce(_join_boxes, boxes) if boxes else None,
        )

    @property
    def dropped(self) -> int:
        """Rows read that are in no aggregate, for whatever reason."""
        return self.num_rows - self.points


def _merge(choose: Callable[[int, int], int], a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else choose(a, b)


Box = tuple[float, float, float, float]


def _join_boxes(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def normalize(batch: pa.Table, what: Plan) -> tuple[pa.Table, Report]:
    """Clean one batch.

    Returns the points (`schema.POINT_COLUMNS`; text as dictionaries, no nulls in text) and the report.
    Raises InputError when a column cannot be read as what it has to be.
    """
    layout, options = what.layout, what.options
    rows = batch.num_rows
    # What another part has, and this one has not, is missing in all its rows.
    nothing = pa.chunked_array([pa.nulls(rows)])
    delivered = defaultdict(lambda: nothing, _columns(batch))

    feature = _text(delivered, "feature", what, absent=frozenset(("",)))
    has_feature = pc.is_valid(feature).to_numpy(zero_copy_only=False)
    values, missing_val, unreadable, example = _values(delivered["value"])
    infinite = np.isinf(values)
    values[infinite] = np.nan
    timestamps, missing_ts, invalid_ts = _timestamps(delivered["timestamp"], options)

    kept = has_feature & ~invalid_ts & ~unreadable
    columns: dict[str, pa.Array] = {
        "feature": feature,
        "timestamp": pa.array(timestamps),
    }
    for level in layout.levels:
        columns[level] = _region(delivered, level, what)
    for name in layout.coordinates:
        columns[name] = pa.array(_numbers(name, delivered[name]), from_pandas=True)
    for name in layout.qualifiers:
        columns[name] = pc.fill_null(_text(delivered, name, what, absent=_ABSENT_QUALIFIER), MISSING)
    missing_weights = 0
    if layout.weight:
        weights = _numbers(layout.weight, delivered[layout.weight])
        # One infinite weight would leave no weighted figure of any region above it.
        no_weight = ~np.isfinite(weights)
        missing_weights = int(no_weight[kept].sum())
        weights[no_weight] = 0.0
        columns[layout.weight] = pa.array(weights)
    columns["value"] = pa.array(values, from_pandas=True)

    points = pa.table(columns)
    report = Report(
        num_rows=rows,
        num_rows_per_feature=_count_texts(feature),
        num_missing_ts=int(missing_ts.sum()),
        num_missing_val=int(missing_val.sum()),
        missing_features=int((~has_feature).sum()),
        unreadable_values=int(unreadable.sum()),
        num_invalid_ts=int(invalid_ts.sum()),
        unreadable_example=example,
        infinite_values=int(infinite.sum()),
        missing_weights=missing_weights,
    )
    if not kept.all():
        points = points.filter(pa.array(kept))
    return points, replace(report, **_extent(points, layout))


def _extent(points: pa.Table, layout: Layout) -> dict[str, Any]:
    """The part of a report that describes the points kept."""
    if points.num_rows == 0:
        return {}
    times = pc.min_max(points["timestamp"]).as_py()
    extent: dict[str, Any] = {
        "points": points.num_rows,
        "min_timestamp": times["min"],
        "max_timestamp": times["max"],
    }
    if layout.mappable:
        lat, lng = (points[name].to_numpy() for name in COORDINATES)
        missing = np.isnan(lat) | np.isnan(lng)
        extent["missing_coordinates"] = int(missing.sum())
        extent["beyond_mercator"] = int((~missing & ~on_map(lat, lng)).sum())
        placed = np.isfinite(lat) & np.isfinite(lng)
        if placed.any():
            west, east = float(lng[placed].min()), float(lng[placed].max())
            extent["bounding_box"] = (west, float(lat[placed].min()), east, float(lat[placed].max()))
    return extent


def check_values(report: Report, options: Options) -> None:
    """Refuse a run in which too many values are no numbers.

    Raises InputError naming the column and an example.
    """
    if report.unreadable_values > options.max_unreadable_share * report.num_rows:
        raise InputError(
            f"{report.unreadable_values} of {report.num_rows} values are text that is no number",
            column="value",
            example=report.unreadable_example,
            remedy="Put text values into a `_str` part, or make them numbers",
        )


def _count_texts(column: pa.Array) -> dict[str, int]:
    counted = pc.value_counts(column.drop_null())
    names, counts = counted.field("values"), counted.field("counts")
    return dict(sorted(zip(names.to_pylist(), counts.to_pylist(), strict=True)))


def _text(columns: Columns, name: str, what: Plan, *, absent: frozenset[str]) -> pa.Array:
    """A column as text: null where the cell is null or one of the `absent` spellings."""
    return _map_texts(
        _as_text(name, columns[name], whole=name in what.whole), lambda text: None if text in absent else text
    )


def _region(columns: Columns, level: RegionLevel, what: Plan) -> pa.Array:
    column = columns[level]
    # Whole or not, numbers print as Python prints them: 1, 1.5.
    kind = kind_of(level, column.type)
    whole = level in what.whole if kind == "M" else kind != "f"
    # Object stores refused keys with an empty segment.
    return _map_texts(
        _as_text(level, column, whole=whole),
        lambda text: MISSING if text is None else text.replace("//", ""),
    )


def _map_texts(column: pa.DictionaryArray, change: Callable[[str | None], str | None]) -> pa.Array:
    """Apply a function to the distinct texts, None where null or NaN was; equal results share a code."""
    texts, indices = column.dictionary.to_pylist(), column.indices
    if indices.null_count:
        # A null cell has no text to point to; NaN points to a null.
        indices = pc.fill_null(indices, len(texts))
        texts.append(None)
    encoded = pa.array([change(text) for text in texts], pa.string()).dictionary_encode()
    indices = encoded.indices.take(indices)
    return pa.DictionaryArray.from_arrays(indices.cast(pa.int32()), encoded.dictionary)


def _as_text(name: str, column: pa.ChunkedArray, *, whole: bool) -> pa.DictionaryArray:
    """A column as a dictionary of texts, nulls kept; numbers and dates print as Python prints them."""
    column = _encodable(column)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    encoded = _one_chunk(column)
    return pa.DictionaryArray.from_arrays(
        encoded.indices.cast(pa.int32()), _print_values(name, encoded.dictionary, whole=whole)
    )


def _encodable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column, or the same in a type that Arrow can make a dictionary of."""
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    if pa.types.is_decimal32(column.type) or pa.types.is_decimal64(column.type):
        return column.cast(pa.decimal128(column.type.precision, column.type.scale))
    return column


def _print_values(name: str, values: pa.Array, *, whole: bool) -> pa.Array:
    kind = kind_of(name, values.type)
    if kind == "O":
        return values.cast(pa.string())
    if kind == "i" and not whole:
        # Another part has fractions in this column: one value must not have two spellings.
        values, kind = values.cast(pa.float64(), safe=False), "f"
    if kind == "f" and not pa.types.is_decimal(values.type):
        floats = shortest(values)
        if not whole:
            texts = floats.astype("S32").astype(str)
        else:
            texts = np.where(np.isnan(floats), 0, floats).astype(np.int64).astype(str)
        return pa.array(texts, pa.string(), mask=np.isnan(floats))
    if kind == "b":
        return pc.if_else(values, "True", "False")
    if kind == "M":
        if whole:
            return pc.strftime(values, format="%Y-%m-%d")
        # Python leaves out a fraction of zero.
        return pc.replace_substring_regex(
            pc.strftime(values, format="%Y-%m-%d %H:%M:%S"), pattern=r"\.0+$", replacement=""
        )
    return pa.array([None if value is None else str(value) for value in values.to_pylist()], pa.string())


def shortest(values: pa.Array | pa.ChunkedArray) -> Floats:
    """Floats as float64, NaN for null; from fewer bits, the number that their shortest text names."""
    floats: npt.NDArray[Any] = (
        values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(zero_copy_only=False)
    )
    return floats if floats.dtype == np.float64 else floats.astype("S32").astype(np.float64)


def _values(column: pa.ChunkedArray) -> tuple[Floats, Mask, Mask, str | None]:
    """Values as float64, which are missing, which are unreadable, and an example of those."""
    kind = kind_of("value", column.type)
    if kind == "M":
        raise InputError(
            "dates are no values", column="value", example=_first(column), remedy="Give numbers in `value`"
        )
    if kind != "O":
        values = _to_float(column)
        nothing = np.zeros(len(values), np.bool_)
        return values, np.isnan(values), nothing, None
    encoded = _used_texts(column)
    texts = encoded.dictionary.to_pylist()
    parsed = [_parse_number(text) for text in texts]
    values = _take(np.array([np.nan if one is None else one for one in parsed], np.float64), encoded.indices)
    bad = np.array([one is None for one in parsed], np.bool_)
    unreadable = _take_mask(bad, encoded.indices)
    example = next((text for text, one in zip(texts, parsed, strict=True) if one is None), None)
    return values, np.isnan(values) & ~unreadable, unreadable, example


def _used_texts(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """A text column as a dictionary; what no row holds is not in it, and cannot be found fault with."""
    texts = _plain(column).cast(pa.string())
    return _as_text("", texts, whole=True)


def _parse_number(text: str | None) -> float | None:
    """The number a text stands for; NaN when it is blank, None when it is no number."""
    if text is None or not text.strip():
        return np.nan
    try:
        return float(text)
    except ValueError:
        return None


def _take(values: Floats, indices: pa.Array) -> Floats:
    """Values by code, NaN where the code is null."""
    padded = np.append(values, np.nan)
    taken: Floats = padded[_filled(indices)]
    return taken


def _take_mask(values: Mask, indices: pa.Array) -> Mask:
    taken: Mask = np.append(values, np.False_)[_filled(indices)]
    return taken


def _filled(indices: pa.Array) -> npt.NDArray[np.int64]:
    # -1 addresses the element appended for null.
    filled: npt.NDArray[np.int64] = pc.fill_null(indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return filled


def _to_float(column: pa.ChunkedArray) -> Floats:
    """A numeric column as a new float64 array, nulls as NaN."""
    column = _plain(column)
    if pa.types.is_decimal(column.type):
        # Arrow makes some floats of decimals that are not the nearest; of text it makes those that are.
        column = column.cast(pa.string())
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy()
    return np.array(values)


def _numbers(name: str, column: pa.ChunkedArray) -> Floats:
    """A column as numbers, NaN for whatever is none."""
    kind = kind_of(name, column.type)
    if kind in "fib":
        return _to_float(column)
    if kind == "M":
        return np.full(len(column), np.nan)
    encoded = _as_text(name, column, whole=True)
    parsed = [_parse_number(text) for text in encoded.dictionary.to_pylist()]
    return _take(np.array([np.nan if one is None else one for one in parsed], np.float64), encoded.indices)


def _timestamps(column: pa.ChunkedArray, options: Options) -> tuple[npt.NDArray[np.int64], Mask, Mask]:
    """Timestamps in ms UTC, which were missing (and filled), and which are out of range."""
    kind = kind_of("timestamp", column.type)
    scale = 1000 if options.timestamp_unit == "s" else 1
    if kind == "b":
        raise InputError(
            "booleans are no timestamps",
            column="timestamp",
            example=_first(column),
            remedy="Give milliseconds UTC, dates or ISO 8601 text",
        )
    if kind == "i" and not pa.types.is_uint64(column.type) and column.null_count == 0:
        # Integers must not pass through floats: beyond 2**53 these lose the millisecond.
        times = _plain(column).cast(pa.int64()).to_numpy()
        invalid = (times > MAX_TIMESTAMP // scale) | (times < -(MAX_TIMESTAMP // scale))
        return np.where(invalid, 0, times) * scale, np.zeros(len(times), np.bool_), invalid
    if kind in "fi":
        times = _to_float(_plain(column)) * scale
    elif kind == "M":
        # Seconds hold every date that 64 bits of any unit can name; below a second only what is kept.
        seconds = _plain(column).cast(pa.timestamp("s"), safe=False)
        inside = pc.and_(
            pc.less_equal(seconds.cast(pa.int64()), MAX_TIMESTAMP // 1000),
            pc.greater_equal(seconds.cast(pa.int64()), -(MAX_TIMESTAMP // 1000)),
        )
        fine = pc.if_else(inside, _plain(column), None).cast(pa.timestamp("ms"), safe=False)
        outside = np.where(pc.fill_null(pc.invert(inside), False).to_numpy(), np.inf, np.nan)
        exact = _to_float(fine.cast(pa.int64()))
        times = np.where(np.isnan(exact), outside, exact)
    else:
        times = _parse_times(column, scale)
    missing = np.isnan(times)
    times[missing] = options.fill_timestamp
    invalid = (times >= MAX_TIMESTAMP + 0.775807) | (times < -MAX_TIMESTAMP - 0.775)
    times[invalid] = 0
    return np.floor(times).astype(np.int64), missing, invalid


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _parse_times(column: pa.ChunkedArray, scale: int) -> Floats:
    encoded = _used_texts(column)
    parsed = [_parse_time(text, scale) for text in encoded.dictionary.to_pylist()]
    return _take(np.array(parsed, np.float64), encoded.indices)


def _parse_time(text: str | None, scale: int) -> float:
    """Milliseconds UTC of a text: a number in the request's unit, or a date and time of ISO 8601.

    Four digits are a year, eight that read so a date: no numeric timestamp is that close to 1970.
    Raises InputError for any other text.
    """
    text = (text or "").strip()
    number = None if _YEAR.fullmatch(text) or _DATE.fullmatch(text) else _parse_number(text)
    if number is not None:
        return number * scale
    if match := _YEAR_OR_MONTH.fullmatch(text):
        year, month, day = (int(part or 1) for part in match.groups())
        text = f"{year:04}-{month:02}-{day:02}"
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            "a timestamp cannot be read",
            column="timestamp",
            example=text,
            remedy="Give milliseconds UTC, dates or ISO 8601 text",
        ) from None
    moment = moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(milliseconds=1)


def _first(column: pa.ChunkedArray) -> object:
    values = column.drop_null()
    try:
        return values[0].as_py() if len(values) else None
    except (OverflowError, ValueError):
        # A time that Python has no name for.
        return None


# --- raw rows --------------------------------------------------------------------------------------


def raw_rows(batch: pa.Table, what: Plan) -> pa.Table:
    """The rows of a batch as delivered, for raw.csv (docs/objects.md#1-rawcsv).

    Columns keep their order and their values; timestamps are integers in ms UTC, null where missing or
    out of range; numbers that are not finite are null. Rows without a feature are left out. A column
    whose kind differs between parts becomes text; in such a region column nulls read `None`, because
    the original made them so before it took the raw copy.
    """
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    delivered = _columns(batch)
    for name, column in delivered.items():
        column = _plain(column)
        if name == "feature":
            columns[name] = _text(delivered, name, what, absent=frozenset(("",)))
        elif name == "timestamp":
            times, missing, invalid = _timestamps(column, what.options)
            columns[name] = pa.array(times, mask=missing | invalid)
        elif name == "value":
            values = _values(column)[0]
            columns[name] = pa.array(np.where(np.isfinite(values), values, np.nan), from_pandas=True)
        elif name in COORDINATES and (name in what.mixed or kind_of(name, column.type) != "f"):
            degrees = _numbers(name, column)
            columns[name] = pa.array(np.where(np.isfinite(degrees), degrees, np.nan), from_pandas=True)
        elif name in what.mixed:
            text = _as_text(name, delivered[name], whole=kind_of(name, column.type) == "i")
            columns[name] = pc.fill_null(text.cast(pa.string()), MISSING) if name in REGION_LEVELS else text
        elif kind_of(name, column.type) == "M":
            columns[name] = _as_text(name, delivered[name], whole=name in what.whole)
        elif pa.types.is_floating(column.type):
            columns[name] = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
        else:
            columns[name] = column
    rows = pa.table(columns)
    return rows.filter(pc.is_valid(rows["feature"]))


def join_rows(tables: Sequence[pa.Table]) -> pa.Table:
    """The raw rows of all batches; columns in order of first appearance, null where a part has none.

    Numbers of different types become doubles, whatever else differs text.
    """
    types: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for field_ in table.schema:
            types.setdefault(field_.name, set()).add(field_.type)
    fields = [pa.field(name, _common_type(found)) for name, found in types.items()]
    return pa.concat_tables([_with_fields(table, fields) for table in tables]).unify_dictionaries()


def _common_type(types: set[pa.DataType]) -> pa.DataType:
    filled = {type_ for type_ in types if not pa.types.is_null(type_)}
    if len(filled) == 1:
        return filled.pop()
    if all(kind_of("", type_) in "if" for type_ in filled):
        return pa.float64()
    return pa.string()


def _with_fields(table: pa.Table, fields: Sequence[pa.Field]) -> pa.Table:
    columns = [
        table[field_.name].cast(field_.type, safe=False)
        if field_.name in table.column_names
        else pa.nulls(table.num_rows, field_.type)
        for field_ in fields
    ]
    return pa.table(columns, schema=pa.schema(fields))
