"""Points to temporal cells: one row per place, feature, qualifier combination and period.

The temporal step of docs/specification/from-rows-to-figures.md#temporal-cells. Points come in batches,
because one place may have any number of them: what is held is a batch, and the cells so far. Sums over
places belong to `spatial.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from datacube_assets.kernels.sums import ExactSums, exact_sums


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
    batches: Iterable[pa.Table], layout: Layout, periods: tuple[Period, ...]
) -> Iterator[tuple[Period, pa.Table]]:
    """Cells of each period (`schema.CELL_COLUMNS`), ordered by feature, time, place and qualifiers.

    All points of a cell must be in `batches`, of which there is one at least; how they are cut into batches
    makes no difference. Every column but the value and the weight splits cells, and a missing coordinate is a
    place of its own.
    """
    keys, sums = _months(batches, layout)
    # A coarser period is the sum of the finer: of months it is what the rows would give.
    for period in ("month", "year", "all"):
        if period != "month":
            keys, sums = _regroup(keys, sums, period)
        if period in periods:
            yield period, keys.table(_finish(sums, layout))


def _months(batches: Iterable[pa.Table], layout: Layout) -> tuple[_Keys, Sums]:
    """The months of all points, and their sums."""
    first, *others = itertools.islice(rest := iter(batches), 2)
    if not others:
        return _regroup(_Keys.of_points(first, layout), _lift(first, layout), "month")
    waiting: list[_Partial] = []
    for points in itertools.chain((first, *others), rest):
        waiting.append(_Partial.of(points, layout))
        if sum(map(len, waiting[1:])) > max(len(waiting[0]), MERGED_ROWS):
            waiting = [_Partial.merged(waiting, layout)]
    months = _Partial.merged(waiting, layout)
    return _Keys.of_cells(months.cells, layout), months.rounded()


MERGED_ROWS = 1_000_000
"""Rows of partial results that wait to be merged, at least."""


@dataclass(frozen=True)
class _Partial:
    """The months of some points, with sums that are not rounded yet."""

    cells: pa.Table
    """The columns that tell cells apart."""
    sums: Sums

    def __len__(self) -> int:
        return int(self.cells.num_rows)

    @classmethod
    def of(cls, points: pa.Table, layout: Layout) -> _Partial:
        keys = _Keys.of_points(points, layout).at("month")
        groups = group_by([keys.feature, keys.time, keys.place])
        sums: Sums = {}
        for name, values in _lift(points, layout).items():
            if values.dtype.kind == "i":
                sums[name] = groups.reduce(np.add, values)
            else:
                sums |= ExactSums.of(values, groups).columns(name)
        return cls(keys.take(groups.first).table({}), sums)

    @classmethod
    def merged(cls, partials: Sequence[_Partial], layout: Layout) -> _Partial:
        """The same of all their points."""
        cells = pa.concat_tables([partial.cells for partial in partials]).unify_dictionaries()
        before = {name: np.concatenate([one.sums[name] for one in partials]) for name in partials[0].sums}
        keys = _Keys.of_cells(cells, layout)
        groups = group_by([keys.feature, keys.time, keys.place])
        sums: Sums = {}
        for name, values in before.items():
            measure, _, slice_ = name.partition("#")
            if not slice_:
                sums[name] = groups.reduce(np.add, values)
            elif name not in sums:
                sums |= ExactSums.from_columns(measure, before).merge(groups).columns(measure)
        return cls(keys.take(groups.first).table({}), sums)

    def rounded(self) -> Sums:
        """The sums as numbers."""
        measures = dict.fromkeys(name.partition("#")[0] for name in self.sums)
        return {
            name: self.sums[name] if name in self.sums else ExactSums.from_columns(name, self.sums).values()
            for name in measures
        }


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
        return cls._of(points, layout, {name: name for name in layout.qualifiers})

    @classmethod
    def of_cells(cls, cells: pa.Table, layout: Layout) -> _Keys:
        return cls._of(cells, layout, {name: cell_column(name) for name in layout.qualifiers})

    @classmethod
    def _of(cls, table: pa.Table, layout: Layout, qualifiers: Mapping[str, str]) -> _Keys:
        columns: dict[str, Coded] = {level: encode_text(table[level]) for level in layout.levels}
        for name in layout.coordinates:
            columns[name] = encode_floats(cast(Floats, column(table, name)))
        for name, there in qualifiers.items():
            columns[cell_column(name)] = encode_text(table[there])
        place = Tuples.of(list(columns.values()), table.num_rows)
        return cls(
            encode_text(table["feature"]),
            encode_ints(cast(Ints, column(table, "timestamp"))),
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
