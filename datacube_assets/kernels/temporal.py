"""Points to temporal cells: one row per place, feature, qualifier combination and period.

The temporal step of docs/specification/from-rows-to-figures.md#temporal-cells. Sums over
places belong to `spatial.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacube_assets.kernels.groups import (
    Coded,
    Floats,
    Ints,
    Tuples,
    build_table,
    column,
    encode_floats,
    encode_ints,
    encode_text,
    group_by,
)
from datacube_assets.kernels.schema import Layout, Period, cell_column
from datacube_assets.kernels.sums import exact_sums

MONTHS_PER_YEAR = 12


def bucket_starts(timestamps: Ints, period: Period) -> Ints:
    """Start of the month or year that holds each timestamp, ms UTC; 0 for the whole period.

    Negative for times before 1970.
    """
    if period == "all":
        return np.zeros(len(timestamps), np.int64)
    unit = "M" if period == "month" else "Y"
    buckets = timestamps.astype("datetime64[ms]").astype(f"datetime64[{unit}]")
    starts: Ints = buckets.astype("datetime64[ms]").astype(np.int64)
    return starts


def temporal_cells(
    points: pa.Table, layout: Layout, periods: tuple[Period, ...]
) -> Iterator[tuple[Period, pa.Table]]:
    """Cells of each period (`schema.CELL_COLUMNS`), ordered by feature, time, place and qualifiers.

    All points of a cell must be in `points`. Every column but the value and the weight splits cells,
    and a missing coordinate is a place of its own.
    """
    keys = _Keys.of_points(points, layout)
    sums = _lift(points, layout)
    # A coarser period is the sum of the finer: coarser() of months is what the rows would give.
    for period in ("month", "year", "all"):
        keys, sums = _regroup(keys, sums, period)
        if period in periods:
            yield period, keys.table(_finish(sums, layout))


@dataclass(frozen=True)
class _Keys:
    """The columns that tell cells apart."""

    feature: Coded
    time: Coded
    """ms UTC."""
    place: Tuples
    """Combination of place and qualifiers."""
    columns: dict[str, Coded]
    """The columns of these, as they were before any row was left out."""

    @classmethod
    def of_points(cls, points: pa.Table, layout: Layout) -> _Keys:
        columns: dict[str, Coded] = {level: encode_text(points[level]) for level in layout.levels}
        for name in layout.coordinates:
            columns[name] = encode_floats(cast(Floats, column(points, name)))
        for name in layout.qualifiers:
            columns[cell_column(name)] = encode_text(points[name])
        place = Tuples.of(list(columns.values()), points.num_rows)
        return cls(
            encode_text(points["feature"]),
            encode_ints(cast(Ints, column(points, "timestamp"))),
            place,
            columns,
        )

    def at(self, period: Period) -> _Keys:
        """The same rows, with the start of their period for a time."""
        starts = encode_ints(bucket_starts(self.time.values.to_numpy(), period))
        return _Keys(
            self.feature, Coded(starts.codes[self.time.codes], starts.values), self.place, self.columns
        )

    def take(self, rows: npt.NDArray[np.intp]) -> _Keys:
        place = Tuples(self.place.codes[rows], self.place.members)
        return _Keys(self.feature.take(rows), self.time.take(rows), place, self.columns)

    def table(self, measures: Sums) -> pa.Table:
        # Narrow codes: every one of them is looked up by as many rows as there are cells.
        codes = [member.astype(np.int32)[self.place.codes] for member in self.place.members]
        placed = {
            name: Coded(cast(Ints, code), coded.values)
            for (name, coded), code in zip(self.columns.items(), codes, strict=True)
        }
        return build_table({"feature": self.feature, "timestamp": self.time, **placed, **measures})


Sums = dict[str, npt.NDArray[Any]]


def _lift(points: pa.Table, layout: Layout) -> Sums:
    """Each point as the sums of a cell of one row."""
    values = cast(Floats, column(points, "value"))
    present = ~np.isnan(values)
    sums: Sums = {
        "rows": np.ones(len(values), np.int64),
        "present": present.astype(np.int64),
        "sum": np.where(present, values, 0.0),
    }
    if layout.weight:
        weights = cast(Floats, column(points, layout.weight))
        sums["weights"] = weights
        sums["present_weights"] = np.where(present, weights, 0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            sums["weighted"] = np.where(present, values * weights, 0.0)
    return sums


def _regroup(keys: _Keys, sums: Sums, period: Period) -> tuple[_Keys, Sums]:
    keys = keys.at(period)
    groups = group_by([keys.feature, keys.time, keys.place])
    return keys.take(groups.first), {
        name: groups.reduce(np.add, values) if values.dtype.kind == "i" else exact_sums(values, groups)
        for name, values in sums.items()
    }


def _finish(sums: Sums, layout: Layout) -> Sums:
    """The measures of cells, from their sums. In `t_wavg`, only weights of present values count."""
    with np.errstate(all="ignore"):
        measures: Sums = {
            "rows": sums["rows"],
            # Adding 0.0 makes a negative zero positive, as the original writes it.
            "t_sum": sums["sum"] + 0.0,
            "t_mean": sums["sum"] / sums["present"] + 0.0,
        }
        if layout.weight:
            # A mean needs a present value: without one the weights say nothing.
            weighted = np.where(sums["present"] > 0, sums["weighted"], np.nan)
            measures["t_wavg"] = weighted / sums["present_weights"] + 0.0
            measures["weight"] = sums["weights"] / sums["rows"]
    return measures
