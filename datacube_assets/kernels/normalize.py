"""From the rows of Dojo's files to clean, typed points.

The rules: docs/specification/from-rows-to-figures.md#clean-rows.

The second of two steps, so that an input of any size can pass through in batches: `profile.py` looks at
each batch, `plan.py` decides from the sum what each column becomes, `normalize` applies the plan to each
batch. Opening files belongs to `parts.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datacube_assets.kernels.columns import (
    Columns,
    as_floats,
    as_numbers,
    as_text,
    by_name,
    count_texts,
    first_value,
    kind_of,
    map_texts,
    mask_coded,
    no_numbers,
    parse_number,
    take_coded,
    used_texts,
)
from datacube_assets.kernels.errors import InputError
from datacube_assets.kernels.groups import Floats, Mask
from datacube_assets.kernels.plan import Plan
from datacube_assets.kernels.projection import on_map, wrap_longitude
from datacube_assets.kernels.report import Report
from datacube_assets.kernels.schema import (
    COORDINATES,
    MISSING,
    Layout,
    RegionLevel,
)
from datacube_assets.kernels.times import times_of

ABSENT_FEATURE = frozenset(("",))
"""Spellings of a missing feature."""
_ABSENT_QUALIFIER = frozenset(("", "nan", MISSING))
"""Spellings of a missing qualifier."""
_POLE, _TURN = 90, 360
"""Degrees beyond which there is no latitude and no longitude."""


def normalize(batch: pa.Table, what: Plan) -> tuple[pa.Table, Report]:
    """Clean one batch.

    Returns the points (`schema.POINT_COLUMNS`; text as dictionaries, no nulls in text) and the report.
    Raises InputError when a column cannot be read as what it has to be.
    """
    layout, options = what.layout, what.options
    rows = batch.num_rows
    delivered = delivered_columns(batch)

    feature = names_of(delivered, "feature", what, absent=ABSENT_FEATURE)
    has_feature = pc.is_valid(feature).to_numpy(zero_copy_only=False)
    values, missing_val, unreadable, example = as_values(delivered["value"])
    infinite = np.isinf(values)
    values[infinite] = np.nan
    times = times_of(delivered["timestamp"], options)

    kept = has_feature & ~times.invalid & ~unreadable
    degrees = degrees_of(delivered, layout)
    placed = _places(degrees, kept, values) | _no_degrees(delivered, layout, kept)
    columns: dict[str, pa.Array] = {
        "feature": feature,
        "timestamp": pa.array(times.milliseconds),
        **describing_columns(delivered, what, degrees),
    }
    missing_weights = 0
    if layout.weight:
        weights = as_numbers(layout.weight, delivered[layout.weight])
        missing_weights = int((~np.isfinite(weights))[kept].sum())
    columns["value"] = pa.array(values, from_pandas=True)

    points = pa.table(columns)
    report = Report(
        num_rows=rows,
        num_rows_per_feature=count_texts(feature),
        num_missing_ts=int(times.missing.sum()),
        num_missing_val=int(missing_val.sum()),
        missing_features=int((~has_feature).sum()),
        unreadable_values=int(unreadable.sum()),
        num_invalid_ts=int(times.invalid.sum()),
        unreadable_example=example,
        timestamps_look_like=times.looks,
        infinite_values=int(infinite.sum()),
        missing_weights=missing_weights,
    )
    if not kept.all():
        points = points.filter(pa.array(kept))
    return points, replace(report, **_extent(points, layout), **placed)


def _places(degrees: Mapping[str, Floats], kept: Mask, values: Floats) -> dict[str, Any]:
    """The part of a report that tells where the rows kept lie; their longitudes are as they came."""
    if len(degrees) < len(COORDINATES):
        # A single coordinate is no place.
        return {"missing_coordinates": int(kept.sum())}
    lat, lng = (degrees[name] if kept.all() else degrees[name][kept] for name in COORDINATES)
    missing, on = np.isnan(lat) | np.isnan(lng), on_map(lat, lng)
    far, around = np.abs(lat) > _POLE, np.abs(lng)
    impossible = (far | (around > _TURN)) & ~missing
    found: dict[str, Any] = {
        "missing_coordinates": int(missing.sum()),
        "beyond_mercator": int((~missing & ~on).sum()),
        "mapped": int((on & ~np.isnan(values if kept.all() else values[kept])).sum()),
        "wrapped_longitudes": int(((lng < -180) | (lng >= 180)).sum()),
    }
    if impossible.any():
        found["impossible_coordinates"] = int(impossible.sum())
        exchanged = far & (np.abs(lat) <= _TURN) & (around <= _POLE)
        found["exchanged_coordinates"] = int(exchanged.sum())
        first = int(np.argmax(impossible))
        found["impossible_example"] = (float(lat[first]), float(lng[first]))
    return found


def _no_degrees(delivered: Columns, layout: Layout, kept: Mask) -> dict[str, Any]:
    """The part of a report that tells of coordinates that are text and no number."""
    bad, example = np.zeros(len(kept), np.bool_), None
    for name in layout.coordinates:
        if kind_of(name, delivered[name].type) == "O":
            mask, text = no_numbers(delivered[name])
            bad, example = bad | mask, example or text
    count = int((bad & kept).sum())
    return {"unreadable_coordinates": count, "unreadable_place": example} if count else {}


def delivered_columns(batch: pa.Table) -> Columns:
    """The columns of a batch by name; what another part has, and this one has not, is missing in all rows."""
    nothing = pa.chunked_array([pa.nulls(batch.num_rows)])
    return defaultdict(lambda: nothing, by_name(batch))


def degrees_of(delivered: Columns, layout: Layout) -> dict[str, Floats]:
    """The coordinates as they came, NaN where they are none."""
    return {name: as_numbers(name, delivered[name]) for name in layout.coordinates}


def describing_columns(delivered: Columns, what: Plan, degrees: Mapping[str, Floats]) -> dict[str, pa.Array]:
    """Regions, coordinates, qualifiers and weights, cleaned: what a row is about, beside feature and time."""
    layout = what.layout
    columns: dict[str, pa.Array] = {level: _region(delivered, level, what) for level in layout.levels}
    for name, numbers in degrees.items():
        wrapped = wrap_longitude(numbers) if name == "lng" else numbers
        columns[name] = pa.array(wrapped, from_pandas=True)
    for name in layout.qualifiers:
        columns[name] = pc.fill_null(names_of(delivered, name, what, absent=_ABSENT_QUALIFIER), MISSING)
    if layout.weight:
        weights = as_numbers(layout.weight, delivered[layout.weight])
        # One infinite weight would leave no weighted figure of any region above it.
        weights[~np.isfinite(weights)] = 0.0
        columns[layout.weight] = pa.array(weights)
    return columns


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
        placed = np.isfinite(lat) & np.isfinite(lng)
        if placed.any():
            west, east = float(lng[placed].min()), float(lng[placed].max())
            extent["bounding_box"] = (west, float(lat[placed].min()), east, float(lat[placed].max()))
    return extent


def names_of(columns: Columns, name: str, what: Plan, *, absent: frozenset[str]) -> pa.Array:
    """A column as text: null where the cell is null or one of the `absent` spellings."""
    return map_texts(
        as_text(name, columns[name], whole=name in what.whole, floats=name in what.floats),
        lambda text: None if text in absent else text,
    )


def _region(columns: Columns, level: RegionLevel, what: Plan) -> pa.Array:
    column = columns[level]
    # Whole or not, numbers print as Python prints them, 1 or 1.0; where any part has floats, as those.
    kind = kind_of(level, column.type)
    whole = level in what.whole if kind == "M" else kind != "f" and level not in what.floats
    # Object stores refused keys with an empty segment.
    return map_texts(
        as_text(level, column, whole=whole, floats=level in what.floats),
        lambda text: MISSING if text is None else text.replace("//", ""),
    )


def as_values(column: pa.ChunkedArray) -> tuple[Floats, Mask, Mask, str | None]:
    """Values as float64, which are missing, which are unreadable, and an example of those."""
    kind = kind_of("value", column.type)
    if kind == "M":
        raise InputError(
            "dates are no values",
            column="value",
            example=first_value(column),
            remedy="Give numbers in `value`",
        )
    if kind != "O":
        values = as_floats(column)
        nothing = np.zeros(len(values), np.bool_)
        return values, np.isnan(values), nothing, None
    encoded = used_texts(column)
    texts = encoded.dictionary.to_pylist()
    parsed = [parse_number(text) for text in texts]
    values = take_coded(
        np.array([np.nan if one is None else one for one in parsed], np.float64), encoded.indices
    )
    bad = np.array([one is None for one in parsed], np.bool_)
    unreadable = mask_coded(bad, encoded.indices)
    example = next((text for text, one in zip(texts, parsed, strict=True) if one is None), None)
    return values, np.isnan(values) & ~unreadable, unreadable, example
